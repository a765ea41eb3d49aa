"""Wrong command lines, made from the fields of every command's own dataclass, and what each must come to.

    python tests/cli/wrong_lines.py [COUNT] [--seed S] [--from A] [--to B] [--csv FILE]

COUNT lines are drawn at random by the seed, of every command some; --from and --to take a part of them.

Every line ends with exit code 2 or 3 (5 where an environment is to blame) and one line on stderr, without a
traceback, and leaves nothing on the disk. Lines run in this process: hundreds take minutes.
"""

import argparse
import contextlib
import csv
import dataclasses
import io
import itertools
import math
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parent.parent
COUNT = 300
ENV = "gym:strange/Strange-v0"
TINY = ("--steps", "40", "--warmup-steps", "20", "--eval-every", "0", "--agent.hidden", "8", "--threads", "1")
NO_NUMBERS = ("abc", "", "nan", "1.5.5", "--", "½", "1e9999", "0x10", "ten", "1,000", "∞", "1 000")
HUGE = ("99999999999999999999999", "1e39")
NO_CHOICES = ("nonsense", "", "ÄÖÜ", "none of these", "'", "\t")
DAMAGED = {
    "empty": b"",
    "torn": b'agent_name = "sac"\n[train',
    "binary": bytes(range(256)),
    "bare": b"[train]\n[agent]\n",
    "flat": b'agent_name = "sac"\npreset = "default"\ntrain = 3\nagent = []\n',
    "other": b"agent_name = 7\npreset = []\n[train]\nenv = 1\n[agent]\n",
}
NO_NAMES = ("", "nobody", "../..", "☃", "a b", "x" * 300)


class Start(NamedTuple):
    """A line that would do, of one command, and the dataclass of its flags."""

    words: tuple[str, ...]
    cls: type


def starts(run: str, data: str) -> list[Start]:
    """Return a right line of every command that takes flags.

    Args:
        run: a run folder.
        data: a data set.
    """
    from rlsuite.bench.study import StudyArgs
    from rlsuite.bench.sweep import SweepArgs
    from rlsuite.cli import data as data_command
    from rlsuite.cli import eval as eval_command
    from rlsuite.cli import export, pull, push, report, resume
    from rlsuite.command.train import parse_train

    train = ("--import", "strange_envs", "--env", ENV, *TINY)
    lines = [
        Start(("train", agent, *train, "--out", "new/run"), type(parse_train(agent, ["--env", ENV])[0]))
        for agent in ("sac", "td3", "dsac_t", "stac")
    ]
    lines += [
        Start(("resume", run, "--import", "strange_envs"), resume.ResumeArgs),
        Start(("eval", run, "--import", "strange_envs", "--episodes", "1"), eval_command.EvalArgs),
        Start(("export", run, "--import", "strange_envs", "--out", "new.onnx"), export.ExportArgs),
        Start(("report", run, "--out", "new"), report.ReportArgs),
        Start(("push", run, "--repo", "nobody/nothing"), push.PushArgs),
        Start(("pull", "nobody/nothing", "--out", "new"), pull.PullArgs),
        Start(("sweep", "sac", "--env", ENV, "--out", "new"), SweepArgs),
        Start(("bench", "study", "--agents", "sac", "--envs", ENV, "--out", "new"), StudyArgs),
    ]
    places: dict[str, tuple[str, ...]] = {
        "make": ("pointmaze/umaze", "--steps", "10", "--out", "new"),
        "check": (data,),
        "convert": (data, "new.hdf5"),
    }
    return lines + [
        Start(("data", name, *places[name]), cls)
        for name, cls in data_command.ACTIONS.items()
        if name in places
    ]


def wrong_lines(run: str, data: str, draw: random.Random, count: int = COUNT) -> list[tuple[str, ...]]:
    """Return `count` different wrong lines, of every sort and every command some."""
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for start in starts(run, data):
        for line in of_start(start, draw):
            groups.setdefault(command_of(start.words), []).append(line)
    for line in places_and_files(run):
        groups.setdefault(("files",), []).append(tuple(line))
    for lines in groups.values():
        draw.shuffle(lines)
    turns = itertools.zip_longest(*groups.values())  # the first line of each, the second of each, ...
    every = dict.fromkeys(line for turn in turns for line in turn if line is not None)
    return list(every)[:count]


