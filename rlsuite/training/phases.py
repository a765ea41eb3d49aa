"""Where in their first episodes the envs of a run begin."""

import numpy as np
import torch
from torch import Tensor

from rlsuite import distributed as ranks
from rlsuite.envs.base import VectorEnv
from rlsuite.training.rng import SeedStreams


def first_phases(env: VectorEnv, streams: SeedStreams) -> Tensor:
    """Draw how many steps the envs' first episodes are to have taken already, `[num_envs]` int64.

    Every seed's envs have their own draws. Where there is no time limit, the steps are 0.
    """
    envs, limit = env.num_envs // len(streams), env.max_episode_steps or 1
    # A stream of its own beside the envs': whether it is drawn from moves nothing else.
    rows = [
        np.random.default_rng((seed, ranks.rank())).integers(limit, size=envs)
        for seed in streams.seeds("env")
    ]
    return torch.from_numpy(np.concatenate(rows))
