"""Offline agents on data sets: one table of scores at the end of training, published numbers beside them.

Beside the last evaluation stands the mean of the last ten, with their deviation: the score of one checkpoint
can be far off. Where the critics' values still move, the table says so.

Every pair of agent and data set is one run folder with all its seeds, so what is finished stays and what was
interrupted goes on. Data sets that are not here are listed with the command that would bring them.
"""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from rlsuite.bench.ogbench import over_tasks, tasks_in, without_task
from rlsuite.bounds import AtLeastOne, Bounds, SeedCount, ThreadCount
from rlsuite.command.helptext import HelpPage
from rlsuite.errors import ConfigError, DataError
from rlsuite.launch.flags import LaunchFlags
from rlsuite.launch.plan import RunPlan, resolve, tasks_of
from rlsuite.launch.queue import run_all, worst
from rlsuite.offline.load import load_dataset
from rlsuite.offline.locate import is_here, locate
from rlsuite.offline.names import OWN_NAMESPACE, known_sets, recipes
from rlsuite.offline.scores import RETURN
from rlsuite.presets import preset_names
from rlsuite.registry import check_agent_name, plain_dataset_name
from rlsuite.report.comparison import write_csv
from rlsuite.runs.files import write_atomic
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.recorder import OWNER_KEY

LOCOMOTION = ("halfcheetah", "hopper", "walker2d")
GROUPS = {
    "locomotion": tuple(
        f"{task}-{level}-v2" for level in ("medium", "medium-replay", "medium-expert") for task in LOCOMOTION
    ),
    "locomotion-all": tuple(
        f"{task}-{level}-v2"
        for level in ("random", "medium", "expert", "medium-replay", "medium-expert")
        for task in LOCOMOTION
    ),
    "adroit": tuple(
        f"{task}-{level}-v1"
        for task in ("pen", "door", "hammer", "relocate")
        for level in ("human", "cloned")
    ),
    "pointmaze": tuple(f"D4RL/pointmaze/{maze}-v2" for maze in ("umaze", "medium", "large")),
}
ORIGINS = {"d4rl": "D4RL", "minari": "Minari", "ogbench": "OGBench"}
PUBLISHED = Path(__file__).with_name("d4rl_published.csv")
SOURCES = {
    "paper": "the IQL paper, arXiv 2110.06169, table 1; XQL's preprint, arXiv 2301.02328, tables 1 and 3",
    "corl": "CORL, last scores, arXiv 2210.07105",
}
OWN_SETTINGS = ("default", "corl")  # presets of a method itself; others are methods of their own, as iql:xql
CURVE_COLUMNS = ("dataset", "data", "agent", "seed", "updates", "return_mean", "return_std", "score")
LATE = 10  # evaluations of a seed that the second mean of the table is over
MOVING = 0.02  # of the critics' values, from one tenth of the run to the next: above, a run has not converged
Q_MEAN = "q/mean"
SCORES = ("score", "score_std", "return_mean", "return_std")
LATE_SCORES = ("late_score", "late_score_std", "late_return", "late_return_std", "late_evaluations")
BEHAVIOUR = ("behaviour_score", "behaviour_return")
FACTS = ("dataset", "data", "agent", "preset", "updates", "seeds", "episodes")
TABLE_COLUMNS = (
    *FACTS,
    *SCORES,
    *LATE_SCORES,
    "q_drift",
    *BEHAVIOUR,
    "paper",
    "paper_std",
    "corl",
    "corl_std",
)


PAGE = HelpPage(
    topics={
        "what is compared": ("datasets", "agents", "preset", "seeds", "steps", "out"),
        "runs": ("evaluations", "jobs", "threads"),
    },
    examples=(
        "rlsuite bench d4rl --datasets locomotion --agents bc,iql",
        "rlsuite bench d4rl --datasets pointmaze --agents iql --seeds 2 --steps 100_000 --jobs 2",
    ),
)


