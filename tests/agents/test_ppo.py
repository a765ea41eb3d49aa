"""PPO: advantages and losses by hand and by TorchRL, scales of rewards, seeds, resumed runs, plug-ins."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
import whole_runs as runs
from gymnasium.wrappers.utils import RunningMeanStd
from helpers import SPACES
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import OneHotCategorical
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.functional import generalized_advantage_estimate

from rlsuite.agents.advantages import generalised_advantages, sums_so_far, sums_to_come
from rlsuite.agents.base import make_generators
from rlsuite.agents.compiled import compiled
from rlsuite.agents.ppo import PPO, PPOConfig
from rlsuite.agents.ppo.agent import PPOLoss, ppo_losses, standardised
from rlsuite.agents.ppo.model import entropy, log_prob, most_likely, sampled
from rlsuite.blocks.heads import Gaussian
from rlsuite.errors import ConfigError
from rlsuite.presets import load_preset
from rlsuite.registry import agent_class, agent_traits
from rlsuite.replay.rollout import RolloutReplay, Steps
from rlsuite.runs.config import TrainConfig, updates_of
from rlsuite.training import state
from rlsuite.training.checks import check_rollouts

pytestmark = pytest.mark.usefixtures("float64")

DISCRETE = dataclasses.replace(SPACES, action=3, half_range=(1.0, 1.0, 1.0), discrete=True)
FAST = {"replay_size": 64, "batch_size": 16, "epochs": 2, "warmup_steps": 0}


@pytest.fixture
def single(float64):
    """Replays hold single precision: what a run does is tested in it."""
    torch.set_default_dtype(torch.float32)


def small_ppo(*, lead=(), spaces=SPACES, seed=0, **fields):
    seeds = list(range(seed, seed + lead[0])) if lead else seed
    return PPO(spaces, PPOConfig(**{"hidden": (8, 8), **fields}), make_generators(seeds), lead=lead)


def random_steps(*, time=6, envs=3, lead=(), seed=0, action=None):
    g = torch.Generator().manual_seed(seed)
    shape = (*lead, time, envs)

    def flag(share):
        return (torch.rand(*shape, generator=g) < share).to(torch.get_default_dtype())

    terminated = flag(0.15)
    if action is None:
        action = torch.randn(*shape, SPACES.action, generator=g)
    return Steps(
        torch.randn(*shape, 4, generator=g), action, torch.randn(*shape, generator=g),
        torch.randn(*shape, 4, generator=g), terminated, terminated.maximum(flag(0.15)),
        torch.ones(shape),
    )  # fmt: skip


def column(*values):
    return torch.tensor(values).unsqueeze(-1)


def four_steps(terminated):
    return Steps(
        torch.zeros(4, 1, 1), torch.zeros(4, 1, 1), column(1.0, 0.0, 2.0, 1.0), torch.zeros(4, 1, 1),
        column(0.0, 0.0, terminated, 0.0), column(0.0, 0.0, 1.0, 0.0), torch.ones(4, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("terminated", "last", "expected"),
    [
        (1.0, 0.8, (2.32789145, 0.8909, 1.8, 0.794)),
        (0.0, 0.9, (3.1160168127, 1.7288855, 2.691, 0.794)),  # V of the true successor is 0.9
    ],
)
def test_advantages_by_hand(terminated, last, expected):
    value, next_value = column(0.5, 1.0, 0.2, 0.8), column(1.0, 0.2, last, 0.6)
    steps = four_steps(terminated)
    found = generalised_advantages(steps, steps.reward, value, next_value, 0.99, 0.95)
    # The fourth step begins a new episode: r 1 + .99 V - .8
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-9)


def test_advantages_are_torchrls():
    steps = random_steps(time=37, envs=4)
    value, next_value = torch.randn(37, 4), torch.randn(37, 4)
    found = generalised_advantages(steps, steps.reward, value, next_value, 0.97, 0.9)
    columns = (value, next_value, steps.reward, steps.done, steps.terminated)
    batched = [x.T.unsqueeze(-1) for x in columns]  # [B, T, 1]
    batched[3:] = [flag.bool() for flag in batched[3:]]
    expected, _ = generalized_advantage_estimate(0.97, 0.9, *batched)
    torch.testing.assert_close(found, expected.squeeze(-1).T, rtol=1e-10, atol=1e-10)


def test_rows_that_are_not_valid_have_no_advantage_and_pass_none_on():
    steps = random_steps(time=5, envs=1)
    valid = torch.ones(5, 1)
    valid[2] = 0
    bad = steps._replace(valid=valid, reward=steps.reward.clone().index_fill(0, torch.tensor(2), 1e3))
    value = torch.zeros(5, 1)
    found = generalised_advantages(bad, bad.reward, value, value, 0.99, 0.95)
    assert found[2] == 0 and found.abs().max() < 20


@pytest.mark.parametrize("length", [1, 2, 3, 8, 21])
def test_sums_in_rounds_are_those_of_a_loop(length):
    x, decay = torch.randn(2, length, 3), torch.rand(2, length, 3)
    expected, after = torch.zeros_like(x), torch.zeros(2, 3)
    for t in reversed(range(length)):
        after = expected[:, t] = x[:, t] + decay[:, t] * after
    torch.testing.assert_close(sums_to_come(x, decay), expected, rtol=1e-12, atol=1e-12)


def test_sums_so_far_go_on_over_the_border_of_two_calls():
    x, ended = torch.randn(9, 2), (torch.rand(9, 2) < 0.3).double()
    whole, carried = sums_so_far(x, ended, 0.9, torch.zeros(2))
    first, between = sums_so_far(x[:4], ended[:4], 0.9, torch.zeros(2))
    second, after = sums_so_far(x[4:], ended[4:], 0.9, between)
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(after, carried)


def test_rewards_are_scaled_by_gymnasiums_statistics():
    """Rollouts of one step; Gymnasium's own wrapper forgets the past one step too early, at the end."""
    agent, carried, found, expected = small_ppo(), None, [], []
    theirs, past = RunningMeanStd(shape=()), 0.0
    for reward, ended in ((1.0, 0.0), (2.0, 0.0), (-1.0, 1.0), (4.0, 0.0)):
        steps = random_steps(time=1, envs=1)
        flag = torch.full((1, 1), ended)
        steps = steps._replace(reward=torch.full((1, 1), reward), terminated=flag, done=flag)
        scaled, carried = agent.scaled_reward(steps, carried)
        found.append(scaled.item())
        total = past + reward
        theirs.update(np.array([total]))
        expected.append(np.clip(reward / np.sqrt(theirs.var + 1e-8), -10, 10))
        past = 0.99 * total * (1 - ended)
    assert found == pytest.approx(expected, abs=1e-9)
    assert found[:2] == pytest.approx([10, 2.0098477693], abs=1e-9)


