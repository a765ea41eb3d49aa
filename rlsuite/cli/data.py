"""List, make, check or convert data sets for offline learning."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro import conf

from rlsuite.bounds import AtLeastOne, Bounds, check_bounds
from rlsuite.command.arguments import check_run, parse, wants_help
from rlsuite.command.helptext import HelpPage
from rlsuite.command.progress import progress
from rlsuite.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from rlsuite.envs.base import VectorEnv
    from rlsuite.offline.collect import Act
    from rlsuite.offline.make import Source
    from rlsuite.offline.names import Recipe
    from rlsuite.training.savedrun import SavedRun

PROG = "rlsuite data"
OGBENCH = "ogbench"  # who acts in sets that are made as OGBench's were
DEFAULT_STEPS = 1_000_000
MADE_STEPS = {"stitch": 20_000, "detour": 200_000}  # whose routes say all they have to say in so many
PROGRESS_SECONDS = 10.0  # between two lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListArgs:
    """Prints the data sets that lie in a data root, one a line."""

    root: Path | None = None
    """Folder of data sets; by default MINARI_DATASETS_PATH, else .minari/datasets in the home folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeArgs:
    """Makes a data set of our own, with its recipe and its behaviour policy's score in it."""

    name: conf.Positional[str]
    """What to make: pointmaze/umaze, hopper/medium, ...; rlsuite list datasets shows all."""
    steps: Annotated[int | None, Bounds(1)] = None
    """Env steps; by default 1,000,000 (stitch 20,000, pointmaze/mbrcsl 200,000, ogbench as OGBench), or all
    there are of a replay or a mixture."""
    out: Path | None = None
    """Data root; by default MINARI_DATASETS_PATH or OGBENCH_DATASET_DIR, else a folder in the home folder."""
    seed: int = 0
    """Of the environments, the policy's samples and all noise."""
    layout: Literal["minari", "d4rl"] = "minari"
    """Layout on disk: a folder that Minari loads, or one flat D4RL file; ogbench has its own."""
    policy: Path | None = None
    """Who acts: a run folder, or a safetensors file with a Stable-Baselines3 actor."""
    checkpoint: str = "last"
    """Which checkpoint of a run: last, best, or an env step that was kept."""
    mode: Literal["sample", "mean"] = "sample"
    """Whether the policy's actions are samples, as in D4RL, or its mean."""
    noise: Annotated[float, Bounds(0, 10)] = 0.0
    """Standard deviation of noise added to the policy's actions in [-1, 1]."""
    num_envs: AtLeastOne = 64
    """Envs stepped together."""
    jobs: AtLeastOne = 1
    """Processes that record, of ogbench."""
    parts: Annotated[tuple[str, ...], conf.arg(metavar="DATASET DATASET")] = ()
    """Data sets of a mixture, by file, folder or id."""
    shares: tuple[float, ...] = ()
    """Of the parts in a mixture, together 1; by default the same for each."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckArgs:
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
class ConvertArgs:
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


PAGES: dict[str, HelpPage] = {
    "list": HelpPage(examples=(f"{PROG} list",)),
    "make": HelpPage(
        topics={
            "what is made": ("steps", "seed", "out", "layout"),
            "who acts": ("policy", "checkpoint", "mode", "noise", "num_envs", "jobs"),
            "mixtures": ("parts", "shares"),
        },
        examples=(
            f"{PROG} make pointmaze/umaze",
            f"{PROG} make stitch",
            f"{PROG} make ogbench/pointmaze-medium-navigate --jobs 4",
            f"{PROG} make hopper/medium --policy runs/hopper --steps 100_000",
        ),
    ),
    "check": HelpPage(examples=(f"{PROG} check hopper-medium-v2", f"{PROG} check mine.hdf5 --json")),
    "convert": HelpPage(examples=(f"{PROG} convert rlsuite/pointmaze/umaze-v0 umaze.hdf5",)),
}
ACTIONS: dict[str, type] = {"list": ListArgs, "make": MakeArgs, "check": CheckArgs, "convert": ConvertArgs}


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
            raise ConfigError(f"{PROG} takes one of {', '.join(ACTIONS)}, and nothing came")
        print(f"usage: {PROG} {{{','.join(ACTIONS)}}} ...\n")
        for name, cls in ACTIONS.items():
            print(f"  {name:<8} {cls.__doc__}")
        print(f"\n{PROG} ACTION --help explains one action.")
        return 0
    if action not in ACTIONS:
        raise unknown_name("an action on data sets", action, ACTIONS, f"{PROG} --help")
    cls = ACTIONS[action]
    prog = f"{PROG} {action}"
    return actions[action](parse(cls, rest, prog=prog, description=str(cls.__doc__), page=PAGES[action]))


def _list(args: ListArgs) -> int:
    from rlsuite.offline.locate import METADATA, local_sets, minari_root

    root = args.root or minari_root()
    rows = []
    for name, folder in local_sets(root).items():
        try:
            facts = json.loads((folder / METADATA).read_text(encoding="utf-8"))
            size = sum(file.stat().st_size for file in (folder / "data").rglob("*") if file.is_file())
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


def _make(args: MakeArgs) -> int:
    """Make the data set of a command line and say where it is and how good it is; return 0."""
    from rlsuite.offline.names import recipe

    chosen = recipe(args.name)  # a wrong name is refused before anything heavy is imported
    _check_flags(args, chosen)
    if chosen.behaviour == OGBENCH:
        return _make_ogbench(args, chosen)
    from rlsuite.offline.locate import minari_root
    from rlsuite.offline.make import save

    out = args.out or minari_root()
    tell = progress(_steps(args, chosen))
    source = _source(args, chosen, tell)
    made = save(
        source,
        chosen,
        out,
        layout=args.layout,
        command=shlex.join(["rlsuite", *sys.argv[1:]]),
        seed=args.seed,
        tell=tell if chosen.behaviour in ("pointmaze", "detour", "stitch") else None,
    )
    behaviour = made.behaviour
    print(f"{made.path}: {made.tally.steps:,} env steps in {made.tally.episodes:,} episodes")
    if "return_mean" in behaviour:
        score = f", D4RL score {behaviour['d4rl_score']:.1f}" if "d4rl_score" in behaviour else ""
        print(
            f"behaviour: return {behaviour['return_mean']:,.1f} +- {behaviour['return_std']:,.1f} over "
            f"{behaviour['episodes']:,} whole episodes{score}"
        )
    if args.layout == "minari":
        print(f"load it with --dataset {chosen.dataset_id} and MINARI_DATASETS_PATH={out}")
    return 0


def _make_ogbench(args: MakeArgs, chosen: "Recipe") -> int:
    from rlsuite.offline.locate import ogbench_root
    from rlsuite.offline.ogbench_make import make
    from rlsuite.offline.ogbench_record import plan_of

    plan, out = plan_of(chosen, args.steps, args.seed), args.out or ogbench_root()
    tell = progress(plan.all_episodes * plan.steps)
    path = make(plan, chosen, out, jobs=args.jobs, command=shlex.join(["rlsuite", *sys.argv[1:]]), tell=tell)
    print(f"{path}: {plan.episodes * plan.steps:,} env steps in {plan.episodes:,} episodes; -val: a tenth")
    print(f"load it with --dataset {chosen.dataset_id} and OGBENCH_DATASET_DIR={out}")
    return 0


def _check_flags(args: MakeArgs, chosen: "Recipe") -> None:
    """Raise ConfigError for a policy or parts that are missing, or that nobody would read."""
    from rlsuite.offline.names import MIXTURES

    wants_policy = chosen.behaviour in ("medium", "expert", "medium-replay")
    if wants_policy and args.policy is None:
        what = "a run folder" if chosen.behaviour == "medium-replay" else "a run folder or a safetensors file"
        raise ConfigError(f"{chosen.name} needs --policy: {what}")
    if args.policy is not None and not wants_policy:
        raise ConfigError(f"{chosen.name} takes no --policy: {chosen.summary}")
    if bool(args.parts) != (chosen.behaviour in MIXTURES):
        raise ConfigError(
            f"--parts A B belongs to mixtures, and to all of them; {chosen.name}: {chosen.summary}"
        )
    if bool(args.shares) != (chosen.behaviour == "random-expert"):
        raise ConfigError(
            f"--shares belong to random-expert, and to no other; {chosen.name}: {chosen.summary}"
        )
    if (args.layout != "minari") if chosen.behaviour == OGBENCH else args.jobs > 1:
        raise ConfigError(f"{chosen.name}: --jobs is for ogbench/..., --layout for everything else")
    if args.noise and chosen.behaviour not in ("medium", "expert"):
        raise ConfigError(f"{chosen.name} takes no --noise: {chosen.summary}")


def _steps(args: MakeArgs, chosen: "Recipe") -> int:
    return args.steps or MADE_STEPS.get(chosen.behaviour, DEFAULT_STEPS)


def _source(args: MakeArgs, chosen: "Recipe", tell: Callable[[int], None]) -> "Source":
    from rlsuite.envs.make import make_env
    from rlsuite.offline import make
    from rlsuite.offline.load import load_dataset
    from rlsuite.offline.names import MIXTURES
    from rlsuite.training.savedrun import load_run

    steps = _steps(args, chosen)
    if chosen.behaviour == "pointmaze":
        return make.pointmaze_source(chosen, steps, args.seed)
    if chosen.behaviour == "detour":
        return make.detour_source(chosen, steps, args.seed)
    if chosen.behaviour == "stitch":
        return make.stitch_source(steps, args.seed)
    if chosen.behaviour in MIXTURES:
        parts = [load_dataset(name) for name in args.parts]
        return make.mixture_source(parts, chosen.env, args.steps, args.shares)
    run = None
    if args.policy is not None and (args.policy.is_dir() or chosen.behaviour == "medium-replay"):
        check_run(args.policy)
        run = load_run(args.policy, args.checkpoint)
        if run.config.train.env.partition("-v")[0] != chosen.env:
            raise ConfigError(f"{args.policy} is a run on {run.config.train.env}, not on {chosen.env}")
    env = make_env(chosen.env, args.num_envs, seed=args.seed)
    if run is None:
        act, policy = (None, {"name": "uniform"}) if args.policy is None else _from_file(args, env)
    elif chosen.behaviour == "medium-replay":
        return _replay(run, env, args)
    else:
        act, policy = _from_run(run, env, args)
    return make.rollout_source(env, act, steps, seed=args.seed, policy=policy, noise=args.noise, tell=tell)


def _from_file(args: MakeArgs, env: "VectorEnv") -> tuple["Act", dict[str, Any]]:
    import torch

    from rlsuite.offline.policyfile import PolicyFile

    assert args.policy is not None
    policy = PolicyFile(args.policy)
    sizes = (env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1])
    if (policy.observation, policy.action) != sizes:
        raise ConfigError(
            f"{args.policy} maps {policy.observation} numbers to {policy.action}, {env.env_id} needs "
            f"{sizes[0]} to {sizes[1]}"
        )
    generator = torch.Generator().manual_seed(args.seed)

    def sampled(observation: "Tensor") -> "Tensor":
        return policy.sample(observation, generator)

    facts = {"name": args.policy.name, "sha256": policy.sha256, "mode": args.mode}
    return (sampled if args.mode == "sample" else policy.mean), facts


def _from_run(run: "SavedRun", env: "VectorEnv", args: MakeArgs) -> tuple["Act", dict[str, Any]]:
    from tensordict import TensorDict
    from torchrl.envs.utils import ExplorationType, set_exploration_type

    from rlsuite.training.rng import SeedStreams

    policy = run.agent(env, SeedStreams([args.seed])).policy
    mode = ExplorationType.RANDOM if args.mode == "sample" else ExplorationType.DETERMINISTIC

    def act(observation: "Tensor") -> "Tensor":
        with set_exploration_type(mode):
            return policy(TensorDict({"observation": observation}, [len(observation)]))["action"]

    return act, {**_facts(run), "mode": args.mode}


def _replay(run: "SavedRun", env: "VectorEnv", args: MakeArgs) -> "Source":
    import torch

    from rlsuite.offline.make import replay_source
    from rlsuite.replay.packed import chunk_columns

    if env.facts.pixels is not None:
        raise ConfigError(f"{args.policy} learnt from pictures, whose frames no data set of vectors can hold")
    counters = run.loaded.documents["counters"]["replay"]
    chunks = [chunk_columns(rows) for _, rows in run.loaded.chunks()]
    if not chunks:
        raise ConfigError(f"{args.policy} has no replay in its checkpoint")
    rows = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    sizes = {name: counters[name] for name in ("total", "num_envs")}
    return replay_source(rows, **sizes, env=env, policy=_facts(run), steps=args.steps)


def _facts(run: "SavedRun") -> dict[str, Any]:
    """Say which policy of which run acted."""
    weights = run.loaded.manifest.files["agent.safetensors"]
    return {
        "name": run.config.agent_name,
        "env_steps": run.loaded.step,
        "seed": run.config.train.seed,
        "config_digest": run.loaded.manifest.config_digest,
        "sha256": weights.sha256,
    }


def _check(args: CheckArgs) -> int:
    from rlsuite.offline.locate import locate

    located = locate(args.dataset)
    from rlsuite.offline.load import read, ready, summary

    facts = summary(read(ready(located), keys=args.keys, max_episode_steps=args.max_episode_steps))
    if args.json:
        print(json.dumps(facts))
        return 0
    for name, value in facts.items():
        print(f"{name:<18}  {_shown(value)}")
    return 0


def _convert(args: ConvertArgs) -> int:
    from rlsuite.offline.locate import locate
    from rlsuite.offline.names import check_name

    if args.layout == "minari":
        if not args.name:
            raise ConfigError("Minari's layout needs an id for the new set: --name NAMESPACE/NAME-v0")
        check_name(args.name)
    located = locate(args.dataset)
    from rlsuite.offline.load import read, ready
    from rlsuite.offline.make import convert

    data = read(ready(located), keys=args.keys, max_episode_steps=args.max_episode_steps)
    states = tuple(part.key for part in data.parts) if args.keys else ("observation",)
    tally = convert(data, args.out, layout=args.layout, name=args.name, keys=states)
    print(f"{args.out}: {tally.steps:,} transitions in {tally.episodes:,} episodes, {args.layout} layout")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value) if isinstance(value, dict) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
