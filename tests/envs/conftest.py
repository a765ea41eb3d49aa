"""Shared by the tests of environments."""

from collections.abc import Callable, Iterator

import pytest
import torch

from rlsuite.envs.base import VectorEnv
from rlsuite.envs.make import make_env


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