def test_advantages_of_a_minibatch_are_standardised():
    given = torch.tensor([2.32789145, 0.8909, 1.8, 0.794])
    expected = [1.1844428848, -0.7614205842, 0.4696128222, -0.8926351228]
    assert standardised(given, torch.ones(4)).tolist() == pytest.approx(expected, abs=1e-8)
    with_bad = standardised(torch.cat((given, torch.tensor([1e6]))), torch.tensor([1.0, 1, 1, 1, 0]))
    assert with_bad[:4].tolist() == pytest.approx(expected, abs=1e-8)


def test_losses_by_hand():
    law = Gaussian(torch.zeros(4, 1), torch.ones(4, 1))
    action = torch.zeros(4, 1)
    ratio = torch.tensor([1.3, 0.7, 1.1, 0.5])
    batch = {
        "action": action, "log_prob": log_prob(law, action) - ratio.log(), "value": torch.ones(4),
        "advantage": torch.tensor([1.0, 1.0, -2.0, -1.0]), "target": torch.tensor([2.0, 0.5, 1.0, 1.0]),
        "weight": torch.ones(4),
    }  # fmt: skip
    config = PPOConfig(normalize_advantages=False)
    value = torch.tensor([1.5, 0.9, 1.0, 1.0])
    losses = ppo_losses(law, value, batch, config)
    assert losses.actor.item() == pytest.approx(0.275)
    assert losses.clipped.item() == pytest.approx(0.75)
    assert losses.kl.item() == pytest.approx(0.0730369201)
    two = {key: part[:2] for key, part in batch.items()}
    first_two = Gaussian(torch.zeros(2, 1), torch.ones(2, 1))
    assert ppo_losses(first_two, value[:2], two, config).critic.item() == pytest.approx(0.2)
    free = dataclasses.replace(config, clip_value=False)
    expected = 0.5 * (0.5**2 + 0.4**2) / 2
    assert ppo_losses(first_two, value[:2], two, free).critic.item() == pytest.approx(expected)


def minibatch(agent, steps):
    """All rows of a rollout, with TorchRL's names, as left by the policy and its GAE."""
    columns, _ = agent.study(steps, None)
    return TensorDict(
        {
            "observation": steps.observation.flatten(0, 1),
            "action": steps.action.flatten(0, 1),
            "action_log_prob": columns["log_prob"] + 0.3 * torch.randn(18),
            "advantage": columns["advantage"].unsqueeze(-1),
            "state_value": columns["value"].unsqueeze(-1) + 0.3 * torch.randn(18, 1),
            "value_target": columns["target"].unsqueeze(-1),
        },
        [18],
    )


