"""Early stopping: its specification's numbers, both wrappers, and groups that know nothing of each other."""

import logging
import math
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
import toys  # noqa: F401  registers the toys
from gymnasium.vector import AutoresetMode
from torchrl.envs import GymEnv, StepCounter, TransformedEnv

from rlsuite.agents.losses import td_target
from rlsuite.errors import ConfigError
from rlsuite.plugins.least import LEAST, LEASTConfig, entropy, median, noise_level, threshold, weight
from rlsuite.plugins.wrappers import LEASTTransform, LEASTVectorEnv
from rlsuite.replay.batch import unpack
from rlsuite.replay.uniform import UniformReplay

RAW = LEASTConfig(clip=False)
CLIPPED = LEASTConfig()
EAGER = LEASTConfig(start=0.0, min_index=0, min_values=1, noise=False, run_on=0.0)
FLAGS = torch.zeros(1, dtype=torch.bool)


def t(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)


def test_medians():
    assert median(t(10, 12, 8, 11, 9), 0) == 10
    assert median(t(0.5, 1, 2, 1.5, 0.8), 0) == 1


@pytest.mark.parametrize(
    ("eps", "q", "error", "omega", "limit", "stops"),
    [
        (10, 7, 2, 0.5, 5, False),
        (10, 7, 1, 1, 10, True),
        (10, 12, 0.5, 2, 20, True),
        (10, 21, 0.5, 2, 20, False),
        (-10, -15, 2, 0.5, -20, False),
        (-10, -7, 0.5, 2, -5, True),
        (-10, -12, 1, 1, -10, True),
        (-10, -9, 1, 1, -10, False),
        (0, -0.5, 3, 1 / 3, 0, True),
        (0, 0.5, 3, 1 / 3, 0, False),
    ],
)
def test_stop_rule(eps, q, error, omega, limit, stops):
    found = weight(t(1), t(error), RAW)
    torch.testing.assert_close(found, t(omega))
    assert threshold(t(eps), found).item() == pytest.approx(limit)
    assert (q < threshold(t(eps), found).item()) == stops
    if eps < 0 and omega != 1:
        assert (q < eps * omega) != stops or q == -7  # the naive product flips decisions


@pytest.mark.parametrize(
    ("ratio", "eps", "limit"), [(2, 10, 6), (0.1, 10, 3), (2, -10, -16.6667), (0.1, -10, -33.3333)]
)
def test_clipped_weight(ratio, eps, limit):
    assert threshold(t(eps), weight(t(ratio), t(1), CLIPPED)).item() == pytest.approx(limit, abs=1e-4)


def test_medians_leave_out_what_is_missing():
    nan = math.nan
    rows = torch.tensor([[1, 2, 3, 4], [2, 3, nan, nan], [0, 1, 2, nan], [5, 6, 7, 8]])
    torch.testing.assert_close(median(rows, 0), t(1.5, 2.5, 3, 6))
    assert rows.isfinite().sum(0).tolist() == [4, 4, 3, 2]
    torch.testing.assert_close(median(rows.nan_to_num(0.0), 0), t(1.5, 2.5, 2.5, 2))


def test_a_cut_bootstraps_and_a_termination_does_not(cut_rows):
    batch = unpack(cut_rows, 0.99)
    assert td_target(batch, t(50, 50)).tolist() == pytest.approx([50.5, 1.0])


def test_sums_of_three_rewards_end_at_the_cut(cut_rows):
    replay = UniformReplay(
        8,
        num_envs=1,
        batch_size=64,
        n_step=3,
        gamma=0.99,
        device="cpu",
        generator=torch.Generator().manual_seed(0),
    )
    first = cut_rows[:1].clone()
    first["next", "truncated"].fill_(False)
    first["next", "done"].fill_(False)
    replay.extend(first)
    replay.extend(cut_rows[:1])  # the second step is cut
    first["observation"].fill_(7.0)
    for _ in range(4):
        replay.extend(first)
    sample = replay.sample()
    begun = sample["observation"].flatten() == 1
    targets = td_target(unpack(sample, 0.99), torch.full((64,), 50.0))[begun]
    assert pytest.approx(targets.max().item(), abs=1e-4) == 50.995  # 1 + 0.99 + 0.99^2 50


@pytest.fixture
def cut_rows():
    """Two rows with reward 1: one truncated, one terminated."""
    from tensordict import TensorDict

    flags = torch.tensor([[True], [False]])
    following = {
        "observation": torch.ones(2, 1),
        "reward": torch.ones(2, 1),
        "truncated": flags,
        "terminated": ~flags,
        "done": torch.ones(2, 1, dtype=torch.bool),
    }
    row = {"observation": torch.ones(2, 1), "action": torch.zeros(2, 1), "next": TensorDict(following, [2])}
    return TensorDict(row, [2])


