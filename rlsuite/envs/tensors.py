"""Environments as libraries of massively parallel learning call them: tensors, resets by themselves.

`TensorView` is what skrl's trainers call (its wrappers of Isaac Lab's environments: reward, terminated and
truncated are columns `[B, 1]`), `RslRlView` what rsl_rl's runner calls (its abstract class `VecEnv`:
observations are a TensorDict, `dones` `[B]`, time limits in `extras["time_outs"]`). Neither library is
imported: both call methods by their names.

Legend: B envs, O observation, A action.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor

from rlsuite.envs.base import StepResult, VectorEnv, refuse_private
from rlsuite.errors import ConfigError


class TensorView:
    """B envs for skrl: an episode that ends is followed by the next one's first observation.

    Actions are in [-1, 1] and clamped, as everywhere in rlsuite. Nothing waits for a device.

    Args:
        env: made by `make_env`, of any engine; tensors have its device and its dtype, float32 by default.

    Attributes:
        num_envs: B.
        num_agents: 1.
        device: of all tensors.
        observation_space: of one env, `[O]`.
        action_space: of one env, `[A]`, or so many choices.
        state_space: None: a critic sees what the actor sees.
    """

    num_agents = 1
    state_space = None

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.num_envs, self.device = env.num_envs, env.device
        facts, real = env.facts, np.float32 if env.dtype == torch.float32 else np.float64
        self._choices = len(facts.action_low)
        refuse_private(facts)
        self.observation_space = spaces.Box(-np.inf, np.inf, (facts.observation_size,), real)
        self.action_space: spaces.Space = (
            spaces.Discrete(self._choices) if env.discrete else spaces.Box(-1.0, 1.0, (self._choices,), real)
        )
        self._observation: Tensor | None = None
        self._begun = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    @property
    def unwrapped(self) -> "TensorView":
        """This view: a wrapper asks it for its sizes."""
        return self

    def reset(self) -> tuple[Tensor, dict[str, Any]]:
        """Start new episodes where one has taken a step; return observations `[B, O]`, and no infos.

        skrl's trainer resets a single env whose episode ended, which has begun a new one by then: it stays.
        """
        self._observation = self.env.reset_tensors(~self._begun)
        self._begun = torch.ones_like(self._begun)
        return self._observation, {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all envs under `[B, A]` in [-1, 1], or indices `[B]` or `[B, 1]` of a discrete action.

        Returns:
            Observations `[B, O]` to act on next, reward, terminated, truncated `[B, 1]`, and infos:
            `final_obs` `[B, O]`, the true successors; `valid` `[B, 1]`, False where a number was not finite.
        """
        observation, result = self._advance(actions)
        infos = {"final_obs": result.observation, "valid": result.valid.unsqueeze(-1)}
        reward, terminated, truncated = (
            column.unsqueeze(-1) for column in (result.reward, result.terminated, result.truncated)
        )
        return observation, reward, terminated, truncated, infos

    def state(self) -> None:
        """Return no state: a critic sees what the actor sees."""

    def render(self, *_: Any, **__: Any) -> np.ndarray:
        """Return a picture of the first env, uint8 `[height, width, 3]`."""
        return self.env.frame(0)

    def close(self) -> None:
        """Close the environment."""
        self.env.close(raise_if_closed=False)

    def _advance(self, actions: Tensor) -> tuple[Tensor, StepResult[Tensor]]:
        """Step, start anew what ended; return the observations to act on, and what the step brought."""
        if self.env.discrete:
            chosen = torch.nn.functional.one_hot(actions.reshape(self.num_envs).long(), self._choices)
            actions = chosen.to(self.env.dtype)
        result = self.env.step_tensors(actions)
        done = result.terminated | result.truncated
        self._begun = done
        # A device is not asked whether any env ended: to reset none is right, too.
        ended = self.env.facts.on_device or bool(done.any())
        observation = self.env.reset_tensors(done) if ended else result.observation
        self._observation = observation
        return observation, result


class RslRlView(TensorView):
    """B envs for rsl_rl's `OnPolicyRunner`, which calls `get_observations` first and never `reset`.

    Args:
        env: made by `make_env`, of any engine, with continuous actions.

    Attributes:
        num_actions: A.
        max_episode_length: env steps until an episode is truncated.
        cfg: what makes the environment again, for the runner's log.

    Raises:
        ConfigError: discrete actions, or no time limit.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        if env.discrete or env.max_episode_steps is None:
            lacking = "continuous actions" if env.discrete else "a time limit (max_episode_steps)"
            raise ConfigError(f"rsl_rl needs {lacking}, which {env.env_id} has not")
        self.num_actions = self._choices
        self.max_episode_length = env.max_episode_steps
        self.cfg = {"env_id": env.env_id, "engine": env.engine_name, "num_envs": env.num_envs}

    @property
    def episode_length_buf(self) -> Tensor:
        """Env steps of the running episodes, `[B]` int64; setting it moves their time limits."""
        return self.env.episode_steps()

    @episode_length_buf.setter
    def episode_length_buf(self, steps: Tensor) -> None:
        self.env.set_episode_steps(steps)

    def get_observations(self) -> TensorDict:
        """Return the observations to act on, under the group `policy`."""
        if self._observation is None:
            super().reset()
        return self._grouped(self._observation)

    def reset(self) -> tuple[TensorDict, dict[str, Any]]:
        """Start new episodes where one has taken a step; see `TensorView`."""
        observation, infos = super().reset()
        return self._grouped(observation), infos

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:  # type: ignore[override]
        """Step all envs under `[B, A]`, clamped to [-1, 1].

        Returns:
            Observations, rewards `[B]`, dones `[B]` int64, extras: `time_outs` `[B]`, ended, and not by
            the task; `final_obs`, the true successors.
        """
        observation, result = self._advance(actions)
        extras = {
            "time_outs": result.truncated & ~result.terminated,
            "final_obs": self._grouped(result.observation),
        }
        done = (result.terminated | result.truncated).long()
        return self._grouped(observation), result.reward, done, extras

    def _grouped(self, observation: Tensor | None) -> TensorDict:
        assert observation is not None
        return TensorDict({"policy": observation}, batch_size=[self.num_envs], device=self.device)
