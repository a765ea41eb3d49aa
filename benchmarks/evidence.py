"""Work off the list of long runs in evidence.toml, and keep what is known of each under benchmarks/results/.

    make evidence                               # two runs at a time, one thread each
    python benchmarks/evidence.py --list        # where the list stands
    python benchmarks/evidence.py --collect     # results of what has begun, without running anything
    python benchmarks/evidence.py --draw        # every picture again, from the committed CSV files alone

The list is in order of value. What is finished is skipped; what was stopped or killed goes on from its newest
checkpoint. Of every entry that has run, benchmarks/results/FOLDER/ has

    NAME.csv        every evaluation of every seed, headed by what to draw
    NAME.json       command, commit, machine and versions; each run's configuration
    curves.png      of all entries of the folder, with summary.csv and, where labels have two seeds or more,
                    differences.csv; published.csv where curves were published

An entry is finished when its NAME.json says so for the command that the list now has.
"""

import argparse
import contextlib
import csv
import ctypes
import fcntl
import itertools
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("evidence.toml")
RESULTS = Path(__file__).with_name("results")
WORK = Path("runs") / "evidence"  # below the folder of the project
PUBLISHED_VARIABLE = "RLSUITE_PUBLISHED"  # path of the published curves, as in `rlsuite bench paper`
INTERRUPTED = 75  # exit code of what was stopped, has saved, and can go on
RESTARTS = 3  # of an entry whose process is killed
POLL_SECONDS = 0.2
LEAVE_SECONDS = 300.0  # for what was told to stop to save and leave
PR_SET_PDEATHSIG = 1  # of prctl(2)
FIRST_COLUMNS = ("label", "env", "seed", "env_step", "updates", "seconds")
EVALUATION = ("eval/return_mean", "eval/return_std", "eval/length_mean", "eval/value_error", "eval/score")
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
PUBLISHED_COLOR = "0.45"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the list; the fields are those of the file.

    Attributes:
        name: of its files.
        command: words; "rlsuite" and "python" are those of this environment. {seeds}, {steps}, {jobs}, {out}
            and {work} are filled in; one with {jobs} takes the whole machine, the others a core each.
        results: folder below benchmarks/results; entries of one folder share a picture.
        seeds: of every run.
        steps: env steps (updates, on recorded data) of every run.
        before: path below the folder of the project -> command that makes it, where it is not there yet.
        label: of its curves; {agent}, {env} and {preset} are those of each run.
        metrics: columns of the CSV; lines of metrics with none of them are left out.
        draw: which of them are drawn and summarised.
        block: env steps averaged to one point of a curve; 0: every line is a point.
        window: [after, every, last]: the summary is of lines after `after` in the last `last` of every
            `every` env steps; empty: of the last point that all seeds have reached.
        published: label of a run -> name in the file of published curves.
    """

    name: str
    command: tuple[str, ...]
    results: str
    seeds: int = 1
    steps: int = 0
    before: Mapping[str, Sequence[str]] = field(default_factory=dict)
    label: str = "{agent}"
    metrics: tuple[str, ...] = EVALUATION
    draw: tuple[str, ...] = ("eval/return_mean",)
    block: int = 0
    window: tuple[int, ...] = ()
    published: Mapping[str, str] | None = None

    @property
    def whole(self) -> bool:
        """Whether it takes all slots."""
        return any("{jobs}" in word for word in self.command)

    @property
    def out(self) -> Path:
        """Where its runs lie, below the folder of the project."""
        return WORK / self.name

    @property
    def log(self) -> Path:
        """What its process prints."""
        return WORK / "logs" / f"{self.name}.log"


def load(path: Path) -> list[Entry]:
    """Read the list.

    Raises:
        SystemExit: an entry has an unknown key, lacks one, or has the name of another.
    """
    known = {one.name for one in fields(Entry)}
    entries: list[Entry] = []
    with path.open("rb") as file:
        tables = tomllib.load(file).get("entry", [])
    for number, table in enumerate(tables):
        where = f"{path}: entry {table.get('name', number + 1)}"
        if unknown := set(table) - known:
            raise SystemExit(f"{where}: {sorted(unknown)[0]} is no key; there are {', '.join(sorted(known))}")
        if missing := {"name", "command", "results"} - set(table):
            raise SystemExit(f"{where} lacks {sorted(missing)[0]}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
        }
        entries.append(Entry(**values))
    if len({entry.name for entry in entries}) < len(entries):
        names = [entry.name for entry in entries]
        twice = next(name for name in names if names.count(name) > 1)
        raise SystemExit(f"{path} has two entries {twice}: give one another name")
    return entries


# What is finished, and what to start.


def record_of(entry: Entry, results: Path) -> Path:
    """Return the file that says how an entry ended."""
    return results / entry.results / f"{entry.name}.json"


def finished(entry: Entry, results: Path) -> bool:
    """Whether the entry has run to its end, with the command that the list has now."""
    try:
        record = json.loads(record_of(entry, results).read_text())
    except (OSError, ValueError):
        return False
    same = ("command", "seeds", "steps")
    return bool(record.get("finished")) and all(record.get(key) == _plain(entry)[key] for key in same)


def _plain(entry: Entry) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(entry)))
    return plain


def words_of(entry: Entry, jobs: int) -> list[str]:
    """Return what to run now: the entry's command or, where a run has begun, what goes on with it."""
    values = {"seeds": entry.seeds, "steps": entry.steps, "jobs": jobs, "out": entry.out, "work": WORK}
    words = [word.format(**values) for word in entry.command]
    begun = (ROOT / entry.out / "config.toml").is_file()  # benchmarks go on by themselves
    if words[:2] == ["rlsuite", "train"] and begun:
        words = ["rlsuite", "resume", str(entry.out)]
        words += ["--steps", str(entry.steps)] if entry.steps else []
    return program(words)


