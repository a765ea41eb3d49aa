"""MySlide: push a block along a rail to the mark; a template of a MuJoCo task.

The functions are pure and batched, and know neither the engine nor an agent: the same file runs on MuJoCo's C
library and on MuJoCo Warp. Legend: B worlds.
"""

from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from rlsuite.envs.tasks.base import Fields, ResetNoise, Task

MODEL = """
<mujoco model="slide">
  <option timestep="0.01"/>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="3 1 0.1" rgba="0.9 0.9 0.9 1" contype="0" conaffinity="0"/>
    <site name="mark" pos="0 0 0.01" size="0.05" rgba="0.2 0.7 0.2 1"/>
    <body pos="0 0 0.1">
      <joint name="rail" type="slide" axis="1 0 0" damping="0.5"/>
      <geom type="box" size="0.1 0.1 0.1" mass="1" rgba="0.2 0.4 0.8 1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <actuator><motor joint="rail" ctrlrange="-2 2" ctrllimited="true"/></actuator>
</mujoco>
"""
SUBSTEPS = 4  # of 0.01 s: an env step is 0.04 s
EDGE = 2.0  # metres from the mark: the episode ends beyond


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `--env-option` sets."""

    effort: float = 0.01
    """Cost of a squared newton per env step."""
    start: float = 1.0
    """Largest distance from the mark at the start, metres."""


VERSIONS = {"v0": frozenset[str]()}
"""Versions, each with the names of the options that it lacks; the first is the default."""


def observation(fields: Fields) -> Tensor:
    """Position (m) and velocity (m/s), `[B, 2]`."""
    return torch.cat((fields["qpos"], fields["qvel"]), dim=-1)


def terminated(fields: Fields) -> Tensor:
    """Whether the block fell off its end of the rail, `[B]` bool; a time limit is no such end."""
    return fields["qpos"][:, 0].abs() > EDGE


def build(version: str, options: Options) -> Task:
    """Build the task: one unit a step at the mark, less with the distance, less for effort."""

    def reward(_: Tensor, fields: Fields, action: Tensor, ended: Tensor) -> Tensor:
        near = torch.exp(-fields["qpos"][:, 0].square())
        return torch.where(ended, 0.0, near - options.effort * action.square().sum(-1))

    return Task(
        name="MySlide",
        version=version,
        model=lambda: mujoco.MjModel.from_xml_string(MODEL),
        substeps=SUBSTEPS,
        dt=0.01 * SUBSTEPS,
        max_episode_steps=200,
        initial=ResetNoise(qpos=options.start, qvel=0.1),
        observation=observation,
        reward=reward,
        terminated=terminated,
        camera={"distance": 4.0},
        packages=("mujoco",),
    )
