"""Our environments as Gymnasium's: its checker, and its SyncVectorEnv number by number, infos included."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium_tasks import IDS, REWARD_ULPS, assert_same_observation

import rlsuite.gym
from rlsuite.envs.names import suite_tasks_by_name
from rlsuite.envs.seeding import EPISODE_SEEDS
from rlsuite.envs.tasks.dmc.base import load_original
from rlsuite.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date")

MODES = tuple(AutoresetMode)
FEW = (("HalfCheetah", "v5"), ("Hopper", "v4"), ("Humanoid", "v5"))
INFOS_ULPS = 4  # norms, and products that C's `pow` makes; all else is equal bit for bit
LAST_DIGIT = ("distance_from_origin", "reward_dist", "reward_near", "distance_penalty", "velocity_penalty")
SUITE_TOLERANCE = 1e-10  # numpy's logarithms and roots of many numbers and of one differ in the last digit
FEW_OF_THE_SUITE = ("cheetah-run", "cartpole-balance")  # the latter's reward charges for actions


@pytest.fixture(autouse=True)
def registered():
    """Another test may have emptied Gymnasium's registry."""
    rlsuite.gym.register()


def pair(name: str, version: str, count: int, mode: AutoresetMode, limit: int | None):
    """The original in Gymnasium's vector environment, and ours."""
    arguments = {} if limit is None else {"max_episode_steps": limit}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = SyncVectorEnv(
            [lambda: gymnasium.make(f"{name}-{version}", **arguments)] * count, autoreset_mode=mode
        )
        ours = gymnasium.make_vec(
            f"rlsuite/{name}-{version}", num_envs=count, autoreset_mode=mode, threads=1, **arguments
        )
    return theirs, ours


def assert_same(name: str, theirs, ours, where: str) -> None:
    """Assert equal values, to the bit but where a machine's last digit is its own; infos with their masks."""
    if isinstance(theirs, dict):
        assert theirs.keys() == ours.keys(), where
        for key in theirs:
            assert_same(key if key in LAST_DIGIT else name, theirs[key], ours[key], f"{where}, {key}")
        return
    if theirs.dtype == object:
        for left, right in zip(theirs, ours, strict=True):
            assert (left is None) == (right is None), where
            if left is not None:
                assert_same(name, left, right, where)
        return
    assert theirs.dtype == ours.dtype, where
    if name in LAST_DIGIT:
        np.testing.assert_array_max_ulp(theirs, ours, maxulp=INFOS_ULPS)
    else:
        np.testing.assert_array_equal(theirs, ours, where)


def assert_same_step(name: str, theirs, ours, where: str) -> None:
    """Assert that two steps are the same."""
    for left, right in zip(theirs[2:4], ours[2:4], strict=True):
        np.testing.assert_array_equal(left, right, where)
    if name in REWARD_ULPS:
        np.testing.assert_array_max_ulp(theirs[1], ours[1], maxulp=REWARD_ULPS[name])
    else:
        np.testing.assert_array_equal(theirs[1], ours[1], where)
    assert_observations(name, theirs[0], ours[0], where)
    assert_same(name, theirs[4], ours[4], where)


def assert_observations(name: str, theirs: np.ndarray, ours: np.ndarray, where: str) -> None:
    assert theirs.dtype == ours.dtype == np.float64
    assert_same_observation(name, ours, theirs, where)


