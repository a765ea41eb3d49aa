"""What updates are raced on: random transitions of HalfCheetah's sizes."""

import torch
from tensordict import TensorDict

from rlsuite.agents.base import Spaces
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
