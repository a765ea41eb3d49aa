"""DηN against the numbers of its specification; what it refuses; runs that stop and go on."""

import dataclasses
import math
import random
from fractions import Fraction

import pytest
import torch
import whole_runs as runs
from helpers import SPACES, check_loss_module, random_batch, small_agent
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import make_generators
from rlsuite.agents.d_eta_n import DEtaN, DEtaNConfig, DEtaNLoss
from rlsuite.agents.d_eta_n.stock import (
    Stocked,
    action_values,
    edit_stocks,
    expected_utility,
    sample_target,
    stocked,
)
from rlsuite.blocks.convolution import ConvTrunk
from rlsuite.blocks.noise import Noise
from rlsuite.blocks.quantiles import greedy_quantiles, quantile_huber_loss, quantile_levels
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.replay.batch import Batch
from rlsuite.returns.mdp import build
from rlsuite.returns.objectives import Lower, Mean, Norm, Range, Target, Upper
from rlsuite.returns.stock import StockSpace, advance
from rlsuite.returns.tabular import optimal_upper_cvar
from rlsuite.training.assembly import new_agent
from rlsuite.training.rng import SeedStreams

# Two actions with four quantiles each: [1, A, K, m].
THETA = torch.tensor([[[0.0, 1, 2, 3], [-2, 1, 4, 5]]]).unsqueeze(-1)
LOWER = DEtaNConfig(utility="lower", gamma=0.9)
STOCKED_SPACES = dataclasses.replace(SPACES, discrete=True, stock=StockSpace(0.99, (-10.0,), (4.0,)))

PLANE_SPACES = dataclasses.replace(SPACES, stock=StockSpace(0.99, (0.0, 0.0), (1.0, 1.0)))


@pytest.mark.parametrize(
    ("stock", "utility", "values"),
    [
        (-1, Lower(), (-0.25, -0.75)),
        (-1, Mean(), (0.5, 1.0)),
        (-1, Target(), (-1, -2.5)),
        (-1, Upper(), (0.75, 1.75)),
        (-1, Range(0, 2), (0.75, 0.25)),
        (-4, Lower(), (-2.5, -2.25)),
        (-4, Range(0, 2), (0, 0.5)),
        (-4, Target(), (-2.5, -2.5)),
        (0, Lower(), (0, -0.5)),
    ],
)
def test_actions_are_valued_by_the_utility_of_stock_and_return(stock, utility, values):
    found = expected_utility(utility, torch.tensor([[float(stock)]]), THETA)
    assert found[0].tolist() == list(values)
    best = greedy_quantiles(THETA, found, average_ties=False)
    assert torch.equal(best, THETA[:, int(values[1] > values[0])])  # of equal ones the first


def batch_of(reward, terminated, stock, following, gamma=0.9):
    rows = Batch(
        torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([reward]), torch.zeros(1, 2),
        torch.tensor([terminated]), gamma,
    )  # fmt: skip
    return Stocked(rows, torch.tensor([[stock]]), torch.tensor([[following]]), torch.tensor([[reward]]))


def test_the_choice_depends_on_the_stock_and_the_target_does_not():
    """Section 7, test 3: a0 is taken at c' = -1, though a1 has the greater mean."""
    rows = batch_of(1.0, 0.0, -1.9, -1.0)
    assert advance(torch.tensor([-1.9]), torch.tensor([1.0]), 0.9).item() == pytest.approx(-1.0)
    target = sample_target(lambda shown, stock: THETA, rows, Lower(), LOWER)
    assert target.flatten().tolist() == pytest.approx([1, 1.9, 2.8, 3.7])
    mean = sample_target(lambda shown, stock: THETA, rows, Mean(), DEtaNConfig(gamma=0.9))
    assert mean.flatten().tolist() == pytest.approx([-0.8, 1.9, 4.6, 5.5])
    ended = sample_target(lambda shown, stock: THETA, batch_of(1.0, 1.0, -1.9, -1.0), Lower(), LOWER)
    assert ended.flatten().tolist() == [1, 1, 1, 1]


