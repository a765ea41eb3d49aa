"""MuJoCo Warp: B envs in one set of arrays on a GPU, float32; runs on a CPU, too, for tests.

What a step needs is recorded once as a graph and replayed; torch sees Warp's arrays without a copy. Nothing
here waits for the device, but for the first calls, `check` and `state_dict`.

Legend: B envs, Q positions, V velocities, A actuators.
"""

import dataclasses
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial

import mujoco
import mujoco_warp as mjw
import numpy as np
import torch
import warp as wp
from torch import Tensor

from rlsuite.envs.engines.native import MAX_STATE, POST_CONSTRAINT_FIELDS
from rlsuite.envs.engines.warp_kernels import align_capsules, copy_rows
from rlsuite.envs.engines.warp_options import WarpOptions, capacity_of, runnable, warp_device
from rlsuite.errors import ConfigError, DataError, EnvironmentFailure

logger = logging.getLogger(__name__)

wp.config.log_level = wp.LOG_ERROR  # that there is no GPU is said by `_find_device`, and only who wants one
wp.init()
wp.config.log_level = wp.LOG_WARNING  # else it prints a line for every kernel that it loads

# All that an env's next step depends on; forces applied from outside and equality switches stay as loaded.
STATE = ("qpos", "qvel", "act", "qacc_warmstart", "ctrl", "time", "mocap_pos", "mocap_quat")
GIVEN = ("qpos", "qvel", "act", "qacc_warmstart")  # of these, what a new episode brings
CHECK_EVERY = 256  # steps between looks at the overflow flags
NO_ROOM = {
    mjw.OverflowType.BROADPHASE: "nconmax",
    mjw.OverflowType.NARROWPHASE: "nconmax",
    mjw.OverflowType.CCD: "nconmax",
    mjw.OverflowType.NEFC: "njmax",
    mjw.OverflowType.NJMAX_NNZ: "njmax",
}


@cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, wp.Stream]:
    """Return the one stream of a CUDA device on which torch and Warp both work, under both their names.

    Warp makes it: Warp frees memory in the order of the default stream, and with that one Warp's streams
    keep step, while torch's do not.
    """
    stream = wp.Stream(wp.device_from_torch(device))
    return wp.stream_to_torch(stream), stream


@contextmanager
def shared_stream(device: torch.device) -> Iterator[None]:
    """Queue the GPU work of torch and Warp in one stream; on a CPU, do nothing.

    Warp cannot record torch's default stream, and work in two streams needs events to keep its order. Engine
    calls outside this context are correct and pay for those events; a training loop enters it once.
    """
    if device.type != "cuda":
        yield
        return
    ours, warps = _streams(device)
    outer = torch.cuda.current_stream(device)
    if outer == ours:
        yield
        return
    ours.wait_stream(outer)
    try:
        with torch.cuda.stream(ours), wp.ScopedStream(warps):
            yield
    finally:
        outer.wait_stream(ours)


