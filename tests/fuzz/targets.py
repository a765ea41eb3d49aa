"""What is fuzzed: every reader of files that other people, or a failing disk, may have written.

A target takes bytes, makes a file of them, and reads it. It returns whether all of it was usable; the only
errors that may come out are those of `rlsuite.errors`. While it reads, nothing outside its folder may be
written, nothing unpickled, no process started and no address called (`watch`).
"""

import contextlib
import hashlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.torch
import tomli_w
import torch
import whole_runs as runs
from choices import Choices
from offline.offline_helpers import episodes_of, flat_columns, write_flat, write_minari
from watch import confined

from rlsuite.errors import RLSuiteError
from rlsuite.offline.d4rl import read_d4rl
from rlsuite.offline.minari import read_minari
from rlsuite.offline.policyfile import LAYERS, PolicyFile
from rlsuite.registry import agent_class, agent_names
from rlsuite.replay.uniform import UniformReplay
from rlsuite.runs.canonical import canonical
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.config import OfflineConfig, TrainConfig
from rlsuite.runs.machine import difference, maker
from rlsuite.runs.mapping import RunConfig, config_from_dict, config_to_dict
from rlsuite.runs.metrics import DISCARDED_FILE, MetricsFile, read_metrics
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.assembly import OnlineRun, build
from rlsuite.training.online import train_steps
from rlsuite.training.recorder import Recorder, curve_table
from rlsuite.training.saving import restore


class Target:
    """A reader and the file it reads; `__call__` is what a fuzzer calls again and again."""

    def __init__(self, folder: Path) -> None:
        """Make what the reader needs in `folder`."""
        self.folder = folder.resolve()
        self.prepare()

    def prepare(self) -> None:
        """Make good files to spoil."""

    def write(self, choices: Choices) -> None:
        """Make the file that `choices` mean."""
        raise NotImplementedError

    def read(self) -> bool | None:
        """Read it and use what came; False says that some of it was passed over."""
        raise NotImplementedError

    def __call__(self, data: bytes) -> bool:
        """Write, read, and return whether all of the file was usable.

        Raises:
            AssertionError: what was read breaks a promise.
            Escape: the reader did more than read.
            Exception: any other but ours is a finding.
        """
        self.write(Choices(data))
        try:
            with confined(self.folder):
                return self.read() is not False
        except RLSuiteError as error:
            assert str(error), "an error without words"
            return False


class Checkpoint(Target):
    """A checkpoint with one file spoilt, its manifest made true again: what lies behind the digests."""

    STEPS = 240

    def prepare(self) -> None:
        path = self.folder / "run"
        config = {"steps": self.STEPS, "num_envs": 2, "eval_every": 0, "replay_size": 300}
        runs.train(path, "sac", {"hidden": (4,)}, **config)
        kind = agent_class("sac")
        train = TrainConfig(**{**runs.QUICK, **config})
        self.run: OnlineRun = build(kind, kind.Config(hidden=(4,)), train)
        self.checkpoint = runs.newest(path)
        for older in self.checkpoint.parent.iterdir():  # nothing to go back to
            if older != self.checkpoint:
                shutil.rmtree(older)
        self.whole = {
            str(file.relative_to(self.checkpoint)): file.read_bytes()
            for file in sorted(self.checkpoint.rglob("*"))
            if file.is_file()
        }
        self.victims = sorted(self.whole)
        self.spoilt_file: str | None = None

    def write(self, choices: Choices) -> None:
        if self.spoilt_file is not None:
            (self.checkpoint / self.spoilt_file).write_bytes(self.whole[self.spoilt_file])
        name = self.spoilt_file = choices.of(self.victims)
        data = self._spoilt(choices, name)
        (self.checkpoint / name).write_bytes(data)
        body = json.loads(self.whole["manifest.json"])
        if name != "manifest.json":
            body["files"][name].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
            (self.checkpoint / "manifest.json").write_bytes(signed(body))
        run, old = self.run, self.run.replay
        run.replay = UniformReplay(
            run.config.replay_size,
            num_envs=old.num_envs,
            batch_size=run.config.batch_size,
            n_step=1,
            gamma=0.99,
            device=run.device,
            generator=run.streams.source("sample"),
        )

    def _spoilt(self, choices: Choices, name: str) -> bytes:
        whole = self.whole[name]
        if choices.below(4) == 0:
            return choices.spoilt(whole)
        if name == "manifest.json":
            body = json.loads(whole)
            del body["sha256"]
            if choices.below(2):
                return signed(body | {"written_by": choices.changed(body["written_by"])})
            return signed(choices.changed(body))
        if name.endswith(".json"):
            return json.dumps(choices.changed(json.loads(whole))).encode()
        return spoilt_tensors(choices, whole)

    def read(self) -> None:
        run = self.run
        loaded = CheckpointStore(self.checkpoint.parent).load(config_digest=None)
        assert loaded is not None
        others = difference(loaded.manifest.written_by, maker(run.device))
        assert others.isprintable() and len(others) < 10_000, "what a terminal may not show"
        restore(run, loaded)
        recorder = Recorder(self.folder, total_steps=1, console=False)
        recorder.load_state_dict(loaded.documents.get("recorder"))
        recorder.close()
        if run.clock.updates_due(run.config) < 8:
            train_steps(run, run.config.num_envs)
            run.sums.take()
            run.episodes.take()