def test_the_loss_and_its_gradient():
    """Section 7, test 4."""
    theta = torch.tensor([0.0, 1, 2, 3], dtype=torch.float64).view(1, 4, 1).requires_grad_()
    target = torch.tensor([1, 1.9, 2.8, 3.7], dtype=torch.float64).view(1, 4, 1)
    loss = quantile_huber_loss(theta, target, 1.0)
    assert loss.item() == pytest.approx(1.00203125, abs=1e-12)
    assert (loss / 4).item() == pytest.approx(0.2505078125, abs=1e-12)
    loss.backward()
    assert theta.grad.flatten().tolist() == pytest.approx([-0.125, -0.271875, -0.178125, -0.084375])
    assert quantile_huber_loss(theta, target, 0.0).item() == pytest.approx(1.55)
    assert quantile_levels(4).tolist() == [0.125, 0.375, 0.625, 0.875]


def test_components_are_regressed_apart():
    generator = torch.Generator().manual_seed(0)
    theta, target = torch.randn(2, 6, 5, 3, generator=generator)
    apart = sum(quantile_huber_loss(theta[..., k : k + 1], target[..., k : k + 1], 0.5) for k in range(3))
    torch.testing.assert_close(quantile_huber_loss(theta, target, 0.5), apart)


def test_equal_actions_may_share_their_quantiles():
    value = expected_utility(Target(), torch.tensor([[-4.0]]), THETA)
    shared = greedy_quantiles(THETA, value, average_ties=True)
    torch.testing.assert_close(shared, THETA.mean(1))
    value = expected_utility(Lower(), torch.tensor([[-1.0]]), THETA)
    assert torch.equal(greedy_quantiles(THETA, value, average_ties=True), THETA[:, 0])


def test_great_stocks_do_not_blur_the_choice():
    """At c = -1e9 float32 knows no differences below 64; all of the choice would be rounding."""
    values = expected_utility(Lower(), torch.tensor([[-1e9]]), THETA)
    assert values.diff().item() == pytest.approx(0.5, abs=1e-6)


def test_edited_rows_keep_their_rewards():
    generator = torch.Generator().manual_seed(0)
    stock, reward = torch.randn(2, 200, 1, generator=generator)
    rows = Batch(stock, stock, reward.squeeze(-1), stock, torch.zeros(200), torch.full((200,), 0.9**2))
    given = Stocked(rows, stock, advance(stock, reward, 0.9**2), reward)
    found = edit_stocks(given, torch.tensor([10.0]), 0.5, Noise(generator))
    changed = (found.stock != stock).squeeze(-1)
    assert 70 < changed.sum() < 130 and found.stock.abs().max() <= 10
    assert found.stock[changed].std() > 4  # uniform over the bound
    torch.testing.assert_close(found.next_stock, advance(found.stock, reward, 0.9**2), rtol=1e-4, atol=1e-4)
    assert torch.equal(found.next_stock[~changed], given.next_stock[~changed])


def test_rewards_by_component_come_from_the_stocks():
    rows = Batch(
        torch.tensor([[7.0, 1.0, -2.0]]), torch.zeros(1, 2), torch.tensor([9.0]),
        torch.tensor([[7.0, 1.5, -1.0]]), torch.zeros(1), 0.5,
    )  # fmt: skip
    found = stocked(rows, 2, Norm(), DEtaNConfig(utility="norm", gamma=0.5), lambda batch: batch)
    assert found.reward.tolist() == [[-0.25, 1.5]] and found.rows.observation.tolist() == [[7.0]]


def test_shaped_rewards_are_learnt_by_their_mean():
    config = DEtaNConfig(utility="lower", gamma=0.5, shaped=True)
    rows = Batch(
        torch.tensor([[0.0, -1.0]]), torch.zeros(1, 2), torch.tensor([-2.0]),
        torch.tensor([[0.0, -6.0]]), torch.zeros(1), 0.5,
    )  # fmt: skip
    found = stocked(rows, 1, Lower(), config, lambda batch: batch)
    assert found.reward.tolist() == [[0.5 * -6 + 1]]
    assert action_values(Lower(), found.stock, THETA, config).tolist() == [[1.5, 2.0]]


def stocked_batch(seed=0, lead=()):
    """Random rows whose last observation entries are stocks that their rewards explain."""
    batch = random_batch(lead=lead, seed=seed)
    stock = 3 * batch["observation"][..., -1:]
    batch["observation"] = torch.cat((batch["observation"][..., :-1], stock), -1)
    after = advance(stock, batch["next", "reward"], 0.99)
    batch["next", "observation"] = torch.cat((batch["next", "observation"][..., :-1], after), -1)
    return batch


