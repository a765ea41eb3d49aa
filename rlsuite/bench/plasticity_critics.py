"""Critics of one size at rising update ratios, half of every batch recorded: which of them goes on learning?

Each critic comes with its agent, which acts from the first env step on with a fixed share of every batch from
recorded data (RLPD, Ball et al. 2023, arXiv 2302.02948), as in Agrawalla, Nauman, Kumar 2026 (arXiv
2603.04333). Its width is chosen so that the network which learns values has as many parameters as twin
critics of the width asked for.

Every run is a run folder of its own, so what is finished stays and what was interrupted goes on.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from tensordict import TensorDictBase

from rlsuite.agents.base import Agent, Spaces, make_generators
from rlsuite.bench.candidates import candidates_of
from rlsuite.bench.critic_probes import Probe, probe
from rlsuite.bench.d4rl import names
from rlsuite.bench.score_table import evaluations
from rlsuite.bounds import AtLeastOne, BatchSize, Bounds, NotNegative, SeedCount, ThreadCount, UnitInterval
from rlsuite.command.helptext import HelpPage
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, unknown_name
from rlsuite.launch.flags import LaunchFlags
from rlsuite.launch.plan import RunPlan, resolve, tasks_of
from rlsuite.launch.queue import run_all, worst
from rlsuite.offline.load import environment_of, load_dataset
from rlsuite.offline.transforms import DataOptions, transformed
from rlsuite.report import STYLE
from rlsuite.report.comparison import write_csv
from rlsuite.runs.config import RewardTransform
from rlsuite.runs.files import staged
from rlsuite.training.assembly import spaces_of

PAGE = HelpPage(
    topics={
        "what is compared": ("critics", "ratios", "seeds", "width"),
        "data and runs": ("data", "env", "offline_share", "steps", "warmup_steps", "batch_size", "out"),
        "what is measured": ("evaluations", "eval_episodes", "probe_rows"),
        "how it is carried out": ("jobs", "threads", "launcher"),
    },
    required=("data",),
    examples=(
        "rlsuite bench plasticity-critics --data rlsuite/pointmaze/medium-v0 --seeds 3",
        "rlsuite bench plasticity-critics --data DATA --critics twin,floq_4 --ratios 1,4 --steps 500",
    ),
)

TABLE_COLUMNS = (
    *("critic", "agent", "ratio", "seed", "env_steps", "updates", "width", "parameters", "actor_parameters"),
    *("return_last", "return_mean", "inactive_by_gradient", "inactive_by_activation", "feature_rank"),
    *("td_error", "step_errors"),
)
PANELS = {
    "return_mean": "return, mean of all evaluations",
    "inactive_by_gradient": "inactive by gradient",
    "inactive_by_activation": "inactive by activation",
    "feature_rank": "rank of features",
    "td_error": "distance to the target",
}


class Critic(NamedTuple):
    """One kind of critic.

    Attributes:
        agent: whose it is.
        flags: further words of its command.
        sized: the widths that are chosen.
        asked: other widths, which are those asked for.
        part: the agent's network that learns values, whose parameters are counted and which is probed.
    """

    agent: str
    flags: tuple[str, ...] = ()
    sized: str = "hidden"
    asked: tuple[str, ...] = ()
    part: str = "critic"


CRITICS: dict[str, Critic] = {
    "twin": Critic("fql"),
    "twin_sac": Critic("sac", ("--agent.layer-norm",)),
    "ensemble": Critic("sac", ("--agent.layer-norm", "--agent.critics", "10")),
    "gaussian": Critic("dsac_t"),
    "stac": Critic("stac"),
    "categorical": Critic("simba_sac", asked=("hidden_actor",)),
    "floq_1": Critic(
        "floq", ("--agent.field-steps", "1", "--agent.at-zero"), "hidden_field", ("hidden",), "field"
    ),
    "floq_4": Critic("floq", ("--agent.field-steps", "4"), "hidden_field", ("hidden",), "field"),
}
"""fql and floq have one policy, the others an entropy bonus: floq is to be held against `twin`, the others
against `twin_sac`."""


@dataclass(frozen=True, kw_only=True)
class PlasticityCriticsArgs(LaunchFlags):
    """Trains agents that differ in their critics at several update ratios, then looks into the critics."""

    data: str = ""
    """Recorded data, the other part of every batch: an id (rlsuite list datasets), a file or a folder."""
    env: str = ""
    """Environment; empty takes what the data name."""
    critics: str = ",".join(CRITICS)
    """Critics, separated by commas."""
    ratios: str = "1,4,16"
    """Updates an env step, separated by commas."""
    seeds: SeedCount = 3
    """Seeds 0, 1, ... of every critic and ratio."""
    width: Annotated[int, Bounds(4, 2_048)] = 256
    """Width of the two hidden layers of the twin critics that all critics are as large as."""
    offline_share: UnitInterval = 0.5
    """Share of every batch that is recorded."""
    steps: AtLeastOne = 20_000
    """Env steps of every run."""
    warmup_steps: NotNegative = 0
    """First env steps, with uniform actions and without updates."""
    batch_size: BatchSize = 256
    """Transitions of an update."""
    evaluations: AtLeastOne = 10
    """Evaluations of a run, the last one at its end."""
    eval_episodes: AtLeastOne = 20
    """Episodes of each."""
    probe_rows: AtLeastOne = 1_024
    """Recorded transitions on which finished critics are looked into."""
    threads: ThreadCount = 1
    """CPU threads of each run; 0 takes all cores."""
    out: Path = Path("runs/plasticity_critics")
    """Folder of the runs, the table and the picture; what is finished is kept."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        super().__post_init__()
        if not self.data:
            raise ConfigError("data is empty: name a data set, e.g. --data rlsuite/pointmaze/medium-v0")
        for name in names(self.critics):
            if name not in CRITICS:
                raise unknown_name("a critic", name, CRITICS, "rlsuite bench plasticity-critics --help")
        if not names(self.critics) or not ratios_of(self.ratios):
            raise ConfigError("give --critics and --ratios at least one value each")
        if self.warmup_steps >= self.steps:
            raise ConfigError(f"warmup_steps = {self.warmup_steps}: {self.steps} env steps end before it")


