"""Base class of our environments: the contract, the time limit, the guard against bad numbers.

One contract, three ways to step, each on top of the one before it: `step_arrays` (numpy arrays),
`step_tensors` (the same as tensors; on a device all that there is), `step` (TorchRL's TensorDict).

Legend: B envs, O observation, A action.
"""

import importlib.metadata
import math
import platform
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from rlsuite.envs.arrays import Array, magnitude
from rlsuite.envs.clock import NO_LIMIT, EpisodeClock
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.seeding import Seeds
from rlsuite.errors import ConfigError, DataError, EnvironmentFailure
from rlsuite.returns.stock import StockSpace

CPU = torch.device("cpu")
DEFAULT_FPS = 30.0  # of a video, where the environment does not know its own
NUMPY_DTYPES: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}
LOWEST, HIGHEST = np.array(-1.0), np.array(1.0)  # actions
END_KEYS = ("done", "terminated", "truncated")

Kind = TypeVar("Kind", np.ndarray, Tensor)


class StepResult(NamedTuple, Generic[Kind]):
    """Result of one step of all envs; the caller owns the arrays.

    Attributes:
        observation: `[B, O]`, the true successor, at an episode's end too; zeros where not `valid`.
        reward: `[B]`; 0 where not `valid`.
        terminated: `[B]` bool, ended by the task.
        truncated: `[B]` bool, ended by the time limit, by the simulator, or because a number was not finite.
        valid: `[B]` bool, False where a number was not finite: such a row must not be learnt from.
    """

    observation: Kind
    reward: Kind
    terminated: Kind
    truncated: Kind
    valid: Kind


class Outcome(NamedTuple):
    """Outcome of a simulation's step, in its precision: numpy arrays, or tensors on its device.

    Attributes:
        observation: `[B, O]`, the true successor.
        reward: `[B]`.
        terminated: `[B]` bool, ended by the task.
        truncated: `[B]` bool, ended by the simulator for other reasons than the time limit, or None.
        sane: `[B]` bool, False where the simulation diverged, or None where that cannot be told.
        rewards: `[B, m]`, the components of a reward that is a vector; `reward` is their sum.
        fresh: observation and reward are new arrays, which the simulation will not touch again.
    """

    observation: Array
    reward: Array
    terminated: Array
    truncated: Array | None = None
    sane: Array | None = None
    rewards: Array | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalFacts:
    """Goals of an environment, which stand in its flat observation.

    Attributes:
        achieved: columns of the goal that was achieved.
        desired: columns of the goal that is asked for, as many.
        rule: (achieved, desired), float64 `[R, G]`, -> the environment's rewards `[R]` and which end an
            episode, `[R]` bool; None where it does not say.
    """

    achieved: slice
    desired: slice
    rule: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvFacts:
    """Facts about an environment; a wrapper's are its inner environment's with some replaced.

    Attributes:
        env_id: the name that makes this environment again.
        engine_name: what integrates.
        num_envs: B.
        observation_size: O.
        action_low: least action of each, `[A]`, in the environment's units.
        action_high: greatest action.
        max_episode_steps: env steps until an episode is truncated; None for no limit.
        packages: whose versions the numbers depend on.
        fps: pictures per second of a video in real time, one an env step.
        on_device: simulated by torch on `simulation_device`: work is queued and never waited for.
        simulation_device: where physics and task functions run.
        simulation_dtype: their precision.
        discrete: an action is one of A: the vector's greatest entry says which (the first of equal ones).
        picture: `[height, width, channels]` of an observation that is a flattened picture, or None.
        pixels: `(height, width, channels, frames)` of an observation that is pictures of bytes, the oldest
            frame first; None of other observations.
        masked: an observation's last A numbers are 1 for the discrete actions that are allowed, else 0.
        stock: what stands in the last places of an observation, where a `StockEnv` put it there.
        return_range: least and greatest return to expect, where the environment knows.
        return_gamma: the discount that a stock has unless told otherwise.
        reward_size: components m of a reward that is a vector, None for a single number.
        foreign: a step calls code of other people's that may never come back.
        goal: where goals stand in an observation, and what they are worth; None without goals.
        private: how many of an observation's last numbers are for critics alone; actors see the others.
        parts: names and sizes of what stands side by side in an observation; empty where that is one thing.
        action_names: of each action; empty where they have none.
    """

    env_id: str
    engine_name: str
    num_envs: int
    observation_size: int
    action_low: np.ndarray
    action_high: np.ndarray
    max_episode_steps: int | None
    packages: tuple[str, ...]
    fps: float = DEFAULT_FPS
    on_device: bool = False
    simulation_device: torch.device = CPU
    simulation_dtype: torch.dtype = torch.float64
    discrete: bool = False
    picture: tuple[int, ...] | None = None
    pixels: tuple[int, int, int, int] | None = None
    masked: bool = False
    stock: StockSpace | None = None
    return_range: tuple[float, float] | None = None
    return_gamma: float = 0.99
    reward_size: int | None = None
    foreign: bool = False
    goal: GoalFacts | None = None
    private: int = 0
    parts: tuple[tuple[str, int], ...] = ()
    action_names: tuple[str, ...] = ()

    @property
    def shown_size(self) -> int:
        """Numbers of an observation that an actor sees; all of them, unless some are private."""
        return self.observation_size - self.private

    @property
    def middle(self) -> np.ndarray:
        """(high + low) / 2 of each action, `[A]` float64."""
        return (np.asarray(self.action_high, np.float64) + np.asarray(self.action_low, np.float64)) / 2

    @property
    def half_range(self) -> np.ndarray:
        """(high - low) / 2 of each action, `[A]` float64."""
        return (np.asarray(self.action_high, np.float64) - np.asarray(self.action_low, np.float64)) / 2


