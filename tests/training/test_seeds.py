"""Several seeds in one process: each is a run of its own that happens to share the arithmetic."""

import json

import pytest
import torch
import whole_runs as runs

from rlsuite.agents.base import make_generators
from rlsuite.blocks.noise import normal
from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.replay.uniform import UniformReplay
from rlsuite.runs.config import TrainConfig
from rlsuite.training import state
from rlsuite.training.assembly import build, new_agent
from rlsuite.training.evaluate import evaluate_run
from rlsuite.training.online import train_steps
from rlsuite.training.recorder import curve_table
from rlsuite.training.rng import SeedStreams

AGENTS = ("dsac_t", "sac", "stac", "td3")
STEPS = 260  # env steps of each seed; 200 of them are warm-up


def trained(agent, roots, steps=STEPS, **fields):
    kind = agent_class(agent)
    config = TrainConfig(**{**runs.QUICK, "updates_per_step": 1.0, "seeds": len(roots), **fields})
    torch.set_num_threads(1)
    run = build(kind, kind.Config(**runs.TINY), config, roots)
    train_steps(run, steps)
    run.env.close()
    run.eval_env.close()
    return run


def of_seed(run, index):
    """Weights, moments, episode sums and replay rows of one seed."""
    tensors = {**state.agent_tensors(run.agent), **state.optimizer_tensors(run.agent)}
    own = {name: t[index] for name, t in tensors.items() if t.dim() and len(t) == len(run.seeds)}
    worlds = run.config.num_envs
    mine = slice(index * worlds, (index + 1) * worlds)
    for name in ("observation", "action", ("next", "reward")):
        rows = run.replay.stored[name][: len(run.replay)]
        own[str(name)] = rows.unflatten(0, (-1, run.replay.num_envs))[:, mine]
    own["returns"] = run.episodes.returns[mine]
    return own


@pytest.mark.parametrize("agent", AGENTS)
def test_changing_one_seed_leaves_the_others_bit_equal(agent):
    ours, theirs = trained(agent, (3, 4, 5)), trained(agent, (3, 40, 5))
    assert ours.clock.updates == STEPS - runs.QUICK["warmup_steps"]
    for index in (0, 2):
        a, b = of_seed(ours, index), of_seed(theirs, index)
        assert len(a) > 20
        for name in a:
            assert torch.equal(a[name], b[name]), name
    a, b = of_seed(ours, 1), of_seed(theirs, 1)
    assert not torch.equal(a["actor.trunk.0.weight"], b["actor.trunk.0.weight"])


@pytest.mark.parametrize("agent", AGENTS)
def test_a_seed_of_a_batch_is_the_run_of_that_seed_up_to_rounding(agent):
    """Same initial weights, worlds, draws and rows: products of another shape round differently, no more."""
    batch = trained(agent, (8, 9))
    for index, root in enumerate((8, 9)):
        alone = trained(agent, (root,))
        single = state.agent_tensors(alone.agent)
        cut = state.cut_seed(state.agent_tensors(batch.agent), index, alone.agent)
        for name, tensor in single.items():
            torch.testing.assert_close(cut[name], tensor, rtol=2e-2, atol=2e-4)
        before = runs.QUICK["warmup_steps"]
        rows = of_seed(batch, index)["('next', 'reward')"].flatten()
        assert torch.equal(rows[:before], alone.replay.stored["next", "reward"][:before].flatten())


def test_a_seed_can_be_cut_out_and_acts_the_same():
    batch = trained("sac", (1, 2, 3))
    observation = torch.randn(5, batch.agent.spaces.observation)
    single = new_agent(agent_class("sac"), batch.agent.config, batch.env, SeedStreams([2]), "cpu")
    state.load_agent_tensors(single, state.cut_seed(state.agent_tensors(batch.agent), 1, single))
    together = batch.agent.actor(observation.expand(3, 5, -1))
    torch.testing.assert_close(single.actor(observation).mean, together.mean[1])
    assert single.update_count == batch.agent.update_count


def test_a_resumed_run_of_seeds_equals_the_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    runs.train(whole, "sac", seeds=3)
    runs.train(broken, "sac", seeds=3, steps=400)
    runs.train(broken, "sac", seeds=3, resume=True)
    runs.assert_same_run(whole, broken)


