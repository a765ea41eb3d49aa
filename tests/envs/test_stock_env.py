"""The stock in an environment: its arithmetic, its place in rows, its state; discrete actions and tables."""

import gymnasium
import numpy as np
import pytest
import torch
from env_helpers import assert_equal, play, random_actions
from torchrl.envs import CatTensors, Compose, GymEnv, TransformedEnv
from torchrl.envs.utils import check_env_specs

from rlsuite.envs.stock import StockTransform
from rlsuite.errors import ConfigError
from rlsuite.replay.uniform import UniformReplay
from rlsuite.returns.objectives import Lower
from rlsuite.returns.stock import STOCK_LIMIT

CASES = {
    "stock:RiskyGrid": {"stock_gamma": 1.0},
    "stock:Homeostasis": {"stock_gamma": 1.0},
    "stock:RiskyPointMass": {"stock_low": 0.0, "stock_high": 30.0},
    "stock:discrete:gym:FrozenLake-v1": {"stock_low": -1.0, "stock_high": 0.0},
    "stock:discrete:InvertedPendulum": {"stock_low": -100.0, "stock_high": 0.0, "discrete_bins": 3},
    "discrete:gym:Pendulum-v1": {"discrete_bins": 5},
    "discrete:gym:CartPole-v1": {},
}


@pytest.mark.parametrize("env_id", CASES)
def test_specs_hold_and_a_fresh_object_continues_bit_for_bit(make, env_id):
    options = CASES[env_id]
    first = make(env_id, 3, seed=1, dtype=torch.float64, max_episode_steps=9, options=options)
    check_env_specs(first, seed=0)
    first.seed_worlds(1)
    _, td = play(first, first.reset(), random_actions(first, 14))
    state, row = first.state_dict(), td.clone()
    actions = random_actions(first, 25, seed=1)
    expected, _ = play(first, td, actions)
    second = make(env_id, 3, seed=99, dtype=torch.float64, max_episode_steps=9, options=options)
    second.load_state_dict({key: value.clone() for key, value in state.items()})
    continued, _ = play(second, row, actions)
    assert any(row["next", "done"].any() for row in expected)
    for left, right in zip(expected, continued, strict=True):
        assert_equal(left, right)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_whole_return_is_visible_from_every_step(make, gamma):
    """c_0 + G_0 = gamma^t (c_t + G_t) through steps, ends and resets; the inner episodes are untouched."""
    options = {"stock_low": 2.0, "stock_high": 5.0, "stock_gamma": gamma}
    env = make("stock:gym:Pendulum-v1", 2, seed=4, dtype=torch.float64, max_episode_steps=7, options=options)
    plain = make("gym:Pendulum-v1", 2, seed=4, dtype=torch.float64, max_episode_steps=7)
    actions = random_actions(env, 21)
    rows, _ = play(env, env.reset(), actions)
    others, _ = play(plain, plain.reset(), actions)
    firsts = set()
    for episode in range(3):
        part = rows[7 * episode : 7 * episode + 7]
        stock = torch.stack(
            [row["observation"][:, -1] for row in part] + [part[-1]["next", "observation"][:, -1]]
        )
        firsts |= set(stock[0].tolist())
        reward = torch.stack([row["next", "reward"].squeeze(-1) for row in part])
        assert part[-1]["next", "truncated"].all()  # the row at a time limit holds the true next stock
        for t in range(8):
            after = sum((gamma**i * r for i, r in enumerate(reward[t:])), torch.zeros(2, dtype=torch.float64))
            whole = sum(gamma**i * r for i, r in enumerate(reward))
            torch.testing.assert_close(gamma**t * (stock[t] + after), stock[0] + whole)
    assert len(firsts) == 6 and all(2 <= c <= 5 for c in firsts)
    for row, other in zip(rows, others, strict=True):
        assert torch.equal(row["observation"][:, :-1], other["observation"])
        assert torch.equal(row["next", "reward"], other["next", "reward"])


