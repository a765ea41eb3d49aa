"""The result of every reader: transitions, episodes, and where they come from.

Legend: N rows, E episodes, O observation, A action, T steps of one episode.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rlsuite.blocks.noise import Source
from rlsuite.errors import DataError
from rlsuite.offline.scores import Reference
from rlsuite.offline.spaces import VectorLeaf
from rlsuite.replay.memory import host_free_bytes
from rlsuite.replay.offline import DemonstrationReplay, OfflineReplay
from rlsuite.replay.uniform import MEMORY_SHARE

CHUNK_ROWS = 16_384  # transitions read or checked at once: what a reader needs beside the final columns
RECIPE_KEY = "rlsuite"  # of what we say about a data set of our own, in either layout
EVALUATED_KEY = "return_when_evaluated"  # a policy's, where recorded episodes are not those of an evaluation
FLAGS = ("terminated", "truncated", "done")


class Part(NamedTuple):
    """A named range of the observation's columns."""

    key: str
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineData:
    """A data set in memory; nothing is changed after it was read.

    Attributes:
        rows: TensorDict `[N]` with the keys of docs/design.md, section 3, float32, actions in [-1, 1] where
            the file says their range. Where a recording stops without the task's end the transition is
            `truncated`, so the last transition of every episode is `done`.
        episodes: int64 `[E, 2]`, first transition and the transition after the last. OGBench's go on where
            the task is solved: a transition inside may be `terminated`, too.
        parts: names and widths of what the observation is made of, in order.
        source: the file or folder.
        layout: "d4rl", "minari" or "ogbench".
        name: the data set's own id, else the file's stem.
        env: what `--env` says for evaluation, None where the file does not tell.
        reference: returns that score 0 and 100, None where there are none.
        standins: transitions that terminated and whose successor the file does not have; their ("next",
            "observation") repeats their `observation`. No loss reads it: they do not bootstrap.
        metadata: what the file says about itself.
    """

    rows: TensorDict
    episodes: Tensor
    parts: tuple[Part, ...]
    source: Path
    layout: str
    name: str
    env: str | None = None
    reference: Reference | None = None
    standins: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def replay(
        self, *, batch_size: int, gamma: float | None = None, generator: Source = None
    ) -> OfflineReplay:
        """Return these transitions as a replay; see `OfflineReplay` and `DemonstrationReplay`."""
        cls = DemonstrationReplay if "expert" in self.rows.keys() else OfflineReplay  # noqa: SIM118 (a TensorDict)
        return cls(self.rows, self.episodes, batch_size=batch_size, gamma=gamma, generator=generator)

    def columns(self, key: str) -> slice:
        """Return the observation's columns that came from `key`, for example a goal.

        Raises:
            DataError: no part has that name.
        """
        start = 0
        for part in self.parts:
            if part.key == key:
                return slice(start, start + part.width)
            start += part.width
        known = ", ".join(part.key for part in self.parts)
        raise DataError(f'{self.source}: the observation has no part "{key}", only {known}')

    def returns(self) -> Tensor:
        """Return the undiscounted sum of rewards of every episode, float64 `[E]`."""
        total = torch.zeros(len(self.rows) + 1, dtype=torch.float64)
        torch.cumsum(self.rows["next", "reward"].squeeze(-1).double(), 0, out=total[1:])
        return total[self.episodes[:, 1]] - total[self.episodes[:, 0]]

    @property
    def recipe(self) -> dict[str, Any]:
        """Recipe of data that we made; empty for others."""
        return recipe_of(self.metadata)

    def behaviour_return(self) -> float:
        """Return the behaviour policy's mean return: by its recipe, else over the episodes that are here."""
        policy, behaviour = self.recipe.get("policy", {}), self.recipe.get("behaviour", {})
        recorded = policy.get(EVALUATED_KEY, behaviour.get("return_mean"))
        return float(self.returns().mean()) if recorded is None else float(recorded)

    def lengths(self) -> Tensor:
        """Return the transitions of every episode, int64 `[E]`."""
        return self.episodes[:, 1] - self.episodes[:, 0]