def their_policy(actor, discrete):
    if discrete:
        law, keys, fields = OneHotCategorical, ["logits"], {}
    else:
        law, keys, fields = torch.distributions.Independent, ["loc", "scale"], {}
        fields = {"reinterpreted_batch_ndims": 1}

    class Shown(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor = actor

        def forward(self, observation):
            out = self.actor(observation)
            return out if discrete else tuple(out)

    def made(loc, scale, **more):
        return law(torch.distributions.Normal(loc, scale), **more)

    return ProbabilisticTensorDictSequential(
        TensorDictModule(Shown(), in_keys=["observation"], out_keys=keys),
        ProbabilisticTensorDictModule(
            in_keys=keys, out_keys=["action"], distribution_class=law if discrete else made,
            distribution_kwargs=fields, return_log_prob=True,
        ),
    )  # fmt: skip


@pytest.mark.parametrize("discrete", [False, True])
def test_losses_and_gradients_are_torchrls(discrete):
    torch.manual_seed(3)
    fields = {"normalize_observations": False, "entropy_coef": 0.02, "normalize_advantages": False}
    agent, twin = (small_ppo(spaces=DISCRETE if discrete else SPACES, **fields) for _ in "ab")
    action = torch.eye(3)[torch.randint(3, (6, 3))] if discrete else None
    rows = minibatch(agent, random_steps(action=action))
    ours = PPOLoss(agent.actor, agent.critic, agent.config)
    theirs = ClipPPOLoss(
        their_policy(twin.actor, discrete),
        TensorDictModule(
            lambda observation: twin.critic(observation).unsqueeze(-1),
            in_keys=["observation"],
            out_keys=["state_value"],
        ),
        clip_epsilon=0.2, loss_critic_type="l2", clip_value=0.2, critic_coeff=0.25, entropy_coeff=0.02,
        functional=False,
    )  # fmt: skip
    if discrete:
        theirs.set_keys(action="action")
    found, expected = ours(rows), theirs(rows.clone())
    pairs = {"loss_actor": "loss_objective", "loss_critic": "loss_critic", "loss_entropy": "loss_entropy"}
    for mine, other in pairs.items():
        torch.testing.assert_close(found[mine], expected[other].squeeze(), rtol=1e-10, atol=1e-10)
        assert found[mine] != 0
    sum(found.values()).backward()
    sum(expected[other] for other in pairs.values()).backward()
    for name, net in (("actor", twin.actor), ("critic", twin.critic)):
        for key, parameter in net.named_parameters():
            mine = getattr(ours, f"{name}_params")[tuple(key.split("."))].grad
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-10, atol=1e-10)
            assert mine.abs().sum() > 0


def test_the_loss_module_has_the_agents_gradients():
    agent, twin = (small_ppo(normalize_observations=False, max_grad_norm=1e9) for _ in "ab")
    rows = minibatch(twin, random_steps())
    module = PPOLoss(twin.actor, twin.critic, twin.config)
    sum(module(rows).values()).backward()
    batch = {key: rows[key] for key in ("observation", "action")}
    names = {
        "log_prob": "action_log_prob",
        "value": "state_value",
        "advantage": "advantage",
        "target": "value_target",
    }
    batch |= {mine: rows[theirs].reshape(-1) for mine, theirs in names.items()} | {"weight": torch.ones(18)}
    agent.update(batch)
    for part in agent.parts():
        for key, parameter in part.module.named_parameters():
            other = getattr(module, f"{part.name}_params")[tuple(key.split("."))].grad
            torch.testing.assert_close(parameter.grad, other, rtol=1e-10, atol=1e-12)


def test_a_discrete_policy_draws_by_its_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    drawn = sampled(
        logits.expand(40_000, 3), torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0))
    )
    torch.testing.assert_close(drawn.mean(0), logits.softmax(-1).squeeze(0), rtol=0, atol=0.01)
    assert torch.equal(drawn.sum(-1), torch.ones(40_000))
    assert most_likely(logits).tolist() == [[0, 0, 1]]
    law = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(entropy(logits), law.entropy())
    torch.testing.assert_close(log_prob(logits, drawn[:1]), law.log_prob(drawn[0].argmax()))


