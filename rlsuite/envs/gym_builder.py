"""How one copy of a Gymnasium environment is built, in this process or in a worker; imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from rlsuite.envs.flatten import FlatObservation, MaskedObservation
from rlsuite.errors import ConfigError

LEGACY_MARGIN = 0.5  # of a contact's margin that counts once instead of twice (`rlsuite.envs.tasks.base`)


class Builder:
    """Builds copies of one environment, each showing vectors; goes to a worker whole.

    Args:
        spec: Gymnasium's record of the environment: a worker's registry may lack the id.
        arguments: of its constructor.
        keys: parts of a dictionary observation, in this order; None takes all.
        halved: contact margins are as before MuJoCo 3.5.

    Attributes:
        masked: actions of a mask that infos bring, to be shown behind the observation; 0 shows none.
    """

    def __init__(
        self, spec: Any, arguments: Mapping[str, Any], keys: Sequence[str] | None, *, halved: bool
    ) -> None:
        self.spec, self.arguments, self.keys, self.halved = spec, dict(arguments), keys, halved
        self.masked = 0

    def __call__(self) -> gymnasium.Env:
        """Build a copy."""
        return self.prepare(gymnasium.make(self.spec, **self.arguments))

    def prepare(self, env: gymnasium.Env) -> gymnasium.Env:
        """Wrap an environment as all copies are."""
        if self.halved:
            env.get_wrapper_attr("model").geom_margin *= LEGACY_MARGIN
        flat = flattened(env, self.keys)
        return MaskedObservation(flat, self.masked) if self.masked else flat


def flattened(env: gymnasium.Env, keys: Sequence[str] | None) -> gymnasium.Env:
    """Wrap an environment so that it shows vectors.

    Raises:
        ConfigError: `keys` for an observation that has no parts.
    """
    space = env.observation_space
    if isinstance(space, spaces.Dict):
        return FlatObservation(env, keys)
    if keys is not None:
        raise ConfigError(f"{env} shows {space}, which has no parts to choose from: {', '.join(keys)}")
    flat = isinstance(space, spaces.Box) and len(space.shape) == 1
    return env if flat else gymnasium.wrappers.FlattenObservation(env)
