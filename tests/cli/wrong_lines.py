"""Wrong command lines, made from the fields of every command's own dataclass, and what each must come to.

    python tests/cli/wrong_lines.py [COUNT]    # all of them, or COUNT drawn at random

Every line ends with exit code 2 or 3 (5 where an environment is to blame) and one line on stderr, without a
traceback, and leaves nothing on the disk. Lines run in this process: hundreds take minutes.
"""

import contextlib
import io
import os
import random
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
    every = list(dict.fromkeys(line for start in starts(run, data) for line in of_start(start, draw)))
    every += [tuple(words) for words in places_and_files(run)]
    draw.shuffle(every)
    return every[:count]


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
            yield (*words, flag, value)
        if default != ():
            yield (*words, flag)  # its value is missing
    yield (*words, "stray")
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
    """Make a small run of `ENV` in `folder`."""
    line = ("train", "sac", "--import", "strange_envs", "--env", ENV, *TINY, "--out", str(folder))
    result = outcome((*line, "--num-envs", "2", "--batch-size", "8"), ())
    assert result.code == 0, result.err


def failures(lines: list[tuple[str, ...]], folders: tuple[Path, ...]) -> list[str]:
    """Run all lines; return a text for each that does not end as it should."""
    texts = []
    for words in lines:
        result = outcome(words, folders)
        if result.problem:
            texts.append(f"{' '.join(map(repr, words))}: {result.problem}: {result.err[-300:]}")
    return texts


def main() -> None:
    """Run the lines and print those that fail."""
    sys.path.insert(0, str(TESTS))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_run(Path("run"))
        lines = wrong_lines("run", "run/config.toml", random.Random(0), count)
        texts = failures(lines, (Path(folder),))
        print("\n".join([*texts, f"{len(lines)} wrong lines, {len(texts)} end wrongly"]))
    sys.exit(bool(texts))


if __name__ == "__main__":
    main()
