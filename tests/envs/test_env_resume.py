"""Saved in the middle of episodes, continued by another object or another process: bit for bit the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from env_helpers import assert_equal, play, random_actions
from safetensors.torch import load_file, save_file

from rlsuite.errors import DataError

ENVS = (
    "HalfCheetah",
    "Hopper",
    "InvertedDoublePendulum",
    "RiskyPointMass",
    "gym:Pendulum-v1",
    "gym:Hopper-v5",
    "dmc:point_mass-easy",
    "dmc:cartpole-swingup",  # integrates with RK4
    "dmc:quadruped-walk",  # has activations
    "dmc:finger-turn_hard",  # has a goal
)
LIMIT = 40  # env steps; short, so that the continuation crosses ends and resets
BEFORE, AFTER = 57, 60

CONTINUE_IN_A_NEW_PROCESS = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from tensordict import TensorDict
from rlsuite.envs.make import make_env
for folder in map(Path, sys.argv[2:]):
    env_id = (folder / "env_id").read_text()
    env = make_env(env_id, 3, seed=99, dtype=torch.float64, max_episode_steps=int(sys.argv[1]))
    env.load_state_dict(load_file(folder / "state.safetensors"))
    td = TensorDict(load_file(folder / "row.safetensors"), batch_size=[3])
    seen = []
    for action in load_file(folder / "actions.safetensors")["actions"]:
        td["action"] = action
        td = env.step(td)
        seen.append(torch.cat((td["next", "observation"], td["next", "reward"]), -1))
        td = env.maybe_reset(env.step_mdp(td))
    save_file({"seen": torch.stack(seen)}, folder / "seen.safetensors")
"""


@pytest.mark.parametrize("env_id", ENVS)
def test_a_fresh_object_continues_bit_for_bit(make, env_id):
    first = make(env_id, 3, seed=1, dtype=torch.float64, max_episode_steps=LIMIT)
    _, td = play(first, first.reset(), random_actions(first, BEFORE))
    state, row = first.state_dict(), td.clone()
    assert state["step_count"].max() > 0  # in the middle of episodes
    actions = random_actions(first, AFTER, seed=1)
    expected, _ = play(first, td, actions)
    second = make(env_id, 3, seed=99, dtype=torch.float64, max_episode_steps=LIMIT)
    second.load_state_dict({key: value.clone() for key, value in state.items()})
    continued, _ = play(second, row, actions)
    assert any(row["next", "done"].any() for row in expected)
    for left, right in zip(expected, continued, strict=True):
        assert_equal(left, right)
    ours, theirs = first.state_dict(), second.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("env_id", ["HalfCheetah", "gym:Pendulum-v1"])
def test_a_state_is_a_copy_and_flat(make, env_id):
    env = make(env_id, 2)
    _, td = play(env, env.reset(), random_actions(env, 5))
    state = env.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    play(env, td, random_actions(env, 5))
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert all(torch.equal(before[key], state[key]) for key in state)


def test_another_process_continues_from_files(make, tmp_path):
    expected = {}
    for env_id in (
        "HalfCheetah",
        "gym:Hopper-v5",
        "dmc:point_mass-easy",
        "dmc:cheetah-run",
        "dmc:reacher-easy",
    ):
        folder = tmp_path / env_id.replace(":", "-")
        folder.mkdir()
        (folder / "env_id").write_text(env_id)
        first = make(env_id, 3, seed=1, dtype=torch.float64, max_episode_steps=LIMIT)
        _, td = play(first, first.reset(), random_actions(first, BEFORE))
        save_file(first.state_dict(), folder / "state.safetensors")
        save_file({key: value.contiguous() for key, value in td.items()}, folder / "row.safetensors")
        actions = random_actions(first, AFTER, seed=1)
        save_file({"actions": actions}, folder / "actions.safetensors")
        rows = [row["next"] for row in play(first, td, actions)[0]]
        expected[folder] = torch.stack([torch.cat((row["observation"], row["reward"]), -1) for row in rows])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", CONTINUE_IN_A_NEW_PROCESS, str(LIMIT), *map(str, expected)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    for folder, wanted in expected.items():
        assert torch.equal(load_file(folder / "seen.safetensors")["seen"], wanted), folder.name


@pytest.mark.parametrize("env_id", ["HalfCheetah", "gym:Pendulum-v1", "dmc:fish-upright"])
def test_a_state_that_does_not_fit_is_refused(make, env_id):
    env, smaller = make(env_id, 3), make(env_id, 2)
    env.reset()
    smaller.reset()
    with pytest.raises(DataError, match="needs"):
        env.load_state_dict(smaller.state_dict())
    for missing in env.state_dict():
        state = env.state_dict()
        del state[missing]
        with pytest.raises(DataError, match=missing):
            env.load_state_dict(state)


def test_a_state_of_another_task_is_refused(make):
    env, other = make("HalfCheetah", 2), make("Hopper", 2)
    env.reset()
    with pytest.raises(DataError, match="physics"):
        env.load_state_dict(other.state_dict())


def test_a_state_with_broken_generators_is_refused(make):
    env = make("HalfCheetah", 2)
    state = env.state_dict()
    state["generators"] = state["generators"].double()
    with pytest.raises(DataError, match="int64"):
        env.load_state_dict(state)
