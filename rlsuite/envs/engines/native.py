"""MuJoCo's C engine on the CPU, in float64: all envs in one call, on a few threads.

Every env sees exactly the calls that Gymnasium makes, hence bitwise the same numbers (`mujoco.rollout` does
not carry the solver's warm start). With `refresh` it sees the calls of dm_control's `Physics.step` instead,
to the same effect.

Legend: B envs, Q positions, V velocities, A actuators.
"""

import os
from collections.abc import Iterable, Mapping
from copy import copy

import mujoco
import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.arrays import magnitude
from rlsuite.envs.engines.simulations import STAGE_NONE, STAGE_VEL, Simulations
from rlsuite.errors import DataError, EnvironmentFailure

MAX_STATE = mujoco.mjMAXVAL  # MuJoCo's own bound for positions and velocities, any unit
MAX_SQUARES = MAX_STATE**2
POST_CONSTRAINT_FIELDS = frozenset({"cacc", "cfrc_int", "cfrc_ext"})  # need mj_rnePostConstraint
STATE_FIELDS = frozenset({"qpos", "qvel", "act"})  # are always there; others are what a call computed

Rows = np.ndarray | Tensor
"""An array of numpy, or a tensor on the CPU."""


def available_cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class NativeEngine:
    """B independent copies of one model.

    The model's automatic reset on bad numbers is switched off: an env that diverges must be seen as such
    instead of jumping to the rest pose inside an episode.

    Args:
        model: the model; this object takes it over.
        num_envs: B.
        fields: names of mjData arrays that can be read besides qpos and qvel; only arrays whose place in
            memory is fixed (not those of contacts and constraints).
        refresh: a step ends with the position and velocity stages, as dm_control's does: fields of those
            stages fit qpos and qvel, sensors of the acceleration stage are those of the last substep. A
            fresh state is evaluated with actuators switched off.
        threads: at most so many threads, the caller's included; 0 takes all cores.

    Attributes:
        arrays: the fields by name, `[B, ...]` float64: live views that the next step overwrites.
        ctrl: controls `[B, A]` in actuator units, live.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        fields: Iterable[str] = (),
        *,
        refresh: bool = False,
        threads: int = 0,
    ) -> None:
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        names = dict.fromkeys(("qpos", "qvel", *fields))
        self.model = model
        self._num_envs = num_envs
        self._refresh = refresh
        self._stage = STAGE_VEL if refresh else STAGE_NONE
        self._post_constraint = not POST_CONSTRAINT_FIELDS.isdisjoint(names)
        simulations = Simulations(
            model,
            num_envs,
            threads=min(threads or available_cores(), num_envs),
            persistent=refresh or not STATE_FIELDS.issuperset(names),
        )
        self._simulations: Simulations | None = simulations
        self.arrays = {name: simulations.field(name) for name in names}
        self.ctrl = simulations.field("ctrl")
        self._state = simulations.state
        self._flat_state = self._state.reshape(-1)  # a view
        self._given = {name: simulations.field(name) for name in ("qpos", "qvel", "act", "qacc_warmstart")}
        # Positions and velocities stand side by side in a row.
        first, last = simulations.columns("qpos"), simulations.columns("qvel")
        self._motion = self._state[:, first.start : last.stop]
        simulations.reset()
        if refresh:
            self._idle = copy(model)
            self._idle.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
        self.device = torch.device("cpu")
        self.qpos0 = torch.from_numpy(self.arrays["qpos"][0].copy())
        self.qvel0 = torch.from_numpy(self.arrays["qvel"][0].copy())

    def set_state(
        self,
        mask: Rows,
        qpos: Rows,
        qvel: Rows,
        act: Rows | None = None,
        warmstart: Rows | None = None,
    ) -> None:
        """Start the envs of `mask` (`[B]` bool) anew from rows of the arrays; see `Engine`."""
        chosen = np.flatnonzero(mask).astype(np.int32)
        if not len(chosen):
            return
        simulations = self._open()
        simulations.reset(chosen)
        given = {"qpos": qpos, "qvel": qvel, "act": act, "qacc_warmstart": warmstart}
        for name, rows in given.items():
            if rows is not None:
                self._given[name][chosen] = np.asarray(rows)[chosen]
        if self._refresh:
            simulations.run_on(self._idle)
        simulations.forward(chosen)
        if self._refresh:
            simulations.run_on(None)

    def vary(self, name: str) -> np.ndarray:
        """Give every env its own values of a field of mjModel, `[B, ...]`: live, to be written to."""
        return self._open().expand(name)

    def set_constants(self, chosen: np.ndarray) -> None:
        """Compute what follows from masses and inertias in the chosen envs (int32)."""
        self._open().set_constants(chosen)

    def follow_model(self) -> None:
        """Let all envs run on `model` as it is now: they run on a copy of what it was at first."""
        self._open().run_on(self.model)

    def step(self, ctrl: Rows, substeps: int) -> None:
        """Advance all envs by `substeps` physics steps under controls `[B, A]` in actuator units.

        Raises:
            EnvironmentFailure: MuJoCo gave up (out of memory, broken model), or the engine is closed.
        """
        self.ctrl[...] = ctrl
        simulations = self._simulations or self._open()
        if not self._post_constraint:
            simulations.step(substeps, self._stage)
            return
        simulations.step(substeps)
        simulations.post_constraint()
        if self._refresh:
            simulations.forward(stage=STAGE_VEL)

    def read(self) -> dict[str, Tensor]:
        """Return the fields by name as tensors, `[B, ...]` float64: views that the next step overwrites."""
        return {name: torch.from_numpy(array) for name, array in self.arrays.items()}

    def sane(self) -> np.ndarray | None:
        """Return which envs' states are finite and not absurd, `[B]` bool, or None when all are.

        No bound holds for nan.
        """
        if magnitude(self._flat_state) < MAX_SQUARES:  # settles the usual case
            return None
        return (np.abs(self._motion) < MAX_STATE).all(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the future depends on: integration state, and the fields as last read."""
        fields = {name: torch.from_numpy(array.copy()) for name, array in self.arrays.items()}
        return {"physics": torch.from_numpy(self._state.copy())} | fields

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned, bit for bit.

        Raises:
            DataError: the state is of another model or another number of envs.
        """
        targets = {"physics": self._state} | self.arrays
        for name, target in targets.items():
            if name not in state or tuple(state[name].shape) != target.shape:
                came = list(state[name].shape) if name in state else "nothing"
                raise DataError(
                    f"environment state {name}: came {came}, the model needs {list(target.shape)}"
                )
        for name, target in targets.items():
            target[...] = state[name].cpu().double().numpy()

    def data(self, index: int) -> mujoco.MjData:
        """Return a copy of one env's mjData, for a look at it."""
        return self._open().data(index)

    def close(self) -> None:
        """Stop the threads; what can be read stays as it was."""
        self._simulations = None
        self._state = self._state.copy()
        self._flat_state = self._state.reshape(-1)
        self.arrays = {name: array.copy() for name, array in self.arrays.items()}
        self.ctrl, self._motion, self._given = self.ctrl.copy(), self._motion.copy(), {}

    def _open(self) -> Simulations:
        if self._simulations is None:
            raise EnvironmentFailure("the engine is closed: make the environment anew")
        return self._simulations