@dataclass(frozen=True, kw_only=True)
class D4rlArgs(LaunchFlags):
    """Trains offline agents on data sets and writes one table of their scores at the end."""

    datasets: str = "locomotion"
    """Data sets, separated by commas: ids, files, folders, or the groups locomotion, locomotion-all, adroit,
    pointmaze; an id of OGBench's without a task is its five tasks and their mean."""
    agents: str = "bc,bc:best10,td3_bc,iql,iql:xql,iql:f_dvl,odice,rebrac,awac,cql,a2pr"
    """Agents, separated by commas; AGENT:PRESET takes a preset."""
    preset: str = "default"
    """Preset of every other agent that has it; those without take their default."""
    steps: Annotated[int | None, Bounds(1)] = None
    """Updates of every run; by default the preset's, a million."""
    seeds: SeedCount = 5
    """Independent agents of each pair, seeds 0, 1, ..., trained in one process."""
    evaluations: AtLeastOne = 50
    """Evaluations during a run, the last one on its last checkpoint; the table has it and the last ten."""
    threads: ThreadCount = 1
    """CPU threads of each; 0 takes all cores."""
    out: Path = Path("runs/d4rl")
    """Folder of the runs and tables; what is finished is kept."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        super().__post_init__()
        if not names(self.agents) or not names(self.datasets):
            raise ConfigError("give --agents and --datasets at least one name each, e.g. --agents bc,iql")


class DataFacts(NamedTuple):
    """Facts of a data set that the table shows.

    Attributes:
        label: its name in tables and folders.
        origin: whose data they are.
        behaviour_return: mean return of the policy that recorded them.
        behaviour_score: the same, normalised; nan without references.
    """

    label: str
    origin: str
    behaviour_return: float
    behaviour_score: float


def main(args: D4rlArgs, extra: Sequence[str] = ()) -> int:
    """Train what is missing, then write the table; return 0, or the exit code of what did not finish.

    Args:
        line: what to train on what.
        extra: further flags of `rlsuite train` for every run.

    Raises:
        ConfigError: a name is unknown, or a run folder holds something else.
        DataError: none of the data is here.
    """
    for agent in names(args.agents):
        check_agent_name(agent.partition(":")[0])
    wanted = list(
        dict.fromkeys(
            dataset for name in names(args.datasets) for dataset in GROUPS.get(name, tasks_in(name))
        )
    )
    missing = {name: how for name in wanted if (how := how_to_get(name)) is not None}
    here = [name for name in wanted if name not in missing]
    if not here:
        first = next(iter(missing))
        raise DataError(f"none of {len(wanted)} data sets is here; {first}: {missing[first]}")
    plans: dict[tuple[str, str], RunPlan] = {
        (name, agent): plan(name, agent, args, extra) for name in here for agent in names(args.agents)
    }
    by_folder = {folder_of(args.out, name, agent).name: plans[name, agent] for name, agent in plans}
    tasks = tasks_of(by_folder, args.out)
    codes: dict[str, int] = {}
    if tasks:
        with args.make_launcher() as launcher:
            codes = run_all(tasks, launcher)
    finished = {
        pair: pair_plan
        for pair, pair_plan in plans.items()
        if not codes.get(folder_of(args.out, *pair).name, 0)
    }
    if finished:
        facts = {name: describe(name) for name in dict.fromkeys(name for name, _ in finished)}
        write_tables(finished, facts, args)
    for name, how in missing.items():
        print(f"missing: {name}: {how}")
    return worst(codes)


def names(text: str) -> list[str]:
    """Split a list of the command line, each name once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def how_to_get(name: str) -> str | None:
    """Return the command that would bring a data set, or why it cannot be scored; None where it is ready.

    Raises:
        ConfigError: no such name, or no such file.
    """
    candidates = {candidate.dataset_id: candidate for candidate in recipes().values()}
    recipe = candidates.get(without_task(name))
    if recipe is not None and not is_here(name):
        needs = {"medium-replay": " --policy RUN", "medium-expert": " --parts A B"}
        needs["random-expert"] = " --parts A B --shares 0.99 0.01"
        policy = " --policy RUN_OR_FILE" if recipe.behaviour in ("medium", "expert") else ""
        return f"rlsuite data make {recipe.name}{needs.get(recipe.behaviour, policy)}"
    known = locate(name).known
    if known is not None and not is_here(name):
        return f"rlsuite data check {known.name}    # downloads {known.url}"
    if known is not None and known.env is None:
        return (
            "its environment is not in this suite; rlsuite train --dataset ... --env ENV scores it elsewhere"
        )
    return None


def plan(name: str, agent: str, args: D4rlArgs, extra: Sequence[str]) -> RunPlan:
    """Resolve the run of one agent on one data set."""
    agent, _, chosen = agent.partition(":")
    preset = chosen or (args.preset if args.preset in preset_names(agent) else "default")
    shared = [
        "--dataset",
        name,
        "--preset",
        preset,
        "--seeds",
        str(args.seeds),
        "--threads",
        str(args.threads),
    ]
    if args.steps is not None:
        shared += ["--steps", str(args.steps)]
    steps = resolve(agent, [*shared, *extra]).config.train.steps
    return resolve(agent, [*shared, "--eval-every", str(math.ceil(steps / args.evaluations)), *extra])