def command_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that name a command."""
    return words[: 2 if words[0] in ("data", "bench") else 1]


def of_start(start: Start, draw: random.Random) -> Iterator[tuple[str, ...]]:
    """Yield a right line made wrong in one place, in many ways."""
    from rlsuite.command import arguments

    words = start.words
    for flag, (hint, default) in arguments._fields(start.cls):
        if flag.startswith("--no-") or ".no-" in flag:
            continue
        yield (*words, typo(flag, draw), "1")
        if hint is bool:
            yield (*words, f"{flag}=perhaps")
            continue
        for value in values(hint, default, flag, draw):
            if default != () or value != "--":  # which ends a flag of several: none of them came
                yield (*words, flag, value)
        names = typing.get_origin(hint) is tuple and not {int, float} & {*typing.get_args(hint)}
        if default != () and not names:  # a bare flag of names means none of them
            yield (*words, flag)  # its value is missing
        if flag in words:
            yield (*words, flag, "")  # repeated: the last one counts
    for flag, bounds in bounded(start.cls):
        whole = isinstance(bounds.low, int) or isinstance(bounds.high, int)
        ends = [(bounds.low, -1, bounds.open_low), (bounds.high, 1, bounds.open_high)]
        for end, way, is_open in ends:
            if math.isfinite(end):
                beyond = end if is_open else end + way * (1 if whole else max(1.0, abs(end)))
                yield (*words, f"{flag}={beyond}")
        yield (*words, f"{flag}=-inf")
    yield (*words, "stray")
    yield ("-v", *words)
    yield (words[0], *reversed(words[1:]))
    yield (words[0], "--nothing", *words[1:])
    yield (words[0] + "x", *words[1:])
    yield words[:1] if words[0] != "list" else ("list",)


def values(hint: Any, default: Any, flag: str, draw: random.Random) -> list[str]:
    """Return a few values that a flag of this type cannot have."""
    members = [item for item in typing.get_args(hint) if item not in (type(None), ...)] or [hint]
    if typing.get_origin(hint) is typing.Literal:
        return draw.sample(NO_CHOICES, 2)
    if all(member is int for member in members):
        wrong = [draw.choice(NO_NUMBERS), draw.choice(NO_NUMBERS)]
        return wrong if flag.endswith("seed") else [*wrong, draw.choice(HUGE)]
    if all(member is float for member in members):
        return draw.sample([value for value in NO_NUMBERS if value not in ("1e9999",)], 2)
    if hint is Path or Path in members:
        return [""]
    return [""] if default != "" and hint is str else []


def bounded(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the flags that have a range, with it."""
    from tyro import conf

    from rlsuite.bounds import Bounds

    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint, *marks = typing.get_args(hints[field.name]) or (hints[field.name],)
        if not hasattr(hints[field.name], "__metadata__"):
            hint, marks = hints[field.name], []
        if dataclasses.is_dataclass(hint):
            inner = prefix if conf.OmitArgPrefixes in marks else f"{prefix}{field.name}."
            yield from bounded(typing.cast(type, hint), inner)
            continue
        for mark in marks:
            if isinstance(mark, Bounds):
                yield f"--{prefix}{field.name}".replace("_", "-"), mark


def typo(flag: str, draw: random.Random) -> str:
    """Return a flag with one letter changed, so that it is none."""
    at = draw.randrange(3, len(flag))
    return flag[:at] + draw.choice("qxz") + "q" + flag[at:]


def places_and_files(run: str) -> Iterator[tuple[str, ...]]:
    """Yield lines with folders for files, files for folders, names that do not exist, and damaged files."""
    for name in NO_NAMES:
        yield ("train", name, "--env", ENV)
        yield ("train", "sac", "--env", name)
        yield ("train", "sac", "--env", ENV, "--import", "strange_envs", "--preset", name)
        yield ("train", "iql", "--dataset", name, "--env", ENV, "--import", "strange_envs")
        yield ("list", name)
        for command in ("eval", "resume", "export", "report"):
            yield (command, f"{run}-{name}" if name else name)
    for file in ("config.toml", "meta.json"):
        for command in ("eval", "resume", "export"):
            yield (command, f"{run}/{file}")
        yield ("report", run, "--out", f"{run}/{file}")
        yield ("train", "sac", "--import", "strange_envs", "--env", ENV, *TINY, "--out", f"{run}/{file}")
        yield ("data", "check", f"{run}/{file}")
    for name in (*DAMAGED, "cut"):
        for command in ("eval", "resume", "export", "report"):
            if (name, command) != ("cut", "report"):  # curves need no checkpoint
                yield (command, f"{run}-{name}")
    yield ("train", "sac", "--import", "strange_envs", "--env", ENV, *TINY, "--out", run)
    yield ("train", "sac", "--import", "strange_envs", "--env", "gym:strange/Unready-v0", *TINY)
    yield ("eval", run, "--import", "strange_envs", "--video", run)


