"""Pictures as observations: rendered small, several frames stacked, each action taken a few times.

Legend: B envs, K frames, P = size x size x 3 bytes of a frame.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlsuite.envs.base import Outcome, VectorEnv, take
from rlsuite.envs.replayed import ReplayedEnv
from rlsuite.envs.seeding import Seeds
from rlsuite.envs.wrapped import WrappedEnv
from rlsuite.errors import ConfigError

CHANNELS = 3
SMALLEST, LARGEST = 16, 256  # pixels of a side
MOST_FRAMES, MOST_REPEATS = 16, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelOptions:
    """Options of `pixels:ID`, each written with the prefix `pixels_`."""

    size: int = 64
    """Height and width of a picture."""
    stack: int = 3
    """Frames of an observation, the newest last; at an episode's beginning the first one is repeated."""
    repeat: int = 1
    """Times that each action is taken; rewards add up, and an env step is so many of the environment's."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        ranges = {
            "size": (SMALLEST, LARGEST),
            "stack": (1, MOST_FRAMES),
            "repeat": (1, MOST_REPEATS),
        }
        for name, (low, high) in ranges.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ConfigError(f"pixels_{name} = {value}: must be from {low} to {high}")


class PixelEnv(WrappedEnv):
    """An environment that shows what it looks like: K frames `[B, K P]`, channels fastest, bytes as floats.

    Tasks of ours and dm_control's are drawn without shadows and reflections, through their videos' camera.
    An environment that shows pictures already (`gym:CarRacing-v3`) is not drawn: its own are taken, resized.

    Args:
        inner: the environment inside.
        options: size, frames, repeats.
        seed: that `inner` was made with.

    Raises:
        ConfigError: an environment that cannot be drawn, or whose actions cannot be repeated.
        EnvironmentFailure: no way to render without a display works here; it says what was tried.
    """

    def __init__(self, inner: VectorEnv, options: PixelOptions, seed: Seeds = 0) -> None:
        facts = inner.facts
        if isinstance(inner, WrappedEnv) or facts.on_device or facts.picture is not None:
            raise ConfigError(
                f"pixels:{inner.env_id}: pictures are made of environments of ours, of dmc: and gym: ones, "
                "on the host (engine native), and without a wrapper in between"
            )
        if options.repeat > 1 and isinstance(inner, ReplayedEnv):
            raise ConfigError(
                f"pixels_repeat = {options.repeat}: {inner.env_id} cannot step past an episode's end, which "
                "copies reach at different times; use 1, or repeat actions inside the environment"
            )
        self._shape = (options.size, options.size, CHANNELS)
        self._frame_size = int(np.prod(self._shape))
        limit = facts.max_episode_steps
        super().__init__(
            inner,
            replace(
                facts,
                env_id=f"pixels:{facts.env_id}",
                observation_size=options.stack * self._frame_size,
                max_episode_steps=None if limit is None else -(-limit // options.repeat),
                fps=facts.fps / options.repeat,
                pixels=(*self._shape, options.stack),
                private=0,
                goal=None,
                parts=(),
            ),
        )
        self.options = options
        self.inner.frame_size = self._shape[:2]
        self._frames = np.zeros((inner.num_envs, options.stack, self._frame_size), np.uint8)
        if facts.pixels is None:
            inner.reset_arrays()
            inner.frame(0)  # what is missing here is said before a run begins
            inner.seed_envs(seed)

    def _advance(self, action: np.ndarray) -> Outcome:
        outcome = self.inner._advance(action)
        reward, terminated = np.array(outcome.reward), np.array(outcome.terminated)
        truncated = _flags(outcome.truncated, terminated)
        sane = None if outcome.sane is None else np.array(outcome.sane)
        for _ in range(self.options.repeat - 1):
            going = ~(terminated | truncated)
            if sane is not None:
                going &= sane
            if not going.any():
                break
            outcome = self.inner._advance(action)
            reward[going] += outcome.reward[going]
            terminated[going] |= outcome.terminated[going]
            if outcome.truncated is not None:
                truncated[going] |= outcome.truncated[going]
            if outcome.sane is not None:
                sane = np.ones(len(going), np.bool_) if sane is None else sane
                sane[going] &= outcome.sane[going]
        self._frames[:, :-1] = self._frames[:, 1:].copy()
        self._frames[:, -1] = self._pictures(outcome.observation, np.ones(self.num_envs, np.bool_))
        return Outcome(self._observation(), reward, terminated, truncated, sane=sane)

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        observation = self.inner._restart(mask)
        self._frames[mask] = self._pictures(observation, mask)[mask, None]
        return self._observation()

    def _observation(self) -> np.ndarray:
        return self._frames.reshape(self.num_envs, -1)

    def _pictures(self, observation: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the envs' pictures `[B, P]` uint8, those of `mask` at least."""
        pictures = np.zeros((self.num_envs, self._frame_size), np.uint8)
        shown = self.inner.facts.pixels
        for index in np.flatnonzero(mask):
            if shown is None:
                picture = self.inner.frame(int(index))
            else:
                picture = observation[index].astype(np.uint8).reshape(shown[:3])
            pictures[index] = resized(picture, self._shape).ravel()
        return pictures

    def _own_state(self) -> dict[str, Tensor]:
        return self.inner._own_state() | {"pixels.frames": torch.from_numpy(self._frames.copy())}

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        frames = take(state, "pixels.frames", self._frames.shape)
        self.inner._load_own_state(state)
        self._frames[...] = frames.numpy()


def resized(picture: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a picture `[height, width, channels]`, uint8, of another size: means over areas.

    Grey pictures (one channel) become coloured ones.
    """
    if picture.shape == shape:
        return picture
    maps = torch.from_numpy(np.array(picture)).permute(2, 0, 1).unsqueeze(0).float()
    small = F.interpolate(maps, shape[:2], mode="area").squeeze(0).permute(1, 2, 0)
    return small.round().to(torch.uint8).expand(shape).numpy()


def _flags(given: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    return np.zeros_like(like) if given is None else np.array(given)
