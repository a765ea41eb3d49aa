"""Whole runs, in this process or in one of their own, and what they left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import toys
from safetensors.torch import load_file

from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.mapping import RunConfig, config_to_dict
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.online import train_online

TESTS = Path(toys.__file__).parent
TINY = {"hidden": (16, 16)}
SMALL_FLAGS = (
    *("--agent.hidden", "8", "--batch-size", "8", "--eval-episodes", "1"),
    *("--threads", "1", "--device", "cpu"),
)
EPISODES, LENGTH = 20, 15  # of the recorded toy; the file lacks the successor of an episode's last row
QUICK = {
    "env": "gym:ToyReach-v0",
    "num_envs": 4,
    "steps": 800,
    "warmup_steps": 200,
    "updates_per_step": 0.25,
    "batch_size": 32,
    "replay_size": 500,
    "eval_every": 400,
    "eval_episodes": 2,
    "checkpoint_every": 200,
    "log_every": 100,
    "threads": 1,
    "device": "cpu",
    "loggers": (),
}


def train(path, agent="dsac_t", fields=None, *, stop=None, resume=False, hooks=None, **train_fields):
    """Run `train_online` here on a toy, in the run folder `path`."""
    kind = agent_class(agent)
    config = TrainConfig(**{**QUICK, **train_fields})
    agent_config = kind.Config(**{**TINY, **(fields or {})})
    if resume:
        folder = RunFolder.open(path)
    else:
        whole = RunConfig(agent_name=agent, preset="default", train=config, agent=agent_config)
        folder = RunFolder.create(path, config_to_dict(whole), {})
    with folder:
        return train_online(kind, agent_config, config, folder, stop=stop, resume=resume, hooks=hooks)


def command(*words):
    """The command line as a user's shell would start it, with the toys imported."""
    return [sys.executable, "-m", "rlsuite", *map(str, words)]


def environment():
    """Environment variables under which a child finds this checkout and the toys."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def start(*words):
    """Start a command in the background."""
    return subprocess.Popen(
        command(*words), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def flags(**changes):
    """QUICK as flags of `rlsuite train`, with the toys imported."""
    words = ["--import", "toys", "--agent.hidden", "16", "16"]
    for key, value in {**QUICK, **changes}.items():
        if key != "loggers":
            words += [f"--{key.replace('_', '-')}", str(value)]
    return words


def newest(path):
    """The newest checkpoint folder of a run."""
    return sorted((path / "ckpt").glob("step-*"))[-1]


def weights(path):
    """Agent and optimiser tensors of the newest checkpoint."""
    folder = newest(path)
    return {**load_file(folder / "agent.safetensors"), **load_file(folder / "optim.safetensors")}


def lines(path, drop=()):
    """Metrics without what a clock measures."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "steps_per_second", "updates_per_second")
    return [
        {k: v for k, v in r.items() if k not in timed and not k.startswith(tuple(drop) or "\0")}
        for r in records
    ]


def assert_same_run(one, two):
    """Weights, moments and metrics are equal bit for bit."""
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
    assert lines(one) == lines(two)