class Outcome(NamedTuple):
    """What a line came to."""

    code: Any
    err: str
    changed: list[str]

    @property
    def problem(self) -> str:
        """What is wrong with it; "" for nothing."""
        lines = self.err.strip().splitlines()
        if self.code not in (2, 3, 5):
            return f"exit code {self.code}"
        if len(lines) != 1 or not lines[0].startswith("rlsuite: "):
            return f"{len(lines)} lines on stderr"
        return f"it left {', '.join(self.changed)}" if self.changed else ""


def outcome(words: tuple[str, ...], folders: tuple[Path, ...]) -> Outcome:
    """Run one line in this process and say what it came to; `folders` are watched."""
    from rlsuite.cli import main as cli

    before = listing(folders)
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    code: Any = None
    sys.argv = ["rlsuite", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        except BaseException:  # noqa: BLE001 - whatever it is, it is the failure that is looked for
            traceback.print_exc()
            code = "traceback"
        finally:
            sys.argv = argv
    return Outcome(code, err.getvalue(), sorted(listing(folders) ^ before))


def listing(folders: tuple[Path, ...]) -> set[str]:
    """Return every file and folder below some folders, with its size."""
    paths = (path for folder in folders for path in folder.rglob("*"))
    return {f"{path} {path.stat().st_size if path.is_file() else ''}" for path in paths}


def make_run(folder: Path) -> None:
    """Make a small run of `ENV` in `folder`, and damaged copies of it beside."""
    line = ("train", "sac", "--import", "strange_envs", "--env", ENV, *TINY, "--out", str(folder))
    result = outcome((*line, "--num-envs", "2", "--batch-size", "8"), ())
    assert result.code == 0, result.err
    for name, content in DAMAGED.items():
        shutil.copytree(folder, damaged := folder.with_name(f"{folder.name}-{name}"))
        (damaged / "config.toml").write_bytes(content)
    shutil.copytree(folder, cut := folder.with_name(f"{folder.name}-cut"))
    for file in cut.glob("*/step-*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-5])


def failures(lines: list[tuple[str, ...]], folders: tuple[Path, ...]) -> Iterator[str]:
    """Run all lines; yield a text for each that does not end as it should."""
    for words in lines:
        result = outcome(words, folders)
        if result.problem:
            yield f"{' '.join(map(repr, words))}: {result.problem}: {result.err[-300:]}"


COLUMNS = ("seed", "from", "to", "lines", "wrong", "command", "commit")


def main() -> None:
    """Run the lines and print those that fail."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("count", nargs="?", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="begin", type=int, default=0)
    parser.add_argument("--to", dest="end", type=int)
    parser.add_argument("--csv", type=Path, help="file to append a line of the outcome to")
    line = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_run(Path("run"))
        lines = wrong_lines("run", "run/config.toml", random.Random(line.seed), line.count)
        lines = lines[line.begin : line.end]
        wrong = 0
        for text in failures(lines, (Path(folder),)):
            wrong += 1
            print(text, flush=True)
    print(f"{len(lines)} wrong lines, {wrong} end wrongly")
    if line.csv is not None:
        note(line, len(lines), wrong)
    sys.exit(bool(wrong))


def note(line: argparse.Namespace, count: int, wrong: int) -> None:
    """Append the outcome to a CSV file, with the command that gives it and the commit of the code."""
    git = ("git", "-C", str(TESTS), "describe", "--always", "--dirty")
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    part = f" --from {line.begin}" if line.begin else ""
    part += "" if line.end is None else f" --to {line.end}"
    command = f"python tests/cli/wrong_lines.py {line.count} --seed {line.seed}{part}"
    end = line.count if line.end is None else line.end
    with line.csv.open("a", newline="") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(COLUMNS)
        writer.writerow((line.seed, line.begin, end, count, wrong, command, commit))


if __name__ == "__main__":
    main()