def signed(body: Any) -> bytes:
    """Return a manifest with its own digest."""
    if isinstance(body, dict):
        body = {**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}
    return json.dumps(body).encode()


def spoilt_tensors(choices: Choices, whole: bytes) -> bytes:
    """Return a safetensors file with another header, or with other tensors in it."""
    if choices.below(2):
        size = int.from_bytes(whole[:8], "little")
        header = json.dumps(choices.changed(json.loads(whole[8 : 8 + size]))).encode()
        return len(header).to_bytes(8, "little") + header + whole[8 + size :]
    tensors = safetensors.torch.load(whole)
    for _ in range(1 + choices.below(2)):
        if not tensors:
            break
        name = choices.of(sorted(tensors))
        tensor = tensors.pop(name)
        action = choices.below(5)
        if action == 0:
            tensors[choices.text()] = tensor
        elif action == 1:
            tensors[name] = tensor.to(choices.of((torch.float16, torch.int64, torch.bool, torch.float64)))
        elif action == 2:
            tensors[name] = torch.zeros(
                [choices.below(4) for _ in range(choices.below(4))], dtype=tensor.dtype
            )
        elif action == 3:
            number = choices.of((np.nan, np.inf, 1e10, -3.0)) if tensor.is_floating_point() else 7
            tensors[name] = torch.full(tensor.shape, number, dtype=torch.float64).to(tensor.dtype)
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


class Config(Target):
    """`config.toml` of a run folder."""

    def prepare(self) -> None:
        self.run = self.folder / "run"
        self.run.mkdir()
        self.wholes = []
        for name in agent_names():
            kind = agent_class(name)
            for train in (TrainConfig(env="HalfCheetah"), OfflineConfig(dataset="x.hdf5")):
                config = RunConfig(agent_name=name, preset="default", train=train, agent=kind.Config())
                self.wholes.append(config_to_dict(config))

    def write(self, choices: Choices) -> None:
        values = choices.of(self.wholes)
        if choices.below(3):
            # TOML has no null, and its writer takes no keys or surrogates of a wrong kind.
            values = choices.changed(values)
        try:
            data = tomli_w.dumps(values).encode()
        except (TypeError, ValueError, AttributeError, RecursionError):
            data = tomli_w.dumps(self.wholes[0]).encode()
        if choices.below(3) == 0:
            data = choices.spoilt(data)
        (self.run / "config.toml").write_bytes(data)

    def read(self) -> None:
        config = config_from_dict(RunFolder.open(self.run).config(), lambda name: agent_class(name).Config)
        again = config_from_dict(config_to_dict(config), lambda name: agent_class(name).Config)
        # Not a number is not equal to itself, so the texts are compared.
        assert repr(again) == repr(config), "what was read is not what would be written"


