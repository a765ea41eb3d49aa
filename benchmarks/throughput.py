"""Races updates, whole training and compilation against peers.

    python benchmarks/throughput.py --out FILE.csv                    # all races, one thread and two
    python benchmarks/throughput.py updates --threads 1 --rounds 9    # one of them
    python benchmarks/throughput.py --read FILE.csv                   # the summary of an earlier run
    python benchmarks/throughput.py --make-sbx                        # the environment of the peers in JAX

Every contender is a process of its own; they take turns, forwards and backwards, so that a machine whose
speed drifts moves both sides of a ratio. With one thread all are pinned to the same core and what counts is
their CPU time: others on the machine matter little. With two threads it is the wall clock, and the machine
must be quiet: the CSV has the load at every turn. It has both clocks in any case, and every turn as it was.
"""

import argparse
import csv
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import contenders
import peers
from turns import Contender, Process, Unavailable

HERE = Path(__file__).resolve().parent
SBX_FOLDER = HERE.parent / ".venv-sbx"
# torch first: which build it is must not be decided by another package's bounds.
SBX_PACKAGES = (
    ("torch==2.13.0",),
    ("sbx-rl", "jax", "jaxlib", "gymnasium[mujoco]>=1.2,<2", "mujoco>=3.17,<4"),
)
QUIET = 0.3  # load above which a wall clock is worth little
CLOCKS = {1: "cpu_seconds"}  # by the number of threads; more than one: wall_seconds


class Entry(NamedTuple):
    """A contender of a race: its name in `contenders` or `peers`, and how many processes share its work."""

    name: str
    copies: int = 1

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name if self.copies == 1 else f"{self.copies} x {self.name}"


class Goal(NamedTuple):
    """How many times as fast as a peer a contender should be, with one thread and with two."""

    contender: str
    peer: str
    one_thread: float | None
    two_threads: float | None


class Race(NamedTuple):
    """Contenders that do the same work.

    Attributes:
        unit: of the work.
        entries: in the order of their turns.
        peers: what ratios are of, by label.
        goals: of the ratios.
    """

    unit: str
    entries: tuple[Entry, ...]
    peers: tuple[str, ...]
    goals: tuple[Goal, ...] = ()


def both(*names: str) -> tuple[Entry, ...]:
    """Return the entries of contenders that run eagerly and compiled."""
    return tuple(Entry(f"{name}{suffix}") for name in names for suffix in ("", " compiled"))


SBX = ("sbx sac", "sbx sac, 64 a call")
STAGES = tuple(f"ldcq {stage}" for stage in ("skills", "prior", "values"))
RACES: Mapping[str, Race] = {
    "updates": Race(
        "update",
        (*map(Entry, ("sb3 sac", "sb3 td3", *SBX, "products alone")), *both(*contenders.AGENTS)),
        ("sb3 sac", "sb3 td3", *SBX, "products alone"),
        (
            Goal("sac compiled", "sb3 sac", 1.8, 2.0),
            Goal("sac compiled", "sbx sac", 1.0, 1.15),
            Goal("td3 compiled", "sb3 sac", 2.2, None),
            Goal("stac compiled", "sb3 sac", 1.5, None),
            Goal("dsac_t compiled", "sb3 sac", 1.1, None),
        ),
    ),
    "iql": Race(
        "update",
        (Entry("plain iql"), Entry("torchrl iql"), *both("iql", "iql corl")),
        ("plain iql", "torchrl iql"),
        (Goal("iql compiled", "plain iql", 1.5, None), Goal("iql corl compiled", "plain iql", 1.5, None)),
    ),
    "ldcq": Race("update", both(*STAGES), STAGES),
    "training": Race(
        "env step",
        (Entry("training sb3 sac"), Entry("training sbx sac"), *both("training sac")),
        ("training sb3 sac", "training sbx sac"),
        (
            Goal("training sac compiled", "training sb3 sac", 1.8, 2.0),
            Goal("training sac compiled", "training sbx sac", 1.0, 1.1),
        ),
    ),
    **{
        f"ppo_{count}": Race(
            "env step",
            (Entry(f"training sb3 ppo, {count} envs"), *both(f"training ppo, {count} envs")),
            (f"training sb3 ppo, {count} envs",),
            (Goal(f"training ppo, {count} envs compiled", f"training sb3 ppo, {count} envs", 1.5, 1.5),),
        )
        for count in contenders.PPO_ENVS
    },
    "acting": Race("env step", (Entry("gymnasium steps"), Entry("acting sac")), ("gymnasium steps",)),
    "seeds": Race(
        "env step of a seed",
        tuple(
            Entry(f"training sac, {seeds} seeds{suffix}", copies)
            for suffix in ("", " compiled")
            for seeds, copies in ((4, 2), (8, 1))
        ),
        ("2 x training sac, 4 seeds", "2 x training sac, 4 seeds compiled"),
    ),
}
COMPILE = "compile"  # the race of a cold and a warm compiler, where nobody takes turns
COMPILED_AGENTS = (*contenders.AGENTS, "iql")


