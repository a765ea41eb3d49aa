"""TorchRL environments: a walk in the plane, for one env and for many, with keys of other people's."""

import torch
from tensordict import TensorDict
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

LENGTH = 6


class Walk(EnvBase):
    """A place that actions move, `[*batch, 2]`; the reward is the way to the right; ends beyond 3."""

    def __init__(self, num_envs=None, unbounded=False, names=("place", "pace"), truncates=True):
        batch = [] if num_envs is None else [num_envs]
        super().__init__(batch_size=batch)
        self.names, self.truncates = names, truncates
        parts = {name: Unbounded((*batch, 2)) for name in names}
        self.observation_spec = Composite(
            time=Unbounded((*batch, 1), dtype=torch.int64), **parts, shape=batch
        )
        bounded = Bounded(-2.0, 4.0, (*batch, 2))
        self.action_spec = Unbounded((*batch, 2)) if unbounded else bounded
        self.reward_spec = Unbounded((*batch, 1))
        ends = ("done", "terminated", *(("truncated",) if truncates else ()))
        self.done_spec = Composite(
            {name: Binary(1, (*batch, 1), dtype=torch.bool) for name in ends}, shape=batch
        )
        self.rng = torch.Generator()

    def _set_seed(self, seed):
        self.rng.manual_seed(seed)

    def _reset(self, tensordict=None, **kwargs):
        place = torch.rand((*self.batch_size, 2), generator=self.rng)
        time = torch.zeros((*self.batch_size, 1), dtype=torch.int64)
        return TensorDict(
            {**dict(zip(self.names, (place, 0 * place), strict=True)), "time": time}, self.batch_size
        )

    def _step(self, tensordict):
        one, two = self.names
        pace = 0.5 * tensordict[two] + 0.1 * tensordict["action"]
        place, time = tensordict[one] + pace, tensordict["time"] + 1
        terminated, truncated = place[..., :1] > 3, time >= LENGTH
        ends = {"terminated": terminated, "done": terminated | truncated}
        if self.truncates:
            ends["truncated"] = truncated
        return TensorDict(
            {one: place, two: pace, "time": time, "reward": pace[..., :1], **ends}, self.batch_size
        )


class Many(Walk):
    """A walk whose number of envs is fixed by its constructor."""

    def __init__(self, num_envs=2, **more):
        super().__init__(num_envs, **more)


class Single(Walk):
    """A walk of one env."""

    def __init__(self, **more):
        super().__init__(None, **more)


class Fixed(Walk):
    """Three walks, always."""

    def __init__(self):
        super().__init__(3)


class Shown(Many):
    """A walk that shows `observation` and something else."""

    def __init__(self, num_envs=2):
        super().__init__(num_envs, names=("observation", "more"))
