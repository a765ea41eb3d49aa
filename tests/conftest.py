"""Settings of all tests: one thread (results do not depend on the machine), quiet loggers; recorded data."""

import logging

import h5py
import numpy as np
import pytest
import torch
import whole_runs as runs

from rlsuite.envs.make import make_env

torch.set_num_threads(1)
logging.getLogger("torchrl").setLevel(logging.WARNING)


@pytest.fixture
def float64():
    """Make float64 the default type of one test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """A D4RL file of random episodes of the toy, cut by a recorder's time limit."""
    env = make_env("gym:ToyReach-v0", 1)
    g = torch.Generator().manual_seed(0)
    columns = {name: [] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    for _ in range(runs.EPISODES):
        td = env.reset()
        for time in range(runs.LENGTH):
            td["action"] = torch.rand(1, env.action_spec.shape[-1], generator=g) * 2 - 1
            td = env.step(td)
            following = td["next"]
            columns["observations"].append(td["observation"][0].numpy())
            columns["actions"].append(td["action"][0].numpy())
            columns["rewards"].append(following["reward"].item())
            columns["terminals"].append(following["terminated"].item())
            columns["timeouts"].append(time == runs.LENGTH - 1)
            if following["done"].item():
                columns["timeouts"][-1] = not columns["terminals"][-1]
                break
            td = env.step_mdp(td)
    env.close()
    path = tmp_path_factory.mktemp("data") / "toy.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = np.array(values, dtype=bool if name in ("terminals", "timeouts") else np.float32)
    return path


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """Folders of data sets that are nobody's, below the working folder of one test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(tmp_path / "ogbench"))
    monkeypatch.chdir(tmp_path)
    return tmp_path
