"""`--env-workers`: the same numbers as in one process, limits on every wait, workers that leave."""

import subprocess
import time

import numpy as np
import psutil
import pytest
import torch
import toys  # noqa: F401
import whole_runs as runs

from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, EnvironmentFailure


def children():
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "spawn" in " ".join(process.cmdline())
    ]


@pytest.fixture
def workers():
    """Make an environment with workers, and see that none is left."""
    made = []

    def make(*given, **changes):
        made.append(make_env(*given, **{"workers": 2, "step_timeout": 60.0, **changes}))
        return made[-1]

    yield make
    for env in made:
        env.close(raise_if_closed=False)
    assert children() == []


def test_workers_give_what_one_process_gives_and_take_up_a_saved_state(workers):
    torch.ones(300, 300) @ torch.ones(300, 300)  # threads of torch and BLAS are there
    together = workers("gym:Pendulum-v1", 3, seed=4, max_episode_steps=6)
    alone = make_env("gym:Pendulum-v1", 3, seed=4, max_episode_steps=6)
    rng = np.random.default_rng(0)
    assert np.array_equal(together.reset_arrays(), alone.reset_arrays())
    assert len(children()) == 2
    for _ in range(10):
        action = rng.uniform(-1, 1, (3, 1))
        one, two = together.step_arrays(action), alone.step_arrays(action)
        for given, wanted in zip(one, two, strict=True):
            assert np.array_equal(given, wanted)
        if one.truncated.any():
            assert np.array_equal(together.reset_arrays(one.truncated), alone.reset_arrays(two.truncated))
    together.load_state_dict(alone.state_dict())
    action = rng.uniform(-1, 1, (3, 1))
    assert np.array_equal(together.step_arrays(action).observation, alone.step_arrays(action).observation)


def test_a_worker_that_hangs_is_given_up_in_time(workers, monkeypatch):
    monkeypatch.setattr("rlsuite.envs.gym_copies.START_SECONDS", 30.0)
    env = workers("gym:ToyHangs-v0", 2, options={"at": 3}, step_timeout=2.0)
    env.reset_arrays()
    start = time.monotonic()
    with pytest.raises(EnvironmentFailure, match="have not come back for 2 s"):
        for _ in range(5):
            env.step_arrays(np.zeros((2, 1)))
    assert time.monotonic() - start < 20
    assert children() == []


def test_what_a_worker_raises_is_one_line_and_a_dead_one_is_told(workers):
    env = workers("gym:ToyRaises-v0", 2, options={"at": 2})
    env.reset_arrays()
    with pytest.raises(EnvironmentFailure, match="the robot is on fire"):
        for _ in range(3):
            env.step_arrays(np.zeros((2, 1)))
    env = workers("gym:ToyReach-v0", 2)
    env.reset_arrays()
    children()[0].kill()
    with pytest.raises(EnvironmentFailure, match="worker died"):
        env.step_arrays(np.zeros((2, 1)))


def test_our_own_environments_take_no_workers():
    with pytest.raises(ConfigError, match="workers are for gym: environments"):
        make_env("Hopper", 2, workers=2)


def test_a_whole_run_with_workers_equals_one_without(tmp_path):
    """In a process of its own, as a user starts it; it has hung where workers were forks."""
    small = {"steps": 120, "warmup_steps": 40, "eval_every": 120, "checkpoint_every": 0, "replay_size": 200}
    for name, more in (("with", ("--env-workers", "2")), ("without", ())):
        words = runs.command("train", "sac", *runs.flags(**small), *more, "--out", tmp_path / name)
        done = subprocess.run(words, env=runs.environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    runs.assert_same_run(tmp_path / "with", tmp_path / "without")
