"""Counts how often untrained policies reach the goal of MountainCarContinuous by each kind of noise.

    python benchmarks/exploration.py --out benchmarks/results/mountain_car/untrained.csv

Gymnasium's dynamics for many cars at once: 16 episodes of 999 env steps for each of two first actors.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import Agent, Spaces, make_generators
from rlsuite.registry import agent_class

CARS, STEPS, SEEDS = 16, 999, 2
POWER, GRAVITY, MAX_SPEED, LEFT, RIGHT, GOAL = 0.0015, 0.0025, 0.07, -1.2, 0.6, 0.45  # Gymnasium's
SPACES = Spaces(observation=2, action=1, half_range=(1.0,))
AGENTS: dict[str, dict[str, Any]] = {"sac": {}, "td3": {"exploration_noise": 1.0}}


class Noise(NamedTuple):
    """Fields of an agent."""

    noise_correlation: str
    sde_steps: int = 32


NOISES = (
    Noise("white"),
    Noise("ou"),
    Noise("pink"),
    *(Noise("sde", hold) for hold in (16, 32, 64, 128, STEPS)),
)


def reached(agent: Agent, seed: int) -> int:
    """Return how many of the cars reach the goal."""
    place, speed = np.random.default_rng(seed).uniform(-0.6, -0.4, CARS), np.zeros(CARS)
    there, state, policy = np.zeros(CARS, bool), None, agent.policy.module
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        for step in range(STEPS):
            observation = torch.tensor(np.stack([place, speed], -1), dtype=torch.float32)
            answer = policy(observation, state, torch.full((CARS, 1), step))
            action, state = answer if isinstance(answer, tuple) else (answer, None)
            speed = speed + action.numpy()[:, 0] * POWER - GRAVITY * np.cos(3 * place)
            speed = speed.clip(-MAX_SPEED, MAX_SPEED)
            place = (place + speed).clip(LEFT, RIGHT)
            speed[(place == LEFT) & (speed < 0)] = 0
            there |= (place >= GOAL) & (speed >= 0)
    return int(there.sum())


def main(argv: Sequence[str] | None = None) -> int:
    """Count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    line = parser.parse_args(argv)
    with line.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("agent", *Noise._fields, "episodes", "reached"))
        for name, fields in AGENTS.items():
            kind = agent_class(name)
            for noise in NOISES:
                config = kind.Config(hidden=(64, 64), **noise._asdict(), **fields)
                agents = [kind(SPACES, config, make_generators(seed)) for seed in range(SEEDS)]
                count = sum(reached(agent, seed) for seed, agent in enumerate(agents))
                writer.writerow((name, *noise, SEEDS * CARS, count))
                print(
                    f"{name} {noise.noise_correlation} {noise.sde_steps}: {count} of {SEEDS * CARS}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
