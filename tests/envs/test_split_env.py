"""Groups that are sent and received: the numbers and order of one environment, whoever is slow."""

import threading
import time

import numpy as np
import pytest

from rlsuite.envs.split import SplitEnv
from rlsuite.errors import ConfigError, EnvironmentFailure

STEPS = 60
BOTH = {"seed": 5, "max_episode_steps": 25, "threads": 1}


@pytest.fixture
def split():
    made = SplitEnv("Hopper", 6, groups=2, **BOTH)
    yield made
    made.close()


def act(step, envs):
    """Actions of a step, which depend on the env alone."""
    return np.random.default_rng(step).uniform(-1, 1, (6, 3))[envs]


def whole(make):
    """Play all envs at once; return `(observation to act on, result)` of every step."""
    env = make("Hopper", 6, **BOTH)
    seen = [(env.reset_arrays(), None)]
    for step in range(STEPS):
        result = env.step_arrays(act(step, slice(None)))
        done = result.terminated | result.truncated
        seen.append((env.reset_arrays(done) if done.any() else result.observation, result))
    return seen


def assert_same(turn, expected):
    np.testing.assert_array_equal(turn.observation, expected[0][turn.envs])
    if expected[1] is not None:
        for left, right in zip(turn.result, expected[1], strict=True):
            np.testing.assert_array_equal(left, right[turn.envs])


@pytest.mark.parametrize("slow", ["policy", "simulation"])
def test_the_numbers_are_those_of_one_environment(make, split, slow):
    expected, order, ends = whole(make), [], 0
    if slow == "simulation":
        for env in split.envs:
            advance = env._advance
            env._advance = lambda action, advance=advance: (time.sleep(2e-3), advance(action))[1]
    split.start()
    for turn_number in range(2 * STEPS):
        turn, step = split.recv(), turn_number // 2
        order.append(turn.group)
        assert_same(turn, expected[step])
        ends += turn.result is not None and int((turn.result.terminated | turn.result.truncated).sum())
        if slow == "policy" and turn_number % 10 == 0:
            time.sleep(5e-3)
        split.send(turn.group, act(step, turn.envs))
    assert order == [0, 1] * STEPS
    assert split.waiting == (0, 1)
    assert ends > 10


def test_send_does_not_wait_for_the_step(split):
    split.start()
    first, _ = split.recv(), split.recv()
    gate, advance = threading.Event(), split.envs[0]._advance
    split.envs[0]._advance = lambda action: (gate.wait(10), advance(action))[1]
    split.send(0, act(0, first.envs))
    assert split.waiting == (0,)  # we are here while it steps
    gate.set()
    assert split.recv().group == 0


def test_a_resumed_one_goes_on_bit_for_bit(make, split):
    expected = whole(make)
    split.start()
    for step in range(30):
        for turn in (split.recv(), split.recv()):
            split.send(turn.group, act(step, turn.envs))
    with pytest.raises(ConfigError, match="receive groups 0, 1"):
        split.state_dict()
    split.recv(), split.recv()
    fresh = SplitEnv("Hopper", 6, groups=2, **BOTH)
    fresh.load_state_dict(split.state_dict())
    for step in range(30, STEPS):
        for group in range(2):
            fresh.send(group, act(step, slice(3 * group, 3 * group + 3)))
        for turn in (fresh.recv(), fresh.recv()):
            assert_same(turn, expected[step + 1])
    fresh.close()


def test_misuse_is_said_and_failures_arrive(split):
    with pytest.raises(ConfigError, match="nothing to receive"):
        split.recv()
    split.start()
    with pytest.raises(ConfigError, match="group 1 is under way"):
        split.send(1, np.zeros((3, 3)))
    with pytest.raises(ConfigError, match="before `start`"):
        split.start()
    split.recv(), split.recv()
    split.send(0, np.full((3, 3), np.nan))
    with pytest.raises(EnvironmentFailure, match="NaN"):
        split.recv()
    with pytest.raises(ConfigError, match="7 envs in 2 groups"):
        SplitEnv("Hopper", 7)
