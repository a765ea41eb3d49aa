"""Two groups of runs: which is better, by how much, how sure, and how many more seeds would tell."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlsuite.errors import ConfigError
from rlsuite.report.statistics import (
    POWER,
    Estimate,
    around,
    bootstrap,
    difference,
    paired_difference,
    probability_of_improvement,
    seeds_needed,
    standardised,
)
from rlsuite.report.study import Group, read_study

FEWEST = 3  # seeds on either side for an interval
Score = Literal["final", "mean"]


@dataclass(frozen=True)
class Comparison:
    """Two groups on one environment.

    Attributes:
        env: its id.
        step: env steps up to which both have come.
        first, second: scores by seed.
        effect: difference of the means, first less second, with its interval; infinite below `FEWEST` seeds.
        standardised: Hedges' g.
        chance: probability that a run of the first beats one of the second, with its interval; None as above.
        needed: seeds on either side for a chance of `POWER` to find this effect; None: no number is enough.
        regrets: of the training episodes, by seed of the first and of the second; empty where not logged.
    """

    env: str
    step: int
    first: tuple[float, ...]
    second: tuple[float, ...]
    effect: Estimate
    standardised: float
    chance: Estimate | None
    needed: int | None
    regrets: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out zero."""
        return bool(self.effect.low > 0 or self.effect.high < 0)

    @property
    def more(self) -> int | None:
        """Seeds that both sides need beyond those they have; None: no number helps."""
        has = min(len(self.first), len(self.second))
        return None if self.needed is None else max(0, self.needed - has)

    def facts(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        facts = asdict(self)
        for name in ("effect", "chance"):
            estimate = getattr(self, name)
            parts = (_finite(part) for part in estimate or ())
            facts[name] = None if estimate is None else dict(zip(Estimate._fields, parts, strict=True))
        return {
            **facts,
            "standardised": _finite(self.standardised),
            "decided": self.decided,
            "more": self.more,
        }


def _finite(number: Any) -> float | None:
    return float(number) if np.isfinite(number) else None


def compare(
    first: Sequence[Path], second: Sequence[Path], *, score: Score = "final", paired: bool = False
) -> list[Comparison]:
    """Compare two groups of runs on every environment that both have.

    Args:
        first, second: run folders, or folders with runs below, of one setting for each environment.
        score: of a run: its evaluation at the last step that all runs have reached, or the mean up to there.
        paired: take the difference seed by seed, of seeds that both have.

    Raises:
        ConfigError: no runs, several settings on one side, no common environment, or no common seeds.
    """
    groups = groups_by_env(first), groups_by_env(second)
    envs = [env for env in groups[0] if env in groups[1]]
    if not envs:
        there = [", ".join(side) for side in groups]
        raise ConfigError(f"no common environment: the first has {there[0]}, the second {there[1]}")
    return [compare_groups(groups[0][env], groups[1][env], score=score, paired=paired) for env in envs]


def groups_by_env(paths: Sequence[Path]) -> dict[str, Group]:
    """Return one group of runs for every environment.

    Raises:
        ConfigError: runs of several settings.
    """
    study = read_study(paths)
    for env in study.envs:
        if len(labels := [group.label for group in study.on(env)]) > 1:
            raise ConfigError(
                f"{', '.join(map(str, paths))} has several settings on {env} ({'; '.join(labels)}): name the "
                "runs of one"
            )
    return {group.env: group for group in study.groups}


def compare_groups(first: Group, second: Group, *, score: Score, paired: bool) -> Comparison:
    """Compare two groups on one environment; see `compare`."""
    by_seed = scores_by_seed(first, second, score)
    common = [seed for seed in by_seed[0] if seed in by_seed[1]]
    if paired and len(common) < 2:
        raise ConfigError(f"--paired on {first.env}: the groups share {len(common)} seed(s), and need two")
    if paired:
        by_seed = tuple({seed: side[seed] for seed in common} for side in by_seed)
    a, b = (np.array(list(side.values())) for side in by_seed)
    effect = (paired_difference if paired else difference)(a, b)
    enough = min(len(a), len(b)) >= FEWEST
    if not enough:
        effect = around(float(effect.value), np.inf)
    size = standardised(a, b)
    return Comparison(
        env=first.env,
        step=int(common_step(first, second)),
        first=tuple(a.tolist()),
        second=tuple(b.tolist()),
        effect=effect,
        standardised=size,
        chance=bootstrap(probability_of_improvement, [a], [b]) if enough else None,
        needed=seeds_needed(size) if enough else None,
        regrets=(tuple(first.regrets.tolist()), tuple(second.regrets.tolist())),
    )


def common_step(first: Group, second: Group) -> float:
    """Return the last env step that all runs of both groups have reached."""
    return min(group.on_grid("env_steps")[0][-1] for group in (first, second))


def scores_by_seed(first: Group, second: Group, score: Score) -> tuple[dict[int, float], ...]:
    """Return the scores of both groups' seeds."""
    last = common_step(first, second)
    sides = []
    for group in (first, second):
        side = {}
        for curve in group.curves:
            steps = curve.along("env_steps")
            if score == "final":
                side[curve.seed] = float(np.interp(last, steps, curve.returns))
            else:
                side[curve.seed] = float(curve.returns[steps <= last].mean())
        sides.append(side)
    return tuple(sides)


def sentences(comparison: Comparison, names: tuple[str, str]) -> list[str]:
    """Return a comparison as lines to read."""
    lines = [f"{comparison.env}, at {comparison.step:,} env steps"]
    for name, side in zip(names, (comparison.first, comparison.second), strict=True):
        runs = np.array(side)
        spread = f" +- {runs.std(ddof=1):,.1f}" if len(runs) > 1 else ""
        lines.append(f"  {name}: {runs.mean():,.1f}{spread}, {len(runs)} seed{'s' * (len(runs) != 1)}")
    if any(comparison.regrets):
        means = [f"{np.mean(each):.3f}" if each else "none" for each in comparison.regrets]
        each_side = ", ".join(f"{name} {mean}" for name, mean in zip(names, means, strict=True))
        lines.append(f"  regret of all training episodes: {each_side}")
    effect, chance = comparison.effect, comparison.chance
    if chance is None:
        lines.append(
            f"  difference {effect.value:+,.1f}; below {FEWEST} seeds on a side no interval means anything: "
            "train more"
        )
        return lines
    lines.append(
        f"  difference {effect.value:+,.1f} [{effect.low:+,.1f}, {effect.high:+,.1f}], "
        f"{comparison.standardised:+.2f} stds of a run"
    )
    lines.append(f"  P({names[0]} > {names[1]}) = {chance.value:.2f} [{chance.low:.2f}, {chance.high:.2f}]")
    if comparison.decided:
        better = names[0] if effect.value > 0 else names[1]
        lines.append(f"  {better} is better: the interval leaves out zero")
    elif comparison.more is None:
        lines.append("  not decided, and the difference is too small for any number of seeds")
    else:
        lines.append(
            f"  not decided: were the difference what it seems, {comparison.needed} seeds a side would show "
            f"it {POWER:.0%} of the time, {comparison.more} more"
        )
    return lines
