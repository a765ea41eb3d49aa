"""Goals of Gymnasium environments: where they stand in a flat observation, and what they are worth.

The interface is that of Gymnasium-Robotics' `GoalEnv`: observations are dictionaries with `achieved_goal` and
`desired_goal`, and `compute_reward(achieved, desired, info)` says the reward of any pair.

Legend: R pairs, G numbers of a goal.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from rlsuite.envs.base import GoalFacts
from rlsuite.envs.flatten import FlatObservation

PROBES = 3  # pairs of goals, of which one has been reached


def goal_facts(original: Any, flat: gymnasium.Env) -> GoalFacts | None:
    """Return the goals of an environment; None where it shows none, or does not say what they are worth.

    Args:
        original: without wrappers; asked for rewards.
        flat: the same, as it is shown.
    """
    if not isinstance(flat, FlatObservation) or not hasattr(original, "compute_reward"):
        return None
    achieved, desired = flat.columns("achieved_goal"), flat.columns("desired_goal")
    if achieved is None or desired is None:
        return None
    size = desired.stop - desired.start
    if achieved.stop - achieved.start != size:
        return None
    reward = for_all(original.compute_reward, size)
    asks = getattr(original, "compute_terminated", None)
    terminated = None if asks is None else for_all(asks, size)

    def rule(reached: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        ended = None if terminated is None else terminated(reached, wanted).astype(np.bool_)
        return reward(reached, wanted), ended

    return GoalFacts(achieved=achieved, desired=desired, rule=rule)


def for_all(
    function: Callable[[np.ndarray, np.ndarray, dict[str, Any]], Any], size: int
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function of (achieved, desired, info) as one of pairs `[R, G]`, with an empty info.

    It is called once where it gives for several pairs what it gives for each, which is tried out when first
    asked; else pair by pair.
    """
    at_once: list[bool] = []

    def one_by_one(reached: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        pairs = zip(reached, wanted, strict=True)
        return np.array([float(function(goal, other, {})) for goal, other in pairs])

    def ask(reached: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        if not at_once:
            pairs = np.random.default_rng(0).normal(size=(2, PROBES, size))
            pairs[1, 0] = pairs[0, 0]
            at_once.append(_alike(lambda: function(pairs[0], pairs[1], {}), one_by_one(pairs[0], pairs[1])))
        if not at_once[0]:
            return one_by_one(reached, wanted)
        return np.asarray(function(reached, wanted, {}), np.float64)

    return ask


def _alike(answer: Callable[[], Any], wanted: np.ndarray) -> bool:
    try:
        given = np.asarray(answer(), np.float64)
    except Exception:  # noqa: BLE001 - made for one pair, it may raise anything
        return False
    return given.shape == wanted.shape and np.allclose(given, wanted, equal_nan=True)
