"""Many simulations of one model in one call: MuJoCo's `mjbatch.h`, through ctypes.

`mujoco.batch.Batch` wraps the same functions, but cannot run `mj_rnePostConstraint` on every simulation,
which contact forces need (Ant, Humanoid). Python's lock is released for the whole of a call.

Legend: B simulations.
"""

import ctypes
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from rlsuite.errors import ConfigError, EnvironmentFailure

LIBRARIES = ("libmujoco.so*", "libmujoco*.dylib", "mujoco.dll")  # Linux, macOS, Windows
ERROR_SIZE = 1024  # bytes of a message
STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # what a row holds: with less a resumed run is not bit-exact
COMPONENTS = {
    "time": mujoco.mjtState.mjSTATE_TIME,
    "qpos": mujoco.mjtState.mjSTATE_QPOS,
    "qvel": mujoco.mjtState.mjSTATE_QVEL,
    "act": mujoco.mjtState.mjSTATE_ACT,
    "qacc_warmstart": mujoco.mjtState.mjSTATE_WARMSTART,
    "ctrl": mujoco.mjtState.mjSTATE_CTRL,
}
"""Fields of mjData that are parts of a state row."""

STAGE_NONE, STAGE_VEL, STAGE_ACC = (
    int(stage)
    for stage in (mujoco.mjtStage.mjSTAGE_NONE, mujoco.mjtStage.mjSTAGE_VEL, mujoco.mjtStage.mjSTAGE_ACC)
)
"""What is computed at a state that was reached: nothing, positions and velocities, accelerations, too."""


class _Config(ctypes.Structure):
    _fields_ = (("nthread", ctypes.c_int), ("persistent", ctypes.c_bool))