def label_of(name: str) -> str:
    """Return a data set's name as one word: a file's stem, or the id with dashes."""
    known = known_sets().get(name)
    path = Path(name)
    if known is None and (path.suffix or name.startswith(("/", ".", "~"))):
        return path.name.removesuffix(".hdf5").removesuffix(".h5").removesuffix(".npz")
    return name.replace("/", "-")


def folder_of(out: Path, name: str, agent: str) -> Path:
    """Return the run folder of one agent on one data set."""
    return out / f"{agent.replace(':', '-')}-{label_of(name)}"


def describe(name: str) -> DataFacts:
    """Read a data set and say whose it is and how good the policy was that recorded it."""
    data = load_dataset(name, download=False)
    achieved = data.behaviour_return()
    score = math.nan if data.reference is None else float(data.reference.score(achieved))
    origin = "made here" if data.recipe else ORIGINS[data.layout]
    if data.reference is not None and data.reference.measure != RETURN:
        score = math.nan  # recordings go on after success: they have no episodes that could be scored
    return DataFacts(label_of(name), origin, achieved, score)


@cache
def published() -> dict[tuple[str, str, str], tuple[float, float]]:
    """Return published scores and stds (nan where none is given) by data set, agent and source."""
    with PUBLISHED.open(newline="") as file:
        return {
            (row["dataset"], row["agent"], row["source"]): (float(row["score"]), float(row["std"] or "nan"))
            for row in csv.DictReader(file)
        }


def published_score(label: str, agent: str, source: str) -> tuple[float, float]:
    """Return what was published for a data set of this name, of any version when not of this one."""
    plain = plain_dataset_name(label)
    same = published().get((plain, agent, source))
    if same is not None:
        return same
    bare = plain.removeprefix(f"{OWN_NAMESPACE}-").rpartition("-v")[0]
    for (dataset, who, where), score in published().items():
        if (dataset.rpartition("-v")[0], who, where) == (bare, agent, source):
            return score
    return math.nan, math.nan


def published_name(agent: str, preset: str) -> str:
    """Return under which name scores of an agent with this preset are published: 10%BC is "bc:best10"."""
    name = agent.partition(":")[0]
    return name if preset in OWN_SETTINGS else f"{name}:{preset}"


def evaluations(run: Path) -> list[dict[str, Any]]:
    """Return a run's evaluations, one entry per seed and evaluation.

    Raises:
        ConfigError: it has none.
    """
    folder = RunFolder.open(run)
    only = folder.config()["train"]["seed"]
    entries = [
        {
            "seed": record.get(OWNER_KEY, only),
            "updates": record["step"],
            "return_mean": record["eval/return_mean"],
            "return_std": record["eval/return_std"],
            "score": record.get("eval/score", math.nan),
        }
        for record in (read_metrics(folder.metrics) if folder.metrics.exists() else ())
        if record.get("eval/return_mean") is not None
    ]
    if not entries:
        raise ConfigError(f"{run} has no evaluation in its metrics")
    return entries


