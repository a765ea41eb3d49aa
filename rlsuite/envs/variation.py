"""Domain randomisation: every episode of every env draws masses, friction, damping and gains of its own.

`vary_mass = [0.8, 1.2]` multiplies what the model says by a factor that is drawn uniformly when an episode
begins. Each body has its own, and so have each joint's damping and each actuator's gain; friction has
one for all. The factors are a field of the task, `variation` `[B, K]`, and are shown to critics.

Legend: B envs, K factors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.base import take
from rlsuite.envs.engines.native import NativeEngine
from rlsuite.envs.seeding import WORDS, Seeds, pack_generators, unpack_generators
from rlsuite.errors import ConfigError
from rlsuite.strict import from_mapping

PREFIX = "vary_"
STREAM = 1  # beside the generator of initial states, which draws what Gymnasium's does
RANGE_SIZE = 2

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Least and greatest factor of each; None leaves the model as it is."""

    mass: Range | None = None
    """Of the masses and inertias of all bodies, each its own."""
    friction: Range | None = None
    """Of all coefficients of friction, one factor for all."""
    damping: Range | None = None
    """Of the damping of all joints, each degree of freedom its own."""
    gain: Range | None = None
    """Of the force or the gain of all actuators, each its own."""
    told: bool = True
    """Critics are told the factors; False keeps them from everybody, to see what telling them is worth."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a range that is none."""
        for field in fields(self):
            bounds = getattr(self, field.name)
            if bounds is None or field.name == "told":
                continue
            low, high = bounds
            if not 0 < low <= high < float("inf"):
                raise ConfigError(
                    f"{PREFIX}{field.name} = {list(bounds)}: give the least and the greatest factor, above 0"
                )


def ranges_of(options: Mapping[str, Any], where: str) -> Ranges | None:
    """Return the ranges among options without their prefix; None where there are none.

    Raises:
        ConfigError: there is no such quantity, or its range is none.
    """
    return from_mapping(Ranges, options, where) if options else None


class Variation:
    """Draws factors for B envs and writes them into the engine's models.

    Args:
        ranges: of the factors.
        engine: whose models they change.
        num_envs: B.

    Attributes:
        factors: `[B, K]` float64, of the running episodes; live.
        names: of the factors: mass/torso, friction, ...
        told: critics are told the factors.
    """

    def __init__(self, ranges: Ranges, engine: NativeEngine, num_envs: int) -> None:
        model = engine.model
        self._engine = engine
        self.told = ranges.told
        self._parts: list[tuple[Range, slice, list[tuple[np.ndarray, np.ndarray]]]] = []
        self.names: list[str] = []
        for quantity, changed, named in (
            ("mass", ("body_mass", "body_inertia"), _bodies(model)),
            ("friction", ("geom_friction",), []),
            ("damping", ("dof_damping",), [str(index) for index in range(model.nv)]),
            ("gain", ("actuator_gainprm",), actuator_names(model)),
        ):
            bounds: Range | None = getattr(ranges, quantity)
            if bounds is None:
                continue
            start = len(self.names)
            self.names += [f"{quantity}/{name}" for name in named] or [quantity]
            copies = [(engine.vary(field), np.array(getattr(model, field))) for field in changed]
            self._parts.append((bounds, slice(start, len(self.names)), copies))
        self.factors = np.ones((num_envs, len(self.names)))
        self._masses = ranges.mass is not None
        self.seed(0)

    def seed(self, seed: Seeds) -> None:
        """Begin the random stream of every env anew."""
        count = len(self.factors)
        if seed is None:
            self._generators = [np.random.default_rng() for _ in range(count)]
            return
        roots = [seed + index for index in range(count)] if isinstance(seed, int) else seed
        self._generators = [np.random.default_rng([root, STREAM]) for root in roots]

    def draw(self, mask: np.ndarray) -> None:
        """Draw new factors for the envs of `mask` `[B]` bool, and change their models."""
        chosen = np.flatnonzero(mask)
        for index in chosen:
            for (low, high), columns, _ in self._parts:
                size = columns.stop - columns.start
                self.factors[index, columns] = self._generators[index].uniform(low, high, size)
        self._write(chosen)

    def state_dict(self) -> dict[str, Tensor]:
        """Return factors and random streams."""
        return {
            "variation": torch.from_numpy(self.factors.copy()),
            "variation_generators": pack_generators(self._generators),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            DataError: it is of other factors, or of another number of envs.
        """
        factors = take(state, "variation", self.factors.shape)
        generators = unpack_generators(take(state, "variation_generators", (len(self.factors), WORDS)))
        self.factors[:] = factors.numpy()
        self._generators = generators
        self._write(np.arange(len(self.factors)))

    def _write(self, chosen: np.ndarray) -> None:
        """Change the models of the chosen envs to their factors."""
        if not len(chosen):
            return
        for _, columns, changed in self._parts:
            factors = self.factors[chosen, columns]
            for values, rest in changed:
                shape = (*factors.shape, *(1,) * (rest.ndim - 1))
                values[chosen] = rest * (
                    factors.reshape(shape) if factors.shape[1] > 1 else _one(factors, rest)
                )
        if self._masses:
            self._engine.set_constants(chosen.astype(np.int32))


def _one(factors: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return one factor an env, shaped for a field of any number of axes."""
    return factors.reshape(-1, *(1,) * rest.ndim)


def _bodies(model: mujoco.MjModel) -> list[str]:
    return [model.body(index).name or str(index) for index in range(model.nbody)]


def actuator_names(model: mujoco.MjModel) -> list[str]:
    """Return the name of every actuator; of one without a name that of its joint, or its number."""
    names = []
    for index in range(model.nu):
        name = model.actuator(index).name
        if not name and model.actuator_trntype[index] == int(mujoco.mjtTrn.mjTRN_JOINT):
            name = model.joint(int(model.actuator_trnid[index, 0])).name
        names.append(name or str(index))
    return names
