"""Adroit hand tasks by D4RL's rules: Gymnasium-Robotics' simulation, D4RL's rewards and ends of episodes.

Gymnasium-Robotics' `AdroitHand*-v1` (from 1.2.1 on) rewards the hand for being far from door, hammer and
ball where D4RL's environments punish it, and its pen ends neither when it is dropped nor after 100 steps.
D4RL's references (Fu et al. 2020, arXiv 2004.07219) need D4RL's rules: rewards are computed here from the
simulation's positions, whatever the simulated environment says. Positions are those of MuJoCo's last
substep, as they were there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np

from rlsuite.errors import unknown_name

FAMILY = "d4rl"  # `--env d4rl:AdroitHandDoor`
DROPPED = 0.075  # m; a pen below has been dropped
OPEN = 1.57  # rad; the door's hinge when it is wide open


class Told(NamedTuple):
    """Reward of a step, and whether the episode terminates."""

    reward: float
    terminated: bool = False


def door_reward(palm: np.ndarray, handle: np.ndarray, hinge: float, speed: np.ndarray) -> float:
    """Return D4RL's reward of the door task.

    Args:
        palm: position of the palm, m.
        handle: of the door's handle, m.
        hinge: angle of the door, rad.
        speed: generalised velocities of all joints.
    """
    reward = -0.1 * distance(palm, handle) - 0.1 * (hinge - OPEN) ** 2 - 1e-5 * float(speed @ speed)
    return reward + 2.0 * (hinge > 0.2) + 8.0 * (hinge > 1.0) + 10.0 * (hinge > 1.35)


def hammer_reward(
    palm: np.ndarray,
    hammer: np.ndarray,
    head: np.ndarray,
    nail: np.ndarray,
    goal: np.ndarray,
    speed: np.ndarray,
) -> float:
    """Return D4RL's reward of the hammer task, of positions in m and generalised velocities.

    Args:
        palm: position of the palm.
        hammer: of the hammer's body.
        head: of its head.
        nail: of the nail's head.
        goal: where it should be.
        speed: generalised velocities of all joints.
    """
    left = distance(nail, goal)
    reward = -0.1 * distance(palm, hammer) - distance(head, nail) - 10.0 * left
    reward -= 1e-2 * float(np.linalg.norm(speed))
    lifted = hammer[2] > 0.04 and head[2] > 0.04
    return reward + 2.0 * lifted + 25.0 * (left < 0.02) + 75.0 * (left < 0.01)


def relocate_reward(palm: np.ndarray, ball: np.ndarray, target: np.ndarray) -> float:
    """Return D4RL's reward of the relocation task, of positions in m."""
    left = distance(ball, target)
    reward = -0.1 * distance(palm, ball)
    if ball[2] > 0.04:
        reward += 1.0 - 0.5 * distance(palm, target) - 0.5 * left
    return reward + 10.0 * (left < 0.1) + 20.0 * (left < 0.05)


def pen_reward(pen: np.ndarray, target: np.ndarray, direction: np.ndarray, wanted: np.ndarray) -> Told:
    """Return D4RL's reward of the pen task, and whether the pen is dropped, which ends the episode.

    Args:
        pen: position of the pen, m.
        target: where it should be.
        direction: of the pen, a unit vector.
        wanted: the direction it should have.
    """
    off, similarity = distance(pen, target), float(direction @ wanted)
    near, dropped = off < 0.075, bool(pen[2] < DROPPED)
    reward = similarity - off + 10.0 * (near and similarity > 0.9) + 50.0 * (near and similarity > 0.95)
    return Told(reward - 5.0 * dropped, dropped)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Euclidean distance of two points."""
    return float(np.linalg.norm(first - second))


def _door(model: mujoco.MjModel, data: mujoco.MjData) -> Told:
    palm, handle = data.site("S_grasp").xpos, data.site("S_handle").xpos
    hinge = float(data.qpos[model.joint("door_hinge").qposadr[0]])
    return Told(door_reward(palm, handle, hinge, data.qvel))


def _hammer(_model: mujoco.MjModel, data: mujoco.MjData) -> Told:
    palm, head = data.site("S_grasp").xpos, data.site("tool").xpos
    nail, goal = data.site("S_target").xpos, data.site("nail_goal").xpos
    return Told(hammer_reward(palm, data.body("Object").xpos, head, nail, goal, data.qvel))


def _relocate(_model: mujoco.MjModel, data: mujoco.MjData) -> Told:
    return Told(
        relocate_reward(data.site("S_grasp").xpos, data.body("Object").xpos, data.site("target").xpos)
    )


def _pen(_model: mujoco.MjModel, data: mujoco.MjData) -> Told:
    def direction(top: str, bottom: str) -> np.ndarray:
        along = data.site(top).xpos - data.site(bottom).xpos
        return along / np.linalg.norm(along)

    pen, target = data.body("Object").xpos, data.site("eps_ball").xpos
    return pen_reward(
        pen, target, direction("object_top", "object_bottom"), direction("target_top", "target_bottom")
    )


class Rules(NamedTuple):
    """A task of D4RL.

    Attributes:
        simulated: Gymnasium-Robotics' id of the same simulation.
        steps: time limit of an episode.
        tell: reward and end after a step.
    """

    simulated: str
    steps: int
    tell: Callable[[mujoco.MjModel, mujoco.MjData], Told]


TASKS = {
    "AdroitHandDoor": Rules("AdroitHandDoor-v1", 200, _door),
    "AdroitHandHammer": Rules("AdroitHandHammer-v1", 200, _hammer),
    "AdroitHandPen": Rules("AdroitHandPen-v1", 100, _pen),
    "AdroitHandRelocate": Rules("AdroitHandRelocate-v1", 200, _relocate),
}


class D4RLRules(gymnasium.Wrapper):
    """Gives a simulated Adroit task the rewards and terminations of D4RL.

    Args:
        env: Gymnasium-Robotics' environment, without a time limit.
        rules: of the same task.
    """

    def __init__(self, env: gymnasium.Env, rules: Rules) -> None:
        super().__init__(env)
        self._rules = rules

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the simulation and say what D4RL's rules say of it."""
        observation, _, _, truncated, info = self.env.step(action)
        simulation: Any = self.env.unwrapped
        told = self._rules.tell(simulation.model, simulation.data)
        return observation, told.reward, told.terminated, truncated, info


def make(task: str, **arguments: Any) -> gymnasium.Env:
    """Return a task by D4RL's rules, without a time limit; `arguments` are those of the simulated one."""
    import gymnasium_robotics  # noqa: F401  # registers the simulated environments

    rules = TASKS[task]
    spec = gymnasium.spec(rules.simulated)
    bare = gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **arguments)
    return D4RLRules(bare, rules)


def gym_id(task: str) -> str:
    """Return the id under which `gymnasium.make` knows a task, this module's import included.

    Raises:
        ConfigError: no such task.
    """
    if task not in TASKS:
        known = [f"{FAMILY}:{name}" for name in TASKS]
        raise unknown_name("an environment", f"{FAMILY}:{task}", known, "rlsuite list envs")
    return f"{__name__}:{FAMILY}/{task}-v1"


for _name, _rules in TASKS.items():
    gymnasium.register(
        f"{FAMILY}/{_name}-v1",
        f"{__name__}:make",
        max_episode_steps=_rules.steps,
        kwargs={"task": _name},
        disable_env_checker=True,
        order_enforce=False,
    )
