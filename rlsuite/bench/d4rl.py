"""Offline agents on data sets: one table of scores at the end of training, published numbers beside them.

Every pair of agent and data set is one run folder with all its seeds, so what is finished stays and what was
interrupted goes on. Data sets that are not here are listed with the command that would bring them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rlsuite.bench.ogbench import tasks_in, without_task
from rlsuite.bench.score_table import DataFacts, Scored, folder_of, write_tables
from rlsuite.bounds import AtLeastOne, Bounds, SeedCount, ThreadCount
from rlsuite.command.helptext import HelpPage
from rlsuite.errors import ConfigError, DataError, unknown_name
from rlsuite.launch.flags import LaunchFlags
from rlsuite.launch.plan import RunPlan, resolve, tasks_of
from rlsuite.launch.queue import run_all, worst
from rlsuite.offline.load import load_dataset
from rlsuite.offline.locate import is_here, locate
from rlsuite.offline.names import known_sets, recipes
from rlsuite.offline.scores import RETURN
from rlsuite.presets import preset_names
from rlsuite.registry import check_agent_name

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
    """Folder of the runs and tables; what is finished is kept, and what another call wrote of other runs."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        super().__post_init__()
        if not names(self.agents) or not names(self.datasets):
            raise ConfigError("give --agents and --datasets at least one name each, e.g. --agents bc,iql")


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
    presets = {known for agent in names(args.agents) for known in preset_names(agent.partition(":")[0])}
    if args.preset not in presets:
        raise unknown_name("a preset of these agents", args.preset, presets, "rlsuite list presets")
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
    folders = {pair: folder_of(args.out, label_of(pair[0]), pair[1]) for pair in plans}
    check_folders(folders)
    by_folder = {folders[pair].name: pair_plan for pair, pair_plan in plans.items()}
    tasks = tasks_of(by_folder, args.out)
    codes: dict[str, int] = {}
    if tasks:
        with args.make_launcher() as launcher:
            codes = run_all(tasks, launcher)
    finished = [pair for pair in plans if not codes.get(folders[pair].name, 0)]
    if finished:
        facts = {name: describe(name) for name in dict.fromkeys(name for name, _ in finished)}
        runs = [Scored(facts[pair[0]], pair[1], plans[pair], folders[pair]) for pair in finished]
        write_tables(args.out, runs)
    for name, how in missing.items():
        print(f"missing: {name}: {how}")
    return worst(codes)


def check_folders(folders: Mapping[tuple[str, str], Path]) -> None:
    """Raise ConfigError where runs on two data sets would lie in one folder."""
    taken: dict[Path, str] = {}
    for (name, _), folder in folders.items():
        if taken.setdefault(folder, name) != name:
            raise ConfigError(
                f"{taken[folder]} and {name} would share the run folder {folder}: give each a call with an "
                "--out of its own"
            )


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
    every = str(math.ceil(steps / args.evaluations))
    whole = resolve(agent, [*shared, "--eval-every", every, *extra])
    if not whole.config.train.eval_every:
        raise ConfigError("--eval-every 0: the table is of evaluations; --evaluations says how many")
    return whole


def label_of(name: str) -> str:
    """Return a data set's name as one word: a file's stem, or the id with dashes."""
    known = known_sets().get(name)
    path = Path(name)
    if known is None and (path.suffix or name.startswith(("/", ".", "~"))):
        return path.name.removesuffix(".hdf5").removesuffix(".h5").removesuffix(".npz")
    return name.replace("/", "-")


def describe(name: str) -> DataFacts:
    """Read a data set and say whose it is and how good the policy was that recorded it."""
    data = load_dataset(name, download=False)
    achieved = data.behaviour_return()
    score = math.nan if data.reference is None else float(data.reference.score(achieved))
    origin = "made here" if data.recipe else ORIGINS[data.layout]
    if data.reference is not None and data.reference.measure != RETURN:
        score = math.nan  # recordings go on after success: they have no episodes that could be scored
    return DataFacts(label_of(name), origin, achieved, score)
