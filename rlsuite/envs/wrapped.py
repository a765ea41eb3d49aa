"""Base of wrappers of our environments: they ask the inner one to advance and to restart, and add to it.

The outer environment counts steps, casts, guards against bad numbers and truncates; of the inner one only its
simulation is used, so nothing is done twice.
"""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from torch import Tensor

from rlsuite.envs.arrays import Array
from rlsuite.envs.base import EnvFacts, Outcome, VectorEnv
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.seeding import Seeds


class WrappedEnv(VectorEnv):
    """An environment around another one; subclasses override what they change.

    Args:
        inner: the environment inside, of any kind; it belongs to this one from now on.
        facts: the inner environment's, with what is different replaced.
    """

    def __init__(self, inner: VectorEnv, facts: EnvFacts) -> None:
        super().__init__(facts, EnvOptions(device=inner.device, dtype=inner.dtype))
        self.inner = inner

    @property
    def foreign_since(self) -> float | None:  # type: ignore[override]
        """When the inner environment went into foreign code."""
        return self.inner.foreign_since

    @property
    def success(self) -> np.ndarray | None:  # type: ignore[override]
        """What the inner environment says of the last step's success."""
        return self.inner.success

    @property
    def generators(self) -> list[np.random.Generator]:
        """What the inner environment's next episodes are drawn from."""
        return self.inner.generators

    def episode_seeds(self) -> list[int]:
        """Return the inner environment's."""
        return self.inner.episode_seeds()

    def frame(self, index: int = 0) -> np.ndarray:
        """Return the inner environment's picture of one env."""
        return self.inner.frame(index)

    def stream(self) -> AbstractContextManager[None]:
        """Return the inner environment's context."""
        return self.inner.stream()

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the inner environment, too."""
        inner: Any = self.__dict__.get("_modules", {}).get("inner")
        if inner is not None and not inner.is_closed:
            inner.close()
        super().close(raise_if_closed=raise_if_closed)

    def _set_seed(self, seed: Seeds) -> None:
        self.inner._set_seed(seed)

    def _advance(self, action: Array) -> Outcome:
        return self.inner._advance(action)

    def _restart(self, mask: Array) -> Array:
        return self.inner._restart(mask)

    def _own_state(self) -> dict[str, Tensor]:
        return self.inner._own_state()

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        self.inner._load_own_state(state)
