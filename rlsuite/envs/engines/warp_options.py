"""Options of the engine `warp`, and what must be known before it is imported."""

import importlib.util
from dataclasses import dataclass

import mujoco
import numpy as np
import torch

from rlsuite.errors import ConfigError

MISSING = ("warp", "mujoco_warp")
CUDA_HINT = "use --engine native, or --engine warp --device cpu to try it slowly without a GPU"

PROBE_EPISODES = 8  # from rest, under random full controls: every robot here falls and flails
PROBE_CONTROLS = 40  # per episode
PROBE_HOLD = 10  # physics steps that a control is held: quick changes would cancel out
# Times the largest number seen (our choice). Kernels run over all this room, used or not: three times as much
# as needed is three times as slow. The flags of overflow stand guard.
CONTACT_SLACK, ROW_SLACK = 2, 2
# Contacts of all envs share one room, so that an env may take from its neighbours: with so many envs it is
# twice the mean of what one has, and this many more each.
SHARING_ENVS, MORE_CONTACTS = 64, 16
GRANULE = 8  # sizes are rounded up to multiples of this
FEWEST_CONTACTS, FEWEST_ROWS = 24, 48


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpOptions:
    """Settings of the engine `warp`.

    Attributes:
        nconmax: room for contacts per env, shared by all envs; pairs that the broad phase suspects need
            it, too. None measures it (`measured_capacity`).
        njmax: room for constraint rows per env, not shared. None measures it.
        newton_for_pgs: models that ask for the solver PGS, which MuJoCo Warp lacks, get Newton.
        align_capsules: friction directions of capsules on planes follow the capsule, as in MuJoCo's C engine.
        graphs: record the kernels of a step once and replay them; off is for comparisons in tests.
        deterministic: MuJoCo Warp's deterministic kernels; without them a GPU's sums differ from run to run.
    """

    nconmax: int | None = None
    njmax: int | None = None
    newton_for_pgs: bool = True
    align_capsules: bool = True
    graphs: bool = True
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("nconmax", "njmax"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"warp {name} = {value}: must be at least 1, or None to measure it")


def warp_device(device: torch.device | str) -> torch.device:
    """Return the device, its index filled in, on which the engine `warp` will run.

    Raises:
        ConfigError: a package is missing, or there is no such device here.
    """
    for package in MISSING:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"engine warp needs {package}, which is not installed: pip install 'rlsuite[warp]', or use "
                "--engine native"
            )
    place = torch.device(device)
    if place.type == "cpu":
        return place
    if place.type != "cuda":
        raise ConfigError(f'engine warp runs on "cuda" and "cpu", not on "{place}"; {CUDA_HINT}')
    if not torch.cuda.is_available():
        raise ConfigError(f'engine warp on "{place}": torch sees no CUDA device here; {CUDA_HINT}')
    index = torch.cuda.current_device() if place.index is None else place.index
    count = torch.cuda.device_count()
    if index >= count:
        raise ConfigError(f'engine warp on "{place}": there are {count} CUDA devices here, counted from 0')
    return torch.device("cuda", index)


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room per env for contacts and constraint rows."""

    nconmax: int
    njmax: int


def measured_capacity(model: mujoco.MjModel, num_envs: int = 1) -> Capacity:
    """Return a multiple of what MuJoCo's C engine needs while the robot flails.

    Many envs share their room for contacts, and need twice the mean of it; few may all need the most at once.
    Contacts are counted with the pairs of geoms whose bounding spheres touch: the broad phase of MuJoCo
    Warp puts those into the same memory before it knows which of them are contacts.
    """
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    low, high = model.actuator_ctrlrange.T
    limited = model.actuator_ctrllimited.astype(bool)
    low, high = np.where(limited, low, -1.0), np.where(limited, high, 1.0)
    first, second = _pairs(model)
    plane = model.geom_type[first] == mujoco.mjtGeom.mjGEOM_PLANE
    reach = np.where(plane, 0, model.geom_rbound[first]) + model.geom_rbound[second]
    reach += model.geom_margin[first] + model.geom_margin[second]
    contacts, rows = [], 0
    for _ in range(PROBE_EPISODES):
        mujoco.mj_resetData(model, data)
        for _ in range(PROBE_CONTROLS):
            data.ctrl[:] = np.where(rng.random(model.nu) < 0.5, low, high)
            mujoco.mj_step(model, data, PROBE_HOLD)
            apart = data.geom_xpos[second] - data.geom_xpos[first]
            height = np.einsum("ij,ij->i", apart, data.geom_xmat[first][:, [2, 5, 8]])
            distance = np.where(plane, height, np.linalg.norm(apart, axis=-1))
            contacts.append(max(int((distance < reach).sum()), data.ncon))
            rows = max(rows, data.nefc)
    nconmax, njmax = CONTACT_SLACK * max(contacts), ROW_SLACK * rows
    if num_envs >= SHARING_ENVS:
        nconmax = min(nconmax, round(CONTACT_SLACK * float(np.mean(contacts))) + MORE_CONTACTS)
    return Capacity(
        nconmax=max(FEWEST_CONTACTS, -(-nconmax // GRANULE) * GRANULE),
        njmax=max(FEWEST_ROWS, -(-njmax // GRANULE) * GRANULE),
    )


def _pairs(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Return the two geoms of every pair that may touch, the plane first."""
    first, second = np.triu_indices(model.ngeom, k=1)
    kinds = model.geom_type[first], model.geom_type[second]
    swap = kinds[1] < kinds[0]
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    mask = (model.geom_contype[first] & model.geom_conaffinity[second]) | (
        model.geom_contype[second] & model.geom_conaffinity[first]
    )
    fixed = model.body_weldid[model.geom_bodyid[first]] == model.body_weldid[model.geom_bodyid[second]]
    keep = (mask != 0) & ~fixed
    return first[keep], second[keep]


def runnable(model: mujoco.MjModel, options: WarpOptions) -> mujoco.MjModel:
    """Return the model, which is changed, with a solver that MuJoCo Warp has.

    Raises:
        ConfigError: it asks for something that this engine cannot run or could not save.
    """
    hint = "use --engine native"
    if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
        if not options.newton_for_pgs:
            raise ConfigError(
                "the model asks for the solver PGS, which MuJoCo Warp does not have: leave "
                f"WarpOptions(newton_for_pgs=True), or {hint}"
            )
        model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    unsaved = {
        "sleeping": model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP,
        "delayed controls or sensors": model.nhistory,
        "flexible bodies": model.nflex,
    }
    for name, present in unsaved.items():
        if present:
            raise ConfigError(f"engine warp does not run models with {name}; {hint}")
    return model


def capacity_of(model: mujoco.MjModel, options: WarpOptions, num_envs: int = 1) -> Capacity:
    """Return the sizes that the options name, and measure those that they leave open for so many envs."""
    if options.nconmax is not None and options.njmax is not None:
        return Capacity(options.nconmax, options.njmax)
    measured = measured_capacity(model, num_envs)
    return Capacity(options.nconmax or measured.nconmax, options.njmax or measured.njmax)