class WarpEngine:
    """B independent copies of one model on a device.

    Differences from the C engine that cannot be avoided: float32, and Newton where a model asks for PGS.

    Args:
        model: the model; this object takes it over.
        num_envs: B.
        fields: names of mjData arrays that `read` hands out besides qpos and qvel.
        refresh: a step ends with the position and velocity stages, as dm_control's does; see `NativeEngine`.
        device: "cuda", "cuda:N" or "cpu".
        options: sizes and corrections; None for the defaults.

    Raises:
        ConfigError: no such device, or a model or field that MuJoCo Warp cannot run.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        fields: Iterable[str] = (),
        *,
        refresh: bool = False,
        device: torch.device | str = "cpu",
        options: WarpOptions | None = None,
    ) -> None:
        options = options or WarpOptions()
        self.device = warp_device(device)
        self.model = runnable(model, options)
        self.capacity = capacity_of(model, options, num_envs)
        self._graphs = options.graphs
        self._refresh = refresh
        self._place = _find_device(self.device)
        with self._here():
            self._model = _put_model(model, options)
            self._data = mjw.make_data(model, nworld=num_envs, **dataclasses.asdict(self.capacity))
            names = dict.fromkeys(("qpos", "qvel", *fields))
            self._expose(num_envs, list(names))
            self._overflow = wp.to_torch(self._data.overflow)
            self._noticed = torch.zeros_like(self._overflow, device="cpu", pin_memory=self._place.is_cuda)
        self._post_constraint = not POST_CONSTRAINT_FIELDS.isdisjoint(names)
        self._steps: dict[int, Callable[[], None]] = {}
        self._reset: Callable[[], None] | None = None
        self._step_calls = 0
        self._copied: torch.cuda.Event | None = None

    def _expose(self, num_envs: int, names: list[str]) -> None:
        """Make torch views of the state, own copies of derived fields, and room for what a reset brings."""
        data, shapes = self._data, mujoco.MjData(self.model)
        self._arrays = {name: getattr(data, name) for name in STATE if getattr(data, name).size}
        self._state = {name: wp.to_torch(array) for name, array in self._arrays.items()}
        self.qpos0, self.qvel0 = self._state["qpos"][0].clone(), self._state["qvel"][0].clone()
        self._mask = wp.zeros(num_envs, dtype=wp.bool)
        self._mask_view = wp.to_torch(self._mask)
        # What a reset writes into the state: rows that it is given, else the state at rest.
        self._starts = {name: wp.clone(array) for name, array in self._arrays.items()}
        self._given = {name: wp.to_torch(self._starts[name]) for name in GIVEN if name in self._starts}
        # A reset evaluates the forward pass of all envs; kept envs' fields must stay those of their step.
        self._derived = {name: _float_array(data, name) for name in names if name not in STATE}
        self._own = {name: wp.zeros_like(array) for name, array in self._derived.items()}
        self._after_reset = {
            # As in C, the forward pass leaves these at zero unless a sensor asks for them.
            name: wp.zeros_like(array)
            if name in POST_CONSTRAINT_FIELDS and not self._model.sensor_rne_postconstraint
            else array
            for name, array in self._derived.items()
        }
        self._fields = {name: self._state[name] for name in names if name in self._state}
        for name, array in self._own.items():
            shape = getattr(shapes, name).shape
            self._fields[name] = wp.to_torch(array).reshape(num_envs, *shape)

    def set_state(
        self,
        mask: Tensor,
        qpos: Tensor,
        qvel: Tensor,
        act: Tensor | None = None,
        warmstart: Tensor | None = None,
    ) -> None:
        """Start the envs of `mask` (`[B]` bool) anew from rows of the tensors; see `Engine`."""
        brought = {"qpos": qpos, "qvel": qvel, "act": act, "qacc_warmstart": warmstart}
        with shared_stream(self.device):
            self._mask_view.copy_(mask)
            for name, view in self._given.items():
                value = brought[name]
                view.zero_() if value is None else view.copy_(value)
            if self._reset is None:
                self._reset = self._record(self._restart)
            self._reset()

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Advance all envs by `substeps` physics steps under controls `[B, A]` in actuator units.

        Raises:
            EnvironmentFailure: a while ago contacts were dropped for want of room.
        """
        with shared_stream(self.device):
            self._state["ctrl"].copy_(ctrl)
            if substeps not in self._steps:
                self._steps[substeps] = self._record(partial(self._advance, substeps))
            self._steps[substeps]()
            self._watch()

    def read(self) -> dict[str, Tensor]:
        """Return the fields by name, `[B, ...]` float32: live views that the next step overwrites."""
        return self._fields

    def sane(self) -> Tensor:
        """Return which envs' states are finite and not absurd, `[B]` bool. No bound holds for nan."""
        qpos, qvel = self._state["qpos"], self._state["qvel"]
        return (qpos.abs() < MAX_STATE).all(-1) & (qvel.abs() < MAX_STATE).all(-1)

    def check(self) -> None:
        """Wait for the device and look whether all contacts had room since the engine was made.

        Raises:
            EnvironmentFailure: some were dropped: what has been simulated since is wrong.
        """
        self._refuse_overflow(self._overflow.cpu())

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the future depends on: integration state, and the fields as last read.

        Raises:
            EnvironmentFailure: the state is wrong for want of room; it must not be saved.
        """
        self.check()
        state = {f"physics.{name}": view.clone() for name, view in self._state.items()}
        return state | {name: wp.to_torch(array).clone() for name, array in self._own.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned: on a CPU, or with deterministic kernels, bit for bit.

        Raises:
            DataError: the state is of another engine, model or number of envs.
        """
        targets = {f"physics.{name}": view for name, view in self._state.items()}
        targets |= {name: wp.to_torch(array) for name, array in self._own.items()}
        for name, target in targets.items():
            if name not in state or state[name].shape != target.shape:
                came = list(state[name].shape) if name in state else "nothing"
                raise DataError(
                    f"environment state {name}: came {came}, engine warp needs {list(target.shape)}"
                )
        with shared_stream(self.device):
            for name, target in targets.items():
                target.copy_(state[name])

    def close(self) -> None:
        """Free the graphs once they have run; the arrays go with the object."""
        wp.synchronize_device(self._place)
        self._steps.clear()
        self._reset = None

    @contextmanager
    def _here(self) -> Iterator[None]:
        """Make Warp's calls without a device mean this one."""
        with shared_stream(self.device), wp.ScopedDevice(self._place):
            yield

    def _record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what does `work` again: a graph of its kernels. State and fields are left as they are."""
        if not self._graphs:

            def eager() -> None:
                with self._here():
                    work()

            return eager
        logger.info("recording MuJoCo Warp's kernels; compiling them takes minutes the first time")
        kept = [(view, view.clone()) for view in (*self._state.values(), *self._fields.values())]
        collecting = gc.isenabled()
        with self._here():
            work()  # compiles and loads the kernels, which a recording must not
            gc.disable()  # freeing device memory would end the recording
            try:
                with wp.ScopedCapture(device=self._place) as capture:
                    work()
            finally:
                if collecting:
                    gc.enable()
        for view, value in kept:
            view.copy_(value)
        return partial(wp.capture_launch, capture.graph)

    def _advance(self, substeps: int) -> None:
        """Do one env step: physics, stages that the fields ask for, own copies of the fields."""
        model, data = self._model, self._data
        for _ in range(substeps):
            mjw.step(model, data)
        if self._post_constraint:
            mjw.rne_postconstraint(model, data)
        if self._refresh:
            # Not mjw.step1, which would blank the sensors of the acceleration stage.
            mjw.fwd_position(model, data)
            mjw.sensor_pos(model, data)
            mjw.fwd_velocity(model, data)
            mjw.sensor_vel(model, data)
        for name, kept in self._own.items():
            wp.copy(kept, self._derived[name])

    def _restart(self) -> None:
        """Write new states into the envs of the mask, and what the forward pass says of them."""
        for name, array in self._arrays.items():
            self._copy_rows(self._starts[name], array)
        if any(self._after_reset[name] is array for name, array in self._derived.items()):
            self._forward()
        for name, kept in self._own.items():
            self._copy_rows(self._after_reset[name], kept)

    def _forward(self) -> None:
        """Evaluate all envs where they are, with actuators off where dm_control's reset has them off."""
        option = self._model.opt
        flags = option.disableflags
        if self._refresh:
            option.disableflags = flags | mjw.DisableBit.ACTUATION
        mjw.forward(self._model, self._data)
        option.disableflags = flags

    def _copy_rows(self, source: wp.array, target: wp.array) -> None:
        num_envs = self._mask.shape[0]
        rows = [_flat(array, num_envs) for array in (source, target)]
        wp.launch(copy_rows, dim=rows[1].shape, inputs=[self._mask, rows[0]], outputs=[rows[1]])

    def _watch(self) -> None:
        """Look at the overflow flags of a while ago, and every so often send for newer ones."""
        self._step_calls += 1
        if self._copied is not None and self._copied.query():
            self._copied = None
            self._refuse_overflow(self._noticed)
        if self._step_calls % CHECK_EVERY:
            return
        self._noticed.copy_(self._overflow, non_blocking=True)
        if self._place.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._refuse_overflow(self._noticed)

    def _refuse_overflow(self, flags: Tensor) -> None:
        masks = flags.numpy()
        raised = int(np.bitwise_or.reduce(masks))
        short = sorted({size for bit, size in NO_ROOM.items() if raised & bit})
        if short:
            count = int(((masks & sum(NO_ROOM)) != 0).sum())
            now = ", ".join(f"{name} = {getattr(self.capacity, name)}" for name in short)
            raise EnvironmentFailure(
                f"MuJoCo Warp dropped contacts in {count} of {len(masks)} envs for want of room ({now} "
                "each): results since are wrong. Make the environment with more, e.g. "
                f"warp=WarpOptions({short[0]}={2 * getattr(self.capacity, short[0])})"
            )