def program(words: Sequence[str]) -> list[str]:
    """Return a command of the list as this environment runs it."""
    programs = {"rlsuite": [sys.executable, "-m", "rlsuite"], "python": [sys.executable]}
    return [*programs.get(words[0], [words[0]]), *words[1:]]


class Job:
    """An entry under way: what must come before it, then its command."""

    def __init__(self, entry: Entry, jobs: int, lock: IO[str]) -> None:
        self.entry, self.jobs, self.lock = entry, jobs, lock
        self.restarts, self.started = 0, time.time()
        self.first = [words for path, words in entry.before.items() if not (ROOT / path).exists()]
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        entry = self.entry
        words = program(self.first[0]) if self.first else words_of(entry, self.jobs)
        log = ROOT / entry.log
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        data = {"MINARI_DATASETS_PATH": str(ROOT / WORK / "data")}
        with log.open("a") as file:
            print(f"$ {shlex.join(words)}", file=file, flush=True)
            # The lock goes along: a call that was killed is over when its last process has left.
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **threads, **data},
                start_new_session=True,
                pass_fds=(self.lock.fileno(),),
                preexec_fn=_die_with_parent,
            )

    def poll(self, stopping: bool) -> int | None:
        """Return the exit code; None while the entry is under way, or was started again."""
        code = self.process.poll()
        if code is None:
            return None
        if stopping:
            return INTERRUPTED if self.first else code
        if code < 0 and self.restarts < RESTARTS:
            self.restarts += 1
            print(f"{self.entry.name}: killed by signal {-code}, goes on", flush=True)
        elif code == 0 and self.first:
            del self.first[0]
        else:
            return code
        self.process = self._start()
        return None


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies, however it dies: runs then save and leave."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Stop:
    """Set by SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder of the runs; wait for what an earlier call, killed, has left to save and end.

    Raises:
        SystemExit: somebody else works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        until, told = time.monotonic() + LEAVE_SECONDS, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise SystemExit(f"another call works in {folder}: stop it first") from None
                if not told:
                    print("waiting for the runs of an earlier call to save and leave", flush=True)
                told = True
                time.sleep(POLL_SECONDS)
        yield file


def work_off(entries: Sequence[Entry], jobs: int, results: Path, lock: IO[str]) -> int:
    """Run what is not finished, in order; return 0, 75 when stopped, or 1 when something failed."""
    waiting = [entry for entry in entries if not finished(entry, results)]
    running: list[Job] = []
    failed = interrupted = False
    stop, until = Stop(), math.inf
    while waiting or running:
        if stop.asked and until == math.inf:
            until = time.monotonic() + LEAVE_SECONDS
            waiting = []
            for job in running:
                job.process.terminate()
        if time.monotonic() > until:
            for job in running:
                job.process.kill()
        while waiting and fits(waiting[0], [job.entry for job in running], jobs):
            running.append(Job(waiting.pop(0), jobs, lock))
            print(f"{running[-1].entry.name}: running, log {running[-1].entry.log}", flush=True)
        for job in list(running):
            code = job.poll(stop.asked)
            if code is None:
                continue
            running.remove(job)
            save_results(job.entry, results, finished=code == 0, hours=(time.time() - job.started) / 3600)
            ending = "interrupted" if stop.asked or code == INTERRUPTED else f"failed with exit code {code}"
            print(f"{job.entry.name}: {'finished' if code == 0 else ending}", flush=True)
            interrupted |= ending == "interrupted" and code != 0
            failed |= ending != "interrupted" and code != 0
        time.sleep(POLL_SECONDS)
    return 1 if failed else INTERRUPTED if interrupted or stop.asked else 0


def fits(entry: Entry, running: Sequence[Entry], jobs: int) -> bool:
    """Whether an entry may start beside what runs: the order is kept, so that no large one waits for ever."""
    if not running:
        return True
    return not entry.whole and not any(other.whole for other in running) and len(running) < jobs


# What is kept of an entry.


def run_folders(entry: Entry) -> list[Path]:
    """Return the run folders of an entry that have begun."""
    return sorted(path.parent for path in (ROOT / entry.out).rglob("config.toml"))


def lines_of(run: Path) -> Iterator[dict[str, Any]]:
    """Yield a run's lines of metrics; a torn one, of a run that was killed, is passed over."""
    with contextlib.suppress(FileNotFoundError):
        for text in (run / "metrics.jsonl").read_text("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and "step" in line:
                    yield line


def rows_of(entry: Entry) -> list[dict[str, Any]]:
    """Return a row for every line of metrics, of every run, that has one of the entry's metrics."""
    rows = []
    for run in run_folders(entry):
        config = tomllib.loads((run / "config.toml").read_text())
        train = config["train"]
        names = {"agent": config["agent_name"], "env": train["env"], "preset": config.get("preset", "")}
        for line in lines_of(run):
            numbers = {name: line.get(name) for name in entry.metrics}
            if all(number is None for number in numbers.values()):
                continue
            place = {
                "label": entry.label.format(**names),
                "env": train.get("dataset", train["env"]),
                "seed": line.get("seed", train["seed"]),
                "env_step": line["step"],
                "updates": line.get("updates", ""),
                "seconds": round(line.get("seconds", 0), 1),
            }
            rows.append(place | {name: _short(number) for name, number in numbers.items()})
    return rows


def _short(number: Any) -> Any:
    return "" if number is None else float(f"{number:.7g}")


def save_results(entry: Entry, results: Path, *, finished: bool, hours: float = 0.0) -> None:
    """Write the files of an entry and draw its folder; the record, which says that it is finished, last."""
    rows = rows_of(entry)
    folder = results / entry.results
    folder.mkdir(parents=True, exist_ok=True)
    if rows:
        write_rows(folder / f"{entry.name}.csv", entry, rows)
    if entry.published and (source := os.environ.get(PUBLISHED_VARIABLE)):
        write_published(folder / "published.csv", Path(source), entry.published, {row["env"] for row in rows})
    if rows:
        draw(folder)
    runs = {}
    for run in run_folders(entry):
        meta = run / "meta.json"
        facts = {"config": tomllib.loads((run / "config.toml").read_text())}
        facts |= {"meta": json.loads(meta.read_text())} if meta.exists() else {}
        runs[str(run.relative_to(ROOT))] = facts
    record = {"finished": finished, **_plain(entry), "hours": round(hours + hours_before(entry, results), 2)}
    record["runs"] = runs
    text = json.dumps(record, indent=1, default=str).replace(f"{ROOT}/", "")
    stage = record_of(entry, results).with_suffix(".part")
    stage.write_text(f"{text}\n")
    stage.replace(record_of(entry, results))


def hours_before(entry: Entry, results: Path) -> float:
    """Return the hours that earlier calls have spent on an entry that is not finished."""
    try:
        record = json.loads(record_of(entry, results).read_text())
        return 0.0 if record["finished"] else float(record["hours"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def write_rows(path: Path, entry: Entry, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write an entry's rows, headed by what to draw of them."""
    head = {"entry": entry.name, "draw": " ".join(entry.draw), "block": entry.block}
    head["window"] = " ".join(map(str, entry.window))
    with path.open("w", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in head.items())
        writer = csv.DictWriter(file, [*FIRST_COLUMNS, *entry.metrics])
        writer.writeheader()
        writer.writerows(rows)


def write_published(path: Path, source: Path, names: Mapping[str, str], envs: Iterable[str]) -> None:
    """Write statistics of published curves beside ours: mean, deviation and range over their seeds."""
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    with source.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["env"] in envs:
                found[row["algorithm"], row["env"], int(row["env_step"])].append(float(row["mean_return"]))
    columns = ("label", "env", "env_step", "seeds", "mean", "std", "low", "high")
    old = read_rows(path)[1] if path.exists() else []
    kept = [row for row in old if row["label"] not in names]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(kept)
        for label, algorithm in names.items():
            for (who, env, step), returns in sorted(found.items()):
                if who == algorithm:
                    spread = statistics.stdev(returns) if len(returns) > 1 else math.nan
                    numbers = (statistics.fmean(returns), spread, min(returns), max(returns))
                    cells = (label, env, step, len(returns), *(f"{number:.6g}" for number in numbers))
                    writer.writerow(dict(zip(columns, cells, strict=True)))


# Pictures and summaries, from the CSV files alone.


def read_rows(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read a CSV: the facts of its head, and its rows."""
    with path.open(newline="") as file:
        lines = file.readlines()
    head = dict(line[2:].rstrip("\r\n").split(": ", 1) for line in lines if line.startswith("# "))
    return head, list(csv.DictReader(line for line in lines if not line.startswith("#")))


@dataclass(frozen=True, slots=True)
class Series:
    """Curves of one label on one environment, of one metric.

    Attributes:
        curves: seed -> env step -> value.
        window: as in `Entry`.
    """

    label: str
    env: str
    metric: str
    curves: Mapping[str, Mapping[int, float]]
    window: tuple[int, ...]

    def shared(self) -> list[int]:
        """Return the env steps that every seed has."""
        return sorted(set.intersection(*(set(curve) for curve in self.curves.values())))

    def late(self) -> tuple[int, list[float]] | None:
        """Return the env step of the summary and every seed's value there; None where there is none yet."""
        if not self.window:
            steps = self.shared()
            return (steps[-1], [curve[steps[-1]] for curve in self.curves.values()]) if steps else None
        after, every, last = self.window
        values = []
        for curve in self.curves.values():
            kept = [v for step, v in curve.items() if step > after and (step - 1) % every >= every - last]
            if not kept:
                return None
            values.append(statistics.fmean(kept))
        return max(step for curve in self.curves.values() for step in curve), values


def series_of(folder: Path) -> list[Series]:
    """Return what the CSV files of a folder hold, in the order of the list of metrics to draw."""
    found: dict[tuple[str, str, str], Series] = {}
    points: dict[tuple[str, str, str], dict[str, dict[int, list[float]]]] = {}
    for path in sorted(folder.glob("*.csv")):
        head, rows = read_rows(path)
        if "entry" not in head:
            continue
        block, window = int(head["block"]), tuple(map(int, head["window"].split()))
        for metric in head["draw"].split():
            for row in rows:
                if row[metric] == "":
                    continue
                key = (metric, row["env"], row["label"])
                step = int(row["env_step"])
                step = math.ceil(step / block) * block if block else step
                by_seed = points.setdefault(key, defaultdict(lambda: defaultdict(list)))
                by_seed[row["seed"]][step].append(float(row[metric]))
                found.setdefault(key, Series(row["label"], row["env"], metric, {}, window))
    return [
        Series(
            one.label,
            one.env,
            one.metric,
            {
                seed: {step: statistics.fmean(values) for step, values in sorted(curve.items())}
                for seed, curve in points[key].items()
            },
            one.window,
        )
        for key, one in found.items()
    ]


def draw(folder: Path) -> None:
    """Write `summary.csv`, `differences.csv` and `curves.png` of a folder from its other CSV files."""
    every = series_of(folder)
    published = read_rows(folder / "published.csv")[1] if (folder / "published.csv").exists() else []
    columns = ("whose", "label", "env", "metric", "env_step", "seeds", "mean", "std", "low", "high")
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for one in every:
            if (found := one.late()) is None:
                continue
            step, values = found
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            numbers = (statistics.fmean(values), spread, min(values), max(values))
            ours = ("ours", one.label, one.env, one.metric, step, len(values))
            writer.writerow([*ours, *(f"{number:.6g}" for number in numbers)])
            for row in published:
                if (row["label"], row["env"], row["env_step"]) == (one.label, one.env, str(step)):
                    theirs = [row[key] for key in ("seeds", "mean", "std", "low", "high")]
                    writer.writerow(["published", one.label, one.env, one.metric, step, *theirs])
    write_differences(every, folder / "differences.csv")
    plot(every, published, folder / "curves.png")


def write_differences(every: Sequence[Series], path: Path) -> None:
    """Write how far labels lie apart on each environment, with Welch's interval at 95 %.

    Labels that have come to different env steps are not compared, nor is one that has a single seed.
    """
    import numpy as np

    from rlsuite.report.statistics import difference

    rows = []
    for first, second in itertools.combinations(every, 2):
        ours, theirs = first.late(), second.late()
        if (first.env, first.metric) != (second.env, second.metric) or ours is None or theirs is None:
            continue
        if ours[0] != theirs[0] or min(len(ours[1]), len(theirs[1])) < 2:
            continue
        found = difference(np.array(theirs[1]), np.array(ours[1]))
        seeds = (len(theirs[1]), len(ours[1]))
        numbers = (f"{number:.6g}" for number in (found.value, found.low, found.high))
        rows.append((second.label, first.label, first.env, first.metric, ours[0], *seeds, *numbers))
    if not rows:
        path.unlink(missing_ok=True)
        return
    sides = ("label", "less", "env", "metric", "env_step", "seeds", "seeds_less")
    columns = (*sides, "difference", "low", "high")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def plot(every: Sequence[Series], published: Sequence[Mapping[str, str]], picture: Path) -> None:
    """Draw a row of panels for each metric, a column for each environment; thin lines are seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter

    pyplot.style.use("rlsuite.report.style")

    envs = list(dict.fromkeys(one.env for one in every))
    metrics = list(dict.fromkeys(one.metric for one in every))
    labels = list(dict.fromkeys(one.label for one in every))
    colors = {label: COLORS[at % len(COLORS)] for at, label in enumerate(labels)}
    size = (5.2 * len(envs), 3.6 * len(metrics))
    figure, panels = pyplot.subplots(len(metrics), len(envs), figsize=size, squeeze=False)
    for one in every:
        axes = panels[metrics.index(one.metric)][envs.index(one.env)]
        color = colors[one.label]
        for curve in one.curves.values():
            axes.plot(list(curve), list(curve.values()), color=color, alpha=0.3, linewidth=0.7)
        steps = one.shared()
        means = [statistics.fmean(curve[step] for curve in one.curves.values()) for step in steps]
        seeds = f"{len(one.curves)} seed{'s' * (len(one.curves) > 1)}"
        axes.plot(steps, means, color=color, label=f"{one.label}, {seeds}")
        last = max(step for curve in one.curves.values() for step in curve)
        theirs = [row for row in published if (row["label"], row["env"]) == (one.label, one.env)]
        theirs = [row for row in theirs if int(row["env_step"]) <= last and one.metric == EVALUATION[0]]
        if theirs:
            at = [int(row["env_step"]) for row in theirs]
            mean, low, high = ([float(row[key]) for row in theirs] for key in ("mean", "low", "high"))
            seeds = f"published, {theirs[0]['seeds']} seeds"
            axes.plot(at, mean, "--", color=color, label=f"{one.label}, {seeds}")
            axes.fill_between(at, low, high, color=color, alpha=0.12, linewidth=0)
    for metric, row in zip(metrics, panels, strict=True):
        for env, axes in zip(envs, row, strict=True):
            axes.set(xlabel="env steps", ylabel=metric, title=env)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            if axes.lines:
                axes.legend()
    figure.savefig(picture, metadata={"Software": None})
    pyplot.close(figure)


def folders_to_draw(results: Path) -> list[Path]:
    """Return the folders of results that entries of the list have made."""
    found = {path.parent for path in results.rglob("*.csv") if "entry" in read_rows(path)[0]}
    return sorted(found)


def state_of(entry: Entry, results: Path) -> str:
    """Say where an entry stands."""
    if finished(entry, results):
        return "finished"
    runs = run_folders(entry)
    if not runs:
        return "waiting"
    steps = sum(max((line["step"] for line in lines_of(run)), default=0) for run in runs)
    return f"begun: {len(runs)} runs, {steps:,} steps"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words say; return an exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("names", nargs="*", help="entries, in the order of the list; none: all")
    parser.add_argument("--list", action="store_true", help="say where the list stands")
    parser.add_argument("--collect", action="store_true", help="write the results of what has begun")
    parser.add_argument("--draw", action="store_true", help="draw every picture again from the CSV files")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--file", type=Path, default=LIST, help="the list")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    line = parser.parse_args(argv)
    if line.draw:
        for folder in folders_to_draw(line.results):
            draw(folder)
        return 0
    entries = load(line.file)
    if unknown := set(line.names) - {entry.name for entry in entries}:
        parser.error(f"{sorted(unknown)[0]} is no entry; {sys.argv[0]} --list shows them")
    if line.jobs < 1:
        parser.error(f"--jobs {line.jobs}: must be at least 1")
    entries = [entry for entry in entries if not line.names or entry.name in line.names]
    if line.list:
        for entry in entries:
            print(f"{entry.name:32} {state_of(entry, line.results)}")
        return 0
    if line.collect:
        for entry in entries:
            if run_folders(entry) and not finished(entry, line.results):
                save_results(entry, line.results, finished=False)
        return 0
    if all(finished(entry, line.results) for entry in entries):
        print("everything on the list is finished")
        return 0
    with locked(ROOT / WORK) as lock:
        return work_off(entries, line.jobs, line.results, lock)


if __name__ == "__main__":
    sys.exit(main())