def test_a_gaussian_policy_is_not_cut_where_it_explores():
    agent = small_ppo(log_std=1.0)
    rows = TensorDict({"observation": torch.randn(200, 4)}, [200])
    with set_exploration_type(ExplorationType.RANDOM):
        assert agent.policy(rows.clone())["action"].abs().max() > 1
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert agent.policy(rows.clone())["action"].abs().max() <= 1
    law = torch.distributions.Independent(torch.distributions.Normal(*agent.actor(rows["observation"])), 1)
    torch.testing.assert_close(entropy(agent.actor(rows["observation"])), law.entropy())


def test_the_learning_rate_falls_with_the_rollouts():
    config = TrainConfig(env="Hopper", **load_preset("ppo", "default", "Hopper")[0])
    assert updates_of(config) == 488 * 320
    agent, seen = small_ppo(), {}
    agent.begin(updates_of(config))
    expected = {1: 3e-4, 2: 2.9938524590e-4, 245: 1.5e-4, 488: 6.1475e-7}
    for iteration in expected:
        agent.update_count = (iteration - 1) * 320
        agent.study(random_steps(), None)
        seen[iteration] = agent.rate.item()
    assert seen == pytest.approx(expected, rel=1e-4)


def test_statistics_stand_still_from_the_first_step_of_a_rollout_to_its_last_update():
    agent, steps = small_ppo(), random_steps()
    columns, _ = agent.study(steps, None)
    rows = {"observation": steps.observation.flatten(0, 1), "action": steps.action.flatten(0, 1)}
    before = agent.normalizer.mean.clone()
    agent.update(rows | columns)
    assert torch.equal(agent.normalizer.mean, before)
    agent.after_rollout(steps)
    torch.testing.assert_close(agent.normalizer.mean, steps.observation.flatten(0, 1).mean(0))
    agent.returns.var.fill_(9.0)
    doubled = agent.state_value(steps.observation.flatten(0, 1)).value
    torch.testing.assert_close(
        doubled, 3 * agent.critic(agent.normalized(rows["observation"])), rtol=1e-6, atol=0
    )


def test_several_seeds_are_as_many_single_ones():
    lead = (2,)
    agent, steps = small_ppo(lead=lead), random_steps(lead=lead)
    singles = [small_ppo(seed=seed) for seed in range(2)]
    columns, carried = agent.study(steps, None)
    rows = {"observation": steps.observation.flatten(1, 2), "action": steps.action.flatten(1, 2)}
    agent.update(rows | columns)
    agent.after_rollout(steps)
    for seed, alone in enumerate(singles):
        own = Steps._make(part[seed] for part in steps)
        columns, other = alone.study(own, None)
        rows = {"observation": own.observation.flatten(0, 1), "action": own.action.flatten(0, 1)}
        alone.update(rows | columns)
        alone.after_rollout(own)
        torch.testing.assert_close(carried[seed], other)
        cut = state.cut_seed(state.agent_tensors(agent), seed, alone)
        for name, tensor in state.agent_tensors(alone).items():
            torch.testing.assert_close(cut[name], tensor, rtol=1e-9, atol=1e-11, msg=name)


def check_compiled(spaces, lead, rollouts):
    """Compiled updates are the eager ones."""
    agents = [small_ppo(spaces=spaces, lead=lead) for _ in "ab"]
    update = compiled(agents[0])
    for k in range(rollouts):
        steps = random_steps(seed=k, lead=lead)
        action = torch.randn(*steps.reward.shape, spaces.action, generator=torch.Generator().manual_seed(k))
        steps = steps._replace(action=action)
        for agent, step in zip(agents, (update, agents[1].update), strict=True):
            columns, _ = agent.study(steps, None)
            rows = {"observation": steps.observation.flatten(-3, -2), "action": action.flatten(-3, -2)}
            step(rows | columns)
            agent.after_rollout(steps)
    for (name, a), b in zip(agents[0].named_parameters(), agents[1].named_parameters(), strict=True):
        torch.testing.assert_close(a, b[1], rtol=1e-9, atol=1e-11, msg=name)
    assert agents[0].update_count == rollouts


@pytest.mark.parametrize(("spaces", "lead"), [(SPACES, ()), (DISCRETE, (2,))])
def test_an_update_is_one_graph(monkeypatch, spaces, lead):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    check_compiled(spaces, lead, 3)
    torch.compiler.reset()


@pytest.mark.long
@pytest.mark.parametrize("spaces", [SPACES, DISCRETE])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_compiled_updates_are_the_eager_ones(spaces, lead):
    check_compiled(spaces, lead, 30)


# The rollout


