"""MBRCSL: which roll-outs are kept, what is asked for, stages and their looks, seeds, compiled updates."""

import copy
import functools
import math

import pytest
import torch
from ldcq_helpers import rows, source
from mbrcsl_helpers import TINY, replay, small, trained
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type
from training.test_offline_training import QUICK
from training.test_stages import runs

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.compiled import compiled, obstacle
from rlsuite.agents.mbrcsl import MBRCSL, MBRCSLConfig
from rlsuite.agents.mbrcsl.imagine import RollOuts, Selection, bar_of, returns_to_go, within
from rlsuite.blocks.noise import Noise
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, DataError
from rlsuite.runs.config import OfflineConfig
from rlsuite.runs.mapping import RunConfig, config_to_dict
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training import state
from rlsuite.training.savedrun import agent_digest, load_agent
from rlsuite.training.start import train


def t(*values):
    return torch.tensor(values)


def test_returns_to_go_by_hand():
    torch.testing.assert_close(returns_to_go(t(0.1, 0.5, 0.2)), t(0.8, 0.7, 0.2))
    both = returns_to_go(torch.stack((t(1.0, 2.0), t(3.0, 4.0))))
    assert both.tolist() == [[3, 2], [7, 4]]


def round_of(*returns, seeds=1):
    """One round of one-step roll-outs with these rewards, whose observation is their number."""
    reward = torch.tensor(returns).expand(seeds, -1).unsqueeze(-1)
    number = torch.arange(len(returns), dtype=torch.float32).expand(seeds, -1)[..., None, None]
    return RollOuts(number, number, reward)


def test_kept_is_what_is_strictly_above_the_best_of_the_data():
    selection = Selection(1, bar=11.0, kept=2)
    selection.add(round_of(10.0, 12.0, 9.0, 11.0))
    assert not selection.enough
    assert selection.of(0).reward.tolist() == [[12.0]]
    selection.add(round_of(math.inf, math.nan, 13.0, 14.0))
    assert selection.enough
    assert selection.of(0).reward.tolist() == [[12.0], [13.0]]  # the first ones, not the best
    assert selection.of(0).observation.flatten().tolist() == [1, 2]
    assert (selection.rounds, selection.best) == (2, 14.0)


def test_where_none_is_above_the_best_of_the_last_round_are_kept():
    selection = Selection(2, bar=11.0, kept=2)
    selection.add(round_of(1.0, 3.0, math.nan, 2.0, seeds=2))
    assert selection.short(1)
    assert selection.of(1).reward.tolist() == [[3.0], [2.0]]


def test_roll_outs_that_stray_are_never_kept_and_rewards_are_cut():
    following = TensorDict({"reward": t(0.0, 1.0).unsqueeze(-1)}, [2])
    table = TensorDict({"observation": t(0.0, 10.0).unsqueeze(-1), "next": following}, [2])
    seen = torch.tensor([[[5.0], [10.4]], [[5.0], [10.6]], [[-0.4], [0.0]]])
    reward = torch.tensor([[0.5, 3.0], [0.5, 0.5], [-2.0, 0.25]])
    cut = within(RollOuts(seen, seen, reward), table).reward
    assert cut.tolist() == [[0.5, 1.0], [-math.inf, -math.inf], [0.0, 0.25]]


def test_the_bar_is_a_quantile_of_episodes_returns():
    table, episodes = rows()
    reward = table["next", "reward"].squeeze(-1).double()
    returns = torch.stack([reward[first:last].sum() for first, last in episodes.tolist()])
    data = replay()
    assert bar_of(data, 1.0) == pytest.approx(returns.max().item(), rel=1e-12)
    assert bar_of(data, 0.5) == pytest.approx(returns.quantile(0.5).item(), rel=1e-12)


class Asked(torch.nn.Module):
    """A clone that answers with what it was asked for."""

    def forward(self, x):
        return x[..., -1:].expand(*x.shape[:-1], 2) / 10


