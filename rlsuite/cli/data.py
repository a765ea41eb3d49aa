"""List, make, check or convert data sets for offline learning."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro import conf

from rlsuite.cli._line import parse, wants_help
from rlsuite.errors import ConfigError, unknown_name

PROG = "rlsuite data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListLine:
    """Prints the data sets that lie in a data root, one a line."""

    root: Path | None = None
    """Folder of data sets; by default MINARI_DATASETS_PATH, else .minari/datasets in the home folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeLine:
    """Makes a data set of our own, with its recipe and its behaviour policy's score in it."""

    name: conf.Positional[str]
    """What to make: pointmaze/umaze, hopper/medium, ...; rlsuite list datasets shows all."""
    steps: int | None = None
    """Env steps; by default 1,000,000, or all there are of a replay or a mixture."""
    out: Path | None = None
    """Data root; by default MINARI_DATASETS_PATH, else .minari/datasets in the home folder."""
    seed: int = 0
    """Of the environments, the policy's samples and all noise."""
    layout: Literal["minari", "d4rl"] = "minari"
    """Layout on disk: a folder that Minari loads, or one flat D4RL file."""
    policy: Path | None = None
    """Who acts: a run folder, or a safetensors file with a Stable-Baselines3 actor."""
    checkpoint: str = "last"
    """Which checkpoint of a run: last, best, or an env step that was kept."""
    mode: Literal["sample", "mean"] = "sample"
    """Whether the policy's actions are samples, as in D4RL, or its mean."""
    noise: float = 0.0
    """Standard deviation of noise added to the policy's actions in [-1, 1]."""
    num_envs: int = 64
    """Worlds stepped together."""
    parts: Annotated[tuple[str, ...], conf.arg(metavar="DATASET DATASET")] = ()
    """Data sets of a mixture, by file, folder or id."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        for name in ("steps", "num_envs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value}: must be at least 1")
        if not 0 <= self.noise <= 10:
            raise ConfigError(f"noise = {self.noise}: must be in [0, 10]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckLine:
    """Reads a data set, every number of it, and prints what it holds; fetches a known id that is missing."""

    dataset: conf.Positional[str]
    """File, folder or id."""
    keys: tuple[str, ...] | None = None
    """Parts of the observation, in order; by default all."""
    max_episode_steps: int | None = None
    """Time limit, for old D4RL files without time-outs."""
    json: bool = False
    """Print one JSON object and nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertLine:
    """Writes a data set in the other layout; numbers become float32, no transition is lost."""

    dataset: conf.Positional[str]
    """File, folder or id."""
    out: conf.Positional[Path]
    """The new file for D4RL's layout, the data root for Minari's."""
    layout: Literal["minari", "d4rl"] = "d4rl"
    """Layout to write."""
    name: str = ""
    """Id of the new set, for Minari's layout: NAMESPACE/NAME-v0."""
    keys: tuple[str, ...] | None = None
    """Parts of the observation to keep, in order; by default all, and in D4RL's layout `observation`."""
    max_episode_steps: int | None = None
    """Time limit, for old D4RL files without time-outs."""


LINES: dict[str, type] = {"list": ListLine, "make": MakeLine, "check": CheckLine, "convert": ConvertLine}


def run(argv: Sequence[str]) -> int:
    """Do what the words after `rlsuite data` say; return 0."""
    actions: dict[str, Callable[..., int]] = {
        "list": _list,
        "make": _make,
        "check": _check,
        "convert": _convert,
    }
    action, *rest = argv or [""]
    if action in ("", "-h", "--help"):
        if not wants_help(argv):
            raise ConfigError(f"{PROG} takes one of {', '.join(LINES)}, and nothing came")
        print(f"usage: {PROG} {{{','.join(LINES)}}} ...\n")
        for name, kind in LINES.items():
            print(f"  {name:<8} {kind.__doc__}")
        print(f"\n{PROG} ACTION --help explains one action.")
        return 0
    if action not in LINES:
        raise unknown_name("an action on data sets", action, LINES, f"{PROG} --help")
    kind = LINES[action]
    return actions[action](parse(kind, rest, prog=f"{PROG} {action}", description=str(kind.__doc__)))


def _list(line: ListLine) -> int:
    from rlsuite.offline.locate import METADATA, local_sets, minari_root

    root = line.root or minari_root()
    rows = []
    for name, folder in local_sets(root).items():
        try:
            facts = json.loads((folder / METADATA).read_text(encoding="utf-8"))
            size = sum(one.stat().st_size for one in (folder / "data").rglob("*") if one.is_file())
            rows.append(
                (
                    name,
                    f"{facts['total_steps']:>10,}",
                    f"{facts['total_episodes']:>7,}",
                    f"{size / 1e6:>8,.0f}",
                )
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            rows.append((name, "unreadable", "", f"({error})"))
    if not rows:
        print(f"no data sets in {root}; rlsuite list datasets shows what can be fetched or made")
        return 0
    width = max(len(row[0]) for row in rows)
    print(f"{'in ' + str(root):<{width}}  {'env steps':>10}  {'episodes':>7}  {'MB':>8}")
    for row in rows:
        print(f"{row[0]:<{width}}  {'  '.join(row[1:])}")
    return 0


def _make(line: MakeLine) -> int:
    from rlsuite.offline.names import recipe

    recipe(line.name)  # a wrong name is refused before anything heavy is imported, or any file touched
    from rlsuite.cli._make_data import make

    return make(line)


def _check(line: CheckLine) -> int:
    from rlsuite.offline.locate import locate

    located = locate(line.dataset)
    from rlsuite.offline.load import read, ready, summary

    facts = summary(read(ready(located), keys=line.keys, max_episode_steps=line.max_episode_steps))
    if line.json:
        print(json.dumps(facts))
        return 0
    for name, value in facts.items():
        print(f"{name:<18}  {_shown(value)}")
    return 0


def _convert(line: ConvertLine) -> int:
    from rlsuite.offline.locate import locate
    from rlsuite.offline.names import check_name

    if line.layout == "minari":
        if not line.name:
            raise ConfigError("Minari's layout needs an id for the new set: --name NAMESPACE/NAME-v0")
        check_name(line.name)
    located = locate(line.dataset)
    from rlsuite.offline.load import read, ready
    from rlsuite.offline.make import convert

    data = read(ready(located), keys=line.keys, max_episode_steps=line.max_episode_steps)
    states = tuple(part.key for part in data.parts) if line.keys else ("observation",)
    tally = convert(data, line.out, layout=line.layout, name=line.name, keys=states)
    print(f"{line.out}: {tally.steps:,} transitions in {tally.episodes:,} episodes, {line.layout} layout")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value) if isinstance(value, dict) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
