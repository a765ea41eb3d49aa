"""The base class of plug-ins, as a training loop calls it; the loop knows none by name.

A file in this folder with one public subclass of `Plugin` is a plug-in: `--plugins NAME` builds it from its
`Config` (`--NAME.FIELD`), one for each run, whatever the number of seeds.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from rlsuite.blocks.noise import Source


class Plugin:
    """Base of all plug-ins: does nothing.

    Everything that changes while training is in `state_dict`, a part of every checkpoint.

    Args:
        config: an instance of the subclass's `Config`.
        agent: the agent of the run (`rlsuite.agents.base.Agent`), of one seed or several.
        source: the run's random stream "plugin": one generator, or one per seed.
    """

    Config: ClassVar[type]
    eager: ClassVar[bool] = False
    """Looks into every update: none may be compiled or replayed as a CUDA graph. See `watches`."""

    def __init__(self, config: Any, agent: Any, source: Source) -> None:
        self.config, self.agent, self.source = config, agent, source

    def begin(self, num_envs: int, max_episode_steps: int | None, env_steps: int) -> None:
        """Learn of the envs before the first env step; offline phases have none.

        Args:
            num_envs: envs, all seeds together, in equal groups.
            max_episode_steps: time limit, None without one.
            env_steps: length of the run for each seed.
        """

    @property
    def stops(self) -> bool:
        """Return whether `stop_mask` is to be asked; a plug-in that defines one is."""
        return type(self).stop_mask is not Plugin.stop_mask

    def watches(self, update: int) -> bool:
        """Say whether the plug-in looks into an update: hooks fire and `.grad` is left there.

        Asked before every update, also several ahead; answers without changing anything. An update that no
        plug-in watches may run compiled or captured: no hook fires, and `.grad` stays None.

        Args:
            update: the number it will have: 1 for the first, one more than calls of `after_update` so far.
        """
        return self.eager

    def after_update(self, agent: Any) -> dict[str, Tensor]:
        """See the agent after one gradient update, watched or not; return metrics, `[]` or one per seed."""
        return {}

    def stop_mask(self, step: Any) -> Tensor | None:
        """Say which envs' episodes end here, `[num_envs]`: truncated, not terminated; None: none.

        Args:
            step: the env step as TorchRL's TensorDict, `[num_envs]`, before it is stored.
        """
        return None

    def numbers(self) -> list[dict[str, float]]:
        """Return what to log beside the metrics of updates, for every seed; empty: nothing."""
        return []

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that changes while training."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