def test_what_is_asked_for_falls_by_the_rewards_and_begins_anew_with_an_episode():
    agent = small()
    actor = agent.actor
    actor.clone, actor.target[:] = Asked(), 0.8
    td = TensorDict({"observation": torch.zeros(2, 4), "step_count": torch.zeros(2, 1).long()}, [2])
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        asked = []
        for step, reward in enumerate((0.1, 0.5, 0.3)):
            td = agent.policy(td)
            asked.append(td["return_to_go"].squeeze(-1).tolist())
            torch.testing.assert_close(td["action"], td["return_to_go"].expand(2, 2) / 10)
            td["last_reward"] = torch.full((2, 1), reward)
            td["step_count"] = torch.tensor([[step + 1], [(step + 1) % 2]])  # the second starts over once
    assert asked[0] == pytest.approx([0.8, 0.8])
    assert asked[1] == pytest.approx([0.7, 0.7])
    assert asked[2] == pytest.approx([0.2, 0.8])


def test_our_environments_tell_the_last_reward():
    """What the clone asks for after a step is the target less that step's reward, for both envs."""
    env = make_env("gym:ToyReach-v0", 2, seed=0)
    spaces = Spaces(observation=1, action=1, half_range=(1.0,))
    agent = MBRCSL(spaces, MBRCSLConfig(**TINY), make_generators(0))
    agent.actor.target[:] = 5.0
    td = env.reset()
    step = env.step(agent.policy(td))
    reward = step["next", "reward"]
    after = agent.policy(env.step_mdp(step))
    torch.testing.assert_close(after["return_to_go"], 5.0 - reward)
    assert reward.abs().min() > 0
    env.close()


@pytest.mark.parametrize("lead", [(), (2,)])
def test_all_stages_learn_and_move_their_networks_alone(lead):
    agent, data = small(lead), replay(lead)
    parts = {"dynamics": agent.dynamics, "behaviour": agent.denoiser, "clone": agent.clone}
    for stage, count in zip(agent.stages, (7, 5, 6), strict=True):
        before = {name: [p.clone() for p in net.parameters()] for name, net in parts.items()}
        assert agent.stage == stage
        trained(agent, data, count)
        for name, net in parts.items():
            same = all(torch.equal(a, b) for a, b in zip(before[name], net.parameters(), strict=True))
            assert same == (name != stage), (stage, name)
    assert agent.actor.learnt.tolist() == [7, 5, 6]
    assert (agent.plans >= 1).all()
    assert agent.least_error.isfinite().all()


def test_models_are_judged_on_rows_that_they_never_see():
    agent, data = small(held_out=0.25), replay()
    agent.prepare(data)
    held = agent.held_out
    assert len(held) == len(data) // 4
    counts = data.columns["counts"]
    assert not counts[held].any()
    assert counts.sum(0).tolist() == [len(data) - len(held)] * 3
    table, observation = data.rows, data.rows["observation"][held]
    change = table["next", "observation"][held] - observation
    target = torch.cat((change, table["next", "reward"][held]), -1)
    predicted = agent.dynamics(observation, table["action"][held]).mean
    torch.testing.assert_close(agent.least_error, (predicted - target).square().mean((-2, -1)))


def test_kept_models_are_those_of_the_best_look():
    agent, data = small(look_every=1, dynamics_updates=30, lr_dynamics=0.5), replay()
    errors = []
    for _ in range(30):
        agent.prepare(data)
        errors.append(agent.least_error.clone())
        agent.update(data.sample())
    agent.prepare(data)  # the next stage begins: a last look
    final = agent.least_error
    assert (torch.stack(errors).diff(dim=0) <= 0).all()
    assert (final <= errors[0]).all()
    assert agent.kept_dynamics.elites.tolist() == sorted(final.topk(2, largest=False).indices.tolist())
    assert not torch.equal(agent.kept_dynamics.net[0].weight, agent.dynamics.net[0].weight)