class VectorEnv(EnvBase):
    """B envs stepped together; actions in [-1, 1]; a step never resets by itself.

    TorchRL's keys: `observation` `[B, O]`, `action` `[B, A]`, `reward` `[B, 1]`, `terminated`, `truncated`,
    `done` and `valid` `[B, 1]` bool, `step_count` `[B, 1]` int64. After a step the caller does
    `td = env.maybe_reset(env.step_mdp(td))`; a mask OR-ed into `truncated` and `done` before that ends
    episodes from outside. Where a number is not finite the env is truncated, its row is replaced by zeros and
    marked `valid = False`: such a row must not be learnt from. Where an observation has private numbers,
    `observation` `[B, O - P]` is what an actor sees and `("critic", "observation")` `[B, O]` all of it. Where
    some discrete actions are not allowed, `action_mask` `[B, A]` bool says which are; so do the observation's
    last A numbers.

    With arrays: `result = env.step_arrays(action)`, then, where `done = result.terminated | result.truncated`
    has any, `observation = env.reset_arrays(done)`; whoever wants to end an episode ORs into that mask.

    Subclasses implement `_advance`, `_restart`, `_set_seed`, `_own_state`, `_load_own_state`, `frame`.

    Args:
        facts: what the environment is.
        options: device, dtype; a subclass reads the others.

    Attributes:
        facts: see `EnvFacts`.
        half_range: (high - low) / 2 of each action in the environment's units.
        middle: (high + low) / 2 of each action.
        versions: versions of the packages that the numbers depend on.
        foreign_since: `time.monotonic` at its entry into foreign code; None while it is not there.

    Raises:
        ConfigError: unbounded actions.
    """

    foreign_since: float | None = None
    success: np.ndarray | None = None
    """Of the last step, `[B]` bool, where Gymnasium's `info` has `is_success` or `success`; else None."""
    frame_size: tuple[int, int] | None = None
    """Height and width of `frame`'s pictures where they are observations; None is a video's size."""
    _quiet = False
    """Whether `_advance` lets numpy warn of nothing, and a `sane` of None says that numbers are small. To
    silence numpy costs a tenth of a step of one env."""

    def __init__(self, facts: EnvFacts, options: EnvOptions) -> None:
        super().__init__(device=torch.device(options.device), batch_size=[facts.num_envs])
        middle, half = facts.middle, facts.half_range
        if not (np.isfinite(middle).all() and np.isfinite(half).all()):
            raise ConfigError(
                f"{facts.env_id} has unbounded actions ({facts.action_low} to {facts.action_high}); bound "
                "them to use it here"
            )
        self.facts = facts
        self.env_id, self.engine_name = facts.env_id, facts.engine_name
        self.num_envs, self.max_episode_steps = facts.num_envs, facts.max_episode_steps
        self.simulation_device = facts.simulation_device
        self.half_range, self.middle = tuple(half.tolist()), tuple(middle.tolist())
        self.versions = package_versions(facts.packages)
        self.dtype = options.dtype
        self._on_device = facts.on_device
        self._array_dtype = NUMPY_DTYPES[options.dtype]
        self._action_shape = torch.Size((facts.num_envs, len(middle)))
        self._scale_there: list[Tensor] = []  # on the device, where simulations are
        self._scale = None if (middle == 0).all() and (half == 1).all() else (middle, half)
        self._limit = NO_LIMIT if facts.max_episode_steps is None else facts.max_episode_steps
        place = facts.simulation_device
        self._device_steps = torch.zeros(facts.num_envs, dtype=torch.int64, device=place)
        self._nan_resets = torch.zeros(1, dtype=torch.int64, device=place)
        self._every = torch.ones(facts.num_envs, dtype=torch.bool, device=place)
        if not facts.on_device:
            self._every_array = self._every.numpy()
            self._clock = EpisodeClock(facts.num_envs, facts.max_episode_steps)
        self._describe(facts)

    def _describe(self, facts: EnvFacts) -> None:
        """Tell TorchRL what comes and goes."""
        batch, flag = [facts.num_envs], (facts.num_envs, 1)
        flags = {name: Binary(1, flag, dtype=torch.bool, device=self.device) for name in END_KEYS}
        width = facts.observation_size
        whole = Unbounded((*batch, width), dtype=self.dtype, device=self.device)
        critic = Composite(observation=whole, shape=batch, device=self.device)
        mask = Binary(len(facts.middle), self._action_shape, dtype=torch.bool, device=self.device)
        self.observation_spec = Composite(
            observation=Unbounded((*batch, facts.shown_size), dtype=self.dtype, device=self.device),
            **({"critic": critic} if facts.private else {}),
            **({"action_mask": mask} if facts.masked else {}),
            step_count=Unbounded(flag, dtype=torch.int64, device=self.device),
            valid=Binary(1, flag, dtype=torch.bool, device=self.device),
            shape=batch,
            device=self.device,
        )
        self.action_spec = Bounded(-1.0, 1.0, self._action_shape, dtype=self.dtype, device=self.device)
        self.reward_spec = Unbounded(flag, dtype=self.dtype, device=self.device)
        self.done_spec = Composite(flags, shape=batch, device=self.device)

    @abstractmethod
    def _advance(self, action: Array) -> Outcome:
        """Step every env under actions `[B, A]` in the environment's units and the simulation's precision."""

    @abstractmethod
    def _restart(self, mask: Array) -> Array:
        """Start new episodes in the envs of `mask` `[B]`; return observations `[B, O]` of all envs."""

    @abstractmethod
    def _own_state(self) -> dict[str, Tensor]:
        """Return what a subclass must save."""

    @abstractmethod
    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `_own_state` returned; raise DataError where it does not fit."""

    @abstractmethod
    def frame(self, index: int = 0) -> np.ndarray:
        """Return a picture of one env, uint8 `[height, width, 3]`."""

    def seed_envs(self, seeds: Seeds) -> None:
        """Seed every env by itself; what the next resets draw follows from its own seed alone."""
        self._set_seed(seeds)

    seed_worlds = seed_envs  # the older name

    @property
    def generators(self) -> list[np.random.Generator]:
        """What each env's next episodes are drawn from; to replace one is to seed that env.

        Raises:
            ConfigError: episodes are drawn on a device.
        """
        generators: list[np.random.Generator] | None = self.__dict__.get("_generators")
        if generators is None:
            raise ConfigError(f"episodes of {self.env_id} are drawn on {self.simulation_device}")
        return generators

    def stream(self) -> AbstractContextManager[None]:
        """Return a context in which this environment and its users queue their GPU work in one stream.

        A training loop enters it once; everything is as correct, and slower, without it.
        """
        return nullcontext()

    @property
    def discrete(self) -> bool:
        """Whether an action is one of A; see `EnvFacts`."""
        return self.facts.discrete

    @property
    def picture(self) -> tuple[int, ...] | None:
        """Shape of an observation that is a flattened picture; see `EnvFacts`."""
        return self.facts.picture

    @property
    def stock(self) -> StockSpace | None:
        """The stock at the end of an observation; see `EnvFacts`."""
        return self.facts.stock

    @property
    def foreign(self) -> bool:
        """Whether a step calls code of other people's; see `EnvFacts`."""
        return self.facts.foreign

    @property
    def fps(self) -> float:
        """Pictures per second of a video in real time; see `EnvFacts`."""
        return self.facts.fps

    @property
    def nan_resets(self) -> int:
        """Envs that were cut off because a number was not finite, so far; waits for the device."""
        return int(self._nan_resets)

    @property
    def step_counts(self) -> np.ndarray:
        """Env steps of every env's running episode, `[B]` int64; waits for the device."""
        return self._steps().cpu().numpy()

    def episode_steps(self) -> Tensor:
        """Return the env steps of every env's running episode, `[B]` int64 on `device`: a new tensor."""
        return self._steps().to(self.device)

    def set_episode_steps(self, steps: Tensor) -> None:
        """Let the running episodes have taken `steps` `[B]` env steps: time limits come so much sooner."""
        if self._on_device:
            self._device_steps.copy_(steps)
        else:
            self._clock.load(steps.cpu().numpy().astype(np.int64))

    # Arrays: the simulations on the host.

    def step_arrays(
        self, action: np.ndarray, out: StepResult[np.ndarray] | None = None, *, native: bool = False
    ) -> StepResult[np.ndarray]:
        """Step all envs under actions `[B, A]` in [-1, 1] (others are clamped); nothing is reset.

        Args:
            action: of any floating-point dtype; not written to.
            out: arrays to write the result into, of any dtypes (columns of a replay, say); returned.
            native: the actions are in the environment's own units, and are handed on as they are.

        Returns:
            New arrays, or `out`; observation and reward in the environment's dtype.

        Raises:
            ConfigError: an action of another shape, or an environment that is simulated on a device.
            EnvironmentFailure: an action is nan, or the simulation failed.
        """
        if not native:
            action = self._actuate(action)
        elif action.shape != self._action_shape:
            self._refuse_shape(action)
        if self._quiet:
            outcome = self._advance(action)
        else:
            with np.errstate(all="ignore"):  # bad numbers are looked for
                outcome = self._advance(action)
        if self._quiet and outcome.sane is None:
            result = self._judge(outcome)
        else:
            with np.errstate(all="ignore"):
                result = self._judge(outcome)
        if out is None:
            return result
        for target, values in zip(out, result, strict=True):
            target[...] = values
        return out

    def reset_arrays(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Start new episodes in the envs of `mask` `[B]` bool (None: all).

        Returns:
            Observations of all envs, `[B, O]`: first ones where `mask` is True, else those of the last step.
        """
        if self._on_device:
            self._refuse_device()
        mask = self._every_array if mask is None else mask
        with np.errstate(all="ignore"):
            observation = self._restart(mask)
        self._clock.restart(mask)
        return observation.astype(self._array_dtype)

    def _actuate(self, action: np.ndarray) -> np.ndarray:
        """Return actions in the environment's units and the simulation's precision."""
        if self._on_device:
            self._refuse_device()
        if action.shape != self._action_shape:
            self._refuse_shape(action)
        action = np.maximum(action, LOWEST, dtype=np.float64)
        np.minimum(action, HIGHEST, out=action)
        if math.isnan(magnitude(action)):
            bad = np.flatnonzero(np.isnan(action).any(-1)).tolist()
            raise EnvironmentFailure(f"the policy's action is NaN in env(s) {bad} of {self.env_id}")
        if self._scale is None:
            return action
        middle, half = self._scale
        return middle + half * action

    def _judge(self, outcome: Outcome) -> StepResult[np.ndarray]:
        """Count the step, cast, cut off what is not finite, and truncate at the time limit."""
        truncated = self._clock.tick()
        if outcome.truncated is not None:
            truncated |= outcome.truncated
        # Cast before the check: what is finite here may not be in the precision handed out.
        dtype, copy = self._array_dtype, not outcome.fresh
        observation = outcome.observation.astype(dtype, copy=copy)
        reward = outcome.reward.astype(dtype, copy=copy)
        if outcome.sane is None and math.isfinite(magnitude(observation) + magnitude(reward)):
            return StepResult(observation, reward, outcome.terminated, truncated, self._every_array.copy())
        valid = np.isfinite(observation).all(-1) & np.isfinite(reward)
        if outcome.sane is not None:
            valid &= outcome.sane
        bad = ~valid
        self._nan_resets += int(bad.sum())
        observation[bad], reward[bad] = 0.0, 0.0
        return StepResult(observation, reward, outcome.terminated & valid, truncated | bad, valid)

    def _refuse_device(self) -> None:
        raise ConfigError(f"{self.env_id} is simulated on {self.simulation_device}: use step_tensors")

    def _refuse_shape(self, action: Array) -> None:
        came, wanted = list(action.shape), list(self._action_shape)
        raise ConfigError(f"action has shape {came}; {self.env_id} takes {wanted}")

    # Tensors: the same of either kind.

    def step_tensors(self, action: Tensor) -> StepResult[Tensor]:
        """Step all envs under actions `[B, A]` in [-1, 1], as `step_arrays`; tensors on `device`.

        On a device nothing is waited for, and an action that is nan makes its env's row invalid.
        """
        result = self._step_tensors(action)
        if self.device == self.simulation_device:
            return result
        return StepResult._make(value.to(self.device) for value in result)

    def reset_tensors(self, mask: Tensor | None = None) -> Tensor:
        """Start new episodes in the envs of `mask` `[B]` bool (None: all); return `[B, O]` of all envs."""
        return self._reset_tensors(mask).to(self.device)

    def _step_tensors(self, action: Tensor) -> StepResult[Tensor]:
        if self._on_device:
            return self._judge_on_device(self._advance(self._actuate_on_device(action)))
        result = self.step_arrays(on_host(action))
        return StepResult._make(torch.from_numpy(value) for value in result)

    def _reset_tensors(self, mask: Tensor | None) -> Tensor:
        if not self._on_device:
            return torch.from_numpy(self.reset_arrays(None if mask is None else on_host(mask)))
        mask = self._every if mask is None else mask.to(self.simulation_device)
        observation = self._restart(mask)
        self._device_steps.masked_fill_(mask, 0)
        return observation.to(self.dtype)

    def _actuate_on_device(self, action: Tensor) -> Tensor:
        if action.shape != self._action_shape:
            self._refuse_shape(action)
        action = action.detach().to(self.simulation_device, self.facts.simulation_dtype).clamp(-1.0, 1.0)
        if self._scale is None:
            return action
        if not self._scale_there:  # once: a copy from the host cannot be recorded, and waits for the device
            self._scale_there = [torch.from_numpy(part).to(action) for part in self._scale]
        middle, half = self._scale_there
        return torch.addcmul(middle, half, action)

    def _judge_on_device(self, outcome: Outcome) -> StepResult[Tensor]:
        """Do what `_judge` does, without asking for a number."""
        self._device_steps.add_(1)
        observation, reward = outcome.observation.to(self.dtype), outcome.reward.to(self.dtype)
        truncated = self._device_steps >= self._limit
        if outcome.truncated is not None:
            truncated |= outcome.truncated
        valid = torch.isfinite(observation).all(-1) & torch.isfinite(reward)
        if outcome.sane is not None:
            valid &= outcome.sane
        bad = ~valid
        self._nan_resets += bad.sum()
        return StepResult(
            observation.masked_fill(bad.unsqueeze(-1), 0.0),
            reward.masked_fill(bad, 0.0),
            outcome.terminated & valid,
            truncated | bad,
            valid,
        )

    # TorchRL.

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        if "_step" in tensordict:
            raise ConfigError("these environments step all envs together; `_step` masks are not supported")
        result: StepResult[Any]
        steps: Any
        if self._on_device:
            result, steps = self._step_tensors(tensordict.get("action")), self._device_steps.clone()
        else:  # arrays are reshaped and joined at a third of the cost of tensors
            result, steps = self.step_arrays(on_host(tensordict.get("action"))), self._clock.counts()
        values: dict[str, Any] = {
            "observation": result.observation,
            "reward": result.reward[:, None],
            "terminated": result.terminated[:, None],
            "truncated": result.truncated[:, None],
            "done": (result.terminated | result.truncated)[:, None],
            "valid": result.valid[:, None],
            "step_count": steps[:, None],
        }
        if not self._on_device:
            values = {key: torch.from_numpy(value) for key, value in values.items()}
        return self._pack(self._divided(values))

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        mask = tensordict.get("_reset", None) if tensordict is not None else None
        return self._pack(self._fresh(mask))

    def step(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Step all envs: TorchRL's `step`, without the bookkeeping that our fixed keys make needless."""
        keys = tensordict.keys()
        if "next" in keys or "_step" in keys or tensordict.batch_size != self.batch_size:
            return super().step(tensordict)
        after = self._step(tensordict)
        if tensordict.device != self.device:
            return tensordict.set("next", after)
        # As `set`, which would check what is known to fit.
        return tensordict._set_str("next", after, inplace=False, validated=True)

    def step_mdp(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        """Return the row that the next step starts from: TorchRL's `step_mdp` for our flat keys.

        What `next` holds but the reward, and what a policy or the caller carries at the root; the reward,
        too, where that carries a `last_reward`.
        """
        next_td = next_tensordict.get("next", None)
        if next_td is None or next_tensordict.batch_size != self.batch_size:
            return super().step_mdp(next_tensordict)
        values = dict(next_tensordict.items())
        del values["next"]
        values.update(next_td.items())
        reward = values.pop("reward", None)
        if "last_reward" in values:  # a policy carries it that is to be told
            values["last_reward"] = reward
        if not all(isinstance(value, Tensor) for value in values.values()):
            return super().step_mdp(next_tensordict)
        return self._row(values)

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Start new episodes in the envs that are `done`; leave the others alone.

        As in TorchRL, keys that a reset does not write (actions, what a policy carries) become zero in
        the envs that were reset, unless all of them were; where the host must not ask whether that is so
        (`EnvFacts.on_device`), they become zero then, too.
        """
        mask = tensordict.get("done")
        may_ask = not self._on_device
        if may_ask and not bool(mask.any()):
            return tensordict
        if not all(isinstance(value, Tensor) for value in tensordict.values()):
            return super().maybe_reset(tensordict)
        fresh = self._export(self._fresh(mask))
        if not (may_ask and bool(mask.all())):
            for key, value in tensordict.items():
                wide = mask.reshape(-1, *(1,) * (value.ndim - 1))
                new = fresh.get(key)
                fresh[key] = torch.where(wide, new, value) if new is not None else value.masked_fill(wide, 0)
        return tensordict.update(fresh)

    def episode_seeds(self) -> list[int]:
        """Return the seeds that the running episodes began from, where the environment has such."""
        return []

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Return everything that the environment's future depends on, as flat named tensors.

        Args:
            destination: entries are added to it, and it is returned; as of any `torch.nn.Module`.
            prefix: of the names.
            keep_vars: without effect: nothing here has a gradient.
        """
        state = {"step_count": self._steps().unsqueeze(-1), "nan_resets": self._nan_resets.clone()}
        named = {prefix + name: value for name, value in (state | self._own_state()).items()}
        if destination is None:
            return named
        destination.update(named)
        return destination

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> None:
        """Continue from what `state_dict` returned, bit for bit, in the middle of episodes too.

        Args:
            state_dict: what `state_dict` returned; names that it does not know are ignored.
            strict: whether a state that has nothing of this environment's is an error. TorchRL's EnvCreator
                hands out such, and False then leaves the environment as it is; a part of one is an error.
            assign: without effect: numbers are copied.

        Raises:
            DataError: the state is of another environment or another number of envs.
        """
        if not strict and "step_count" not in state_dict:
            return
        steps = take(state_dict, "step_count", (self.num_envs, 1))
        counter = take(state_dict, "nan_resets", (1,))
        self._load_own_state(dict(state_dict))
        self.set_episode_steps(steps.flatten())
        self._nan_resets.copy_(counter)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *_: object, **__: object
    ) -> None:
        """Take the part of an enclosing module's state that is this environment's."""
        mine = {
            key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)
        }
        if mine:
            self.load_state_dict(mine)

    def _steps(self) -> Tensor:
        """Return the env steps of each running episode, `[B]` int64: a new tensor."""
        return self._device_steps.clone() if self._on_device else torch.from_numpy(self._clock.counts())

    def _fresh(self, mask: Tensor | None) -> dict[str, Tensor]:
        """Restart the envs of `mask` `[B, 1]` (None: all); return the current values of all envs."""
        observation = self._reset_tensors(None if mask is None else mask.flatten())
        valid = self._every.unsqueeze(-1).clone()
        off = ~valid
        values = {
            "observation": observation,
            "step_count": self._steps().unsqueeze(-1),
            "valid": valid,
            "done": off,
            "terminated": off.clone(),
            "truncated": off.clone(),
        }
        return self._divided(values)

    def _divided(self, values: dict[str, Any]) -> dict[str, Any]:
        """Add what TorchRL has keys for: an observation's private part apart, and its mask of actions."""
        if self.facts.masked:
            values["action_mask"] = values["observation"][:, -self._action_shape[1] :] > 0.5
        if self.facts.private:
            whole = values["observation"]
            values["critic"] = TensorDict({"observation": whole}, self.batch_size)
            values["observation"] = whole[:, : self.facts.shown_size].clone()
        return values

    def _export(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move to the device that this environment hands out."""
        if self.device != self.simulation_device:
            values = {key: value.to(self.device) for key, value in values.items()}
        return values

    def _pack(self, values: dict[str, Tensor]) -> TensorDict:
        return self._row(self._export(values))

    def _row(self, values: dict[str, Tensor]) -> TensorDict:
        """Join tensors that are known to fit: TensorDict's checks of them cost more than an env's step."""
        return TensorDict._new_unsafe(values, batch_size=self.batch_size, device=self.device)


def refuse_private(facts: EnvFacts) -> None:
    """Raise ConfigError where critics are told more than actors, for views that know one observation."""
    if facts.private:
        raise ConfigError(
            f"{facts.env_id} tells critics {facts.private} numbers alone, which this view cannot keep from "
            "actors: take make_env"
        )


def on_host(tensor: Tensor) -> np.ndarray:
    """Return a tensor as an array, without a copy where it lies on the CPU."""
    if tensor.dtype == torch.bfloat16:  # numpy has none
        tensor = tensor.float()
    return tensor.numpy(force=True)


def take(state: Mapping[str, Tensor], name: str, shape: Iterable[int]) -> Tensor:
    """Return one tensor of a saved state on the CPU; raise DataError when absent or of another shape."""
    wanted = list(shape)
    if name not in state or list(state[name].shape) != wanted:
        came = list(state[name].shape) if name in state else "nothing"
        raise DataError(f"environment state {name}: came {came}, this environment needs {wanted}")
    return state[name].cpu()


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages, and Python's own; "unknown" of one without metadata."""
    versions = {"python": platform.python_version()}
    for package in ("numpy", "torch", "torchrl", "tensordict", *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # unpacked by hand
            versions[package] = "unknown"
    return versions
