"""Data sets by name: those of D4RL, Minari and OGBench, and those that we can make. Imports nothing heavy.

Sizes and SHA-256 digests are those that TensorFlow Datasets publishes for D4RL's files (its checksums.tsv
files); where it has none, and for all of Minari's, only the form of the file is checked.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rlsuite import extensions
from rlsuite.envs import ogbench_names
from rlsuite.envs.names import tasks_by_name
from rlsuite.envs.ogbench_names import ENVS, FAMILY, Name, find_recordings, kinds_of
from rlsuite.errors import ConfigError, unknown_name

LIST_HINT = "rlsuite list datasets"
D4RL_SERVER = "https://rail.eecs.berkeley.edu/datasets/offline_rl"
MINARI_SERVER = "https://huggingface.co/datasets/farama-minari"
OGBENCH_SERVER = "https://rail.eecs.berkeley.edu/datasets/ogbench"
DIGEST_FILE = Path(__file__).with_name("digests.tsv")
OWN_NAMESPACE = "rlsuite"  # of the ids of data sets that we make

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*")
MAX_NAME = 200  # characters; file systems take 255 bytes for one part

MAZE_NAMES = ("open", "umaze", "medium", "large")
STITCH = "routes from corner to corner of StitchMaze, none from its start to its goal"
DETOUR = "tours of MBRCSL's maze, none straight from its start to its goal; reward exp(-distance)"
DETOUR_ENV = "gym:rlsuite.envs.mazes:PointMazeMBRCSL-v0"
MIXTURES = ("medium-expert", "random-expert")  # kinds that are made of other data sets
BEHAVIOURS = {
    "random": "uniform random actions",
    "medium": "a policy of middling skill (--policy)",
    "expert": "a good policy (--policy)",
    "medium-replay": "the replay of a training run (--policy RUN)",
    "medium-expert": "two data sets in equal parts (--parts A B)",
    "random-expert": "two data sets in shares (--parts A B --shares 0.99 0.01)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSet:
    """A data set that can be downloaded.

    Attributes:
        name: its id.
        layout: "d4rl", "minari" or "ogbench".
        env: what `--env` says for evaluation; None where this suite has no such environment.
        url: of the file, or of the folder `data` of a Minari set.
        size: bytes of the file, None where unknown.
        sha256: of the file, None where unknown.
        max_episode_steps: time limit, for files without `timeouts`.
    """

    name: str
    layout: str
    env: str | None
    url: str
    size: int | None = None
    sha256: str | None = None
    max_episode_steps: int | None = None

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A data set that `rlsuite data make` can make.

    Attributes:
        name: `pointmaze/umaze-dense`, `hopper/medium-expert`, ...
        behaviour: who acts: "pointmaze", "detour", "stitch", "ogbench", or a key of `BEHAVIOURS`.
        env: what it is recorded in.
        summary: one line.
    """

    name: str
    behaviour: str
    env: str
    summary: str

    @property
    def dataset_id(self) -> str:
        """The id under a data root, for Minari, for OGBench and for us."""
        if self.behaviour == FAMILY:
            return f"{self.name}-{ogbench_names.VERSION}"
        return f"{OWN_NAMESPACE}/{self.name}-v0"


def check_name(name: str) -> None:
    """Raise ConfigError unless `name` can be the id of a data set; touches no file.

    Parts of letters, digits, dash and underscore, separated by slashes: nothing that could leave a folder.
    """
    if len(name) > MAX_NAME:
        raise ConfigError(f"a data set's name of {len(name)} characters: at most {MAX_NAME} are allowed")
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a data set: letters, digits, dash, underscore, and slashes between parts; "
            "a file is named by its path, e.g. ./data.hdf5"
        )


@cache
def known_sets() -> dict[str, KnownSet]:
    """Return every data set that has an address, by name."""
    every = (*_locomotion(), *_maze2d(), *_antmaze(), *_kitchen(), *_adroit(), *_minari(), *_ogbench())
    return {known.name: known for known in every}


