"""MuJoCo's C engine on the CPU: one mjData per world, stepped by a few threads, in float64.

`mj_step` releases Python's global lock, so threads suffice; each world sees exactly the calls that
Gymnasium makes, hence bitwise the same numbers (`mujoco.rollout` does not carry the solver's warm start).
With `refresh` it sees the calls of dm_control's `Physics.step` instead, to the same effect.

Legend: B worlds, Q positions, V velocities, A actuators.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
import torch
from torch import Tensor

from rlsuite.errors import DataError, EnvironmentFailure

STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # with less than this a resumed run is not bit-exact
MAX_STATE = mujoco.mjMAXVAL  # MuJoCo's own bound for positions and velocities, any unit
POST_CONSTRAINT_FIELDS = frozenset({"cacc", "cfrc_int", "cfrc_ext"})  # need mj_rnePostConstraint


def available_cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class NativeEngine:
    """B independent copies of one model.

    The model's automatic reset on bad numbers is switched off: a world that diverges must be seen as
    such by the environment instead of jumping to the rest pose inside an episode.

    Args:
        model: the model; this object takes it over.
        worlds: B.
        fields: names of mjData arrays that `read` hands out besides qpos and qvel; only arrays whose
            place in memory is fixed (not those of contacts and constraints).
        refresh: a step ends with the position and velocity stages, as dm_control's does: fields of those
            stages fit qpos and qvel, sensors of the acceleration stage are those of the last substep. A
            fresh state is evaluated with actuators switched off.
        threads: at most so many threads, the caller's included; 0 takes all cores.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        worlds: int,
        fields: Iterable[str] = (),
        *,
        refresh: bool = False,
        threads: int = 0,
    ) -> None:
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self.model = model
        self._data = [mujoco.MjData(model) for _ in range(worlds)]
        names = dict.fromkeys(("qpos", "qvel", *fields))
        self._views = {name: [getattr(data, name) for data in self._data] for name in names}
        self._ctrl = [data.ctrl for data in self._data]
        self._buffers = {name: np.zeros((worlds, *views[0].shape)) for name, views in self._views.items()}
        # np.concatenate joins the worlds' arrays along their first axis, in one call for all worlds.
        self._flat = {name: buffer.reshape(-1, *buffer.shape[2:]) for name, buffer in self._buffers.items()}
        self._fields = {name: torch.from_numpy(buffer) for name, buffer in self._buffers.items()}
        self._refresh = refresh
        # What an Euler step needs of its position and velocity stages is there already after a refresh.
        self._second_half_first = refresh and model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4
        self._post_constraint = not POST_CONSTRAINT_FIELDS.isdisjoint(names)
        self._helpers = min(threads or available_cores(), worlds) - 1
        self._pool = ThreadPoolExecutor(self._helpers, "mujoco") if self._helpers > 0 else None
        self.device = torch.device("cpu")
        self.qpos0 = torch.from_numpy(self._data[0].qpos.copy())
        self.qvel0 = torch.from_numpy(self._data[0].qvel.copy())
        self._gather()

    def set_state(
        self,
        mask: Tensor,
        qpos: Tensor,
        qvel: Tensor,
        act: Tensor | None = None,
        warmstart: Tensor | None = None,
    ) -> None:
        """Start the worlds of `mask` (`[B]` bool) anew from rows of the tensors; see `Engine`."""
        given = {"qpos": qpos, "qvel": qvel, "act": act, "qacc_warmstart": warmstart}
        rows = {name: value.numpy() for name, value in given.items() if value is not None}
        flags = self.model.opt.disableflags
        if self._refresh:
            self.model.opt.disableflags = flags | int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
        for world in mask.nonzero().flatten().tolist():
            data = self._data[world]
            mujoco.mj_resetData(self.model, data)
            for name, values in rows.items():
                getattr(data, name)[:] = values[world]
            mujoco.mj_forward(self.model, data)
            for name, views in self._views.items():
                self._buffers[name][world] = views[world]
        self.model.opt.disableflags = flags

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Advance all worlds by `substeps` physics steps under controls `[B, A]` in actuator units.

        Raises:
            EnvironmentFailure: MuJoCo gave up (out of memory, broken model).
        """
        rows = ctrl.numpy()
        # All threads draw world numbers from one iterator, so a slow world or a busy core delays nobody.
        queue = iter(range(len(self._data)))
        try:
            if self._pool is None:
                self._work(queue, rows, substeps)
            else:
                helpers = [self._pool.submit(self._work, queue, rows, substeps) for _ in range(self._helpers)]
                self._work(queue, rows, substeps)
                for helper in helpers:
                    helper.result()
        except mujoco.FatalError as error:
            raise EnvironmentFailure(f"MuJoCo failed: {error}") from error
        self._gather()

    def read(self) -> dict[str, Tensor]:
        """Return the fields by name, `[B, ...]` float64: live views that the next step overwrites."""
        return self._fields

    def sane(self) -> Tensor | None:
        """Return which worlds' states are finite and not absurd, `[B]` bool, or None when all are.

        No bound holds for nan.
        """
        qpos, qvel = np.abs(self._buffers["qpos"]), np.abs(self._buffers["qvel"])
        # Two reductions over everything settle the usual case.
        if qpos.max() < MAX_STATE and qvel.max() < MAX_STATE:
            return None
        return torch.from_numpy((qpos < MAX_STATE).all(-1) & (qvel < MAX_STATE).all(-1))

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the future depends on: integration state, and the fields as last read."""
        size = mujoco.mj_stateSize(self.model, STATE)
        state = np.empty((len(self._data), size))
        for data, row in zip(self._data, state, strict=True):
            mujoco.mj_getState(self.model, data, row, STATE)
        return {"physics": torch.from_numpy(state)} | {
            name: field.clone() for name, field in self._fields.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned, bit for bit.

        Raises:
            DataError: the state is of another model or another number of worlds.
        """
        shape = (len(self._data), mujoco.mj_stateSize(self.model, STATE))
        expected = {"physics": shape} | {name: tuple(field.shape) for name, field in self._fields.items()}
        for name, wanted in expected.items():
            if name not in state or tuple(state[name].shape) != wanted:
                came = list(state[name].shape) if name in state else "nothing"
                raise DataError(f"environment state {name}: came {came}, the model needs {list(wanted)}")
        for data, row in zip(self._data, state["physics"].cpu().double().numpy(), strict=True):
            mujoco.mj_setState(self.model, data, row, STATE)
            if self._refresh:
                mujoco.mj_step1(self.model, data)  # the next step begins with the second half
        for name, field in self._fields.items():
            field.copy_(state[name])

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            self._helpers = 0

    def _work(self, queue: Iterator[int], ctrl: np.ndarray, substeps: int) -> None:
        model, worlds, views, step = self.model, self._data, self._ctrl, mujoco.mj_step
        whole = substeps - self._second_half_first
        for world in queue:
            data = worlds[world]
            views[world][:] = ctrl[world]
            if self._second_half_first:
                mujoco.mj_step2(model, data)
            if whole:
                step(model, data, whole)
            if self._post_constraint:
                mujoco.mj_rnePostConstraint(model, data)
            if self._refresh:
                mujoco.mj_step1(model, data)

    def _gather(self) -> None:
        for name, views in self._views.items():
            np.concatenate(views, out=self._flat[name])
