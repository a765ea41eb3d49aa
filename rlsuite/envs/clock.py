"""Counts the env steps of running episodes, and says which of them reach the time limit.

Legend: B envs.
"""

import numpy as np

NO_LIMIT = 2**62  # env steps


class EpisodeClock:
    """Env steps of B episodes; a tick costs nothing per env unless an episode ends.

    Args:
        num_envs: B.
        limit: env steps until an episode is truncated, None for no limit.
    """

    __slots__ = ("_began", "_due", "_limit", "_never", "_now")

    def __init__(self, num_envs: int, limit: int | None) -> None:
        self._limit = NO_LIMIT if limit is None else limit
        self._now = 0
        self._began = np.zeros(num_envs, np.int64)  # vector steps at which the episodes began
        self._never = np.zeros(num_envs, np.bool_)
        self._due = self._limit  # vector step at which the first of them reaches the limit

    def tick(self) -> np.ndarray:
        """Count a step of all envs; return which episodes have reached the limit, `[B]` bool."""
        self._now += 1
        if self._now < self._due:
            return self._never.copy()
        return self.counts() >= self._limit

    def restart(self, mask: np.ndarray) -> None:
        """Count from zero in the envs of `mask` `[B]` bool."""
        self._began[mask] = self._now
        self._due = int(self._began.min()) + self._limit

    def counts(self) -> np.ndarray:
        """Return the env steps of each episode, `[B]` int64, a new array."""
        return self._now - self._began

    def load(self, counts: np.ndarray) -> None:
        """Go on from these counts."""
        self._began = self._now - counts
        self._due = int(self._began.min()) + self._limit