@pytest.mark.parametrize(
    "fields", [{}, {"shaped": True}, {"normalize_observations": True}, {"average_ties": True}]
)
def test_agents_with_a_stock_learn_and_seeds_stay_apart(fields):
    options = {"utility": "lower", "quantiles": 8, **fields}
    agent = small_agent("d_eta_n", spaces=STOCKED_SPACES, lead=(2,), **options)
    other = small_agent("d_eta_n", spaces=STOCKED_SPACES, lead=(2,), **options)
    for k in range(3):
        batch = stocked_batch(k, lead=(2,))
        changed = batch.clone()
        changed["next", "reward"][0] += 1.0
        assert agent.update(batch)["loss/critic"].isfinite().all()
        other.update(changed)
    if fields.get("shaped"):
        return  # there the stocks alone tell the reward
    for a, b in zip(agent.critic.parameters(), other.critic.parameters(), strict=True):
        assert not torch.equal(a[0], b[0]) or fields
        torch.testing.assert_close(a[1], b[1], rtol=0, atol=0)


def test_the_stock_is_never_normalised():
    agent = small_agent("d_eta_n", spaces=STOCKED_SPACES, utility="lower", normalize_observations=True)
    batch = stocked_batch()
    agent.update(batch)
    seen = agent.stocked(agent.read(batch), None)
    assert torch.equal(seen.stock, batch["observation"][:, -1:])
    assert not torch.equal(seen.rows.observation, batch["observation"][:, :-1])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("fields", [{}, {"utility": "lower", "edited": 0.5}])
def test_the_loss_module_has_the_agents_gradients(fields):
    spaces = STOCKED_SPACES if fields else SPACES
    agent, twin = (small_agent("d_eta_n", spaces=spaces, kappa=1.0, **fields) for _ in "ab")
    module = DEtaNLoss(twin.critic, twin.config, generator=twin.generators["learn"])
    check_loss_module(module, agent, stocked_batch() if fields else random_batch())


def test_exploration_falls_linearly_to_its_end():
    agent = small_agent("d_eta_n", epsilon_updates=4, epsilon_final=0.2)
    seen = [agent.update(random_batch(seed=k))["epsilon"].item() for k in range(6)]
    assert seen == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    rows = random_batch(4000).select("observation")
    with set_exploration_type(ExplorationType.RANDOM):
        action = agent.policy(rows.clone())["action"]
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        mode = agent.policy(rows)["action"]
    assert action.sum(-1).eq(1).all() and action.amax(-1).eq(1).all()  # one action each
    assert 0.06 < (action != mode).any(-1).float().mean() < 0.14  # half of the random ones are the mode


def test_exploration_ends_within_its_share_of_the_run():
    agent = small_agent("d_eta_n", epsilon_share=0.5, epsilon_final=0.2)
    agent.begin(8)
    seen = [agent.update(random_batch(seed=k))["epsilon"].item() for k in range(6)]
    assert seen == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


class Told(DEtaN):
    """An agent that is told its quantiles."""

    law = torch.tensor([-2.0, 5, 5, 5])

    def quantiles(self, observation):
        stock = observation[..., -1:]
        law = self.law if self.law.dim() > 1 else self.law.view(1, 4, 1)
        return stock, law.expand(*observation.shape[:-1], 2, 4, 1)


@pytest.mark.parametrize(
    ("utility", "level", "value"),
    [("lower", 0.75, 8 / 3), ("lower", 0.25, -2.0), ("upper", 0.5, 5.0), ("mean_cvar", 0.25, 0.625)],
)
def test_evaluations_choose_the_first_stock_of_the_best_tail(utility, level, value):
    config = DEtaNConfig(utility=utility, level=level, quantiles=4, hidden=(16,), stock_candidates=15)
    agent = Told(STOCKED_SPACES, config, make_generators(0))
    first = torch.zeros(3, SPACES.observation)
    stock = agent.first_stock(first)
    assert stock.shape == (1,)
    total = config.objective()(stock.item() + Told.law.double()).mean().item()
    found = -stock.item() + total / (1 if utility == "mean_cvar" else level)
    assert found == pytest.approx(value)