def late_evaluations(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the last evaluations of every seed, `LATE` of them or all there are."""
    by_seed: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in sorted(entries, key=lambda entry: entry["updates"]):
        by_seed.setdefault(entry["seed"], []).append(entry)
    return [entry for seed in by_seed.values() for entry in seed[-LATE:]]


def drift(run: Path) -> float:
    """Return how far the critics' mean value moved in the last tenth of a run, as a share of where it was.

    Means over the logged lines of the last tenth and of the one before; of several seeds the greatest change.
    nan for agents without critics, or runs with too few lines.
    """
    tenths: dict[Any, dict[int, list[float]]] = {}
    records = [record for record in read_metrics(RunFolder.open(run).metrics) if Q_MEAN in record]
    last = max((record["updates"] for record in records), default=0)
    for record in records:
        tenth = math.ceil(10 * record["updates"] / last)
        tenths.setdefault(record.get(OWNER_KEY), {}).setdefault(tenth, []).append(record[Q_MEAN])
    changes = []
    for seed in tenths.values():
        if 9 not in seed or 10 not in seed:
            continue
        before, after = statistics.fmean(seed[9]), statistics.fmean(seed[10])
        changes.append((after - before) / abs(before) if before else math.copysign(math.inf, after))
    return max(changes, key=abs, default=math.nan)


def table_row(
    facts: DataFacts, agent: str, plan: RunPlan, entries: Sequence[Mapping[str, Any]], moved: float
) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        facts: of the data set.
        agent: its name, with its preset where the command line gave one.
        plan: its run.
        entries: the run's evaluations.
        moved: what `drift` says of it.
    """
    train = plan.config.train
    last = [row for row in entries if row["updates"] == max(entry["updates"] for entry in entries)]
    row: dict[str, Any] = dict(
        zip(FACTS[:4], (facts.label, facts.origin, agent, plan.config.preset), strict=True)
    )
    row |= {"updates": last[0]["updates"], "seeds": len(last), "episodes": train.eval_episodes}
    for key, std in (("score", "score_std"), ("return_mean", "return_std")):
        values = [row[key] for row in last]
        row[key] = statistics.fmean(values)
        row[std] = statistics.stdev(values) if len(values) > 1 else math.nan
    late = late_evaluations(entries)
    for key, name in (("score", "late_score"), ("return_mean", "late_return")):
        row[name] = statistics.fmean(entry[key] for entry in late)
        row[f"{name}_std"] = statistics.stdev(entry[key] for entry in late) if len(late) > 1 else math.nan
    row |= {"late_evaluations": len(late), "q_drift": moved}
    row |= {"behaviour_score": facts.behaviour_score, "behaviour_return": facts.behaviour_return}
    method = published_name(agent, plan.config.preset)
    for source in SOURCES:
        row[source], row[f"{source}_std"] = published_score(facts.label, method, source)
    return row


def write_tables(
    plans: Mapping[tuple[str, str], RunPlan], facts: Mapping[str, DataFacts], args: D4rlArgs
) -> None:
    """Write `table.csv`, `table.md` and `curves.csv` (every evaluation of every seed); print the table."""
    curves, rows = [], []
    for (name, agent), pair_plan in plans.items():
        run = folder_of(args.out, name, agent)
        entries = evaluations(run)
        owner = {"dataset": facts[name].label, "data": facts[name].origin, "agent": agent}
        curves += [owner | entry for entry in entries]
        rows.append(table_row(facts[name], agent, pair_plan, entries, drift(run)))
    rows += over_tasks(rows)
    write_csv(args.out / "curves.csv", CURVE_COLUMNS, curves)
    write_csv(args.out / "table.csv", TABLE_COLUMNS, rows)
    text = markdown(rows)
    write_atomic(args.out / "table.md", text.encode())
    print(f"\n{text}\ntables: {args.out}", flush=True)
    for row in rows:
        if abs(row["q_drift"]) > MOVING:
            print(
                f"not converged: {row['agent']} on {row['dataset']}: {Q_MEAN} moved by {row['q_drift']:+.0%} "
                f"in the last tenth of {row['updates']:,} updates (more than {MOVING:.0%}): train longer",
                flush=True,
            )


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the table to read.

    Scores are mean +- standard deviation: the last one over seeds, late ones over seeds and evaluations.
    """
    heads = (
        "data set",
        "data",
        "behaviour",
        "agent",
        "last score",
        f"last {LATE} evaluations",
        "paper",
        "CORL",
        "return",
        "values moved",
        "updates, seeds",
    )
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    for row in rows:
        score, paper, corl = (with_std(row[key], row[f"{key}_std"]) for key in ("score", "paper", "corl"))
        reached = with_std(row["return_mean"], row["return_std"])
        late = with_std(row["late_score"], row["late_score_std"])
        moved = "" if math.isnan(row["q_drift"]) else f"{row['q_drift']:+.1%}"
        behaviour = with_std(row["behaviour_score"], math.nan)
        size = f"{row['updates']:,}, {row['seeds']}"
        cells = (
            row["dataset"],
            row["data"],
            behaviour,
            row["agent"],
            score,
            late,
            paper,
            corl,
            reached,
            moved,
        )
        lines.append(f"| {' | '.join(map(str, (*cells, size)))} |")
    notes = [f"{key}: {source}" for key, source in SOURCES.items()]
    notes.append(
        f"values moved: change of {Q_MEAN} from the last but one tenth of the run to the last; beyond "
        f"{MOVING:.0%} a run still moves"
    )
    return "\n".join([*lines, "", "Published numbers are of D4RL's own data. " + "; ".join(notes) + ".", ""])


def with_std(value: float, std: float) -> str:
    """Write a number, with its std where there is one."""
    if math.isnan(value):
        return ""
    return f"{value:,.1f}" if math.isnan(std) else f"{value:,.1f} +- {std:,.1f}"