def test_roll_outs_are_the_kept_models_steps_under_the_behaviour():
    agent, data = small(), replay()
    trained(agent, data, 12)
    start = data.rows["observation"][:3]
    imagined = agent.roll_out(start, Noise(source(5, ())))
    noise, observation = Noise(source(5, ())), start
    for step in range(agent.config.horizon):
        torch.testing.assert_close(imagined.observation[:, step], observation)
        action = agent.behaviour.draw(agent.normalized(observation), noise.normal)
        assert action.abs().max() <= 1
        observation, reward = agent.kept_dynamics.step(observation, action, noise)
        torch.testing.assert_close(imagined.action[:, step], action)
        torch.testing.assert_close(imagined.reward[:, step], reward)


def test_the_clone_learns_from_kept_roll_outs_with_what_they_still_bring():
    agent, data = small(bar=0.0, kept=3, clone_updates=400, lr_clone=1e-2, weight_decay=0.0), replay()
    trained(agent, data, 12)
    agent.prepare(data)
    count = int(agent.plans) * 4
    asked, action = agent.plan_input[:count], agent.plan_action[:count]
    togo = asked[:, -1].view(-1, 4)
    assert agent.actor.target == togo[:, 0].max()
    mean, std = agent.actor.input_mean, agent.actor.input_std
    torch.testing.assert_close(mean, asked.mean(0))
    torch.testing.assert_close(std, asked.std(0, correction=0))
    before = (agent.actor.act(asked[:, :-1], asked[:, -1:]) - action).square().mean()
    trained(agent, data, 300)
    after = (agent.actor.act(asked[:, :-1], asked[:, -1:]) - action).square().mean()
    assert after < 0.2 * before


def test_weight_decay_is_decoupled_and_not_of_a_skipped_step():
    agent, data = small(weight_decay=0.5, lr_clone=1e-3), replay()
    trained(agent, data, 12)
    agent.prepare(data)
    batch = data.sample()
    twin = small(weight_decay=0.0, lr_clone=1e-3)
    state.load_agent_tensors(twin, copy.deepcopy(state.agent_tensors(agent)))
    for name, generator in agent.generators.items():
        twin.generators[name].set_state(generator.get_state())
    agent.update(batch)
    twin.update(batch)
    for ours, theirs in zip(agent.clone.parameters(), twin.clone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs * (1 - 1e-3 * 0.5))
    kept = [p.clone() for p in agent.clone.parameters()]
    agent.plan_action.fill_(math.nan)
    assert not agent.update(batch)["grad_norm/clone"].isfinite()
    assert all(torch.equal(a, b) for a, b in zip(kept, agent.clone.parameters(), strict=True))


def test_each_seed_is_the_run_of_that_seed():
    both, shown = small((2,), seed=3), replay((2,))
    trained(both, shown, 18)
    for row in range(2):
        alone = trained(small(seed=3 + row), replay(seed=1 + row), 18)
        cut = state.cut_seed(state.agent_tensors(both), row, alone)
        for name, tensor in state.agent_tensors(alone).items():
            torch.testing.assert_close(cut[name], tensor, rtol=2e-4, atol=2e-5, msg=name)


def test_the_behaviour_acts_until_the_clone_has_learnt():
    agent, data = small(), replay()
    trained(agent, data, 12)
    seen = data.rows["observation"][:3]
    count = torch.full((3, 1), 2)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        first, again = (agent.actor(seen, None, None, count)[0] for _ in "ab")
        assert torch.equal(first, again)
        assert torch.allclose(agent.actor(seen[1:2], None, None, count[:1])[0], first[1:2])
        other = agent.actor(seen, None, None, count + 1)[0]
        assert not torch.equal(first, other)
    with set_exploration_type(ExplorationType.RANDOM):
        assert not torch.equal(agent.actor(seen)[0], agent.actor(seen)[0])
    trained(agent, data, 1)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = agent.actor.act(seen, agent.actor.target.expand(3, 1)).clamp(-1, 1)
        assert torch.equal(agent.actor(seen)[0], expected)