def bytes_per_env(model: mujoco.MjModel, options: WarpOptions | None = None) -> int:
    """Return the bytes that one more env takes in MuJoCo Warp's arrays, without what a step borrows.

    Computed on the CPU; the same on every device.
    """
    options = options or WarpOptions()
    sizes = dataclasses.asdict(capacity_of(runnable(model, options), options))
    with wp.ScopedDevice("cpu"):
        single, double = (_bytes(mjw.make_data(model, nworld=num_envs, **sizes)) for num_envs in (1, 2))
    return double - single


def _bytes(part: object) -> int:
    """Sum up the arrays of nested dataclasses."""
    if isinstance(part, wp.array):
        return int(part.capacity)
    if not dataclasses.is_dataclass(part):
        return 0
    return sum(_bytes(getattr(part, field.name)) for field in dataclasses.fields(part))


def _find_device(device: torch.device) -> wp.Device:
    """Return Warp's name for a device of torch's; Warp has its own demands on the driver."""
    hint = "update the NVIDIA driver, or use --engine native"
    if device.type == "cuda" and not wp.is_cuda_available():
        raise ConfigError(f"engine warp: Warp {wp.__version__} finds no CUDA driver that it can use; {hint}")
    if device.type == "cuda" and not wp.is_conditional_graph_supported():
        raise ConfigError(f"engine warp records loops, for which CUDA must be 12.4 or newer; {hint}")
    if device.type == "cuda" and not wp.is_mempool_supported(str(device)):
        raise ConfigError(f"engine warp records allocations, for which {device} lacks memory pools; {hint}")
    return wp.device_from_torch(device)


