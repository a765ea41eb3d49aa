"""Choosing among finished runs from recorded data: values by fitted Q evaluation, errors of their critics.

Both are shown with intervals, and where true returns are known also what the choice was worth: the rank
correlation of estimates and returns, and the regret, what the best run brings above the chosen one.

Legend: K candidates, M members of an ensemble, N observations, E episodes.
"""

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tyro import conf

from rlsuite.bench.candidates import (
    Candidate,
    actions,
    candidates_of,
    check_sizes,
    own_errors,
    true_return,
)
from rlsuite.bench.fqe import Fit, FittedQ
from rlsuite.bounds import AtLeastOne, BatchSize, Bounds, Widths, check_bounds
from rlsuite.command.helptext import HelpPage
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.data import OfflineData
from rlsuite.offline.load import load_dataset
from rlsuite.offline.transforms import chosen_rows
from rlsuite.report.comparison import write_csv
from rlsuite.report.statistics import LEVEL, RESAMPLES, Estimate, bootstrap, rank_correlation, regret
from rlsuite.runs.config import NO_ENV

PAGE = HelpPage(
    topics={
        "data": ("dataset", "rows", "held_out", "starts"),
        "candidates": ("checkpoint", "episodes"),
        "fitted Q evaluation": ("gamma", "updates", "members", "hidden", "batch_size", "seed"),
        "output": ("out", "json"),
    },
    required=("dataset",),
    examples=(
        "rlsuite choose runs/iql runs/rebrac runs/awac --dataset rlsuite/stitch-v0",
        "rlsuite choose runs/iql runs/rebrac --dataset door-human-v1 --episodes 10 --out runs/choice",
    ),
)
SCORES = {"fqe": "value by fitted Q evaluation", "td_error": "TD error of its own critics"}
COLUMNS = (
    *("run", "seed", "agent", "fqe", "fqe_low", "fqe_high", "fqe_td_error", "fqe_td_low", "fqe_td_high"),
    *("td_error", "td_error_low", "td_error_high", "trained_on_it", "return"),
)
LABEL_WIDTH = 49  # of a run in the table
FEWEST = 3  # candidates with returns, below which correlation and regret say nothing


