"""Random generators of numpy as tensors, so that they can be saved without pickle."""

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium.utils.seeding import np_random
from torch import Tensor

from rlsuite.errors import DataError

WORDS = 6  # state (high, low), increment (high, low), has_uint32, uinteger
EPISODE_SEEDS = 2**31  # seeds of other libraries' episodes are below this: all take 31 bits
LOW_64 = (1 << 64) - 1


Seeds = int | Sequence[int] | None
"""Of env 0, env i having seed + i; or of every env; or None for any."""


def make_generators(seed: Seeds, count: int) -> list[np.random.Generator]:
    """Return what `gymnasium.make(...).reset(seed=seed + i)` would draw from, for i = 0 .. count - 1.

    Raises:
        ValueError: another number of seeds than `count`.
    """
    if seed is None or not isinstance(seed, Sequence):
        return [np_random(None if seed is None else seed + i)[0] for i in range(count)]
    if len(seed) != count:
        raise ValueError(f"{len(seed)} seeds for {count} envs")
    return [np_random(each)[0] for each in seed]


def pack_generators(generators: list[np.random.Generator]) -> Tensor:
    """Return the states of PCG64 generators, int64 `[count, 6]`."""
    rows = []
    for generator in generators:
        state = generator.bit_generator.state
        inner, increment = state["state"]["state"], state["state"]["inc"]
        packed = (inner >> 64, inner & LOW_64, increment >> 64, increment & LOW_64)
        rows.append((*packed, state["has_uint32"], state["uinteger"]))
    return torch.from_numpy(np.array(rows, dtype=np.uint64).view(np.int64))


def unpack_generators(packed: Tensor) -> list[np.random.Generator]:
    """Return the generators that `pack_generators` saved; raise DataError where it is none of its tensors."""
    if packed.ndim != 2 or packed.shape[1] != WORDS or packed.dtype != torch.int64:
        raise DataError(
            f"generator states must be int64 [envs, {WORDS}], not {packed.dtype} {list(packed.shape)}"
        )
    generators = []
    for row in packed.cpu().contiguous().numpy().view(np.uint64).tolist():
        generator = np.random.Generator(np.random.PCG64(0))
        generator.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": row[0] << 64 | row[1], "inc": row[2] << 64 | row[3]},
            "has_uint32": row[4],
            "uinteger": row[5],
        }
        generators.append(generator)
    return generators