def test_first_stocks_follow_their_own_worlds_seed(make):
    options = {"stock_gamma": 1.0}
    three = make("stock:RiskyGrid", 3, seed=[5, 6, 7], options=options).reset()["observation"][:, -1]
    two = make("stock:RiskyGrid", 2, seed=[7, 5], options=options).reset()["observation"][:, -1]
    assert three[0] == two[1] and three[2] == two[0] and len(set(three.tolist())) == 3


def test_vector_stocks_and_the_reward_of_each_component(make):
    env = make("stock:Homeostasis", 1, dtype=torch.float64, options={"stock_gamma": 1.0})
    row = env.restock(env.reset(), [2.0, -1.0])
    assert row["observation"][0, -2:].tolist() == [2, -1] == env.stocks[0].tolist()
    for action, wanted in ((2, [1, -1]), (3, [1, 0]), (2, [0, 0]), (0, [0, 0])):
        row["action"] = torch.nn.functional.one_hot(torch.tensor([action]), 5).double()
        row = env.step(row)
        assert row["next", "observation"][0, -2:].tolist() == wanted
        row = env.step_mdp(row)


def test_shaped_rewards_add_up_to_the_utility(make):
    options = {"stock_low": -8.0, "stock_high": 2.0, "stock_gamma": 0.9, "stock_shaped": "lower"}
    env = make("stock:RiskyGrid", 4, seed=2, dtype=torch.float64, options=options)
    first = env.reset()
    stock, rewards = first["observation"][:, -1].clone(), torch.zeros(4, dtype=torch.float64)
    alive = torch.ones(4, dtype=torch.bool)
    end = stock.clone()
    row = first
    for t, action in enumerate(random_actions(env, 8)):
        row["action"] = action
        row = env.step(row)
        rewards += torch.where(alive, 0.9**t * row["next", "reward"].squeeze(-1), 0)
        end = torch.where(alive, 0.9 ** (t + 1) * row["next", "observation"][:, -1], end)
        alive = alive & ~row["next", "done"].squeeze(-1)
        row = env.step_mdp(row)
    assert not alive.any() and env.stock is None
    torch.testing.assert_close(Lower()(stock) + rewards, Lower()(end))


def test_embedded_stocks_are_features_for_agents_that_know_none(make):
    env = make("stock:RiskyGrid", 2, options={"stock_gamma": 1.0, "stock_embedded": True})
    plain = make("RiskyGrid", 2)
    assert env.reset()["observation"].shape[-1] == plain.reset()["observation"].shape[-1] + 4
    assert env.stock is None