def test_entropies():
    even = torch.arange(100) % 10 * 1.0
    assert entropy(even, 10).item() == pytest.approx(2.302585, abs=1e-5)
    assert entropy(t(*[0, 1] * 50)).item() == pytest.approx(0.693147, abs=1e-5)
    assert entropy(t(*[0] * 25, *[1] * 75, math.nan)).item() == pytest.approx(0.562335, abs=1e-5)
    assert 0.693147 > 1.05 * 0.562335 == pytest.approx(0.590452, abs=1e-6)


def test_the_window_follows_the_entropy():
    config = LEASTConfig(start=1.0, resize_every=4, resize=50)
    least = LEAST(1, 4, 100, config)

    def episode(values):
        for i, value in enumerate(values):
            least.stop(t(value), t(1), FLAGS, torch.tensor([i == 3]))

    episode([0, 1, 1, 1])  # 0.562
    assert least.window.item() == 250
    least.values.fill_(math.nan)
    episode([0, 0, 1, 1])  # 0.693 is more than five per cent above
    assert least.window.item() == 300
    least.values.fill_(math.nan)
    episode([1, 1, 1, 1])
    assert least.window.item() == 250


def test_noise_rises_with_early_stops():
    levels = noise_level(t(0, 0.25, 0.5, 0.75, 1), CLIPPED)
    torch.testing.assert_close(levels, t(0.101339, 0.115172, 0.2, 0.284828, 0.298661), rtol=0, atol=1e-6)


def test_the_td_error_stands_for_the_gradient():
    theta = t(0.2, -0.1, 0.4)  # dQ/dtheta
    gradient = 2 * (3 - 5) * theta
    torch.testing.assert_close(gradient, t(-0.8, 0.4, -1.6))
    assert gradient.abs().sum().item() == pytest.approx(2.8)
    assert gradient.norm().item() == pytest.approx(1.833030, abs=1e-6)


def run_episode(least, values, limit=10, errors=1.0):
    """Feed one episode; return the index at which it was stopped, or None."""
    for i in range(limit):
        stopped = least.stop(t(values[i]), t(errors), FLAGS, torch.tensor([i == limit - 1]))
        if stopped.item():
            return i
    return None


def test_no_stop_before_the_start_or_without_enough_episodes():
    late = LEAST(1, 10, 1000, replace(EAGER, start=0.05))
    for _ in range(4):
        assert run_episode(late, [10.0] * 10) is None
    assert run_episode(late, [-1e9] * 10) is None  # env steps 40 to 49
    assert run_episode(late, [-1e9] * 10) == 0
    few = LEAST(1, 10, 1000, replace(EAGER, min_values=20))
    for _ in range(19):
        assert run_episode(few, [10.0] * 10) is None
    assert run_episode(few, [-1e9] * 10) is None
    assert run_episode(few, [-1e9] * 10) == 0
    patient = LEAST(1, 10, 1000, replace(EAGER, min_index=3))
    run_episode(patient, [10.0] * 10)
    assert run_episode(patient, [-1e9] * 10) == 3


def test_a_run_that_is_made_longer_keeps_its_start():
    config = replace(EAGER, start=0.04)
    short, long = LEAST(1, 10, 1000, config), LEAST(1, 10, 10_000, config)
    for _ in range(4):
        assert run_episode(short, [10.0] * 10) is None
    long.load_state_dict(short.state_dict())
    assert run_episode(long, [-1e9] * 10) == 0  # env step 40, not 400


def test_an_episode_is_cut_where_its_value_falls():
    least = LEAST(1, 10, 1000, EAGER)
    for _ in range(3):
        assert run_episode(least, [50.0] * 10) is None
    values = [50.0] * 5 + [25.0] + [50.0] * 4  # half the median, below 0.6 of it
    assert run_episode(least, values) == 5
    assert least.index.item() == 0
    row = least.values[0, 3]
    assert row.isfinite().sum() == 6
    assert least.stop_rate.item() == 0.25
    assert least.stops.item() == 1


def test_a_number_that_is_none_stops_nothing():
    least = LEAST(1, 10, 1000, EAGER)
    run_episode(least, [50.0] * 10)
    assert run_episode(least, [math.nan] * 10) is None
    assert run_episode(least, [50.0] * 5 + [1.0] * 5) == 5


