"""Makes what updates are raced on: random transitions of HalfCheetah's sizes."""

import torch
from tensordict import TensorDict

from rlsuite.agents.base import Spaces
from rlsuite.replay.batch import Batch
from rlsuite.replay.uniform import UniformReplay

OBSERVATION, ACTION, BATCH = 17, 6, 256  # HalfCheetah's sizes and the literature's batch
REPLAY_SIZE = 100_000
SPACES = Spaces(observation=OBSERVATION, action=ACTION, half_range=(1.0,) * ACTION)


def filled_replay(size: int = REPLAY_SIZE) -> UniformReplay:
    """Return a replay of `size` random transitions."""
    g = torch.Generator().manual_seed(0)
    replay = UniformReplay(size, num_envs=1, batch_size=BATCH, generator=g)
    no = torch.zeros(size, 1, dtype=torch.bool)
    next_td = {
        "observation": torch.randn(size, OBSERVATION, generator=g),
        "reward": torch.randn(size, 1, generator=g),
        "terminated": no,
        "truncated": no,
        "done": no,
    }
    columns = {
        "observation": torch.randn(size, OBSERVATION, generator=g),
        "action": torch.rand(size, ACTION, generator=g) * 2 - 1,
        "next": TensorDict(next_td, [size]),
    }
    replay.preload(TensorDict(columns, [size]))
    return replay


def random_batch(rows: int = BATCH, spaces: Spaces = SPACES) -> Batch:
    """Return random transitions with every column of `Batch`; the second half is marked as demonstrations."""
    g = torch.Generator().manual_seed(0)
    observation, after = (torch.randn(rows, spaces.observation, generator=g) for _ in range(2))
    action, next_action = (torch.rand(rows, spaces.action, generator=g) * 2 - 1 for _ in range(2))
    return Batch(
        observation,
        action,
        reward=torch.randn(rows, generator=g),
        next_observation=after,
        terminated=torch.zeros(rows),
        discount=0.99,
        next_action=next_action,
        returns=torch.randn(rows, generator=g),
        expert=(torch.arange(rows) >= rows // 2).float(),
    )