def ratios_of(text: str) -> list[float]:
    """Return the update ratios of a list; ConfigError for what is no number above 0."""
    ratios = []
    for word in names(text):
        try:
            ratios.append(float(word))
        except ValueError:
            ratios.append(math.nan)
        if not 0 < ratios[-1] < math.inf:
            raise ConfigError(f'ratios: "{word}" is no number above 0')
    return ratios


class Sized(NamedTuple):
    """A critic's width, its number of parameters, and the actor's at that width."""

    width: int
    parameters: int
    actor: int


class Planned(NamedTuple):
    """One run of the study."""

    critic: str
    ratio: float
    seed: int
    sized: Sized
    plan: RunPlan


def main(args: PlasticityCriticsArgs, extra: Sequence[str] = ()) -> int:
    """Train what is missing, then measure and draw; return 0, or the exit code of what did not finish.

    Args:
        args: what to train on what.
        extra: further flags of `rlsuite train` for every run.

    Raises:
        ConfigError: a name is unknown, a run folder holds something else, or no width fits.
    """
    planned = dict(plans_of(args, extra))
    tasks = tasks_of({name: run.plan for name, run in planned.items()}, args.out)
    codes: dict[str, int] = {}
    if tasks:
        with args.make_launcher() as launcher:
            codes = run_all(tasks, launcher)
    finished = {name: run for name, run in planned.items() if not codes.get(name, 0)}
    if finished:
        rows = [row_of(args, name, run) for name, run in finished.items()]
        write_csv(args.out / "table.csv", TABLE_COLUMNS, rows)
        draw(rows, args.out / "critics.png")
        print(f"{args.out / 'table.csv'}, {args.out / 'critics.png'}: {len(rows)} runs")
    return worst(codes)


def plans_of(args: PlasticityCriticsArgs, extra: Sequence[str]) -> Iterator[tuple[str, Planned]]:
    """Yield every run by the name of its folder."""
    env = args.env or environment_of(args.data)
    if env is None:
        raise ConfigError(f"{args.data} does not say which environment it is of: name it with --env")

    def resolved(critic: str, width: int, ratio: float, seed: int) -> RunPlan:
        return resolve(CRITICS[critic].agent, [*words_of(args, env, critic, width, ratio, seed), *extra])

    twin = resolved("twin", args.width, 1.0, 0)
    spaces = spaces_here(twin)
    budget = sized(twin, CRITICS["twin"], spaces, args.width).parameters
    for critic in names(args.critics):
        size = fitting(resolved(critic, args.width, 1.0, 0), CRITICS[critic], spaces, budget)
        for ratio in ratios_of(args.ratios):
            for seed in range(args.seeds):
                plan = resolved(critic, size.width, ratio, seed)
                yield f"{critic}-u{ratio:g}-s{seed}", Planned(critic, ratio, seed, size, plan)


def words_of(
    args: PlasticityCriticsArgs, env: str, critic: str, width: int, ratio: float, seed: int
) -> list[str]:
    """Return the words after `rlsuite train AGENT` of one run."""
    spec, steps = CRITICS[critic], str(args.steps)
    if spec.agent in ("fql", "floq"):  # agents of recorded data: they go online at once
        line = ["--dataset", args.data, "--steps", "0", "--then-online", steps]
    else:
        line = ["--prior-data", args.data, "--steps", steps]
    given: dict[str, Any] = {
        "env": env,
        "offline-share": args.offline_share,
        "warmup-steps": args.warmup_steps,
        "num-envs": 1,
        "batch-size": args.batch_size,
        "updates-per-step": ratio,
        "eval-every": math.ceil(args.steps / args.evaluations),
        "eval-episodes": args.eval_episodes,
        "threads": args.threads,
        "seed": seed,
    }
    for name, value in given.items():
        line += [f"--{name}", str(value)]
    for name, value in {**dict.fromkeys(spec.asked, args.width), spec.sized: width}.items():
        line += [f"--agent.{name.replace('_', '-')}", str(value), str(value)]
    return [*line, *spec.flags]