def test_a_terminated_step_is_never_truncated_as_well():
    least = LEAST(1, 10, 1000, EAGER)
    run_episode(least, [50.0] * 10)
    assert not least.stop(t(-1), t(1), ~FLAGS, FLAGS).item()
    assert least.index.item() == 0


def test_episodes_beyond_the_window_are_forgotten():
    config = replace(EAGER, episodes=2, min_episodes=2, max_episodes=4)
    least = LEAST(1, 10, 1000, config)
    for value in (100.0, 100.0, 1.0, 1.0):
        run_episode(least, [value] * 10, errors=1e9)
    least.values[0, :2] = 100.0
    assert run_episode(least, [0.7] * 10) is None  # the window holds the two episodes of value 1


def test_the_alarm(caplog):
    least = LEAST(1, 10, 10_000, EAGER)
    run_episode(least, [50.0] * 10)
    with caplog.at_level(logging.WARNING):
        for episode in range(30):
            run_episode(least, [-(2.0**episode)] * 10)
    assert sum("hardly any is finished" in record.message for record in caplog.records) == 1
    assert least.stop_rate.item() > 0.9


def stream(seed):
    return torch.Generator().manual_seed(seed)


def test_groups_know_nothing_of_each_other_and_a_state_resumes():
    config = LEASTConfig(start=0.0, min_index=0, min_values=2, resize_every=8)
    both = LEAST(4, 6, 100, config, groups=2, generator=(stream(1), stream(2)))
    alone = LEAST(2, 6, 100, config, generator=stream(2))
    g = torch.Generator().manual_seed(0)
    for step in range(200):
        if step == 90:
            states = [each.get_state() for each in both.generator]
            fresh = LEAST(4, 6, 100, config, groups=2, generator=(stream(3), stream(4)))
            fresh.load_state_dict(both.state_dict())
            for each, state in zip(fresh.generator, states, strict=True):
                each.set_state(state)
            both = fresh
        q, error = torch.randn(4, generator=g) + 2, torch.rand(4, generator=g)
        limit = both.index.flatten() == 5
        terminated = torch.rand(4, generator=g) < 0.05
        stopped = both.stop(q, error, terminated, limit & ~terminated)
        by_itself = alone.stop(q[2:], error[2:], terminated[2:], (limit & ~terminated)[2:])
        assert torch.equal(stopped[2:], by_itself)
    assert alone.stops.item() > 10
    assert alone.ran_on.item() > 3
    for name in ("window", "noise", "soon", "ran_on", "would_stop"):
        torch.testing.assert_close(getattr(both, name)[1], getattr(alone, name)[0], equal_nan=True)
    with pytest.raises(ConfigError, match="2 random streams for 1 groups"):
        LEAST(2, 6, 100, config, generator=(stream(1), stream(2)))


def test_an_episode_that_runs_on_does_so_to_its_own_end():
    """Decided once an episode: a draw at every step would stop nearly all of them a few steps later."""
    least = LEAST(1, 10, 1000, replace(EAGER, run_on=1.0))
    for _ in range(3):
        assert run_episode(least, [50.0] * 10) is None
    assert math.isnan(least.ended_soon.item())
    assert run_episode(least, [50.0] * 5 + [25.0] * 5) is None
    assert least.would_stop.item() == -1  # the next episode's
    assert least.ran_on.item() == 1
    assert least.ended_soon.item() == 1  # it ended four steps later
    assert least.stops.item() == least.stop_rate.item() == 0
    assert least.values[0, 3].isfinite().all()  # the whole of it is in the window


def test_how_many_would_have_ended_within_thirty_steps():
    least = LEAST(1, 80, 10_000, replace(EAGER, run_on=1.0))
    run_episode(least, [50.0] * 80, limit=80)
    for first, share in ((49, 1), (48, 1 / 2), (60, 2 / 3), (10, 1 / 2)):  # all end at index 79
        run_episode(least, [50.0] * first + [1.0] + [50.0] * (79 - first), limit=80)
        assert least.ended_soon.item() == pytest.approx(share)
    assert least.ran_on.item() == 4


