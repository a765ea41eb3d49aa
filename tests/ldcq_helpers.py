"""A small LDCQ and recorded windows for its tests."""

import torch
from tensordict import TensorDict

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.ldcq import LDCQ, LDCQConfig
from rlsuite.replay.windows import WindowReplay

EPISODES, LENGTH = 6, 13
SPACES = Spaces(observation=4, action=2, half_range=(1.0, 1.0))
TINY = {
    "horizon": 5,
    "execute": 3,
    "latent": 3,
    "hidden": 8,
    "encoder_layers": 1,
    "diffusion_steps": 6,
    "ddim_steps": 3,
    "widths": (8, 4),
    "features": 8,
    "stored": 7,
    "target_candidates": 4,
    "candidates": 5,
    "critic_scale": 0.25,
    "skills_updates": 3,
    "prior_updates": 3,
    "values_updates": 4,
}


def source(seed: int, lead: tuple[int, ...]):
    """One generator, or one for each of the leading axis."""
    if not lead:
        return torch.Generator().manual_seed(seed)
    return tuple(torch.Generator().manual_seed(seed + index) for index in range(lead[0]))


def rows(seed: int = 0) -> tuple[TensorDict, torch.Tensor]:
    """Random episodes; the first terminates, the others are cut."""
    g = torch.Generator().manual_seed(seed)
    count = EPISODES * LENGTH
    terminated = torch.zeros(count, 1, dtype=torch.bool)
    terminated[LENGTH - 1] = True
    following = {
        "observation": torch.randn(count, 4, generator=g),
        "reward": torch.rand(count, 1, generator=g),
        "terminated": terminated,
    }
    table = {
        "observation": torch.randn(count, 4, generator=g),
        "action": torch.rand(count, 2, generator=g) * 2 - 1,
        "next": TensorDict(following, [count]),
    }
    first = torch.arange(EPISODES) * LENGTH
    return TensorDict(table, [count]), torch.stack((first, first + LENGTH), -1)


def windows(lead: tuple[int, ...] = (), seed: int = 1, **fields) -> WindowReplay:
    """A window replay of `rows`."""
    options = {"horizon": TINY["horizon"], "batch_size": 16, **fields}
    return WindowReplay(*rows(), generator=source(seed, lead), **options)


def small_ldcq(seed: int = 0, lead: tuple[int, ...] = (), **fields) -> LDCQ:
    """A tiny learner."""
    seeds = tuple(seed + index for index in range(lead[0])) if lead else seed
    return LDCQ(SPACES, LDCQConfig(**{**TINY, **fields}), make_generators(seeds), lead=lead)


def learn(
    agent: LDCQ, data: WindowReplay, updates: int, mixed: bool = False
) -> list[dict[str, torch.Tensor]]:
    """Update as the offline loop does; `mixed` computes products in bfloat16."""
    found = []
    for _ in range(updates):
        agent.prepare(data)
        batch = data.sample()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False):
            found.append(agent.update(batch))
        if data.priorities is not None:
            data.reprioritise(batch["index"], found[-1]["priority"])
    return found