@pytest.mark.parametrize("seed", range(20))
def test_the_upper_tail_is_that_of_the_exact_solution(seed):
    """Twenty small tables: one state, two lotteries, told exactly; the grid meets crossings, too."""
    draw, step = random.Random(seed), 0.01
    lotteries = [[draw.randint(-4, 10) for _ in range(4)] for _ in range(2)]
    level = draw.choice([0.25, 0.5, 0.75])
    fields = {"utility": "upper", "level": level, "quantiles": 4, "hidden": (16,)}
    agent = Told(STOCKED_SPACES, DEtaNConfig(**fields, stock_candidates=1401), make_generators(0))
    agent.law = torch.tensor(lotteries, dtype=torch.float32).view(1, 2, 4, 1)
    stock = agent.first_stock(torch.zeros(3, SPACES.observation))
    rows = torch.zeros(1, SPACES.observation)
    rows[..., -1] = stock
    utility = agent.expected_utility(rows)
    found = utility.item() / level - stock.item()
    options = [[(Fraction(1, 4), value, "end") for value in lottery] for lottery in lotteries]
    exact = optimal_upper_cvar(build({"s": options}), Fraction(level), 1)
    assert found == pytest.approx(float(exact.choice.value), abs=step * max(1, 1 / level - 1))
    theta = agent.law.expand(1, 2, 4, 1)
    chosen = action_values(agent.utility, stock.view(1, 1), theta, agent.config).argmax(-1).item()
    tail = sum(sorted(lotteries[chosen])[-int(4 * level) :]) / (4 * level)
    assert tail <= found + step  # no single lottery is better than the mixture, which the value is of


def test_without_a_level_the_environments_own_stocks_are_kept():
    agent = small_agent("d_eta_n", spaces=STOCKED_SPACES, utility="lower")
    assert agent.first_stock(torch.zeros(3, SPACES.observation)) is None


@pytest.mark.parametrize(("fields", "spaces", "message"), [
    ({"utility": "lower"}, SPACES, "stock:ID"),
    ({"utility": "lower", "gamma": 0.9}, STOCKED_SPACES, "stock_gamma=0.9"),
    ({"utility": "lower"}, PLANE_SPACES, "use norm"),
])  # fmt: skip
def test_stocks_that_do_not_fit_are_refused(fields, spaces, message):
    with pytest.raises(ConfigError, match=message):
        small_agent("d_eta_n", spaces=spaces, **fields)


@pytest.mark.parametrize(("fields", "message"), [
    ({"utility": "target", "goal": 3.0}, r"c_0 = -3\.0"),
    ({"utility": "range", "high": 2.0}, "gamma = 1"),
    ({"utility": "exponential"}, "gamma = 1"),
    ({"utility": "mean_cvar"}, "needs a level"),
    ({"utility": "target", "level": 0.5}, "has no tail"),
    ({"utility": "lower", "level": 0.0}, "level"),
    ({"gamma": 0.0}, "gamma"),
    ({"hidden": ()}, "hidden"),
])  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DEtaNConfig(**fields)
    DEtaNConfig(utility="target", goal=3.0, gamma=1.0)


@pytest.mark.parametrize(("agent", "env_id", "message"), [
    ("sac", "RiskyGrid", "SAC needs continuous actions"),
    ("d_eta_n", "RiskyPointMass", "use discrete:RiskyPointMass"),
])  # fmt: skip
def test_agents_refuse_the_other_kind_of_actions(agent, env_id, message):
    env, kind = make_env(env_id), agent_class(agent)
    with pytest.raises(ConfigError, match=message):
        new_agent(kind, kind.Config(), env, SeedStreams([0]))