def test_the_share_of_episodes_that_run_on():
    least = LEAST(20, 10, 10**6, replace(EAGER, run_on=0.25), generator=stream(0))
    flags = torch.zeros(20, dtype=torch.bool)
    for step in range(1_000):
        least.values.fill_(50.0)  # whatever came before: all would be stopped at once
        q = torch.full((20,), 50.0 if step < 10 else 1.0)
        limit = least.index.flatten() == 9
        stopped = least.stop(q, torch.ones(20), flags, limit)
        assert not (stopped & limit).any()
    ran_on, stops = least.ran_on.item(), least.stops.item()
    assert stops > 3_000  # each after one step, while those that run on take ten
    assert ran_on / (ran_on + stops) == pytest.approx(0.25, abs=0.02)
    whole, half = LEAST(1, 10, 100, replace(EAGER, run_on=0.0)), LEAST(1, 10, 100, replace(EAGER, run_on=1.0))
    assert not whole.runs_on.any()
    assert half.runs_on.all()


def test_an_episode_that_is_reset_from_outside_is_forgotten():
    least = LEAST(2, 10, 1000, replace(EAGER, run_on=1.0))
    pair = torch.zeros(2, dtype=torch.bool)
    for step in range(13):
        least.stop(torch.tensor([50.0, 1.0 if step == 12 else 50.0]), torch.ones(2), pair, pair | (step == 9))
    assert least.would_stop.tolist() == [[-1, 2]]
    least.forget(torch.tensor([False, True]))
    assert least.would_stop.tolist() == [[-1, -1]]
    assert least.index.tolist() == [[3, 0]]
    assert least.ran_on.item() == 0


def test_a_state_of_another_version_is_refused_in_one_line():
    state = LEAST(1, 10, 1000).state_dict()
    del state["ran_on"]
    with pytest.raises(ConfigError, match=r"other entries \(ran_on\).*begin a new run"):
        LEAST(1, 10, 1000).load_state_dict(state)


def drop_after(five):
    """An evaluation for which the value halves at the fifth step of the fourth episode."""
    count = iter(range(10**6))

    def value():
        step = next(count)
        return 25.0 if step == five else 50.0

    return value


def test_torchrl_transform():
    value = drop_after(35)
    least = LEAST(1, 10, 1000, EAGER)
    env = TransformedEnv(GymEnv("ToyLimit-v0"), StepCounter(10))
    env.append_transform(LEASTTransform(least, lambda rows: (t(value()), t(1.0))))
    env.train()
    rows = env.rollout(60, break_when_any_done=False)
    lengths = (rows["next", "done"].flatten().nonzero().flatten() + 1).tolist()
    assert lengths[:5] == [10, 20, 30, 36, 46]
    assert not rows["next", "terminated"].any()
    assert rows["next", "truncated"][35].item()
    assert rows["observation"][36].isfinite().all()
    assert rows["step_count"][36].item() == 0
    env.eval()
    before = least.pushed.item()
    assert env.rollout(20)["next", "done"].sum() == 1
    assert least.pushed.item() == before


def test_gymnasium_vector_wrapper():
    env = gymnasium.make_vec(
        "ToyReach-v0", 2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED}
    )
    seen = []

    def evaluate(observation, action, reward, following, terminated):
        seen.append((observation.copy(), following.copy()))
        return np.array([25.0 if len(seen) == 66 else 50.0, 50.0]), np.ones(2)

    wrapped = LEASTVectorEnv(env, LEAST(2, 20, 1000, EAGER), evaluate)
    observation, _ = wrapped.reset(seed=0)
    for step in range(1, 90):
        before = observation
        observation, _, terminated, truncated, infos = wrapped.step(np.full((2, 1), 0.1, np.float32))
        assert np.array_equal(seen[-1][0], before)
        assert not terminated.any()
        expected = [step in (20, 40, 60, 66, 86), step in (20, 40, 60, 80)]
        assert truncated.tolist() == expected, step
        if any(expected):
            assert infos["_final_obs"].tolist() == expected
            assert np.array_equal(infos["final_obs"], seen[-1][1])
            assert not np.array_equal(infos["final_obs"][expected], observation[expected])
    wrapped.stopping = False
    wrapped.reset(seed=1)
    count = len(seen)
    wrapped.step(np.zeros((2, 1), np.float32))
    assert len(seen) == count
    with pytest.raises(ConfigError, match="autoreset"):
        LEASTVectorEnv(gymnasium.make_vec("ToyReach-v0", 1), LEAST(1, 20, 1000), evaluate)


@pytest.mark.parametrize(
    "fields",
    [
        {"episodes": 10},
        {"omega_low": 0.0},
        {"sigma": 0.5},
        {"start": 2.0},
        {"resize_every": 0},
        {"run_on": 1.5},
    ],
)
def test_fields_out_of_range(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        LEASTConfig(**fields)
    with pytest.raises(ConfigError, match="groups"):
        LEAST(3, 10, 100, groups=2)