@dataclass(frozen=True, slots=True)
class Turn:
    """One line of the CSV: what one turn cost a contender, as it was measured."""

    race: str
    contender: str
    threads: int
    round: int
    unit: str
    units: int
    cpu_seconds: float
    wall_seconds: float
    load: float
    peak_mib: float

    @property
    def seconds(self) -> float:
        """Of one unit, by the clock that counts."""
        spent: float = getattr(self, clock(self.threads))
        return spent / self.units


def clock(threads: int) -> str:
    """Return the field of a cost that counts with so many threads."""
    return CLOCKS.get(threads, "wall_seconds")


def command(name: str, threads: int) -> list[str]:
    """Return the command of a contender's process.

    Raises:
        Unavailable: the environment of SBX has not been made.
    """
    script = HERE / ("peers.py" if name in peers.CONTENDERS else "contenders.py")
    python = Path(sys.executable)
    if "sbx" in name:
        python = SBX_FOLDER / "bin" / "python"
        if not python.exists():
            raise Unavailable("SBX has no environment yet: python benchmarks/throughput.py --make-sbx")
    return [str(python), str(script), name, "--threads", str(threads)]


def variables(threads: int) -> dict[str, str]:
    """Return the environment variables that hold every library to its number of threads."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}",
        "JAX_PLATFORMS": "cpu",
        "RL_LOGGING_LEVEL": "WARNING",
    }


def cores_of(threads: int) -> list[int]:
    """Return the cores that a race is pinned to: the last ones, for systems work on the first."""
    return sorted(os.sched_getaffinity(0))[-threads:] if hasattr(os, "sched_getaffinity") else []


def begin(entry: Entry, threads: int) -> Contender:
    """Start the processes of a contender; those that share the work also share out the threads.

    Raises:
        Unavailable: it cannot run here.
    """
    cores, copies = cores_of(threads), min(entry.copies, threads)
    ways: dict[str, Any] = {**contenders.CONTENDERS, **peers.CONTENDERS}
    grain = ways[entry.name].grain
    each = threads // copies
    processes: list[Process] = []
    try:
        for copy in range(copies):
            own = cores[copy * each : (copy + 1) * each]
            processes.append(Process(command(entry.name, each), own, variables(each)))
    except BaseException:
        for process in processes:
            process.close()
        raise
    return Contender(entry.label, processes, grain)


def load() -> float:
    """Return how many processes have wanted a core in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def run_race(
    name: str,
    race: Race,
    threads: int,
    *,
    seconds: float,
    rounds: int,
    origins: dict[str, str],
    start: Callable[[Entry, int], Contender] | None = None,
) -> Iterator[Turn]:
    """Let the contenders take turns of about `seconds`; yield every turn.

    Args:
        name: of the race.
        race: who.
        threads: of each contender.
        seconds: of a turn, by the clock that counts.
        rounds: turns of each.
        origins: is given the versions that contenders ran with.
        start: starts a contender with so many threads; `begin` by default.
    """
    start = start or begin
    ready: list[Contender] = []
    try:
        for entry in race.entries:
            try:
                ready.append(start(entry, threads))
            except Unavailable as error:
                print(f"# {entry.label}: left out: {error}", flush=True)
                continue
            origins["sbx" if "sbx" in entry.name else "here"] = words_of(ready[-1].processes[0].versions)
        sizes = [one.fill(seconds, clock(threads)) for one in ready]
        pairs = list(zip(ready, sizes, strict=True))
        for round_ in range(rounds):
            for contender, size in pairs[:: -1 if round_ % 2 else 1]:
                busy, cost = load(), contender.work(size)
                yield Turn(
                    name, contender.name, threads, round_, race.unit, cost.units, cost.cpu_seconds,
                    cost.wall_seconds, busy, round(cost.peak_mib, 1),
                )  # fmt: skip
    finally:
        for contender in ready:
            contender.close()