@cache
def _library() -> Any:
    """Return MuJoCo's C library, which importing `mujoco` has loaded, with the types of what is called."""
    folder = Path(mujoco.__file__).parent
    path = next((path for pattern in LIBRARIES for path in sorted(folder.glob(pattern))), None)
    if path is None or np.float64 != mujoco.MJTNUM_DTYPE:
        raise ConfigError(f"MuJoCo in {folder} is no double-precision build with its C library: reinstall it")
    library = ctypes.CDLL(str(path))
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    sizes = ctypes.POINTER(ctypes.c_int)
    for name, result, arguments in (
        ("mjb_makeBatch", pointer, (pointer, number, ctypes.POINTER(_Config), text, number)),
        ("mjb_deleteBatch", None, (pointer,)),
        ("mjb_nstate", number, (pointer,)),
        ("mjb_state", pointer, (pointer,)),
        ("mjb_step", number, (pointer, pointer, number, number, number)),
        ("mjb_forward", number, (pointer, pointer, number, number)),
        ("mjb_reset", number, (pointer, pointer, number, pointer, number)),
        ("mjb_apply", number, (pointer, pointer, number, pointer, pointer, number)),
        ("mjb_output", pointer, (pointer, text, sizes, sizes)),
        ("mjb_setModels", None, (pointer, pointer)),
        ("mjb_expand", pointer, (pointer, text, sizes, sizes)),
        ("mjb_setConst", number, (pointer, pointer, number)),
        ("mjb_getData", None, (pointer, number, pointer)),
        ("mjb_status", ctypes.POINTER(ctypes.c_int), (pointer,)),
        ("mjb_error", text, (pointer, number)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Simulations:
    """B simulations of a copy of `model`, stepped by `threads` threads, the caller's included.

    Arrays that are handed out are the simulations' own memory, which lives as long as one of them does.

    Args:
        model: copied.
        count: B.
        threads: at most so many.
        persistent: each simulation has an mjData of its own (else each thread): needed where a field is read
            that not every call computes.

    Attributes:
        state: `[B, S]`, one mjSTATE_INTEGRATION row per simulation; to write to it is to change the state.

    Raises:
        ConfigError: MuJoCo refuses the model.
    """

    def __init__(self, model: mujoco.MjModel, count: int, *, threads: int, persistent: bool) -> None:
        self._library = _library()
        self._model, self._count = model, count
        message = ctypes.create_string_buffer(ERROR_SIZE)
        settings = _Config(threads, persistent)
        self._batch = self._library.mjb_makeBatch(
            model._address, count, ctypes.byref(settings), message, ERROR_SIZE
        )
        if not self._batch:
            raise ConfigError(f"MuJoCo cannot simulate this model: {message.value.decode(errors='replace')}")
        self._step = self._library.mjb_step
        self._owner = _Owner()
        weakref.finalize(self._owner, self._library.mjb_deleteBatch, self._batch)
        self._post_constraint = ctypes.cast(self._library.mj_rnePostConstraint, ctypes.c_void_p)
        self.state = self._array(
            self._library.mjb_state(self._batch), (self._library.mjb_nstate(self._batch),), np.float64
        )

    def field(self, name: str) -> np.ndarray:
        """Return a field of mjData, `[B, ...]`: a view of the state rows, or what every call writes anew.

        Raises:
            ConfigError: there is no such array, or its size changes from step to step.
        """
        template = getattr(mujoco.MjData(self._model), name, None)
        if not isinstance(template, np.ndarray):
            raise ConfigError(
                f'mjData has no array "{name}": a task\'s fields are such as qpos, xpos, sensordata'
            )
        if name in COMPONENTS:
            return self.state[:, self.columns(name)].reshape(self._count, *template.shape)
        if not template.size:
            return np.zeros((self._count, *template.shape), template.dtype)
        place = self._library.mjb_output(self._batch, name.encode(), None, None)
        if not place:
            raise ConfigError(f'mjData\'s array "{name}" has another size in every step: no task can read it')
        return self._array(place, template.shape, template.dtype)

    def expand(self, name: str) -> np.ndarray:
        """Give every simulation its own values of a field of mjModel, `[B, ...]`: a view, to be written to.

        Raises:
            ConfigError: there is no such array.
        """
        template = getattr(self._model, name, None)
        place = self._library.mjb_expand(self._batch, name.encode(), None, None)
        if not isinstance(template, np.ndarray) or not place:
            raise ConfigError(f'mjModel has no array "{name}" that envs could have of their own')
        return self._array(place, template.shape, template.dtype)

    def set_constants(self, chosen: np.ndarray | None = None) -> None:
        """Compute what follows from the model's own values (`mj_setConst`) in the chosen simulations."""
        if failed := self._library.mjb_setConst(self._batch, *self._chosen(chosen)):
            self._refuse(failed)

    def columns(self, name: str) -> slice:
        """Return which columns of the state rows are a field of `COMPONENTS`."""
        before = sum(int(part) for part in mujoco.mjtState.__members__.values() if _precedes(part, name))
        start = mujoco.mj_stateSize(self._model, before)
        return slice(start, start + mujoco.mj_stateSize(self._model, int(COMPONENTS[name])))

    def step(self, substeps: int, stage: int = STAGE_NONE) -> None:
        """Advance all by `substeps` physics steps, then compute the stages up to `stage` at the new state."""
        if failed := self._step(self._batch, None, self._count, substeps, stage):
            self._refuse(failed)

    def forward(self, chosen: np.ndarray | None = None, stage: int = STAGE_ACC) -> None:
        """Compute the stages up to `stage` in the chosen simulations (int32, None: all)."""
        if failed := self._library.mjb_forward(self._batch, *self._chosen(chosen), stage):
            self._refuse(failed)

    def reset(self, chosen: np.ndarray | None = None) -> None:
        """Put the chosen simulations (int32, None: all) back to the model's defaults, nothing computed."""
        if failed := self._library.mjb_reset(self._batch, *self._chosen(chosen), None, STAGE_NONE):
            self._refuse(failed)

    def post_constraint(self) -> None:
        """Compute contact and body forces (`mj_rnePostConstraint`) of the last step."""
        # The function takes (model, data); the two more that it is called with are left in their registers.
        function = self._post_constraint
        if failed := self._library.mjb_apply(self._batch, None, self._count, function, None, 0):
            self._refuse(failed)
        self.forward(stage=STAGE_NONE)  # computes nothing, and copies the fields out

    def run_on(self, model: mujoco.MjModel | None) -> None:
        """Let all simulations run on another model of the same sizes; None: their own again."""
        if model is None:
            self._library.mjb_setModels(self._batch, None)
        else:
            addresses = (ctypes.c_void_p * self._count)(*[model._address] * self._count)
            self._library.mjb_setModels(self._batch, ctypes.cast(addresses, ctypes.c_void_p))
        self._other = model  # must live as long as it is run on

    def data(self, index: int) -> mujoco.MjData:
        """Return a copy of one simulation's mjData; derived fields only where it has one of its own."""
        data = mujoco.MjData(self._model)
        self._library.mjb_getData(self._batch, index, data._address)
        return data

    def _chosen(self, chosen: np.ndarray | None) -> Sequence[int | None]:
        return (None, self._count) if chosen is None else (chosen.ctypes.data, len(chosen))

    def _array(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return memory of the batch as `[B, *shape]`, which keeps the batch alive."""
        whole = (self._count, *shape)
        memory = (ctypes.c_char * (int(np.prod(whole)) * np.dtype(dtype).itemsize)).from_address(address)
        memory._owner = self._owner
        return np.frombuffer(memory, dtype).reshape(whole)

    def _refuse(self, failed: int) -> None:
        """Raise EnvironmentFailure for a call that MuJoCo gave up in some simulations."""
        status = self._library.mjb_status(self._batch)
        first = next(index for index in range(self._count) if status[index])
        message = self._library.mjb_error(self._batch, first).decode(errors="replace")
        raise EnvironmentFailure(
            f"MuJoCo failed in {failed} env(s), the first of them env {first}: {message}"
        )


class _Owner:
    """Lives as long as something refers to the memory of a batch."""


def _precedes(part: mujoco.mjtState, name: str) -> bool:
    """Return whether a single component of the integration state stands before the one of `name` in a row."""
    value, limit = int(part), int(COMPONENTS[name])
    return value.bit_count() == 1 and bool(value & int(STATE)) and value < limit