def recipe_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a data set of our own says about its making; empty for others."""
    recipe = metadata.get(RECIPE_KEY)
    return dict(recipe) if isinstance(recipe, Mapping) else {}


class Columns:
    """The final columns of N transitions, filled by a reader piece by piece.

    Raises:
        DataError: memory would not hold them.
    """

    def __init__(self, source: Path, rows: int, observation: int, action: int) -> None:
        check_room(source, rows, observation, action)
        self._source = source
        self.observation = np.empty((rows, observation), np.float32)
        self.next_observation = np.empty((rows, observation), np.float32)
        self.action = np.empty((rows, action), np.float32)
        self.reward = np.empty(rows, np.float32)
        self.terminated = np.empty(rows, np.bool_)
        self.truncated = np.empty(rows, np.bool_)

    def scale_actions(self, box: VectorLeaf) -> None:
        """Map actions from the environment's range to [-1, 1], where the range is known and another one."""
        if box.low is None or box.high is None:
            return
        half, middle = (box.high - box.low) / 2, (box.high + box.low) / 2
        if not (np.isfinite(half).all() and (half > 0).all()) or ((half == 1).all() and (middle == 0).all()):
            return
        for start in range(0, len(self.action), CHUNK_ROWS):
            block = self.action[start : start + CHUNK_ROWS]
            block[:] = (block.astype(np.float64) - middle) / half

    def finish(
        self, edges: Sequence[int] | np.ndarray, *, split_at_ends: bool = True
    ) -> tuple[TensorDict, Tensor]:
        """Check every number and return transitions and episodes `[E, 2]`, sharing memory with the columns.

        Args:
            edges: where an episode begins or the file ends.
            split_at_ends: transitions that say so end an episode, too; else recordings go on after them.

        Raises:
            DataError: no transition at all, a number that is not finite, or nothing but zeros.
        """
        rows = len(self.reward)
        if not rows:
            raise DataError(f"{self._source}: no transition; expected at least one")
        for name, column in self._numbers().items():
            _check_finite(self._source, name, column)
        # TorchRL 0.14.1's Minari class hands back zeros; no data set of numbers is all zeros.
        if not any(np.any(self.observation[a : a + CHUNK_ROWS]) for a in range(0, rows, CHUNK_ROWS)):
            raise DataError(f"{self._source}: observations: found only zeros, expected data")
        ends = np.flatnonzero((self.terminated | self.truncated) & split_at_ends) + 1
        edges = np.unique(np.concatenate([[0], edges, ends, [rows]])).astype(np.int64)
        last = edges[1:] - 1
        self.truncated[last] |= ~self.terminated[last]
        flags = {
            "terminated": self.terminated,
            "truncated": self.truncated,
            "done": self.terminated | self.truncated,
        }
        next_td = {
            "observation": torch.from_numpy(self.next_observation),
            "reward": torch.from_numpy(self.reward).unsqueeze(-1),
            **{name: torch.from_numpy(flag).unsqueeze(-1) for name, flag in flags.items()},
        }
        table = TensorDict(
            {
                "observation": torch.from_numpy(self.observation),
                "action": torch.from_numpy(self.action),
                "next": TensorDict(next_td, [rows]),
            },
            [rows],
        )
        return table, torch.from_numpy(np.stack([edges[:-1], edges[1:]], -1))

    def _numbers(self) -> dict[str, np.ndarray]:
        return {
            "observations": self.observation,
            "next observations": self.next_observation,
            "actions": self.action,
            "rewards": self.reward,
        }


def check_room(source: Path, rows: int, observation: int, action: int) -> None:
    """Raise DataError when `Columns` of these sizes exceed 90 % of the free memory."""
    needed = rows * (4 * (2 * observation + action + 1) + len(FLAGS))
    free = host_free_bytes()
    if needed > MEMORY_SHARE * free:
        raise DataError(
            f"{source}: {rows:,} transitions need {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free; "
            "use a smaller data set or a machine with more memory"
        )


def _check_finite(source: Path, name: str, column: np.ndarray) -> None:
    for start in range(0, len(column), CHUNK_ROWS):
        block = column[start : start + CHUNK_ROWS]
        if not math.isfinite(float(block.sum(dtype=np.float64))):  # a sum is finite only if every term is
            bad = np.argwhere(~np.isfinite(block))
            if len(bad):
                value = block[tuple(bad[0])]
                raise DataError(
                    f"{source}: {name}: found {value} in transition {start + int(bad[0][0])}, "
                    "expected finite numbers"
                )