class Rotten(gymnasium.Env):
    """Pays a number, then none."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        reward = (np.inf, 1.0, np.nan)[self.time % 3]
        return np.zeros(1, np.float32), reward, False, False, {}


def test_a_stock_that_is_no_number_enters_no_sample(make):
    if "Rotten-v0" not in gymnasium.registry:
        gymnasium.register("Rotten-v0", Rotten, max_episode_steps=50)
    env = make("stock:gym:Rotten-v0", 1, options={"stock_low": 0.0, "stock_high": 1.0})
    replay = UniformReplay(64, num_envs=1, batch_size=32, generator=torch.Generator().manual_seed(0))
    row = env.reset()
    for action in random_actions(env, 12):
        row["action"] = action
        step = env.step(row)
        replay.extend(step)
        row = env.maybe_reset(env.step_mdp(step))
        assert row["observation"].isfinite().all()
    assert env.nan_resets == 6 == replay.invalid  # every second step
    for _ in range(5):
        batch = replay.sample()
        assert batch["next", "reward"].eq(1).all() and batch["next", "observation"].isfinite().all()


def test_long_discounted_episodes_keep_finite_stocks(make):
    options = {"stock_low": 1.0, "stock_high": 1.0, "stock_gamma": 0.5}
    env = make("stock:RiskyPointMass", 1, options=options)
    row = env.reset()
    for _ in range(190):
        row["action"] = torch.ones(1, 2)
        row = env.step_mdp(env.step(row))
    assert row["valid"].all() and row["observation"][0, -1] == -torch.tensor(STOCK_LIMIT)


@pytest.mark.parametrize(("env_id", "options", "message"), [
    ("stock:Hopper", {}, "stock_low=A stock_high=B"),
    ("stock:RiskyGrid", {"stock_gamma": 0.0}, r"outside \(0, 1\]"),
    ("stock:RiskyGrid", {"stock_gama": 1.0}, "gamma"),
    ("stock:RiskyGrid", {"stock_low": float("nan")}, "must be a finite number"),
    ("stock:RiskyGrid", {"stock_low": 3.0, "stock_high": 1.0}, "the least one first"),
    ("stock:Homeostasis", {"stock_low": (1.0, 1.0, 1.0), "stock_high": 2.0}, "components"),
    ("stock:RiskyGrid", {"stock_shaped": "range", "stock_gamma": 0.9}, "gamma = 1"),
    ("stock:RiskyGrid", {"stock_shaped": "cvar"}, "allowed are mean"),
    ("stock:stock:RiskyGrid", {"stock_gamma": 1.0}, "stock already"),
    ("discrete:RiskyGrid", {}, "discrete actions already"),
    ("discrete:gym:CartPole-v1", {"discrete_bins": 3}, "no use"),
    ("discrete:gym:Humanoid-v5", {"discrete_bins": 3}, "up to 1024 actions"),
    ("discrete:Hopper", {"discrete_bins": 1}, "from 2 bins"),
    ("gym:CartPole-v1", {}, '"discrete:gym:CartPole-v1"'),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_reason(make, env_id, options, message):
    with pytest.raises(ConfigError, match=message):
        make(env_id, options=options)


def test_first_stocks_that_are_not_finite_are_refused(make):
    env = make("stock:RiskyGrid", 1, options={"stock_gamma": 1.0})
    with pytest.raises(ConfigError, match="finite"):
        env.restock(env.reset(), [float("inf")])


def test_scores_choose_actions_and_a_grid_covers_both_ends(make):
    env = make("discrete:gym:Pendulum-v1", 5, seed=0, options={"discrete_bins": 5}, dtype=torch.float64)
    plain = make("gym:Pendulum-v1", 5, seed=0, dtype=torch.float64)
    row, other = env.reset(), plain.reset()
    row["action"] = torch.eye(5, dtype=torch.float64)
    other["action"] = torch.linspace(-1, 1, 5, dtype=torch.float64).unsqueeze(-1)
    assert torch.equal(env.step(row)["next", "observation"], plain.step(other)["next", "observation"])


def test_tables_play_like_their_process(make):
    """Frequencies of the lottery of RiskyGrid, reached by going north three times."""
    env = make("RiskyGrid", 400, seed=0)
    row = env.reset()
    assert env.states() == [(0, 0, 8)] * 400
    for _ in range(3):
        row["action"] = torch.tensor([1.0, 0, 0, 0]).expand(400, 4)
        step = env.step(row)
        row = env.step_mdp(step)
    assert step["next", "terminated"].all() and not step["next", "truncated"].any()
    won = step["next", "reward"].eq(10).float().mean()
    assert 0.4 < won < 0.6 and step["next", "reward"].add(3).mul(step["next", "reward"] - 10).eq(0).all()


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_transform_gives_torchrls_environments_the_same_stock(gamma):
    torch.manual_seed(0)
    stock = StockTransform(gamma, [2.0], [5.0], generator=torch.Generator().manual_seed(1))
    joined = CatTensors(["observation", "stock"], "observation", del_keys=False)
    env = TransformedEnv(GymEnv("Pendulum-v1"), Compose(stock, joined))
    check_env_specs(env)
    rollout = env.rollout(12)
    found, reward = rollout["stock"], rollout["next", "reward"]
    assert 2 <= found[0] <= 5
    torch.testing.assert_close(rollout["next", "stock"], (found + reward) / gamma)
    torch.testing.assert_close(found[1:], rollout["next", "stock"][:-1])
    assert torch.equal(rollout["observation"][:, -1:], found)