def run_compile(threads: int, rounds: int, origins: dict[str, str]) -> Iterator[Turn]:
    """Yield what the first compiled updates of a process cost, with an empty cache and with a full one."""
    for agent in COMPILED_AGENTS:
        for round_ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    named = {**variables(threads), "TORCHINDUCTOR_CACHE_DIR": cache}
                    try:
                        process = Process(command(f"first update {agent}", threads), cores_of(threads), named)
                    except Unavailable as error:
                        print(f"# first update {agent}: left out: {error}", flush=True)
                        return
                    busy = load()
                    try:
                        process.start(1)
                        cost = process.finish()
                    finally:
                        process.close()
                    origins["here"] = words_of(process.versions)
                    yield Turn(
                        COMPILE, f"{agent}, {state}", threads, round_, "first update", 1,
                        cost.cpu_seconds, cost.wall_seconds, busy, round(cost.peak_mib, 1),
                    )  # fmt: skip


def words_of(versions: Mapping[str, str]) -> str:
    """Return versions as one line."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def write(path: Path, turns: Sequence[Turn], settings: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """Write every turn, headed by what they were made with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "command": shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit(),
        "cpu": cpu_name(),
        "platform": platform.platform(),
        **settings,
        **{f"versions, {where}": words for where, words in origins.items()},
    }
    with path.open("w", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in facts.items())
        writer = csv.DictWriter(file, [field.name for field in fields(Turn)])
        writer.writeheader()
        for turn in turns:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(turn).items()})


def read(path: Path) -> list[Turn]:
    """Read what `write` wrote."""
    types = {field.name: field.type for field in fields(Turn)}
    with path.open(newline="") as file:
        lines = csv.DictReader(line for line in file if not line.startswith("#"))
        return [Turn(**{key: types[key](value) for key, value in row.items()}) for row in lines]  # type: ignore[operator]


def commit() -> str:
    """Return the commit that is measured, and whether the files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(HERE), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


class Ratio(NamedTuple):
    """Of two speeds, round by round."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(turns: Iterable[Turn], contender: str, peer: str) -> Ratio | None:
    """Return how many times as fast as a peer a contender was; None where one of them did not run."""
    speeds: dict[str, dict[int, float]] = {contender: {}, peer: {}}
    for turn in turns:
        if turn.contender in speeds:
            speeds[turn.contender][turn.round] = 1 / turn.seconds
    ratios = [speed / speeds[peer][at] for at, speed in speeds[contender].items() if at in speeds[peer]]
    return Ratio(min(ratios), statistics.median(ratios), max(ratios)) if ratios else None