@dataclass(frozen=True, kw_only=True)
class ChooseArgs:
    """Ranks runs by what recorded data say of their policies, and says how good that ranking was."""

    runs: conf.Positional[tuple[Path, ...]]
    """Run folders; every seed of a run is a candidate."""
    dataset: str = ""
    """Data to judge by: an id (rlsuite list datasets), a file or a folder."""
    checkpoint: str = "last"
    """Which checkpoint: last, best, or an env step that was kept."""
    rows: AtLeastOne = 200_000
    """Transitions at most, in whole episodes drawn at random."""
    held_out: Annotated[float, Bounds(0, 1, open_low=True, open_high=True)] = 0.1
    """Share of the episodes that errors are measured on, and nothing is fitted to."""
    starts: Literal["data", "env"] = "data"
    """First observations that are valued: of the recorded episodes, or of resets of the environment."""
    episodes: Annotated[int, Bounds(0)] = 0
    """Episodes to play for each candidate's true return; 0 takes its run's last evaluation."""
    gamma: Annotated[float, Bounds(0, 1, open_high=True)] = 0.99
    """Discount of fitted Q evaluation, the same for all."""
    updates: AtLeastOne = 10_000
    """Gradient steps of fitted Q evaluation, for all candidates together."""
    members: AtLeastOne = 2
    """Critics of each candidate, whose spread is part of its interval."""
    hidden: Widths = (64, 64)
    """Widths of their hidden layers."""
    batch_size: BatchSize = 256
    """Transitions of each gradient step."""
    seed: int = 0
    """Of the split, first weights, batches and intervals."""
    out: Path | None = None
    """Folder for choose.csv and choose.json."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)
        if not self.runs:
            raise ConfigError("name the runs: rlsuite choose RUN... --dataset D")
        if not self.dataset:
            raise ConfigError("name the data to judge by: --dataset D")


class Judged(NamedTuple):
    """What is known of the candidates, `[K]` each; nan where something is not."""

    fqe: Estimate
    fqe_td_error: Estimate
    td_error: Estimate
    returns: np.ndarray


def main(args: ChooseArgs) -> int:
    """Judge the candidates, print the table and the choice; return 0.

    Raises:
        ConfigError: a run is none, or is not of the data's kind.
        DataError: the data have too few episodes.
    """
    candidates = [candidate for run in args.runs for candidate in candidates_of(run, args.checkpoint)]
    keys = {candidate.saved.config.train.observation_keys for candidate in candidates}
    if len(keys) > 1:
        raise ConfigError(
            "the runs see different parts of the observation (--observation-keys): choose apart"
        )
    envs = {candidate.saved.config.train.env for candidate in candidates}  # says the task of OGBench's
    tasks = sorted(envs - {NO_ENV})
    if len(tasks) > 1:
        raise ConfigError(f"the runs are of different tasks ({', '.join(tasks)}): choose apart")
    env = tasks[0] if tasks else None
    data = load_dataset(args.dataset, dictionary_keys=next(iter(keys)) or None, env=env)
    check_sizes(candidates, data)
    fitted_on, held_out = split(data, args)
    judged = judge(candidates, fitted_on, held_out, data, args)
    rows = table(candidates, judged, {args.dataset, data.name})
    verdict = worth(judged, args.seed)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_csv(args.out / "choose.csv", COLUMNS, rows)
        (args.out / "choose.json").write_text(json.dumps({"candidates": rows, **verdict}, indent=1) + "\n")
    if args.json:
        print(json.dumps({"candidates": rows, **verdict}))
        return 0
    print(printed(rows, verdict, data, len(held_out.episodes)))
    return 0


def split(data: OfflineData, args: ChooseArgs) -> tuple[OfflineData, OfflineData]:
    """Return the episodes to fit to and those to measure errors on, drawn at random.

    Raises:
        DataError: there are fewer than two episodes.
    """
    order = torch.randperm(len(data.episodes), generator=torch.Generator().manual_seed(args.seed))
    total = data.lengths()[order].cumsum(0)
    order = order[: max(2, int((total <= args.rows).sum()))]
    if len(order) < 2:
        raise DataError(f"{data.source}: {len(order)} episode; two are needed, one of them to be held out")
    count = min(max(1, round(args.held_out * len(order))), len(order) - 1)

    def those(chosen: Tensor) -> OfflineData:
        keep = torch.zeros(len(data.rows), dtype=torch.bool)
        for start, stop in data.episodes[chosen].tolist():
            keep[start:stop] = True
        return chosen_rows(data, keep)

    return those(order[count:]), those(order[:count])


def judge(
    candidates: Sequence[Candidate],
    fitted_on: OfflineData,
    held_out: OfflineData,
    data: OfflineData,
    args: ChooseArgs,
) -> Judged:
    """Return values, errors and returns of the candidates."""
    shared = {name: getattr(args, name) for name in ("gamma", "updates", "members", "hidden", "batch_size")}
    following = actions(candidates, fitted_on.rows["next", "observation"])
    fitted = FittedQ(fitted_on.rows, following, Fit(seed=args.seed, **shared))
    first = first_observations(candidates[0], fitted_on, held_out, args)
    values = fitted.values(first, actions(candidates, first)).numpy()
    errors = fitted.td_errors(held_out.rows, actions(candidates, held_out.rows["next", "observation"]))
    rng = np.random.default_rng(args.seed)
    errors_of_agents = [own_errors(candidate, held_out, data) for candidate in candidates]
    return Judged(
        value_interval(values, rng),
        stacked([rms_interval(each.square().mean(0), held_out, rng) for each in errors]),
        stacked(
            [nothing() if each is None else rms_interval(each, held_out, rng) for each in errors_of_agents]
        ),
        np.array([true_return(candidate, args.episodes, args.checkpoint) for candidate in candidates]),
    )


def first_observations(
    candidate: Candidate, fitted_on: OfflineData, held_out: OfflineData, args: ChooseArgs
) -> Tensor:
    """Return the observations `[N, O]` whose values are the estimate."""
    recorded = torch.cat([part.rows["observation"][part.episodes[:, 0]] for part in (fitted_on, held_out)])
    if args.starts == "data":
        return recorded
    train = candidate.saved.config.train
    if train.env == NO_ENV:
        raise ConfigError(f"--starts env: {candidate.run} has no environment; take --starts data")
    env = make_env(
        train.env,
        256,
        seed=args.seed,
        observation_keys=train.observation_keys or None,
        options=train.env_options,
    )
    try:
        return env.reset()["observation"].float()
    finally:
        env.close()


def value_interval(values: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Return mean values `[K]` of `[K, M, N]` with an interval over members and first observations."""
    _, members, count = values.shape
    draws = [
        values[:, rng.integers(members, size=members)][:, :, rng.integers(count, size=count)].mean((1, 2))
        for _ in range(RESAMPLES)
    ]
    return Estimate(values.mean((1, 2)), *interval(draws))


def rms_interval(squares: Tensor, data: OfflineData, rng: np.random.Generator) -> Estimate:
    """Return the root mean square of errors whose squares are `[N]`, with an interval over episodes."""
    edges = torch.cat([squares.new_zeros(1, dtype=torch.float64), squares.double().cumsum(0)]).numpy()
    episodes, lengths = data.episodes.numpy(), data.lengths().numpy()
    sums = edges[episodes[:, 1]] - edges[episodes[:, 0]]
    index = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    draws = np.sqrt(sums[index].sum(1) / lengths[index].sum(1))
    return Estimate(np.sqrt(sums.sum() / lengths.sum()), *interval(draws))


