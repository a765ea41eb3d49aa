"""Early stopping in other loops: a TorchRL transform, a wrapper of Gymnasium's vector environments."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs.transforms import Transform

from rlsuite.errors import ConfigError
from rlsuite.plugins.least import LEAST

Evaluate = Callable[..., tuple[Any, Any]]


class LEASTTransform(Transform):
    """Truncates episodes of a TorchRL environment where `least` says so.

    Append it after `StepCounter`, or after whatever else writes `truncated`; `terminated` is left alone, so
    that TorchRL's losses bootstrap through the cut. In evaluation mode (`env.eval()`) it does nothing.

    Args:
        least: the rule; its state is the transform's.
        evaluate: a step's TensorDict, with "next" in it, -> value and squared TD error, one number per env.
    """

    def __init__(self, least: LEAST, evaluate: Callable[[TensorDictBase], tuple[Tensor, Tensor]]) -> None:
        super().__init__(in_keys=[], out_keys=[])
        self.least, self.evaluate = least, evaluate

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        if not self.training:
            return next_tensordict
        with torch.no_grad():
            q, error = self.evaluate(tensordict.copy().set("next", next_tensordict))
        terminated, truncated = (next_tensordict.get(key) for key in ("terminated", "truncated"))
        stop = self.least.stop(q.flatten(), error.flatten(), terminated.flatten(), truncated.flatten())
        for key in ("truncated", "done"):
            next_tensordict.set(key, next_tensordict.get(key) | stop.view(terminated.shape))
        return next_tensordict

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        if self.training:
            which = None if tensordict is None else tensordict.get("_reset", None)
            self.least.forget(None if which is None else which.flatten())
        return tensordict_reset


class LEASTVectorEnv(gymnasium.vector.VectorWrapper):
    """Truncates episodes of a Gymnasium vector environment where `least` says so, and resets them at once.

    What it gives is Gymnasium's SAME_STEP mode: after the end of an episode `observation` is the next one's
    first, and `infos["final_obs"]`, where `infos["_final_obs"]` is True, the true last one.

    Args:
        env: made with `autoreset_mode=AutoresetMode.DISABLED`, so that an episode can be ended from outside.
        least: the rule.
        evaluate: (observation, action, reward, next observation, terminated), as arrays, -> value and squared
            TD error, one number per env.
    """

    def __init__(self, env: gymnasium.vector.VectorEnv, least: LEAST, evaluate: Evaluate) -> None:
        super().__init__(env)
        if env.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
            raise ConfigError(
                "the vector environment resets by itself: make it with "
                "vector_kwargs={'autoreset_mode': gymnasium.vector.AutoresetMode.DISABLED}"
            )
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.least, self.evaluate = least, evaluate
        self.stopping = True
        """False leaves every episode its whole length: for evaluation."""
        self._observation: Any = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all envs; running episodes are forgotten."""
        self.least.forget()
        self._observation, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        return self._observation, infos

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step all envs, end and reset episodes."""
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        if self.stopping:
            q, error = self.evaluate(self._observation, actions, reward, observation, terminated)
            values = (q, error, terminated, truncated)
            stop = self.least.stop(*(torch.as_tensor(each).flatten() for each in values))
            truncated = truncated | stop.cpu().numpy()
        ended = np.logical_or(terminated, truncated)
        self._observation = observation
        if ended.any():
            infos = {**infos, "final_obs": observation, "_final_obs": ended.copy()}
            self._observation, _ = self.env.reset(options={"reset_mask": ended})
        return self._observation, reward, terminated, truncated, infos