def test_roll_outs_that_all_stray_stop_the_run_with_words():
    agent, data = small(leaves_data=False), replay()
    trained(agent, data, 12)
    with torch.no_grad():
        agent.kept_dynamics.net[-1].bias.fill_(1e6)
    with pytest.raises(DataError, match="leaves-data"):
        agent.prepare(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"elites": 8}, "at most members"),
        ({"stages": ("clone", "dynamics")}, "in this order"),
        ({"widths": ()}, "at least one"),
        ({"bar": 1.5}, "bar"),
    ],
)
def test_wrong_settings(fields, message):
    with pytest.raises(ConfigError, match=message):
        MBRCSLConfig(**fields)


@pytest.mark.skipif(obstacle(MBRCSL, MBRCSLConfig()) is not None, reason="updates cannot be compiled here")
@pytest.mark.parametrize("optimizer", ["adam", pytest.param("kron", marks=pytest.mark.long)])
def test_compiled_stages_are_the_eager_ones(monkeypatch, optimizer):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    agents = [small(optimizer=optimizer) for _ in "ab"]
    sides = [(agents[0], compiled(agents[0]), replay()), (agents[1], agents[1].update, replay())]
    for _ in range(18):
        for agent, update, data in sides:
            agent.prepare(data)
            update(data.sample())
    assert len(sides[0][1]._graphs) == 3
    ours, theirs = (state.agent_tensors(agent) for agent in agents)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=name)
    torch.compiler.reset()


def learn(path, dataset, fields=None, *, resume=False, steps=None, **changes):
    """Train, or go on, in the run folder `path`."""
    own = MBRCSLConfig(**{**TINY, **(fields or {})})
    steps = own.updates if steps is None else steps
    common = {"eval_every": 6, "checkpoint_every": 3, "log_every": 3, "batch_size": 16}
    config = OfflineConfig(**{**QUICK, **common, "dataset": str(dataset), "steps": steps, **changes})
    if resume:
        folder = RunFolder.open(path)
    else:
        whole = RunConfig(agent_name="mbrcsl", preset="default", train=config, agent=own)
        folder = RunFolder.create(path, config_to_dict(whole), {})
    with folder:
        return train(MBRCSL, own, config, folder, resume=resume)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_resumed_in_and_between_stages_equals_the_unbroken_one(tmp_path, recorded, seeds):
    """Broken where a look is due (3), inside and at the ends of stages (7, 12), and in the last one."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert learn(whole, recorded, seeds=seeds).updates == 18
    learn(broken, recorded, seeds=seeds, steps=3)
    for steps in (7, 9, 12, 15, 18):
        learn(broken, recorded, seeds=seeds, steps=steps, resume=True)
    a, b = runs.weights(whole), runs.weights(broken)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name
    assert a["actor.learnt"].tolist() == [7, 5, 6]


def test_stages_go_on_from_another_run(tmp_path, recorded):
    first = tmp_path / "first"
    learn(first, recorded, {"stages": ("dynamics", "behaviour")})
    digest = agent_digest(load_agent(first).loaded)
    rest = {"stages": ("clone",), "bar": 0.5}
    learn(tmp_path / "second", recorded, rest, earlier_run=str(first), earlier_digest=digest)
    a, b = runs.weights(first), runs.weights(tmp_path / "second")
    taken = ("dynamics.", "denoiser.", "kept_denoiser.", "seed_of_data")
    frozen = [name for name in a if name.startswith(taken)]
    assert len(frozen) > 20
    assert all(torch.equal(a[name], b[name]) for name in frozen)
    assert b["actor.learnt"].tolist() == [7, 5, 6]
    with pytest.raises(ConfigError, match="builds on dynamics, behaviour"):
        learn(tmp_path / "third", recorded, rest)
    wrong = {**rest, "diffusion_steps": 4}
    with pytest.raises(ConfigError, match="other values of diffusion_steps"):
        learn(tmp_path / "fourth", recorded, wrong, earlier_run=str(first), earlier_digest=digest)
