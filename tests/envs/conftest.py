"""Shared by the tests of environments."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rlsuite.envs.base import VectorEnv
from rlsuite.envs.make import make_env

# Compiled kernels of the engine warp: a minute to make, and the same for every run. Read on Warp's import.
os.environ.setdefault("WARP_CACHE_PATH", str(Path(__file__).parents[2] / ".warp_cache"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: torch's threads only cost."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make() -> Iterator[Callable[..., VectorEnv]]:
    """`make_env` whose environments are closed after the test."""
    made: list[VectorEnv] = []

    def build(*args: object, **options: object) -> VectorEnv:
        made.append(make_env(*args, **options))
        return made[-1]

    yield build
    for env in made:
        env.close()