@pytest.mark.parametrize(("env_id", "options", "fields"), [
    ("stock:RiskyGrid", {"stock_gamma": 1.0}, {"gamma": 1.0, "utility": "lower", "level": 0.25}),
    ("stock:discrete:gym:FrozenLake-v1", {"stock_low": -1.0, "stock_high": 0.0}, {"utility": "target"}),
    ("stock:Homeostasis", {"stock_gamma": 1.0}, {"gamma": 1.0, "utility": "norm"}),
])  # fmt: skip
def test_a_resumed_run_equals_the_unbroken_one(tmp_path, env_id, options, fields):
    # Of a fixed number: a share of the run is another share once the run is extended.
    own = {"quantiles": 8, "stock_candidates": 9, "epsilon_updates": 200, **fields}
    train = {
        "env": env_id,
        "env_options": options,
        "steps": 400,  # both ends on the grid of the lines: a run's last line is written in any case
        "warmup_steps": 100,
        "n_step": 2,
        "seeds": 2,
        "eval_every": 200,
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    runs.train(whole, "d_eta_n", own, **train)
    runs.train(broken, "d_eta_n", own, **{**train, "steps": 200})
    runs.train(broken, "d_eta_n", own, **train, resume=True)
    runs.assert_same_run(whole, broken)


def test_a_sure_thing_is_learnt():
    """One step pays 1 for action 0 and -1 or 4 at even odds for action 1: cautious and bold stocks differ."""
    generator = torch.Generator().manual_seed(0)
    spaces = dataclasses.replace(STOCKED_SPACES, observation=2, stock=StockSpace(1.0, (-4.0,), (1.0,)))
    agent = small_agent("d_eta_n", spaces=spaces, utility="lower", gamma=1.0, quantiles=8, lr_critic=3e-3)
    for _ in range(400):
        stock = torch.rand(64, 1, generator=generator) * 5 - 4
        arm = torch.randint(2, (64,), generator=generator)
        luck = torch.where(torch.rand(64, generator=generator) < 0.5, 4.0, -1.0)
        reward = torch.where(arm == 0, 1.0, luck).unsqueeze(-1)
        shown = torch.zeros(64, 1)
        ended = torch.ones(64, 1, dtype=torch.bool)
        following = {
            "observation": torch.cat((shown, stock + reward), -1),
            "reward": reward,
            "terminated": ended,
        }
        agent.update(
            TensorDict(
                {
                    "observation": torch.cat((shown, stock), -1),
                    "action": torch.nn.functional.one_hot(arm, 2).float(),
                    "next": TensorDict(following, [64]),
                },
                [64],
            )
        )
    cautious, bold = torch.tensor([[0.0, -1.0], [0.0, -4.0]])
    found = agent.expected_utility(torch.stack((cautious, bold)))
    assert found.tolist() == pytest.approx([0.0, -2.5], abs=0.25)
    assert agent.worth(cautious.unsqueeze(0)).argmax() == 0 and agent.worth(bold.unsqueeze(0)).argmax() == 1


@pytest.mark.parametrize("lead", [(), (2,)])
def test_convolutions_of_several_seeds_are_those_of_each(lead):
    source = (
        tuple(torch.Generator().manual_seed(s) for s in (3, 4)) if lead else torch.Generator().manual_seed(3)
    )
    trunk = ConvTrunk((5, 6, 3), (7,), 4, lead=lead, generator=source)
    alone = ConvTrunk((5, 6, 3), (7,), 4, generator=torch.Generator().manual_seed(3))
    x = torch.rand(*lead, 8, 90, generator=torch.Generator().manual_seed(0))
    found = trunk(x)[0] if lead else trunk(x)
    torch.testing.assert_close(found, alone(x[0] if lead else x))
    maps = torch.nn.functional.conv2d(
        (x[0] if lead else x).unflatten(-1, (5, 6, 3)).permute(0, 3, 1, 2), alone.weight, alone.bias
    )
    torch.testing.assert_close(found, alone.trunk(maps.relu().flatten(1)))


def test_pictures_are_seen_by_a_convolution():
    spaces = dataclasses.replace(STOCKED_SPACES, observation=5 * 5 * 2 + 1, picture=(5, 5, 2))
    agent = small_agent("d_eta_n", spaces=spaces, utility="lower", quantiles=4)
    assert isinstance(agent.critic.trunk, ConvTrunk)
    assert agent.worth(torch.rand(3, 51)).shape == (3, 2)


def test_minatar(tmp_path):
    minatar = pytest.importorskip("minatar.gym")
    minatar.register_envs()
    env = make_env("discrete:gym:MinAtar/Breakout-v1", 2)
    try:
        assert env.picture == (10, 10, 4) and env.discrete
        row = env.reset()
        assert row["observation"].shape == (2, 400)
        agent = new_agent(DEtaN, DEtaNConfig(quantiles=4, hidden=(16,)), env, SeedStreams([0]))
        assert isinstance(agent.critic.trunk, ConvTrunk)
        assert math.isfinite(float(env.step(agent.policy(row))["next", "reward"].sum()))
    finally:
        env.close()
