"""Normalised scores: D4RL's reference returns (Fu et al. 2020, arXiv 2004.07219) in a table of our own.

score = 100 (R - low) / (high - low), with R the undiscounted return of an evaluation episode under the
environment's own reward. Scores are not clipped. Minari keeps other references for other environments in the
metadata of its data sets; the two must not be mixed, so a `Reference` says where it comes from.

Imports nothing heavy.
"""

import re
from dataclasses import dataclass
from typing import Any

from rlsuite.errors import DataError, unknown_name
from rlsuite.strict import is_number

RETURN = "eval/return_mean"


@dataclass(frozen=True, slots=True)
class Reference:
    """Returns that score 0 and 100.

    Attributes:
        low: mean return of a random policy.
        high: mean return of an expert (SAC, a planner, or a success of 1).
        source: "d4rl", "ogbench", or the id of the data set whose metadata they come from.
        measure: which number of an evaluation is scored, by its name in the metrics.
    """

    low: float
    high: float
    source: str = "d4rl"
    measure: str = RETURN

    def score(self, returns: Any) -> Any:
        """Return 0 at `low` and 100 at `high`, for a number, an array or a tensor of returns."""
        return (returns - self.low) / (self.high - self.low) * 100.0


# The references belong to the environment, not to the data set's variant or version; maze2d v0 and v1 are
# different environments. maze2d's "expert" is a controller that stops after its first goal, so 100 is easy.
D4RL_REFERENCES = {
    name: Reference(low, high)
    for name, low, high in (
        ("halfcheetah", -280.178953, 12135.0),
        ("hopper", -20.272305, 3234.3),
        ("walker2d", 1.629008, 4592.3),
        ("ant", -325.6, 3879.7),
        ("maze2d-open-v0", 0.01, 20.66),
        ("maze2d-umaze-v1", 23.85, 161.86),
        ("maze2d-medium-v1", 13.13, 277.39),
        ("maze2d-large-v1", 6.7, 273.99),
        ("maze2d-open-dense-v0", 11.17817, 27.166538620695782),
        ("maze2d-umaze-dense-v1", 68.537689, 193.66285642381482),
        ("maze2d-medium-dense-v1", 44.264742, 297.4552547777125),
        ("maze2d-large-dense-v1", 30.569041, 303.4857382709002),
        ("maze2d-eval-umaze-v1", 36.63, 141.4),
        ("maze2d-eval-medium-v1", 13.07, 204.93),
        ("maze2d-eval-large-v1", 16.4, 302.22),
        ("maze2d-umaze-v0", 0.94, 62.6),
        ("maze2d-medium-v0", 5.77, 85.14),
        ("maze2d-large-v0", 4.83, 191.99),
        ("maze2d-umaze-dense-v0", 23.249793, 81.78995240126592),
        ("maze2d-medium-dense-v0", 19.477620, 96.03474232952358),
        ("maze2d-large-dense-v0", 27.388310, 215.09965671563742),
        ("antmaze", 0.0, 1.0),
        ("kitchen", 0.0, 4.0),
        ("pen", 96.262799, 3076.8331017826877),
        ("hammer", -274.856578, 12794.134825156867),
        ("door", -56.512833, 2880.5693087298737),
        ("relocate", -6.425911, 4233.877797728884),
        ("minigrid-fourrooms", 0.01442, 2.89685),
        ("flow-ring", -165.22, 24.42),
        ("flow-merge", 118.67993, 330.03179),
        ("carla-lane", -0.8503839912088142, 1023.5784385429523),
        ("carla-town", -114.81579500772153, 2440.1772022247314),
        ("bullet-halfcheetah", -1275.766996, 2381.6725),
        ("bullet-hopper", 20.058972, 1441.8059623430963),
        ("bullet-ant", 373.705955, 2650.495),
        ("bullet-walker2d", 16.523877, 1623.6476303317536),
        ("bullet-maze2d-open", 8.75, 64.15),
        ("bullet-maze2d-umaze", 32.46, 153.99),
        ("bullet-maze2d-medium", 14.87, 238.05),
        ("bullet-maze2d-large", 1.82, 285.92),
    )
}
"""Keyed by environment where variants share one, else by the full id."""

_VERSION = re.compile(r"-v\d+$")


def d4rl_reference(name: str) -> Reference:
    """Return D4RL's references for an id of its data sets, or for one of our tasks.

    Args:
        name: `halfcheetah-medium-v2`, `maze2d-umaze-v1`, `HalfCheetah`, `HalfCheetah-v5`, ...

    Raises:
        ConfigError: D4RL has no references for it.
    """
    reference = find_d4rl_reference(name)
    if reference is None:
        raise unknown_name(
            "an environment that D4RL has scores for", name, D4RL_REFERENCES, "docs/datasets.md"
        )
    return reference


def find_d4rl_reference(name: str) -> Reference | None:
    """Return what `d4rl_reference` returns, or None where D4RL has no references."""
    key = name.lower()
    if key in D4RL_REFERENCES:
        return D4RL_REFERENCES[key]
    parts = _VERSION.sub("", key).split("-")
    for count in range(len(parts), 0, -1):
        known = D4RL_REFERENCES.get("-".join(parts[:count]))
        if known is not None:
            return known
    return None


def minari_reference(metadata: dict[str, Any], dataset_id: str) -> Reference | None:
    """Return the references that a Minari data set carries itself, None where it has none.

    Raises:
        DataError: they are not two numbers in order.
    """
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None:
        return None
    if not is_number(low) or not is_number(high) or not low < high:
        raise DataError(f"{dataset_id}: ref_min_score = {low!r} and ref_max_score = {high!r} give no score")
    return Reference(float(low), float(high), dataset_id)
