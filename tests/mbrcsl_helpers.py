"""A small MBRCSL and recorded rows for its tests."""

from ldcq_helpers import SPACES, rows, source

from rlsuite.agents.base import make_generators
from rlsuite.agents.mbrcsl import MBRCSL, MBRCSLConfig
from rlsuite.replay.windows import WindowReplay

TINY = {
    "dynamics_hidden": (8,),
    "members": 3,
    "elites": 2,
    "look_every": 3,
    "widths": (8, 4),
    "features": 8,
    "diffusion_steps": 3,
    "horizon": 4,
    "imagined": 6,
    "rounds": 2,
    "kept": 5,
    "leaves_data": True,
    "hidden": (8,),
    "dynamics_updates": 7,
    "behaviour_updates": 5,
    "clone_updates": 6,
}


def small(lead=(), seed=0, **fields):
    generators = make_generators(tuple(seed + k for k in range(lead[0])) if lead else seed)
    return MBRCSL(SPACES, MBRCSLConfig(**{**TINY, **fields}), generators, lead=lead)


def replay(lead=(), seed=1, batch_size=8):
    return WindowReplay(*rows(), horizon=1, batch_size=batch_size, generator=source(seed, lead))


def trained(agent, data, updates):
    for _ in range(updates):
        agent.prepare(data)
        metrics = agent.update(data.sample())
        assert all(value.isfinite().all() and value.shape == agent.lead for value in metrics.values())
    return agent