class Metrics(Target):
    """`metrics.jsonl` of a run: read, shown as a curve, cut back to a step, continued."""

    def prepare(self) -> None:
        self.path = self.folder / "metrics.jsonl"
        self.lines = [
            {"step": step, "updates": step, "seconds": step / 10, "eval/return_mean": -step / 7, "loss": 1e-3}
            for step in range(0, 500, 100)
        ]

    def write(self, choices: Choices) -> None:
        (self.folder / DISCARDED_FILE).unlink(missing_ok=True)
        lines = [json.dumps(line).encode() for line in self.lines]
        for _ in range(choices.below(3)):
            place, way = choices.below(len(lines)), choices.below(3)
            if way == 0:
                huge = {"eval/return_mean": choices.of((-1, 1)) * sys.float_info.max}
                lines[place] = json.dumps(self.lines[place] | huge).encode()
            elif way == 1:
                lines[place] = json.dumps(choices.changed(self.lines[place])).encode()
            else:
                lines[place] = choices.spoilt(lines[place])
        data = b"\n".join(lines)
        self.path.write_bytes(choices.spoilt(data) if choices.below(3) == 0 else data + b"\n")

    def read(self) -> bool:
        """Hold what is read, shown, cut back and continued to what may be believed of the file."""
        data = self.path.read_bytes()
        expected, complete = believed(data)
        assert list(read_metrics(self.path)) == expected
        shown = curve_table(self.path)
        evaluated = {record["step"] for record in expected if record.get("eval/return_mean") is not None}
        assert (shown == "no evaluation yet") == (not evaluated)
        file = MetricsFile(self.path)
        moved = file.rewind(200)
        discarded = self.folder / DISCARDED_FILE
        gone = split(discarded.read_bytes()) if discarded.exists() else []
        assert len(gone) == moved and sorted(split(self.path.read_bytes()) + gone) == sorted(split(data))
        kept = [record for record in expected if record["step"] <= 200]
        assert list(read_metrics(self.path)) == kept
        assert file.append({"step": 300, "loss": math.nan})
        file.close()
        assert list(read_metrics(self.path)) == [*kept, {"step": 300, "loss": None}]
        self.path.write_bytes(data)  # a crash left it so, and nobody rewinds it: whole lines stay
        file = MetricsFile(self.path)
        assert file.append({"step": 300})
        file.close()
        whole = data[: data.rfind(b"\n") + 1]
        assert self.path.read_bytes() == whole + b'{"step": 300}\n'
        return complete


def split(data: bytes) -> list[bytes]:
    """Return the lines of a file; what follows the last newline is one, too, unless it is empty."""
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def believed(data: bytes) -> tuple[list[dict[str, Any]], bool]:
    """Return what of a metrics file may be believed, and whether that is all of it; on its own, no reader."""
    records, complete = [], True
    for line in split(data):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        fields = found if isinstance(found, dict) else {}
        usable = {key: value for key, value in fields.items() if value is None or is_finite(value)}
        if usable.get("step") is not None:
            records.append(usable)
        complete &= usable.get("step") is not None and usable == found
    return records, complete


def is_finite(value: Any) -> bool:
    if type(value) is int:
        return abs(value) <= sys.float_info.max
    return type(value) is float and -math.inf < value < math.inf


