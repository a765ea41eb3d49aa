"""Gymnasium environments small enough to know the answer, registered under `gym:` names by import."""

import time

import gymnasium
import numpy as np
from gymnasium import spaces

EPISODE = 10  # env steps


class Constant(gymnasium.Env):
    """One observation, reward 1 a step: the value is a closed form. `fails` terminates at step 10."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.time = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.ones(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.ones(2, np.float32), 1.0, self.fails and self.time >= EPISODE, False, {}


class Reach(gymnasium.Env):
    """A point on a line that should go to 0 and stay: x moves by 0.3 a, reward -|x|, 20 steps."""

    observation_space = spaces.Box(-2, 2, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1.5, 1.5)
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x = float(np.clip(self.x + 0.3 * float(action[0]), -2, 2))
        return np.array([self.x], np.float32), -abs(self.x), False, False, {}


class Poisoned(Reach):
    """Reach whose observation is not a number at every `every`-th step of the process."""

    steps = 0

    def __init__(self, every: int = 10**9) -> None:
        self.every = every

    def step(self, action):
        observation, reward, *rest = super().step(action)
        Poisoned.steps += 1
        if Poisoned.steps % self.every == 0:
            observation = observation * np.nan
        return observation, reward, *rest


class Failing(Reach):
    """Reach whose `at`-th step of the process raises, or never comes back."""

    steps = 0

    def __init__(self, at: int = 10**9, hangs: bool = False) -> None:
        self.at, self.hangs = at, hangs

    def step(self, action):
        Failing.steps += 1
        if Failing.steps == self.at:
            if self.hangs:
                time.sleep(3_600)
            raise OSError("the robot is on fire")
        return super().step(action)


class Goal(gymnasium.Env):
    """A point in the plane that should come within 0.3 of a goal: 0 there and -1 elsewhere, 12 steps.

    `scalar`: rewards are of one pair alone. `ends`: there the episode is over.
    """

    observation_space = spaces.Dict(
        {
            "observation": spaces.Box(-9, 9, (1,), np.float64),
            "achieved_goal": spaces.Box(-9, 9, (2,), np.float64),
            "desired_goal": spaces.Box(-9, 9, (2,), np.float64),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, scalar: bool = False, ends: bool = False) -> None:
        self.scalar, self.ends = scalar, ends

    def compute_reward(self, achieved_goal, desired_goal, info):
        if self.scalar:
            assert np.shape(achieved_goal) == (2,)
        return -(np.linalg.norm(achieved_goal - desired_goal, axis=-1) > 0.3).astype(np.float64)

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return self.ends and bool(np.linalg.norm(achieved_goal - desired_goal) <= 0.3)

    def show(self):
        return {
            "observation": np.array([self.time / 12]),
            "achieved_goal": self.place.copy(),
            "desired_goal": self.goal.copy(),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = np.zeros(2), self.np_random.uniform(-1, 1, 2)
        self.time = 0
        return self.show(), {}

    def step(self, action):
        self.place = self.place + 0.3 * action
        self.time += 1
        reward = float(self.compute_reward(self.place, self.goal, {}))
        over = self.compute_terminated(self.place, self.goal, {})
        return self.show(), reward, over, False, {"is_success": np.float32(reward == 0)}


def register() -> None:
    """Register the toys; safe to call again."""
    for name, entry, steps, options in (
        ("ToyLimit-v0", Constant, EPISODE, {}),
        ("ToyFailure-v0", Constant, None, {"fails": True}),
        ("ToyReach-v0", Reach, 20, {}),
        ("ToyPoisoned-v0", Poisoned, 20, {}),
        ("ToyRaises-v0", Failing, 20, {"at": 500}),
        ("ToyGoal-v0", Goal, 12, {}),
        ("ToyHangs-v0", Failing, 20, {"at": 500, "hangs": True}),
    ):
        if name not in gymnasium.registry:
            gymnasium.register(name, entry, max_episode_steps=steps, kwargs=options)


register()