def compare(
    name: str, version: str, mode: AutoresetMode, steps: int, limit: int | None, count: int = 3
) -> int:
    """Play both with the same actions; return how many episodes ended."""
    theirs, ours = pair(name, version, count, mode, limit)
    for space in ("single_observation_space", "observation_space", "single_action_space", "action_space"):
        assert getattr(theirs, space) == getattr(ours, space), space
    left, right = theirs.reset(seed=5), ours.reset(seed=5)
    assert_observations(name, left[0], right[0], "start")
    assert_same(name, left[1], right[1], "start")
    theirs.action_space.seed(1)
    ended = 0
    for step in range(steps):
        action = theirs.action_space.sample()
        left, right = theirs.step(action), ours.step(action.copy())
        where = f"{name}-{version}, {mode.value}, step {step}"
        assert_same_step(name, left, right, where)
        done = left[2] | left[3]
        ended += int(done.sum())
        if mode is AutoresetMode.DISABLED and done.any():
            first = theirs.reset(options={"reset_mask": done.copy()})
            second = ours.reset(options={"reset_mask": done.copy()})
            assert_observations(name, first[0], second[0], f"{where}, reset")
            assert_same(name, first[1], second[1], f"{where}, reset")
    theirs.close(), ours.close()
    return ended


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "version"), FEW)
def test_ours_is_gymnasiums_vector_environment(name, version, mode):
    assert compare(name, version, mode, steps=110, limit=45) >= 4


@pytest.mark.parametrize(("name", "version"), IDS)
def test_every_task_for_a_moment(name, version):
    assert compare(name, version, AutoresetMode.SAME_STEP, steps=25, limit=11, count=2) >= 4


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "version"), IDS)
def test_every_task_for_a_thousand_steps_with_resets(name, version, mode):
    assert compare(name, version, mode, steps=1_010, limit=None) >= 3


class Original(gymnasium.Env):
    """dm_control's own environment, whose episodes have seeds that the env's generator draws."""

    def __init__(self, name: str) -> None:
        self.env = load_original(*name.split("-", 1))
        actions = self.env.action_spec()
        self.action_space = gymnasium.spaces.Box(
            *(
                np.broadcast_to(side, actions.shape).astype(np.float32)
                for side in (actions.minimum, actions.maximum)
            )
        )
        size = len(self._flat(self.env.reset()))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.env.task.random.seed(int(self.np_random.integers(EPISODE_SEEDS)))
        return self._flat(self.env.reset()), {}

    def step(self, action):
        step = self.env.step(action)
        ended = step.last() and step.discount == 0
        return self._flat(step), step.reward, ended, step.last() and not ended, {}

    def _flat(self, step):
        return np.concatenate([np.ravel(part) for part in step.observation.values()])


def compare_with_dm_control(name: str, mode: AutoresetMode, steps: int) -> tuple[int, bool]:
    """Play both with the same actions; return how many episodes ended, and whether every bit was equal."""
    theirs = SyncVectorEnv([lambda: Original(name)] * 2, autoreset_mode=mode)
    ours = gymnasium.make_vec(f"rlsuite/dmc-{name}", num_envs=2, autoreset_mode=mode, threads=1)
    for space in ("single_observation_space", "single_action_space"):
        assert getattr(theirs, space) == getattr(ours, space), space
    theirs.action_space.seed(1)
    left, right = theirs.reset(seed=5), ours.reset(seed=5)
    np.testing.assert_allclose(left[0], right[0], rtol=0, atol=SUITE_TOLERANCE)
    ended, exact = 0, bool((left[0] == right[0]).all())
    for step in range(steps):
        action = theirs.action_space.sample()
        left, right = theirs.step(action), ours.step(action.copy())
        for one, other in zip(left[:2], right[:2], strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=SUITE_TOLERANCE, err_msg=f"{name}, {step}")
            exact &= bool((one == other).all())
        for one, other in zip(left[2:4], right[2:4], strict=True):
            np.testing.assert_array_equal(one, other, f"{name}, {step}")
        assert left[4].keys() == right[4].keys()
        if "final_obs" in left[4]:
            for one, other in zip(left[4]["final_obs"], right[4]["final_obs"], strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=SUITE_TOLERANCE)
        ended += int((left[2] | left[3]).sum())
    theirs.close(), ours.close()
    return ended, exact


@pytest.mark.parametrize("name", FEW_OF_THE_SUITE)
def test_a_task_of_the_suite_is_dm_controls(name):
    compare_with_dm_control(name, AutoresetMode.SAME_STEP, steps=40)


