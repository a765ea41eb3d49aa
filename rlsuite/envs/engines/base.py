"""The protocol of physics engines behind `MujocoEnv`; engines know nothing of tasks."""

from collections.abc import Mapping
from typing import Protocol

import mujoco
import torch
from torch import Tensor

from rlsuite.envs.arrays import Array


class Engine(Protocol):
    """B independent envs of one model; everything in and out is a tensor on the engine's own device.

    Legend: B envs, Q positions, V velocities, A actuators.

    Attributes:
        model: the model, after all corrections the engine made to it.
        device: of all tensors.
        qpos0: positions at rest `[Q]`, in the engine's precision.
        qvel0: velocities at rest `[V]`.
    """

    model: mujoco.MjModel
    device: torch.device
    qpos0: Tensor
    qvel0: Tensor

    def set_state(
        self,
        mask: Tensor,
        qpos: Tensor,
        qvel: Tensor,
        act: Tensor | None = None,
        warmstart: Tensor | None = None,
    ) -> None:
        """Start the envs of `mask` (`[B]` bool) anew; rows of other envs are not read.

        Args:
            mask: which envs.
            qpos: positions `[B, Q]`.
            qvel: velocities `[B, V]`.
            act: activations of actuators with dynamics `[B, na]`; None is zero.
            warmstart: accelerations that the constraint solver starts from `[B, V]`; None is zero. Engines
                that do not promise MuJoCo's last bits may ignore it.
        """

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Advance all envs by `substeps` physics steps under controls `[B, A]` in actuator units."""

    def read(self) -> Mapping[str, Tensor]:
        """Return the fields by name, `[B, ...]`: live views that the next step overwrites."""

    def sane(self) -> Array | None:
        """Return which envs' states are finite and not absurd, `[B]` bool; None says that all are."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the future depends on."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned; DataError where it does not fit."""

    def close(self) -> None:
        """Free threads and device memory."""