def interval(draws: Any) -> np.ndarray:
    """Return the ends of the interval of bootstrap draws along the first axis."""
    return np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def nothing() -> Estimate:
    """Return an estimate of what is not known."""
    return Estimate(*[np.array(math.nan)] * 3)


def stacked(estimates: Sequence[Estimate]) -> Estimate:
    """Return estimates of one candidate each as one of all."""
    return Estimate(*(np.stack(parts) for parts in zip(*estimates, strict=True)))


def table(candidates: Sequence[Candidate], judged: Judged, data: Collection[str]) -> list[dict[str, Any]]:
    """Return one row per candidate, highest fitted value first; `data` are the names of the data."""
    places = {Path(name).absolute() for name in data}
    rows = []
    for k in np.argsort(-judged.fqe.value):
        run, _, saved, _ = candidates[k]
        estimates = (judged.fqe, judged.fqe_td_error, judged.td_error)
        figures = [float(part[k]) for estimate in estimates for part in estimate]
        facts = (str(run), candidates[k].seed, saved.config.agent_name, *figures)
        learnt_from = getattr(saved.config.train, "dataset", "")
        trained = learnt_from in data or Path(learnt_from).absolute() in places
        rows.append(dict(zip(COLUMNS, (*facts, trained, float(judged.returns[k])), strict=True)))
    return rows


def worth(judged: Judged, seed: int) -> dict[str, Any]:
    """Return for each score its rank correlation with true returns and its choice's regret, with intervals.

    Small errors count as good. Intervals are over candidates. What too few are known of is left out.
    """
    result: dict[str, Any] = {}
    for name, estimates in (("fqe", judged.fqe.value), ("td_error", -judged.td_error.value)):
        known = ~(np.isnan(judged.returns) | np.isnan(estimates))
        pairs = np.stack([estimates[known], judged.returns[known]], -1)
        if len(pairs) < FEWEST:
            continue
        result[name] = {"candidates": len(pairs), "regret_by_chance": chance(pairs[:, 1])}
        for key, statistic in (("rank_correlation", rank_correlation), ("regret", regret)):
            estimate = bootstrap(lambda tasks, f=statistic: np.array(f(*tasks[0].T)), [pairs], seed=seed)
            result[name][key] = [float(part) for part in estimate]
    return result


def chance(returns: np.ndarray) -> float:
    """Return the mean regret of a candidate taken at random."""
    return float(returns.max() - returns.mean())


def labels(runs: Sequence[str]) -> list[str]:
    """Return paths of runs without the folders that all lie in; of long ones the middle is left out."""
    whole = [Path(run).absolute() for run in runs]
    common = os.path.commonpath([path.parent for path in whole])
    below = [str(path.relative_to(common)) for path in whole]
    half = (LABEL_WIDTH - 3) // 2
    return [name if len(name) <= LABEL_WIDTH else f"{name[:half]}...{name[-half:]}" for name in below]


def printed(
    rows: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any], data: OfflineData, held_out: int
) -> str:
    """Return the table, the choice and what it was worth, to read."""
    names = labels([row["run"] for row in rows])
    width = max(map(len, names))
    lines = [
        f"{'run':<{width}} {'seed':>4}  {'value [95 %]':>28}  {'TD error of its critics':>26}  {'return':>9}"
    ]
    for row, name in zip(rows, names, strict=True):
        value = f"{row['fqe']:,.2f} [{row['fqe_low']:,.2f}, {row['fqe_high']:,.2f}]"
        error = f"{row['td_error']:.3f} [{row['td_error_low']:.3f}, {row['td_error_high']:.3f}]"
        error = "-" if math.isnan(row["td_error"]) else error
        achieved = "-" if math.isnan(row["return"]) else f"{row['return']:,.1f}"
        lines.append(f"{name:<{width}} {row['seed']:>4}  {value:>28}  {error:>26}  {achieved:>9}")
    best = rows[0]
    lines.append(f"\nchoice by fitted Q evaluation: {best['run']}, seed {best['seed']} ({best['agent']})")
    for ranking, score in verdict.items():
        rho, low, high = score["rank_correlation"]
        lost, least, most = score["regret"]
        lines.append(
            f"{SCORES[ranking]}: rank correlation {rho:+.2f} [{low:+.2f}, {high:+.2f}], regret {lost:,.1f} "
            f"[{least:,.1f}, {most:,.1f}]; at random {score['regret_by_chance']:,.1f}; "
            f"{score['candidates']} candidates"
        )
    seen = sum(row["trained_on_it"] for row in rows)
    lines.append(
        f"errors are of {held_out:,} episodes of {data.name}"
        + (f"; {seen} of {len(rows)} candidates were trained on them, too" if seen else "")
    )
    return "\n".join(lines)
