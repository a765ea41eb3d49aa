"""`--env none`: the sizes of an environment that is not here, for agents that learn from data alone."""

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from torch import Tensor

from rlsuite.envs.arrays import Array
from rlsuite.envs.base import EnvFacts, Outcome, VectorEnv
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.seeding import Seeds
from rlsuite.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentOptions:
    """Facts of the environment that the data state; `rlsuite train` fills them in."""

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
        sizes: of the data.
        num_envs: B.
        options: device and dtype; the others have no use.
    """

    def __init__(self, env_id: str, sizes: AbsentOptions, num_envs: int, options: EnvOptions) -> None:
        facts = EnvFacts(
            env_id=env_id,
            engine_name="none",
            num_envs=num_envs,
            observation_size=sizes.observation,
            action_low=np.array(sizes.action_low),
            action_high=np.array(sizes.action_high),
            max_episode_steps=options.max_episode_steps,
            packages=(),
        )
        super().__init__(facts, options)

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            "the run has no environment (--env none): it can be trained, loaded and exported, and neither "
            "played nor evaluated"
        )

    def seed_envs(self, seeds: Seeds) -> None:
        """Refuse: seeds are of episodes."""
        self._refuse()

    def frame(self, index: int = 0) -> np.ndarray:
        """Refuse: there is nothing to see."""
        self._refuse()

    def _advance(self, action: Array) -> Outcome:
        self._refuse()

    def _restart(self, mask: Array) -> Array:
        self._refuse()

    def _own_state(self) -> dict[str, Tensor]:
        return {}

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        pass

    def _set_seed(self, seed: Seeds) -> None:
        pass