def summary(turns: Sequence[Turn], races: Mapping[str, Race] | None = None) -> list[str]:
    """Return a line for every contender of every race (of `RACES` by default), and one for every goal."""
    races = RACES if races is None else races
    lines = []
    for name, threads in dict.fromkeys((turn.race, turn.threads) for turn in turns):
        among = [turn for turn in turns if (turn.race, turn.threads) == (name, threads)]
        race = races.get(name)
        by = "CPU time" if clock(threads) == "cpu_seconds" else "wall time"
        busy = [turn.load for turn in among]
        rounds = 1 + max(turn.round for turn in among)
        lines.append(
            f"{name}, {threads} thread{'s' * (threads > 1)} ({by}), {rounds} rounds, "
            f"load {min(busy):.1f} to {max(busy):.1f}"
        )
        if clock(threads) == "wall_seconds" and max(busy) > threads + QUIET:
            lines.append("  the machine was not quiet: these wall times are worth little")
        for label in dict.fromkeys(turn.contender for turn in among):
            own = [turn for turn in among if turn.contender == label]
            middle = statistics.median(turn.seconds for turn in own)
            peak = max(turn.peak_mib for turn in own)
            line = f"  {label:36} {1 / middle:10,.1f} /s {1e3 * middle:10,.3f} ms {peak:7,.0f} MiB"
            for peer in () if race is None else race.peers:
                if peer != label and (found := ratio(among, label, peer)) is not None:
                    line += f"; {found} x {peer}"
            lines.append(line)
        for goal in () if race is None else race.goals:
            wanted = {1: goal.one_thread, 2: goal.two_threads}.get(threads)
            found = ratio(among, goal.contender, goal.peer)
            if wanted is not None and found is not None:
                verdict = "met" if found.median >= wanted else "NOT met"
                lines.append(f"  goal: {goal.contender} {wanted} x {goal.peer}: {found}: {verdict}")
    return lines


def make_sbx(folder: Path = SBX_FOLDER) -> None:
    """Make the environment of SBX: it brings JAX, which the project does not use."""
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    for packages in SBX_PACKAGES:
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(install, check=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (*RACES, COMPILE)
    parser.add_argument("races", nargs="*", metavar="RACE", help=f"of {', '.join(names)}; none: all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of each contender")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile-rounds", type=int, default=1, help=f"of the race {COMPILE}")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="leave out contenders with other names")
    parser.add_argument("--out", type=Path, help="CSV file of every turn")
    parser.add_argument("--read", type=Path, metavar="FILE", help="summarise an earlier CSV, race nothing")
    parser.add_argument("--make-sbx", action="store_true", help=f"make {SBX_FOLDER.name} and race nothing")
    line = parser.parse_args(argv)
    unknown = [name for name in line.races if name not in names]
    if unknown:
        parser.error(f"unknown race {unknown[0]}; there are {', '.join(names)}")
    wrong = [count for count in line.threads if not 1 <= count <= len(cores_of(1 << 20) or [0] * count)]
    if wrong:
        parser.error(f"--threads {wrong[0]}: this process may use {len(cores_of(1 << 20))} cores")
    for name in ("rounds", "compile_rounds", "seconds"):
        if getattr(line, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(line, name)}: must be above 0")
    line.races = line.races or list(names)
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Race, write every turn as it comes, and print the summary; return an exit code."""
    line = parse(argv)
    if line.make_sbx:
        make_sbx()
        return 0
    if line.read:
        print("\n".join(summary(read(line.read))))
        return 0
    turns: list[Turn] = []
    origins: dict[str, str] = {}
    settings = {"seeds": "0", "rounds": line.rounds, "seconds": line.seconds}
    for threads in line.threads:
        if threads > 1 and load() > QUIET:
            print(f"# load {load()}: wall times want a quiet machine", flush=True)
        for name in line.races:
            if name == COMPILE:
                lines = run_compile(threads, line.compile_rounds, origins)
            else:
                race = RACES[name]
                if line.only:
                    entries = tuple(one for one in race.entries if one.name in line.only)
                    race = race._replace(entries=entries)
                lines = run_race(
                    name, race, threads, seconds=line.seconds, rounds=line.rounds, origins=origins
                )
            for turn in lines:
                turns.append(turn)
                if line.out:
                    write(line.out, turns, settings, origins)
            print(
                "\n".join(summary([t for t in turns if (t.race, t.threads) == (name, threads)])), flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