class Policy(Target):
    """A policy file: safetensors with an actor's layers."""

    def prepare(self) -> None:
        shapes = dict(zip(LAYERS, ((6, 3), (5, 6), (2, 5), (2, 5)), strict=True))
        tensors = {f"{layer}.weight": torch.full(shape, 0.1) for layer, shape in shapes.items()}
        tensors |= {f"{layer}.bias": torch.zeros(shape[0]) for layer, shape in shapes.items()}
        self.whole = safetensors.torch.save(tensors)
        self.path = self.folder / "policy.safetensors"

    def write(self, choices: Choices) -> None:
        spoil = choices.spoilt if choices.below(3) == 0 else lambda whole: spoilt_tensors(choices, whole)
        self.path.write_bytes(spoil(self.whole))

    def read(self) -> None:
        policy = PolicyFile(self.path)
        rows = torch.zeros(2, policy.observation)
        for action in (policy.mean(rows), policy.sample(rows, torch.Generator().manual_seed(0))):
            assert action.shape == (2, policy.action) and action.dtype == torch.float32
            assert action.nan_to_num().abs().max() <= 1  # finite weights may overflow all the same


class Columns(Target):
    """A legacy D4RL file."""

    def prepare(self) -> None:
        self.path = self.folder / "flat.hdf5"
        write_flat(self.path, **flat_columns(12, terminals=[4], timeouts=[8], width=2))
        self.whole = self.path.read_bytes()

    KINDS = ("f4", "f8", "f2", "i1", "i8", "u4", "?", "c8", "S3", "V4")
    KEYS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")

    def write(self, choices: Choices) -> None:
        if choices.below(2):
            self.path.write_bytes(choices.spoilt(self.whole))
            return
        self.path.write_bytes(self.whole)
        with h5py.File(self.path, "a") as file:
            key = choices.of(self.KEYS)
            if key in file:
                del file[key]
            shape = [choices.of((12, 0, 1, 2, 11)) for _ in range(choices.below(4))]
            column = np.zeros(shape, choices.of(self.KINDS))
            if column.dtype.kind in "fiub":
                column[...] = choices.below(4)
            if choices.below(4):
                file[key] = column
            for name in ("rlsuite", "ref_min_score", "action_space"):
                if choices.below(4) == 0:
                    file.attrs[name] = json.dumps(choices.value())

    def read(self) -> None:
        use(read_d4rl(self.path))


class Minari(Target):
    """A data set in Minari's layout: its metadata, and its main file."""

    def prepare(self) -> None:
        self.set = write_minari(
            self.folder, episodes_of([3, 2], keys=("observation", "desired_goal"), width=2)
        )
        self.main, self.facts = (self.set / "data" / name for name in ("main_data.hdf5", "metadata.json"))
        self.wholes = self.main.read_bytes(), self.facts.read_bytes()

    def write(self, choices: Choices) -> None:
        main, facts = self.wholes
        way = choices.below(4)
        if way == 0:
            main = choices.spoilt(main)
        elif way == 1:
            facts = choices.spoilt(facts)
        else:
            document = json.loads(facts)
            if way == 2:  # inside the description of a space, which is a text in the text
                space = choices.of(("observation_space", "action_space"))
                document[space] = json.dumps(choices.changed(json.loads(document[space])))
            else:
                document = choices.changed(document)
            facts = json.dumps(document).encode()
        self.main.write_bytes(main)
        self.facts.write_bytes(facts)

    def read(self) -> None:
        use(read_minari(self.set))


def use(data: Any) -> None:
    """Check what a reader promises of recorded rows, and draw a batch."""
    columns = [column for column in data.rows.values(True, True) if column.is_floating_point()]
    assert all(column.isfinite().all() for column in columns)
    assert len(data.replay(batch_size=4).sample()) == 4


TARGETS: dict[str, type[Target]] = {
    "checkpoint": Checkpoint,
    "config": Config,
    "d4rl": Columns,
    "metrics": Metrics,
    "minari": Minari,
    "policy": Policy,
}


@contextlib.contextmanager
def prepared(name: str) -> Iterator[Callable[[bytes], bool]]:
    """Make a target in a folder of its own that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    try:
        yield TARGETS[name](folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
