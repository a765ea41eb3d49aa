"""Legal Gymnasium environments that are unlike most: `gym:strange/NAME-v0`."""

import gymnasium
import numpy as np
from gymnasium import spaces

EPISODE = 10  # env steps
LOW = np.linspace(-3, 1, 16).astype(np.float32)
HIGH = (LOW + np.linspace(0.1, 5, 16)).astype(np.float32)


class Strange(gymnasium.Env):
    """Three noisy numbers, reward 1, ten steps; refuses an action that is not in its space."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space: spaces.Space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode=None, height=31, width=33, limit=EPISODE, reward=1.0, shown=None):
        self.render_mode, self.size = render_mode, (height, width, 3)
        self.limit, self.reward, self.shown = limit, reward, shown

    def observe(self):
        space = self.observation_space
        return self.np_random.normal(size=3).astype(np.float32) if space.shape == (3,) else space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), (action, type(action))
        self.time += 1
        return self.observe(), self.reward, False, self.time >= self.limit, {}

    def render(self):
        if self.shown == "nothing":
            return None
        if self.shown == "failure":
            raise OSError("no display")
        return np.full(self.size, 90, np.uint8)


class Discrete(Strange):
    action_space = spaces.Discrete(3, start=-1)


class Asymmetric(Strange):
    action_space = spaces.Box(LOW, HIGH)


class Whole(Strange):
    action_space = spaces.Box(0, 10, (2,), np.int32)


class Square(Strange):
    action_space = spaces.Box(-1, 1, (2, 2), np.float32)


class Parts(Strange):
    observation_space = spaces.Dict(
        {
            "z": spaces.Box(-1, 1, (2,), np.float32),
            "observation": spaces.Box(-9, 9, (3,), np.float64),
            "inner": spaces.Dict({"b": spaces.Discrete(3, start=2), "a": spaces.MultiBinary(2)}),
        }
    )


class Numbered(Strange):
    observation_space = spaces.Discrete(5, start=3)


class Matrix(Strange):
    observation_space = spaces.Box(-1, 1, (2, 3), np.float32)


class Unready(Strange):
    def __init__(self, error="ValueError", **more):
        kinds = (ValueError, ConnectionRefusedError, KeyError, AssertionError)
        known = {kind.__name__: kind for kind in kinds} | {"OSError": ConnectionRefusedError}
        raise known[error]("no robot on port 9999")


for _kind in (Strange, Discrete, Asymmetric, Whole, Square, Parts, Numbered, Matrix, Unready):
    _id = f"strange/{_kind.__name__}-v0"
    if _id not in gymnasium.registry:
        gymnasium.register(_id, _kind)