def recipes() -> dict[str, Recipe]:
    """Return everything that `rlsuite data make` can make, by name."""
    made = []
    for maze in MAZE_NAMES:
        for suffix, reward in (("", "1 at the goal"), ("-dense", "exp(-distance)")):
            env = f"gym:gymnasium_robotics:{maze_env_id(maze, dense=bool(suffix))}"
            summary = f"a planner and a noisy controller from goal to goal; reward {reward}"
            made.append(
                Recipe(name=f"pointmaze/{maze}{suffix}", behaviour="pointmaze", env=env, summary=summary)
            )
    made.append(Recipe(name="pointmaze/mbrcsl", behaviour="detour", env=DETOUR_ENV, summary=DETOUR))
    made.append(Recipe(name="stitch", behaviour="stitch", env="StitchMaze", summary=STITCH))
    made += [
        Recipe(
            name=f"{FAMILY}/{env}-{dataset_type}",
            behaviour=FAMILY,
            env=Name(env, task=ogbench_names.DEFAULT_TASK).env_id,
            summary=summary,
        )
        for env, dataset_type, summary in _ogbench_recipes()
    ]
    for task in tasks_by_name():
        for behaviour, summary in BEHAVIOURS.items():
            made.append(
                Recipe(name=f"{task.lower()}/{behaviour}", behaviour=behaviour, env=task, summary=summary)
            )
    return {recipe.name: recipe for recipe in made}


def recipe(name: str) -> Recipe:
    """Return the recipe of a name; ConfigError with the nearest where there is none."""
    check_name(name)
    known = recipes()
    if name not in known and (refused := _no_recipe(name)):
        raise ConfigError(refused)
    if name not in known:
        raise unknown_name("a data set that can be made", name, known, LIST_HINT)
    return known[name]


def ogbench_set(name: Name) -> KnownSet:
    """Return the recordings of an environment of OGBench, the same for all of its tasks."""
    plain = name._replace(task=None)
    return KnownSet(
        name=plain.dataset,
        layout=FAMILY,
        env=plain._replace(dataset_type="", task=ogbench_names.DEFAULT_TASK).env_id,
        url=f"{OGBENCH_SERVER}/{plain.recordings}.npz",
    )


def dataset_names() -> list[tuple[str, str]]:
    """Return (name, one-line summary) of every data set, downloadable ones first."""
    downloads = [
        (known.name, f"download, {known.layout}" + (f", {known.size / 1e6:,.0f} MB" if known.size else ""))
        for known in known_sets().values()
    ]
    made = [(recipe.name, f"made here: {recipe.summary}") for recipe in recipes().values()]
    return downloads + made + [(name, f"from {target}") for name, target in added_sets().items()]


def added_sets() -> dict[str, str]:
    """Return the data sets that other packages or `--import` added, by name: where each is described."""
    ours = {*known_sets(), *recipes(), *(recipe.dataset_id for recipe in recipes().values())}
    return {name: target for name, target in extensions.targets("dataset").items() if name not in ours}


def added_set(name: str) -> KnownSet | Path:
    """Return what another package says of its data set: what can be downloaded, or where it lies.

    Raises:
        ConfigError: its entry point names neither a `KnownSet` nor a function that returns an existing path.
    """
    target = extensions.load("dataset", name)
    target = target() if callable(target) else target
    if isinstance(target, KnownSet) or (isinstance(target, Path) and target.exists()):
        return target
    raise ConfigError(
        f'the data set "{name}" of {added_sets()[name]} is {target!r}: it should be a KnownSet, or a '
        "function that returns the path of an existing file or folder"
    )


def maze_env_id(maze: str, *, dense: bool) -> str:
    """Return Gymnasium-Robotics' id of a maze."""
    written = {"open": "Open", "umaze": "UMaze", "medium": "Medium", "large": "Large"}[maze]
    return f"PointMaze_{written}{'Dense' if dense else ''}-v3"