def filled(seeds=1, envs=2, time=4, batch=4):
    generators = tuple(torch.Generator().manual_seed(k) for k in range(seeds))
    source = generators if seeds > 1 else generators[0]
    total = seeds * envs
    replay = RolloutReplay(time * total, num_envs=total, batch_size=batch, generator=source)
    for t in range(time):
        tag = torch.arange(total).float() + 100 * t
        flag = torch.zeros(total, dtype=torch.bool)
        replay.extend_arrays(
            tag.unsqueeze(-1), tag.unsqueeze(-1) + 0.5, tag, tag.unsqueeze(-1), flag, flag, flag
        )
    return replay


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("seeds", [1, 3])
def test_minibatches_are_a_new_order_of_every_row_in_each_pass(seeds):
    replay = filled(seeds)
    steps = replay.steps()
    assert steps.reward.shape == ((3,) if seeds > 1 else ()) + (4, 2)
    columns = {"tag": steps.reward.flatten(-2).clone(), "more": torch.zeros(*steps.reward.flatten(-2).shape)}
    batches = list(replay.minibatches(columns, 4))
    for batch in batches:
        assert torch.equal(batch["observation"].squeeze(-1), batch["tag"])
        assert torch.equal(batch["action"].squeeze(-1), batch["tag"] + 0.5)
    passes = [torch.cat([b["tag"] for b in batches[k : k + 2]], -1) for k in (0, 2)]
    for once in passes:
        assert torch.equal(once.sort(-1).values, columns["tag"].sort(-1).values)
    assert not torch.equal(*passes)
    assert steps.observation.data_ptr() == replay.packed.data_ptr()  # views, no copies


@pytest.mark.usefixtures("single")
def test_a_rollout_that_is_not_whole_is_not_handed_out():
    replay = filled()
    flag = torch.zeros(2, dtype=torch.bool)
    replay.extend_arrays(*[torch.zeros(2, 1)] * 2, torch.zeros(2), torch.zeros(2, 1), flag, flag, flag)
    with pytest.raises(RuntimeError, match="2 of 8"):
        replay.steps()


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("ppo", {}, "epochs = 0: PPO learns from rollouts"),
        ("ppo", {**FAST, "warmup_steps": 5}, "warmup_steps = 5.*use 0"),
        ("ppo", {**FAST, "n_step": 3}, "n_step = 3.*use 1"),
        ("ppo", {**FAST, "num_envs": 3}, "replay_size = 64.*multiple of num_envs = 3"),
        ("ppo", {**FAST, "batch_size": 48}, "multiple of batch_size = 48"),
        ("ppo", {**FAST, "replay": "her"}, "replay her: PPO learns from what it did"),
        ("sac", {"epochs": 2}, "epochs = 2: SAC learns from a replay"),
    ],
)
def test_fields_that_do_not_fit_the_agent_are_refused(name, fields, said):
    with pytest.raises(ConfigError, match=said):
        check_rollouts(agent_class(name), TrainConfig(env="Hopper", **fields))


def test_updates_come_with_whole_rollouts():
    config = TrainConfig(env="Hopper", steps=200, **FAST)
    assert [config.earned(n) for n in (0, 63, 64, 127, 128)] == [0, 0, 8, 8, 16]
    assert updates_of(config) == 24
    assert agent_traits("ppo") == ("online", "continuous or discrete")


WHOLE = {**FAST, "steps": 600, "eval_every": 200, "checkpoint_every": 100, "log_every": 100}


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_cut_in_the_middle_of_a_rollout_goes_on_bit_for_bit(tmp_path, seeds):
    fields = {**WHOLE, "seeds": seeds}
    # With `anneal` the rate of a shorter run falls to 0 at its own end.
    runs.train(tmp_path / "same", "ppo", {"anneal": False}, **fields)
    runs.train(tmp_path / "cut", "ppo", {"anneal": False}, **{**fields, "steps": 340})
    runs.train(tmp_path / "cut", "ppo", {"anneal": False}, resume=True, **fields)
    whole, parts = runs.weights(tmp_path / "same"), runs.weights(tmp_path / "cut")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert runs.lines(tmp_path / "cut")[-1]["updates"] == 9 * 8


@pytest.mark.usefixtures("single")
def test_discrete_actions_and_plugins(tmp_path):
    plugins = {"grama": {"period": 7, "tau": 0.4}}
    fields = {**WHOLE, "steps": 256, "env": "discrete:gym:CartPole-v1", "plugins": plugins}
    runs.train(tmp_path / "run", "ppo", {}, **fields)
    logged = {key for line in runs.lines(tmp_path / "run") for key in line}
    assert logged >= {"loss/actor", "kl", "clip_share", "eval/return_mean", "grama/inactive_actor"}
