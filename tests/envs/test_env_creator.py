"""Environments of ours as TorchRL makes them: EnvCreator, SerialEnv, ParallelEnv; what make_env refuses."""

import functools

import numpy as np
import pytest
import strange_envs  # noqa: F401 - registers what is made below
import torch
from torchrl.envs import EnvCreator, ParallelEnv, SerialEnv

from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, DataError

NAMES = ("Reacher", "RiskyPointMass", "gym:strange/Strange-v0", "discrete:gym:strange/Discrete-v0")


@pytest.mark.parametrize("name", NAMES)
def test_row_11_an_env_creator_makes_them(name):
    make = functools.partial(make_env, name, 2, seed=3)
    env, plain = EnvCreator(make)(), make()
    torch.manual_seed(0)
    made = env.rollout(4, break_when_any_done=False)
    torch.manual_seed(0)
    assert torch.equal(made["observation"], plain.rollout(4, break_when_any_done=False)["observation"])


def test_row_11_and_several_beside_each_other():
    env = SerialEnv(2, [EnvCreator(functools.partial(make_env, "Reacher", 1, seed=seed)) for seed in (0, 1)])
    played = env.rollout(3)
    assert played.batch_size == (2, 1, 3)
    assert not torch.equal(played["observation"][0], played["observation"][1])
    env.close()


@pytest.mark.long
def test_row_11_in_processes_of_their_own():
    env = ParallelEnv(2, functools.partial(make_env, "HalfCheetah", 1, seed=0))
    assert env.rollout(5).batch_size == (2, 1, 5)
    env.close()


@pytest.mark.parametrize("name", NAMES)
def test_row_11_a_state_of_nothing_is_an_error_unless_asked_for(name):
    env = make_env(name, 1, seed=0)
    env.reset()
    before = env.state_dict()
    env.load_state_dict({}, strict=False)
    after = env.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with pytest.raises(DataError, match="step_count"):
        env.load_state_dict({})
    with pytest.raises(DataError):
        env.load_state_dict({"step_count": before["step_count"]}, strict=False)


@pytest.mark.parametrize("name", ["HalfCheetah", "gym:Pendulum-v1", "RiskyPointMass"])
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_envs": 2.0}, "num_envs = 2.0: must be a whole number"),
        ({"num_envs": "2"}, "num_envs = '2': must be a whole number"),
        ({"num_envs": 0}, "num_envs = 0: must be at least 1"),
        ({"seed": -1}, "seed = -1: must not be negative"),
        ({"seed": [3, -2], "num_envs": 2}, "seed = -2: must not be negative"),
        ({"seed": 1.5}, "seed = 1.5: must be a whole number"),
        ({"threads": -3}, "threads = -3: must not be negative"),
        ({"threads": 1.0}, "threads = 1.0: must be a whole number"),
        ({"max_episode_steps": 0}, "max_episode_steps = 0: must be at least 1"),
        ({"observation_keys": []}, "observation_keys names no part"),
    ],
    ids=str,
)
def test_row_17_numbers_that_are_none_are_refused(name, fields, says):
    with pytest.raises(ConfigError) as caught:
        make_env(name, **fields)
    assert says in str(caught.value)


def test_row_17_whole_numbers_of_numpy_are_some():
    env = make_env("gym:strange/Strange-v0", np.int64(2), seed=np.int32(1))
    plain = make_env("gym:strange/Strange-v0", 2, seed=[np.int64(1), 2])
    assert torch.equal(env.reset()["observation"], plain.reset()["observation"])
    assert type(env.num_envs) is int