def _put_model(model: mujoco.MjModel, options: WarpOptions) -> mjw.Model:
    try:
        placed = mjw.put_model(model)
    except (NotImplementedError, ValueError) as error:
        raise ConfigError(f"MuJoCo Warp cannot run this model: {error}; use --engine native") from error
    placed.opt.warn_overflow = 0  # `check` says it, once and in words
    if options.deterministic:
        placed.opt.deterministic = mjw.DeterminismType.ALL
    kinds = set(model.geom_type.tolist())
    if options.align_capsules and {mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_CAPSULE} <= kinds:
        placed.callback.contactfilter = _align_capsules
    return placed


def _align_capsules(model: mjw.Model, data: mjw.Data) -> None:
    contact = data.contact
    wp.launch(
        align_capsules,
        dim=data.naconmax,
        inputs=[model.geom_type, data.geom_xmat, data.nacon, contact.geom, contact.worldid],
        outputs=[contact.frame],
    )


def _float_array(data: mjw.Data, name: str) -> wp.array:
    array = getattr(data, name, None)
    if not isinstance(array, wp.array) or wp.to_torch(array).dtype != torch.float32:
        raise ConfigError(f"engine warp has no field {name} of numbers; use --engine native")
    return array


def _flat(array: wp.array, num_envs: int) -> wp.array:
    """Return the memory of a contiguous array as float32 `[B, numbers]`."""
    size = array.capacity // (4 * num_envs)
    return wp.array(ptr=array.ptr, dtype=wp.float32, shape=(num_envs, size), device=array.device)
