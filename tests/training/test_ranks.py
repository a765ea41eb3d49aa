"""Several processes are one: the same curve as one process with all their worlds, and as an unbroken run."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks_worker
import torch
from safetensors.torch import load_file
from tensordict import TensorDict

from rlsuite import distributed as ranks
from rlsuite.blocks import noise
from rlsuite.cli.main import run as rlsuite
from rlsuite.errors import ConfigError
from rlsuite.replay.uniform import UniformReplay
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.config import OfflineConfig, TrainConfig
from rlsuite.training import assembly
from rlsuite.training.online import train_steps
from rlsuite.training.processes import share_out
from rlsuite.training.rng import SHARED_STREAMS, SeedStreams

TASK = "gym:Pendulum-v1"
CLOCKS = ("seconds", "steps_per_second", "updates_per_second")


def torchrun(*words: str, count: int = 2) -> "subprocess.Popen[str]":
    """Start a command in several processes."""
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
        *words,
    ]
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in (2, 0))
    variables = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: "subprocess.Popen[str]") -> str:
    """Wait for it and return what it said."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


class Halves:
    """The streams of two ranks: each draws its half of whatever is drawn for a batch or for all worlds."""

    def __init__(self, *each: torch.Generator) -> None:
        self.each = each


class BothStreams(SeedStreams):
    """The streams of both ranks in one process."""

    def __init__(self, roots, device="cpu", rank=0):
        super().__init__(roots, device)
        self.second = SeedStreams(roots, device, 1)

    def source(self, name):
        own = super().source(name)
        return own if name in SHARED_STREAMS else Halves(own, self.second.source(name))


def fill_halves(tensor, source, draw):
    """Stand in for `noise.fill`: halves along the axis of rows, drawn where a rank would draw them."""
    if not isinstance(source, Halves):
        return plain_fill(tensor, source, draw)
    sizes = (ranks_worker.BATCH, ranks_worker.WORLDS)
    axis = next(axis for axis, size in enumerate(tensor.shape) if size in sizes)
    for part, generator in zip(tensor.chunk(2, axis), source.each, strict=True):
        part.copy_(plain_fill(torch.empty(part.shape), generator, draw))
    return tensor


plain_fill = noise.fill


class Shards:
    """Stands in for a replay: a ring for each rank's worlds, and a batch of both their samples."""

    def __init__(self, sources: Halves) -> None:
        worlds, batch = ranks_worker.WORLDS // 2, ranks_worker.BATCH // 2
        shape = {"num_envs": worlds, "batch_size": batch, "n_step": 1, "gamma": 0.99, "device": "cpu"}
        self.each = [UniformReplay(500, **shape, generator=generator) for generator in sources.each]
        self.capacity = 1_000

    def __len__(self):
        return sum(map(len, self.each))

    def extend_arrays(self, *columns):
        for replay, own in zip(self.each, zip(*[c.chunk(2) for c in columns], strict=True), strict=True):
            replay.extend_arrays(*own)

    def batches(self, count):
        return [TensorDict.cat([replay.sample() for replay in self.each]) for _ in range(count)]

    def check_memory(self, *_):
        return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left."""
    place = tmp_path_factory.mktemp("ranks")
    finished(torchrun(ranks_worker.__file__, str(place)))
    return place


@pytest.fixture(scope="module")
def learnt(folder):
    """What two processes learnt, by agent and rank."""
    return {
        (name, rank): load_file(folder / f"{name}-{rank}.safetensors")
        for name in ranks_worker.AGENTS
        for rank in (0, 1)
    }


@pytest.mark.parametrize("name", ranks_worker.AGENTS)
def test_two_processes_learn_what_one_with_all_their_worlds_learns(name, learnt, monkeypatch):
    """Equal: worlds, warm-up actions, noise, and each batch as the union of the ranks' samples.

    Not bit-equal: a mean over 32 rows is not summed in the order of two means over 16.
    """
    monkeypatch.setattr(assembly, "SeedStreams", BothStreams)
    monkeypatch.setattr(noise, "fill", fill_halves)
    run = ranks_worker.make(name)
    run.replay = Shards(run.streams.source("sample"))
    train_steps(run, ranks_worker.STEPS)
    assert run.clock.updates == ranks_worker.STEPS - ranks_worker.WARMUP
    expected = ranks_worker.found(run)
    norms = {key for key in expected if key.startswith("log/")}
    assert norms
    for key, tensor in learnt[name, 0].items():
        torch.testing.assert_close(
            tensor, expected[key], rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("name", ranks_worker.AGENTS)
def test_both_processes_have_the_same_agent_to_the_last_bit(name, learnt):
    for key, tensor in learnt[name, 0].items():
        assert torch.equal(tensor, learnt[name, 1][key]), key


def lines(run: Path) -> list[dict]:
    """Return a run's metrics, but for clocks."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in found]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run of two processes."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    said = finished(torchrun("-m", "rlsuite", *ranks_worker.TRAIN, "--out", str(run)))
    assert said.count("best return") == 1  # one speaks
    return run


