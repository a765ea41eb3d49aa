"""The table of offline agents' scores: the last evaluation, the mean of the last ten, what was published.

The score of one checkpoint can be far off: beside the last evaluation stands the mean of the last ten, with
their deviation. Where the critics' values still move, the table says so.
"""

import csv
import math
import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rlsuite.bench.ogbench import over_tasks
from rlsuite.errors import ConfigError
from rlsuite.launch.plan import RunPlan
from rlsuite.offline.names import OWN_NAMESPACE
from rlsuite.registry import plain_dataset_name
from rlsuite.report.comparison import write_csv
from rlsuite.runs.files import write_atomic
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.recorder import OWNER_KEY

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
TEXTS = ("dataset", "data", "agent", "preset")
COUNTS = ("updates", "seeds", "episodes")
TABLE_COLUMNS = (
    *TEXTS,
    *COUNTS,
    *SCORES,
    *LATE_SCORES,
    "q_drift",
    *BEHAVIOUR,
    "paper",
    "paper_std",
    "corl",
    "corl_std",
)


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


class Scored(NamedTuple):
    """A finished run of the table.

    Attributes:
        facts: of its data set.
        agent: its name, with its preset where the command line gave one.
        plan: what was run.
        folder: where it lies.
    """

    facts: DataFacts
    agent: str
    plan: RunPlan
    folder: Path


def folder_of(out: Path, label: str, agent: str) -> Path:
    """Return the run folder of one agent on the data set of a label."""
    return out / f"{agent.replace(':', '-')}-{label}"


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
            "updates": record.get("updates", record["step"]),
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
        zip(TEXTS, (facts.label, facts.origin, agent, plan.config.preset), strict=True)
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


def write_tables(out: Path, runs: Sequence[Scored]) -> None:
    """Write `table.csv`, `table.md` and `curves.csv` (every evaluation of every seed); print the table.

    What earlier calls wrote there of other runs stays, as long as these are there.
    """
    curves: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for facts, agent, plan, folder in runs:
        entries = evaluations(folder)
        curves += [
            {"dataset": facts.label, "data": facts.origin, "agent": agent} | entry for entry in entries
        ]
        rows.append(table_row(facts, agent, plan, entries, drift(folder)))
    again = {(row["dataset"], row["agent"]) for row in rows}
    curves = together([*earlier(out, "curves.csv", again), *curves])
    table = together([*map(read_row, earlier(out, "table.csv", again)), *rows])
    table += over_tasks(table)
    write_csv(out / "curves.csv", CURVE_COLUMNS, curves)
    write_csv(out / "table.csv", TABLE_COLUMNS, table)
    text = markdown(table)
    write_atomic(out / "table.md", text.encode())
    print(f"\n{text}\ntables: {out}", flush=True)
    for row in rows:
        if abs(row["q_drift"]) > MOVING:
            print(
                f"not converged: {row['agent']} on {row['dataset']}: {Q_MEAN} moved by {row['q_drift']:+.0%} "
                f"in the last tenth of {row['updates']:,} updates (more than {MOVING:.0%}): train longer",
                flush=True,
            )


def earlier(out: Path, name: str, again: Container[tuple[str, str]]) -> list[dict[str, str]]:
    """Return the lines of a table that is there, of runs that are there and not among those written again."""
    if not (out / name).exists():
        return []
    with (out / name).open(newline="") as file:
        return [
            row
            for row in csv.DictReader(file)
            if (row["dataset"], row["agent"]) not in again
            and folder_of(out, row["dataset"], row["agent"]).is_dir()
        ]


def read_row(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a line of `table.csv` as `table_row` made it; a column that it has not is nan."""
    read: dict[str, Any] = {key: row[key] for key in TEXTS} | {key: int(row[key]) for key in COUNTS}
    return {key: read[key] if key in read else float(row.get(key) or "nan") for key in TABLE_COLUMNS}


def together(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with those of a data set next to one another, in the order in which they are met."""
    order = list(dict.fromkeys(row["dataset"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["dataset"]))


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