def test_every_seed_has_its_own_lines_and_can_be_evaluated_alone(tmp_path):
    path = tmp_path / "run"
    result = runs.train(path, "sac", seeds=2, seed=5)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines[:2]] == [5, 6]
    by_seed = {seed: [line for line in lines if line["seed"] == seed] for seed in (5, 6)}
    assert len(by_seed[5]) == len(by_seed[6]) == 8
    last = {seed: own[-1] for seed, own in by_seed.items()}
    assert last[5]["loss/critic"] != last[6]["loss/critic"]
    assert last[5]["eval/return_mean"] != last[6]["eval/return_mean"]
    mean = (last[5]["eval/return_mean"] + last[6]["eval/return_mean"]) / 2
    assert result.final_return == pytest.approx(mean)
    assert f"{mean:,.1f}" in curve_table(path / "metrics.jsonl")
    both = evaluate_run(path, episodes=3, seed=None, video=None, which="last")
    second = evaluate_run(path, episodes=3, seed=None, video=None, which="last", seed_index=1)
    assert both["seeds"] == [5, 6] and second["seeds"] == [6]
    assert both["each"][1] == pytest.approx(second["return_mean"])
    assert both["return_mean"] == pytest.approx(sum(both["each"]) / 2)
    with pytest.raises(ConfigError, match="2 agent"):
        evaluate_run(path, episodes=3, seed=None, video=None, which="last", seed_index=2)


def filled(seeds, steps, *, n_step=1, invalid=()):
    """A replay whose observations say which world and step they are of; 2 worlds a seed."""
    generators = tuple(torch.Generator().manual_seed(s) for s in range(seeds))
    worlds = 2 * seeds
    replay = UniformReplay(
        8 * worlds, num_envs=worlds, batch_size=64, n_step=n_step, gamma=0.5, generator=generators
    )
    from tensordict import TensorDict

    for time in range(steps):
        world = torch.arange(worlds).unsqueeze(-1).float()
        off = torch.zeros(worlds, 1, dtype=torch.bool)
        valid = torch.tensor([[(time, w) not in invalid] for w in range(worlds)])
        replay.extend(
            TensorDict(
                {
                    "observation": torch.cat((world, torch.full_like(world, time)), -1),
                    "action": world,
                    "next": {
                        "observation": torch.cat((world, torch.full_like(world, time + 1)), -1),
                        "reward": world + 1,
                        **dict.fromkeys(("terminated", "truncated", "done"), off),
                        "valid": valid,
                    },
                },
                [worlds],
            )
        )
    return replay


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_seed_samples_its_own_worlds(n_step):
    replay = filled(3, 11, n_step=n_step)
    batch = replay.sample()
    assert batch.batch_size == (3, 64)
    for seed in range(3):
        assert set(batch["observation"][seed, :, 0].tolist()) == {2.0 * seed, 2.0 * seed + 1}
        assert set(batch["observation"][seed, :, 1].tolist()) == set(map(float, range(3, 11)))
        assert torch.equal(batch["observation"][seed, :, 0], batch["next", "observation"][seed, :, 0])
    if n_step == 3:
        ahead = batch["next", "observation"][..., 1] - batch["observation"][..., 1]
        assert set(ahead.flatten().tolist()) == {1.0, 2.0, 3.0}
        assert torch.allclose(batch["discount"].squeeze(-1), 0.5**ahead)


def test_rows_of_a_world_that_failed_are_not_sampled_and_only_their_seed_draws_again():
    bad = filled(2, 8, invalid={(time, 0) for time in range(6)})
    good = filled(2, 8)
    for _ in range(5):
        ours, theirs = bad.sample(), good.sample()
        world, time = ours["observation"][0].unbind(-1)
        assert not ((world == 0) & (time < 6)).any()
        assert torch.equal(ours["observation"][1], theirs["observation"][1])


def test_worlds_that_cannot_be_shared_out_are_refused():
    generators = tuple(torch.Generator() for _ in range(3))
    with pytest.raises(ValueError, match="4 envs cannot be shared out among 3 seeds"):
        UniformReplay(100, num_envs=4, batch_size=8, generator=generators)


def test_a_batched_draw_is_made_of_each_seeds_own():
    batched = make_generators((1, 2))["learn"]
    both = normal(torch.empty(2, 3, 4), batched)
    for row, seed in zip(both, (1, 2), strict=True):
        assert torch.equal(row, normal(torch.empty(3, 4), make_generators(seed)["learn"]))
    with pytest.raises(ValueError, match="2 random streams"):
        normal(torch.empty(3, 4), batched)


def test_first_episodes_may_end_at_random_times():
    """Every seed's envs have the phases of its own run; without the option all begin together."""
    kind = agent_class("sac")

    def phases(roots, **fields):
        settings = {**runs.QUICK, "num_envs": 16, "replay_size": 1_000, "seeds": len(roots), **fields}
        run = build(kind, kind.Config(**runs.TINY), TrainConfig(**settings), roots)
        counts = run.env.step_counts
        run.close()
        return counts, run.env.max_episode_steps

    together, limit = phases([3, 4], random_phase=True)
    assert len(together) == 32 and (together >= 0).all() and (together < limit).all()
    assert len(set(together)) > 4
    alone = [phases([root], random_phase=True)[0] for root in (3, 4)]
    assert (together[:16] == alone[0]).all() and (together[16:] == alone[1]).all()
    assert not (alone[0] == alone[1]).all()
    assert (phases([3])[0] == 0).all()
