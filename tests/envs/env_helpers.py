"""Playing with environments; shared by the tests of this folder."""

import torch
from tensordict import TensorDictBase

from rlsuite.envs.base import VectorEnv


def random_actions(env: VectorEnv, steps: int, seed: int = 0) -> torch.Tensor:
    """Actions `[steps, B, A]`, uniform in [-1, 1]."""
    shape = (steps, *env.action_spec.shape)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=env.dtype) * 2 - 1


def play(
    env: VectorEnv, td: TensorDictBase, actions: torch.Tensor
) -> tuple[list[TensorDictBase], TensorDictBase]:
    """Step through `actions` with resets; return the rows and the row that comes next."""
    rows = []
    for action in actions:
        td["action"] = action
        td = env.step(td)
        rows.append(td.clone())
        td = env.maybe_reset(env.step_mdp(td))
    return rows, td


def assert_equal(left: TensorDictBase, right: TensorDictBase) -> None:
    """Assert the same keys with bitwise the same values."""
    keys = set(left.keys(True, True))
    assert keys == set(right.keys(True, True))
    for key in keys:
        assert left[key].dtype == right[key].dtype, key
        assert torch.equal(left[key], right[key]), key