def spaces_here(plan: RunPlan) -> Spaces:
    """Return the sizes of a run's environment."""
    train = plan.config.train
    env = make_env(train.env, 1, observation_keys=train.observation_keys or None, options=train.env_options)
    try:
        return spaces_of(env)
    finally:
        env.close()


def sized(plan: RunPlan, spec: Critic, spaces: Spaces, width: int) -> Sized:
    """Return how many parameters an agent's networks have when its critic has that width."""
    config = dataclasses.replace(plan.config.agent, **{spec.sized: (width, width)})
    agent: Agent = plan.agent_class(spaces, config, make_generators(0))

    def count(part: str) -> int:
        return sum(p.numel() for p in getattr(agent, part).parameters())

    return Sized(width, count(spec.part), count("actor"))


def fitting(plan: RunPlan, spec: Critic, spaces: Spaces, budget: int) -> Sized:
    """Return the width whose number of parameters is nearest to `budget`, by bisection.

    Raises:
        ConfigError: even the narrowest is larger than twice that.
    """
    low, high = 2, 4  # the first is too small, or the smallest there is
    while sized(plan, spec, spaces, high).parameters < budget:  # wide networks take long to make
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if sized(plan, spec, spaces, middle).parameters < budget:
            low = middle
        else:
            high = middle
    ends = (sized(plan, spec, spaces, width) for width in (low, high))
    best = min(ends, key=lambda each: abs(each.parameters - budget))
    if best.parameters > 2 * budget:
        raise ConfigError(
            f"{spec.agent}'s smallest critic has {best.parameters:,} parameters, twin critics of this width "
            f"{budget:,}: raise --width"
        )
    return best


def row_of(args: PlasticityCriticsArgs, name: str, run: Planned) -> dict[str, Any]:
    """Return one row of the table: what a finished run returned, and what its critic has left."""
    (candidate,) = candidates_of(args.out / name, "last")
    train: Any = run.plan.config.train
    batch = probe_batch(args.data, tuple(train.observation_keys), train.reward, args.probe_rows)
    probed = probe(candidate.agent, CRITICS[run.critic].part, batch)
    returns = [entry["return_mean"] for entry in evaluations(args.out / name)]
    updates = int((args.steps - args.warmup_steps) * run.ratio)
    facts = (run.critic, run.plan.config.agent_name, run.ratio, run.seed, args.steps, updates, *run.sized)
    measured = (returns[-1], statistics.fmean(returns), *shown(probed))
    return dict(zip(TABLE_COLUMNS, (*facts, *measured), strict=True))


def shown(probed: Probe) -> tuple[float | str, ...]:
    """Return a probe's numbers as cells; step errors as words, apart by spaces."""
    steps = " ".join(f"{error:.4g}" for error in probed.step_errors)
    return (
        probed.inactive_by_gradient,
        probed.inactive_by_activation,
        probed.feature_rank,
        probed.td_error,
        steps,
    )


@cache
def probe_batch(data: str, keys: tuple[str, ...], reward: RewardTransform, count: int) -> TensorDictBase:
    """Return the same recorded transitions for all critics, `[count]`, rewards as their runs have them."""
    recorded = load_dataset(data, dictionary_keys=keys or None)
    rows = transformed(recorded, DataOptions(reward=reward)).rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]]


def draw(rows: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw every number over the update ratio, mean and range of seeds; floq's steps in a last panel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator, NullLocator

    critics = list(dict.fromkeys(row["critic"] for row in rows))
    with pyplot.style.context(STYLE):
        figure, panels = pyplot.subplots(2, 3, figsize=(13.5, 7.0))
        colors = pyplot.get_cmap("tab10")
        for axes, (column, title) in zip(panels.flat, PANELS.items(), strict=False):
            for index, critic in enumerate(critics):
                by_ratio: dict[float, list[float]] = {}
                for row in rows:
                    if row["critic"] == critic:
                        by_ratio.setdefault(row["ratio"], []).append(row[column])
                at = sorted(by_ratio)
                means = [statistics.fmean(by_ratio[ratio]) for ratio in at]
                axes.plot(at, means, "o-", color=colors(index), label=critic)
                low, high = ([pick(by_ratio[ratio]) for ratio in at] for pick in (min, max))
                axes.fill_between(at, low, high, color=colors(index), alpha=0.15, linewidth=0)
            axes.set(title=title, xlabel="updates an env step", xscale="log")
            ratios = sorted({row["ratio"] for row in rows})
            axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios], minor=False)
            axes.xaxis.set_minor_locator(NullLocator())
        last = panels.flat[len(PANELS)]
        for row in rows:
            if row["step_errors"]:
                errors = [float(word) for word in row["step_errors"].split()]
                color = colors(critics.index(row["critic"]))
                last.plot(range(1, len(errors) + 1), errors, "o-", color=color, alpha=0.5)
        last.xaxis.set_major_locator(MaxNLocator(integer=True))
        last.set(title="distance after each integration step, every run", xlabel="integration steps")
        panels.flat[0].legend()
        with staged(picture) as stage:
            figure.savefig(stage, metadata={"Software": None})
        pyplot.close(figure)