@pytest.mark.long
@pytest.mark.parametrize("name", suite_tasks_by_name())
def test_every_task_of_the_suite_for_a_thousand_steps_and_a_reset(name):
    ended, exact = compare_with_dm_control(name, AutoresetMode.SAME_STEP, steps=1_005)
    assert ended == 2
    print(f"{name}: {'to the bit' if exact else 'to the last digit'}")


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Reacher-v4", "dmc-cheetah-run", "RiskyGrid"])
def test_gymnasiums_checker_is_content(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds that are infinite, as the original's are
        check_env(gymnasium.make(f"rlsuite/{env_id}").unwrapped, skip_render_check=True)


@pytest.mark.long
@pytest.mark.parametrize(
    "env_id",
    [*(f"{name}-{version}" for name, version in IDS), *(f"dmc-{name}" for name in suite_tasks_by_name())],
)
def test_gymnasiums_checker_is_content_with_every_task(env_id):
    test_gymnasiums_checker_is_content(env_id)


def test_one_environment_is_gymnasiums():
    theirs, ours = gymnasium.make("Hopper-v5"), gymnasium.make("rlsuite/Hopper-v5")
    theirs.action_space.seed(0)
    for seed in (3, None):
        left, right = theirs.reset(seed=seed), ours.reset(seed=seed)
        np.testing.assert_array_equal(left[0], right[0])
        assert left[1] == right[1]
        for _ in range(60):
            action = theirs.action_space.sample()
            left, right = theirs.step(action), ours.step(action)
            np.testing.assert_array_equal(left[0], right[0])
            assert left[1:] == right[1:]
            if left[2]:
                break
    theirs.close(), ours.close()


def test_a_seed_of_one_env_leaves_the_others_alone():
    first, second = (gymnasium.make_vec("rlsuite/HalfCheetah-v5", num_envs=3, threads=1) for _ in range(2))
    first.reset(seed=0), second.reset(seed=0)
    left, _ = first.reset(seed=[None, 77, None])
    right, _ = second.reset()
    assert (left == right).all(-1).tolist() == [True, False, True]


def test_an_ended_env_must_be_reset_by_hand_where_nobody_else_does():
    env = gymnasium.make_vec(
        "rlsuite/HalfCheetah-v5", num_envs=2, autoreset_mode="Disabled", max_episode_steps=2, threads=1
    )
    env.reset(seed=0)
    for _ in range(2):
        env.step(env.action_space.sample())
    with pytest.raises(AssertionError, match=r"envs \[0, 1\]"):
        env.step(env.action_space.sample())
    with pytest.raises(ValueError, match="True at least"):
        env.reset(options={"reset_mask": np.zeros(2, np.bool_)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float16"}, "float32, float64"),
        ({"render_mode": "human"}, "rgb_array"),
        ({"healthy_z_range": (0, 1)}, "unknown key"),
    ],
)
def test_what_cannot_be_asked_for_is_said(arguments, message):
    with pytest.raises(ConfigError, match=message):
        gymnasium.make_vec("rlsuite/HalfCheetah-v5", num_envs=2, **arguments)


def test_a_toy_keeps_its_own_time_limit():
    env = gymnasium.make("rlsuite/RiskyPointMass")
    env.reset(seed=0)
    for step in range(1, 201):
        *_, terminated, truncated, _ = env.step(np.zeros(2, np.float32))  # it goes nowhere
        assert (terminated, truncated) == (False, step == 200)


def test_importing_ours_alone_imports_nothing():
    code = (
        "import sys, rlsuite; heavy = {'gymnasium', 'numpy', 'torch'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "import gymnasium; assert 'rlsuite/Hopper-v5' not in gymnasium.registry;"
        "import rlsuite.gym; assert 'rlsuite/Hopper-v5' in gymnasium.registry"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_there_without_torch_or_mujoco():
    code = (
        "import sys, gymnasium, rlsuite; assert 'rlsuite/HalfCheetah-v5' in gymnasium.registry;"
        "heavy = {'torch', 'mujoco'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