def _locomotion() -> list[KnownSet]:
    result = []
    # D4RL's gym-v2 environments are Gymnasium's v4; Ant has contact forces there and here it has none.
    for task, env in (
        ("halfcheetah", "HalfCheetah-v4"),
        ("hopper", "Hopper-v4"),
        ("walker2d", "Walker2d-v4"),
        ("ant", None),
    ):
        for quality in ("random", "medium", "expert", "medium-replay", "medium-expert", "full-replay"):
            file = f"gym_mujoco_v2/{task}_{quality.replace('-', '_')}-v2.hdf5"
            result.append(_d4rl(f"{task}-{quality}-v2", env, file, 1000))
    return result


def _maze2d() -> list[KnownSet]:
    # PointMaze has other coordinates and another radius of success: no environment here gives D4RL's scores.
    result = [
        _d4rl("maze2d-open-v0", None, "maze2d/maze2d-open-sparse.hdf5", 150),
        _d4rl("maze2d-open-dense-v0", None, "maze2d/maze2d-open-dense.hdf5", 150),
    ]
    for maze, limit in (("umaze", 300), ("medium", 600), ("large", 800)):
        result.append(_d4rl(f"maze2d-{maze}-v1", None, f"maze2d/maze2d-{maze}-sparse-v1.hdf5", limit))
        result.append(_d4rl(f"maze2d-{maze}-dense-v1", None, f"maze2d/maze2d-{maze}-dense-v1.hdf5", limit))
    return result


def _antmaze() -> list[KnownSet]:
    """List the v2 files; the time-outs of v0 are out of step with the episodes (D4RL issue 77)."""
    result = []
    for maze, file in (
        ("umaze", "u-maze_noisy_multistart_False_multigoal_False"),
        ("umaze-diverse", "u-maze_noisy_multistart_True_multigoal_True"),
        ("medium-play", "big-maze_noisy_multistart_True_multigoal_False"),
        ("medium-diverse", "big-maze_noisy_multistart_True_multigoal_True"),
        ("large-play", "hardest-maze_noisy_multistart_True_multigoal_False"),
        ("large-diverse", "hardest-maze_noisy_multistart_True_multigoal_True"),
    ):
        limit = 700 if maze.startswith("umaze") else 1000
        file = f"ant_maze_v2/Ant_maze_{file}_sparse_fixed.hdf5"
        result.append(_d4rl(f"antmaze-{maze}-v2", None, file, limit))
    return result


def _kitchen() -> list[KnownSet]:
    files = {
        "complete": "mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
        "partial": "kitchen_microwave_kettle_light_slider-v0.hdf5",
        "mixed": "kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
    }
    return [_d4rl(f"kitchen-{quality}-v0", None, f"kitchen/{file}", 280) for quality, file in files.items()]


def _adroit() -> list[KnownSet]:
    result = []
    old = {"human": "-v0_demos_clipped", "cloned": "-demos-v0-bc-combined", "expert": "-v0_expert_clipped"}
    for task, written, limit in (
        ("pen", "Pen", 100),
        ("hammer", "Hammer", 200),
        ("door", "Door", 200),
        ("relocate", "Relocate", 200),
    ):
        env = f"d4rl:AdroitHand{written}"
        for quality, file in old.items():
            result.append(_d4rl(f"{task}-{quality}-v0", env, f"hand_dapg/{task}{file}.hdf5", limit))
            result.append(_d4rl(f"{task}-{quality}-v1", env, f"hand_dapg_v1/{task}-{quality}-v1.hdf5", limit))
    return result


