"""Initial states of episodes, drawn env by env on the host, or all at once on a device.

Legend: B envs, Q positions, V velocities.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.arrays import Array
from rlsuite.envs.base import take
from rlsuite.envs.seeding import WORDS, Seeds, make_generators, pack_generators, unpack_generators
from rlsuite.envs.tasks.base import InitialStates, Start, pick_starts, stack_starts
from rlsuite.errors import DataError


class Starts(ABC):
    """Draws initial states of B envs around the rest pose; its state is saved with the environment."""

    @abstractmethod
    def seed(self, seed: Seeds) -> None:
        """Begin the random stream, or one stream an env, anew."""

    @abstractmethod
    def draw(self, mask: Array) -> Start[Array]:
        """Return B rows, of which those of `mask` `[B]` bool are new initial states."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the random streams."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned; raise DataError where it does not fit."""


class HostStarts(Starts):
    """Env i draws for itself from the generator of `gymnasium.make(id).reset(seed=seed + i)`, in float64."""

    def __init__(self, initial: InitialStates, num_envs: int, qpos0: Tensor, qvel0: Tensor) -> None:
        self._initial = initial
        self._rest = qpos0.numpy(), qvel0.numpy()
        self._num_envs = num_envs
        self.seed(0)

    def seed(self, seed: Seeds) -> None:
        """Give every env a generator of its own."""
        self.generators = make_generators(seed, self._num_envs)

    def draw(self, mask: np.ndarray) -> Start[np.ndarray]:
        """Draw for the envs of `mask`; the others' generators do not move."""
        chosen = np.flatnonzero(mask)
        if not len(chosen):
            return Start(*(np.broadcast_to(rest, (self._num_envs, len(rest))) for rest in self._rest))
        drawn = stack_starts(self._initial.draw(self.generators[i], *self._rest) for i in chosen)
        # Every env needs a row; those that are not reset get one that nobody reads.
        return pick_starts(drawn, mask.cumsum() - 1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generators' states, int64 `[B, 6]`."""
        return {"generators": pack_generators(self.generators)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            DataError: other tensors, or of another number of envs.
        """
        self.generators = unpack_generators(take(state, "generators", (self._num_envs, WORDS)))


class DeviceStarts(Starts):
    """Initial states from one generator on the device, drawn for all envs at every call."""

    def __init__(self, initial: InitialStates, num_envs: int, qpos0: Tensor, qvel0: Tensor) -> None:
        self._initial = initial
        self._num_envs = num_envs
        self._rest = qpos0, qvel0
        self._generator = torch.Generator(qpos0.device)

    def seed(self, seed: Seeds) -> None:
        """Begin the stream anew; of several seeds, their hash counts."""
        if seed is None:
            self._generator.seed()
        elif isinstance(seed, Sequence):
            digest = hashlib.sha256(np.array(seed, np.int64).tobytes()).digest()
            self._generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        else:
            self._generator.manual_seed(seed)

    def draw(self, mask: Tensor) -> Start[Tensor]:
        """Draw for all envs."""
        return self._initial.sample(self._num_envs, *self._rest, self._generator)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generator's state, uint8; its layout is the kind of device's own."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            DataError: another tensor, or from another kind of device.
        """
        size = self._generator.get_state().shape
        try:
            self._generator.set_state(take(state, "generator", size))
        except (RuntimeError, TypeError) as error:
            raise DataError(
                f"environment state generator: unusable on {self._rest[0].device}: {error}"
            ) from error
