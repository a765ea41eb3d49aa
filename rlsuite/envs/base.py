"""What all our environments share: the TorchRL contract, the time limit, the guard against bad numbers.

Legend: B worlds, O observation, A action.
"""

import importlib.metadata
import math
import platform
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from rlsuite.envs.seeding import Seeds
from rlsuite.errors import ConfigError, DataError, EnvironmentFailure
from rlsuite.returns.stock import StockSpace

NO_LIMIT = 2**62  # env steps


class Outcome(NamedTuple):
    """What one step of all worlds brought, on the simulator's device and in its precision.

    Attributes:
        observation: `[B, O]`, the true successor.
        reward: `[B]`.
        terminated: `[B]` bool, ended by the task.
        truncated: `[B]` bool, ended by the simulator for other reasons than the time limit, or None.
        sane: `[B]` bool, False where the simulator diverged, or None where that cannot be told.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor | None = None
    sane: Tensor | None = None


class VectorEnv(EnvBase):
    """B worlds stepped together; actions in [-1, 1]; a step never resets by itself.

    Keys: `observation` `[B, O]`, `action` `[B, A]`, `reward` `[B, 1]`, `terminated`, `truncated`, `done`
    and `valid` `[B, 1]` bool, `step_count` `[B, 1]` int64. After a step the caller does
    `td = env.maybe_reset(env.step_mdp(td))`; a mask OR-ed into `truncated` and `done` before that ends
    episodes from outside. Where a number is not finite the world is truncated, its row is replaced by
    zeros and marked `valid = False`: such a row must not be learned from.

    Subclasses implement `_advance`, `_restart`, `_set_seed`, `_own_state`, `_load_own_state`, `frame`.

    Attributes:
        env_id: the name that makes this environment again.
        engine_name: who integrates.
        simulation_device: where physics and task functions run; `device` is where tensors are handed out.
        half_range: (high - low) / 2 of each action in the environment's units.
        middle: (high + low) / 2 of each action.
        max_episode_steps: env steps until an episode is truncated; None for no limit.
        versions: versions of the packages that the numbers depend on.
        discrete: an action is one of A: the vector's greatest entry says which (the first of equal ones).
        picture: `[height, width, channels]` of an observation that is a flattened picture, or None.
        stock: what stands in the last places of an observation, where a `StockEnv` put it there.
        return_range: least and greatest return to expect, where the environment knows.
        return_gamma: the discount that a stock has unless told otherwise.
        foreign: a step calls code of other people's that may never come back.
        foreign_since: `time.monotonic` at its entry into such code; None while it is not there.
        vector_reward: after a step, its rewards by component, `[B, m]`, where there are several.
    """

    discrete: bool = False
    picture: tuple[int, ...] | None = None
    stock: StockSpace | None = None
    return_range: tuple[float, float] | None = None
    return_gamma: float = 0.99
    vector_reward: Tensor | None = None
    foreign: bool = False
    foreign_since: float | None = None

    def __init__(
        self,
        *,
        env_id: str,
        engine_name: str,
        num_envs: int,
        observation_size: int,
        action_low: np.ndarray,
        action_high: np.ndarray,
        max_episode_steps: int | None,
        packages: Iterable[str],
        device: torch.device | str,
        dtype: torch.dtype,
        simulation_device: torch.device | str = "cpu",
        simulation_dtype: torch.dtype = torch.float64,
        host_asks: bool = True,
    ) -> None:
        """Describe the environment to TorchRL.

        `host_asks` says that looking at a result costs nothing, so that a step may skip what it need not do.
        Without it, `step` and `maybe_reset` never wait for the simulation device: they queue all the work.
        """
        super().__init__(device=torch.device(device), batch_size=[num_envs])
        low, high = np.asarray(action_low, np.float64), np.asarray(action_high, np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ConfigError(f"{env_id} has unbounded actions ({low} to {high}); bound them to use it here")
        self.env_id = env_id
        self.engine_name = engine_name
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.half_range = tuple(((high - low) / 2).tolist())
        self.middle = tuple(((high + low) / 2).tolist())
        self.versions = package_versions(packages)
        self.dtype = dtype
        self.simulation_device = torch.device(simulation_device)
        self._precision = simulation_dtype
        self._host_asks = host_asks
        self._middle = torch.from_numpy((high + low) / 2).to(self.simulation_device, simulation_dtype)
        self._half = torch.from_numpy((high - low) / 2).to(self.simulation_device, simulation_dtype)
        self._unit_box = bool((high - low == 2).all() and (high + low == 0).all())
        self._step_count = torch.zeros(num_envs, 1, dtype=torch.int64, device=self.simulation_device)
        self._nan_resets = torch.zeros(1, dtype=torch.int64, device=self.simulation_device)
        self._limit = NO_LIMIT if max_episode_steps is None else max_episode_steps
        self._observation_size = observation_size
        self._action_shape = torch.Size((num_envs, len(low)))
        flag = (num_envs, 1)
        self.observation_spec = Composite(
            observation=Unbounded((num_envs, observation_size), dtype=dtype, device=self.device),
            step_count=Unbounded(flag, dtype=torch.int64, device=self.device),
            valid=Binary(1, flag, dtype=torch.bool, device=self.device),
            shape=[num_envs],
            device=self.device,
        )
        self.action_spec = Bounded(-1.0, 1.0, (num_envs, len(low)), dtype=dtype, device=self.device)
        self.reward_spec = Unbounded(flag, dtype=dtype, device=self.device)
        self.done_spec = Composite(
            {
                name: Binary(1, flag, dtype=torch.bool, device=self.device)
                for name in ("done", "terminated", "truncated")
            },
            shape=[num_envs],
            device=self.device,
        )

    @abstractmethod
    def _advance(self, action: Tensor) -> Outcome:
        """Step every world under actions `[B, A]` in the environment's units, device and precision."""

    @abstractmethod
    def _restart(self, mask: Tensor) -> Tensor:
        """Start new episodes in the worlds of `mask` `[B]`; return observations `[B, O]` of all worlds."""

    @abstractmethod
    def _own_state(self) -> dict[str, Tensor]:
        """Return what a subclass must save."""

    @abstractmethod
    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `_own_state` returned; raise DataError where it does not fit."""

    @abstractmethod
    def frame(self, world: int = 0) -> np.ndarray:
        """Return a picture of one world, uint8 `[height, width, 3]`."""

    def seed_worlds(self, seeds: Seeds) -> None:
        """Seed every world by itself; what the next resets draw follows from its own seed alone."""
        self._set_seed(seeds)

    def stream(self) -> AbstractContextManager[None]:
        """Return a context in which this environment and whoever uses it queue their GPU work in one stream.

        A training loop enters it once; everything is as correct, and slower, without it.
        """
        return nullcontext()

    @property
    def nan_resets(self) -> int:
        """Worlds that were cut off because a number was not finite, so far; waits for the device."""
        return int(self._nan_resets)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        if "_step" in tensordict:
            raise ConfigError("these environments step all worlds together; `_step` masks are not supported")
        outcome = self._advance(self._actuate(tensordict.get("action")))
        self._step_count.add_(1)
        steps = self._step_count.clone()  # what is handed out may be written to
        # Cast before the check: what is finite here may not be in the precision handed out.
        observation = outcome.observation.to(self.dtype)
        reward = outcome.reward.to(self.dtype).unsqueeze(-1)
        terminated = outcome.terminated.unsqueeze(-1)
        truncated = steps >= self._limit
        if outcome.truncated is not None:
            truncated |= outcome.truncated.unsqueeze(-1)
        valid = torch.ones_like(truncated)
        # A sum is finite only if every term is: one number settles the usual case. A simulator that must
        # not be asked always says which worlds are sane.
        if outcome.sane is not None or not math.isfinite(observation.sum() + reward.sum()):
            valid &= torch.isfinite(observation).all(-1, keepdim=True) & torch.isfinite(reward)
            if outcome.sane is not None:
                valid &= outcome.sane.unsqueeze(-1)
            bad = ~valid
            self._nan_resets += bad.sum()
            observation = observation.masked_fill(bad, 0.0)
            reward = reward.masked_fill(bad, 0.0)
            terminated = terminated & valid
            truncated = truncated | bad
        return self._pack(
            {
                "observation": observation,
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "done": terminated | truncated,
                "valid": valid,
                "step_count": steps,
            }
        )

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        mask = tensordict.get("_reset", None) if tensordict is not None else None
        return self._pack(self._fresh(mask))

    def step(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Step all worlds: TorchRL's `step`, without the bookkeeping that our fixed keys make needless."""
        keys = tensordict.keys()
        if "next" in keys or "_step" in keys or tensordict.batch_size != self.batch_size:
            return super().step(tensordict)
        return tensordict.set("next", self._step(tensordict))

    def step_mdp(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        """Return the row that the next step starts from: TorchRL's `step_mdp` for our flat keys.

        What `next` holds but the reward, and what a policy or the caller carries at the root.
        """
        following = next_tensordict.get("next", None)
        if following is None or next_tensordict.batch_size != self.batch_size:
            return super().step_mdp(next_tensordict)
        values = dict(next_tensordict.items())
        del values["next"]
        values.update(following.items())
        values.pop("reward", None)
        if not all(isinstance(value, Tensor) for value in values.values()):
            return super().step_mdp(next_tensordict)
        return self._row(values)

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Start new episodes in the worlds that are `done`; leave the others alone.

        As in TorchRL, keys that a reset does not write (actions, what a policy carries) become zero in
        the worlds that were reset, unless all of them were; where the host must not ask whether that is so
        (`simulation_device`), they become zero then, too.
        """
        mask = tensordict.get("done")
        if self._host_asks and not bool(mask.any()):
            return tensordict
        if not all(isinstance(value, Tensor) for value in tensordict.values()):
            return super().maybe_reset(tensordict)
        fresh = self._export(self._fresh(mask))
        if not (self._host_asks and bool(mask.all())):
            for key, value in tensordict.items():
                wide = mask.reshape(-1, *(1,) * (value.ndim - 1))
                new = fresh.get(key)
                fresh[key] = torch.where(wide, new, value) if new is not None else value.masked_fill(wide, 0)
        return tensordict.update(fresh)

    def episode_seeds(self) -> list[int]:
        """Return the seeds that the running episodes began from, where the environment has such."""
        return []

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the environment's future depends on, as flat named tensors."""
        common = {
            "step_count": self._step_count.clone(),
            "nan_resets": self._nan_resets.clone(),
        }
        return common | self._own_state()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned, bit for bit, in the middle of episodes too.

        Raises:
            DataError: the state is of another environment or another number of worlds.
        """
        steps = take(state, "step_count", self._step_count.shape)
        counter = take(state, "nan_resets", (1,))
        self._load_own_state(dict(state))
        self._step_count.copy_(steps)
        self._nan_resets.copy_(counter)

    def _actuate(self, action: Tensor) -> Tensor:
        """Return actions in the environment's units, on the simulator's device and in its precision."""
        if action.shape != self._action_shape:
            wanted = list(self._action_shape)
            raise ConfigError(f"action has shape {list(action.shape)}; {self.env_id} takes {wanted}")
        action = action.detach().to(self.simulation_device, self._precision).clamp(-1.0, 1.0)
        if self._host_asks and math.isnan(action.sum()):
            worlds = action.isnan().any(-1).nonzero().flatten().tolist()
            raise EnvironmentFailure(f"the policy's action is NaN in world(s) {worlds} of {self.env_id}")
        return action if self._unit_box else torch.addcmul(self._middle, self._half, action)

    def _fresh(self, mask: Tensor | None) -> dict[str, Tensor]:
        """Restart the worlds of `mask` `[B, 1]` (None: all); return the current values of all worlds."""
        if mask is None:
            mask = torch.ones_like(self._step_count, dtype=torch.bool)
        mask = mask.to(self.simulation_device)
        observation = self._restart(mask.flatten())
        self._step_count.masked_fill_(mask, 0)
        off = torch.zeros_like(mask)
        return {
            "observation": observation,
            "step_count": self._step_count.clone(),
            "valid": ~off,
            "done": off,
            "terminated": off.clone(),
            "truncated": off.clone(),
        }

    def _export(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cast to the dtype and move to the device that this environment hands out."""
        values["observation"] = values["observation"].to(self.dtype)
        if self.device != self.simulation_device:
            values = {key: value.to(self.device) for key, value in values.items()}
        return values

    def _pack(self, values: dict[str, Tensor]) -> TensorDict:
        return self._row(self._export(values))

    def _row(self, values: dict[str, Tensor]) -> TensorDict:
        """Join tensors that are known to fit: TensorDict's checks of them cost more than a world's step."""
        return TensorDict._new_unsafe(values, batch_size=self.batch_size, device=self.device)


def take(state: Mapping[str, Tensor], name: str, shape: Iterable[int]) -> Tensor:
    """Return one tensor of a saved state on the CPU; raise DataError when absent or of another shape."""
    wanted = list(shape)
    if name not in state or list(state[name].shape) != wanted:
        came = list(state[name].shape) if name in state else "nothing"
        raise DataError(f"environment state {name}: came {came}, this environment needs {wanted}")
    return state[name].cpu()


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages, and Python's own."""
    versions = {"python": platform.python_version()}
    for package in ("numpy", "torch", "torchrl", "tensordict", *packages):
        versions[package] = importlib.metadata.version(package)
    return versions