def _minari() -> list[KnownSet]:
    result = []
    for maze in MAZE_NAMES:
        for suffix in ("", "-dense"):
            env = f"gym:gymnasium_robotics:{maze_env_id(maze, dense=bool(suffix))}"
            result.append(_minari_set(f"D4RL/pointmaze/{maze}{suffix}-v2", env))
    for maze in ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse"):
        result.append(_minari_set(f"D4RL/antmaze/{maze}-v1", None))
    for quality in ("complete", "partial", "mixed"):
        result.append(_minari_set(f"D4RL/kitchen/{quality}-v2", None))
    for task in ("pen", "door", "hammer", "relocate"):
        env = f"gym:gymnasium_robotics:AdroitHand{task.capitalize()}-v1"
        for quality in ("human", "cloned", "expert"):
            result.append(_minari_set(f"D4RL/{task}/{quality}-v2", env))
    for task, env_id, qualities in (
        ("halfcheetah", "HalfCheetah", ("simple", "medium", "expert")),
        ("hopper", "Hopper", ("simple", "medium", "expert")),
        ("walker2d", "Walker2d", ("simple", "medium", "expert")),
        ("ant", "Ant", ("simple", "medium", "expert")),
        ("humanoid", "Humanoid", ("simple", "medium", "expert")),
        ("reacher", "Reacher", ("medium", "expert")),
        ("pusher", "Pusher", ("medium", "expert")),
        ("swimmer", "Swimmer", ("medium", "expert")),
        ("invertedpendulum", "InvertedPendulum", ("medium", "expert")),
        ("inverteddoublependulum", "InvertedDoublePendulum", ("medium", "expert")),
    ):
        env = f"{env_id}-v5" if env_id in tasks_by_name() else f"gym:{env_id}-v5"
        result += [_minari_set(f"mujoco/{task}/{quality}-v0", env) for quality in qualities]
    return result


def _ogbench() -> list[KnownSet]:
    return [ogbench_set(Name(env, dataset_type)) for env, kinds in ENVS.items() for dataset_type in kinds]


def _ogbench_recipes() -> list[tuple[str, str, str]]:
    """Return environment, kind and summary of what needs no trained policy."""
    mazes = {
        "navigate": "a planner with noise from goal to goal",
        "stitch": "a planner with noise, four cells an episode",
        "explore": "random directions, held for ten steps (no set of OGBench's)",
    }
    arms = {
        "play": "scripted plans with smoothed noise, one target after the other",
        "noisy": "scripted closed-loop control with noise and random actions",
    }
    made = [
        (env, dataset_type, mazes[dataset_type])
        for env in ENVS
        if env.startswith("pointmaze")
        for dataset_type in kinds_of(env)
    ]
    return made + [
        (env, dataset_type, arms[dataset_type])
        for env in ENVS
        for dataset_type in ENVS[env]
        if dataset_type in arms
    ]


def _no_recipe(name: str) -> str:
    """Return why recordings that OGBench has cannot be made here; "" of any other name."""
    try:
        wanted = find_recordings(name)
    except ConfigError:
        return ""
    if wanted is None:
        return ""
    if wanted.env.startswith(("antmaze", "antsoccer", "humanoidmaze")):
        return (
            f"{name} cannot be made here: OGBench recorded it with a trained walker that its package does "
            f"not bring; fetch {ogbench_set(wanted).url}, or make a set of pointmaze, cube, scene or puzzle"
        )
    return f"{name} is one file for all tasks: rlsuite data make {FAMILY}/{wanted.env}-{wanted.dataset_type}"


def _d4rl(name: str, env: str | None, file: str, limit: int) -> KnownSet:
    size, sha256 = _digests().get(file, (None, None))
    return KnownSet(
        name=name,
        layout="d4rl",
        env=env,
        url=f"{D4RL_SERVER}/{file}",
        size=size,
        sha256=sha256,
        max_episode_steps=limit,
    )


def _minari_set(name: str, env: str | None) -> KnownSet:
    top, _, rest = name.partition("/")
    return KnownSet(
        name=name, layout="minari", env=env, url=f"{MINARI_SERVER}/{top}/resolve/main/{rest}/data"
    )


@cache
def _digests() -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of D4RL's files by their path on its server."""
    lines = DIGEST_FILE.read_text(encoding="utf-8").splitlines()[1:]
    return {file: (int(size), sha256) for file, size, sha256 in (line.split("\t") for line in lines)}
