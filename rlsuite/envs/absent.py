"""`--env none`: the sizes of an environment that is not here, for agents that learn from data alone."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from rlsuite.envs.base import Outcome, VectorEnv
from rlsuite.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentOptions:
    """What the data say of their environment; `rlsuite train` fills it in."""

    observation: int
    """Length of an observation, O."""
    action_low: tuple[float, ...]
    """Least value of each action, `[A]`."""
    action_high: tuple[float, ...]
    """Greatest value of each action, `[A]`."""


class AbsentEnv(VectorEnv):
    """Tells sizes and the range of actions, and refuses to be played.

    Args:
        env_id: what `--env` says.
        options: sizes.
        num_envs: B.
        common: `device`, `dtype` and `max_episode_steps` as in `make_env`; the seed has no use.
    """

    def __init__(self, env_id: str, options: AbsentOptions, num_envs: int = 1, **common: Any) -> None:
        common.pop("seed", None)
        super().__init__(
            env_id=env_id,
            engine_name="none",
            num_envs=num_envs,
            observation_size=options.observation,
            action_low=np.array(options.action_low),
            action_high=np.array(options.action_high),
            packages=(),
            **common,
        )

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            "the run has no environment (--env none): it can be trained, loaded and exported, and neither "
            "played nor evaluated"
        )

    def seed_worlds(self, seeds: Any) -> None:
        """Refuse: seeds are of episodes."""
        self._refuse()

    def _advance(self, action: Tensor) -> Outcome:
        self._refuse()

    def _restart(self, mask: Tensor) -> Tensor:
        self._refuse()

    def _own_state(self) -> dict[str, Tensor]:
        return {}

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        pass

    def _set_seed(self, seed: Any) -> None:
        pass

    def frame(self, world: int = 0) -> np.ndarray:
        """Refuse: there is nothing to see."""
        self._refuse()
