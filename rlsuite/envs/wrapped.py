"""What wrappers of our environments share: they ask the inner one to advance and to restart, and add to it.

The outer environment counts steps, casts, guards against bad numbers and truncates; of the inner one only its
simulation is used, so nothing is done twice.
"""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from torch import Tensor

from rlsuite.envs.base import Outcome, VectorEnv
from rlsuite.envs.seeding import Seeds

DEFAULT_FPS = 30.0  # of a video


class WrappedEnv(VectorEnv):
    """An environment around another one; subclasses override what they change.

    Args:
        inner: the environment inside, of any kind; it belongs to this one from now on.
        env_id: the name that makes this environment again.
        observation_size: numbers shown.
        action_low: least action, one number each; by default the inner environment's.
        action_high: greatest action.
    """

    def __init__(
        self,
        inner: VectorEnv,
        env_id: str,
        observation_size: int,
        action_low: np.ndarray | None = None,
        action_high: np.ndarray | None = None,
    ) -> None:
        middle, half = np.array(inner.middle), np.array(inner.half_range)
        super().__init__(
            env_id=env_id,
            engine_name=inner.engine_name,
            num_envs=inner.num_envs,
            observation_size=observation_size,
            action_low=middle - half if action_low is None else action_low,
            action_high=middle + half if action_high is None else action_high,
            max_episode_steps=inner.max_episode_steps,
            packages=[name for name in inner.versions if name != "python"],
            device=inner.device,
            dtype=inner.dtype,
            simulation_device=inner.simulation_device,
            simulation_dtype=inner._precision,
            host_asks=inner._host_asks,
        )
        self.inner = inner
        self.discrete, self.picture = inner.discrete, inner.picture
        self.stock = inner.stock
        self.return_range, self.return_gamma = inner.return_range, inner.return_gamma

    @property
    def vector_reward(self) -> Tensor | None:  # type: ignore[override]
        """Return the inner environment's."""
        return self.inner.vector_reward

    @property
    def foreign(self) -> bool:  # type: ignore[override]
        """Whether the inner environment calls other people's code."""
        return self.inner.foreign

    @property
    def foreign_since(self) -> float | None:  # type: ignore[override]
        """When the inner environment went into such code."""
        return self.inner.foreign_since

    def episode_seeds(self) -> list[int]:
        """Return the inner environment's."""
        return self.inner.episode_seeds()

    @property
    def fps(self) -> float:
        """Pictures per second of a video in real time, 30 where the environment does not know."""
        return float(getattr(self.inner, "fps", DEFAULT_FPS))

    def frame(self, world: int = 0) -> np.ndarray:
        """Return the inner environment's picture of one world."""
        return self.inner.frame(world)

    def stream(self) -> AbstractContextManager[None]:
        """Return the inner environment's context."""
        return self.inner.stream()

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the inner environment, too."""
        inner: Any = self.__dict__.get("inner")
        if inner is not None and not inner.is_closed:
            inner.close()
        super().close(raise_if_closed=raise_if_closed)

    def _set_seed(self, seed: Seeds) -> None:
        self.inner._set_seed(seed)

    def _advance(self, action: Tensor) -> Outcome:
        return self.inner._advance(action)

    def _restart(self, mask: Tensor) -> Tensor:
        return self.inner._restart(mask)

    def _own_state(self) -> dict[str, Tensor]:
        return self.inner._own_state()

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        self.inner._load_own_state(state)