def test_a_run_of_two_processes_is_one_run_folder_and_goes_on_bit_for_bit(unbroken, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(unbroken, broken)
    shutil.rmtree(broken / "ckpt" / "step-000000000400")  # the other process then knows of a later time
    finished(torchrun("-m", "rlsuite", "resume", str(broken)))
    assert [line["step"] for line in lines(unbroken)] == [100, 200, 300, 400]
    assert lines(unbroken)[-1]["replay/rows"] == 400
    assert not (unbroken / "ranks" / "1" / "metrics.jsonl").exists()
    assert CheckpointStore(unbroken / "ranks" / "1" / "ckpt").steps() == [100, 200, 300, 400]
    assert lines(broken) == lines(unbroken)
    for part in ("agent", "optim", "env"):
        for place in (Path("ckpt"), Path("ranks/1/ckpt")):
            file = place / "step-000000000400" / f"{part}.safetensors"
            assert (broken / file).read_bytes() == (unbroken / file).read_bytes(), file
    with pytest.raises(ConfigError, match=r"started with 2 processes, not 1: torchrun --nproc-per-node 2"):
        rlsuite(["resume", str(broken)])


@pytest.mark.long
def test_a_stop_signal_reaches_all_processes_and_nothing_is_lost(unbroken, tmp_path):
    run = tmp_path / "run"
    process = torchrun("-m", "rlsuite", *ranks_worker.TRAIN, "--out", str(run))
    while not CheckpointStore(run / "ckpt").steps():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert "go on with: torchrun --nproc-per-node 2 -m rlsuite resume" in said
    assert CheckpointStore(run / "ckpt").steps()[-1] < 400
    finished(torchrun("-m", "rlsuite", "resume", str(run)))
    assert lines(run) == lines(unbroken)


@pytest.fixture
def one_of_two(monkeypatch):
    """Say that there is another process, without one."""
    monkeypatch.setattr(ranks, "_place", ranks.Place(0, 2, 0, 2))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (OfflineConfig(dataset="x"), "online agents only"),
        (TrainConfig(env=TASK, num_envs=2, plugins={"grama": {}}), "plugins grama"),
        (TrainConfig(env=TASK), "num_envs = 1 cannot be shared out over 2"),
        (TrainConfig(env=TASK, num_envs=2, batch_size=7), "batch_size = 7"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(config, words, one_of_two):
    with pytest.raises(ConfigError, match=words):
        share_out(config)


def test_a_run_of_one_process_is_not_resumed_by_two(one_of_two):
    with pytest.raises(ConfigError, match="started with 1 processes, not 2: rlsuite resume"):
        share_out(TrainConfig(env=TASK, num_envs=2), resume=True)


def test_alone_nothing_changes(monkeypatch):
    for name in ranks.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    config, numbers = TrainConfig(env=TASK), torch.arange(3.0)
    with ranks.joined() as place:
        assert place == ranks.ALONE and share_out(config) is config
        assert ranks.mean(numbers) is numbers and ranks.total(numbers) is numbers and ranks.count(3) == 3
        assert ranks.agreed("path") == "path" and ranks.alike(numbers) and not ranks.any_of(False)


def test_ranks_share_weights_and_worlds_and_nothing_else():
    draws = {
        (name, rank): torch.rand(4, generator=SeedStreams([5], rank=rank).source(name))
        for name in ("init", "eval", "act", "learn", "sample", "explore")
        for rank in (0, 1, 2)
    }
    for name in ("init", "eval", "act", "learn", "sample", "explore"):
        assert torch.equal(draws[name, 0], torch.rand(4, generator=SeedStreams([5]).source(name)))
        same = [torch.equal(draws[name, 0], draws[name, rank]) for rank in (1, 2)]
        assert same == [name in SHARED_STREAMS] * 2
    assert dataclasses.astuple(ranks.ALONE) == (0, 1, 0, 1)
