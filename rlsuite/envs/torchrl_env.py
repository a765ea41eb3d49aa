"""Any TorchRL environment (`torchrl:MODULE:CLASS`), those that wrap other simulators among them.

One of batch size `[]` is copied, one copy an env, and every episode starts from a seed of its own; one of
batch size `[N]` has N envs already. Both show `[B, O]` here, whatever their keys are.

Legend: B envs, O observation, A action.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Unbounded
from torchrl.envs import EnvBase

from rlsuite.envs.arrays import Array
from rlsuite.envs.base import CPU, EnvFacts, Outcome, VectorEnv
from rlsuite.envs.flatten import choose, key_order
from rlsuite.envs.gym import Timed, blamed
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.replayed import ReplayedEnv
from rlsuite.envs.stateless import StatelessEnv
from rlsuite.errors import ConfigError
from rlsuite.strict import from_mapping

MAIN_KEYS = ("observation", "policy")  # of what is shown alone, where it is there, unless keys are chosen
COUNT_ARGUMENTS = ("num_envs", "batch_size")  # that constructors have for the number of envs


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchRLOptions:
    """Options of ours, `torchrl_*`; all others are the constructor's."""

    count: str = ""
    """Constructor argument for the number of envs: num_envs or batch_size; found out where it is named."""
    bound: float | None = None
    """Actions without bounds are taken to go from minus this to this."""


def make_torchrl_env(name: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    """Make an environment from `MODULE:CLASS`; see `make_env`.

    Raises:
        ConfigError: there is no such class, it does not take the options, has another number of envs, or
            actions and rewards that our agents cannot use.
        EnvironmentFailure: its own code failed.
    """
    given = dict(options.options)
    mine = {key: given.pop(key) for key in list(given) if key.startswith("torchrl_")}
    where = f"options torchrl_* of torchrl:{name}"
    settings = from_mapping(TorchRLOptions, {k.removeprefix("torchrl_"): v for k, v in mine.items()}, where)
    cls = _class(name)
    counts = _count_argument(cls, settings, given, num_envs)
    if "device" in inspect.signature(cls.__init__).parameters:
        given.setdefault("device", str(options.device))
    if "max_episode_steps" not in inspect.signature(cls.__init__).parameters:
        limit = given.pop("max_episode_steps", options.max_episode_steps)
        options = replace(options, max_episode_steps=limit)  # checks it
    first = _made(name, cls, {**given, **counts})
    size = tuple(first.batch_size)
    if size == ():
        copies = [first, *(_made(name, cls, given) for _ in range(num_envs - 1))]
        return CopiedTorchRLEnv(name, copies, settings, options)
    if size != (num_envs,):
        first.close()
        raise ConfigError(
            f"torchrl:{name} has the batch {list(size)} where [{num_envs}] envs are wanted: name its "
            "argument for their number with --env-option torchrl_count=NAME, or ask for as many as it has"
        )
    return BatchedTorchRLEnv(name, first, settings, options)


def _class(name: str) -> type[EnvBase]:
    module_name, _, class_name = name.rpartition(":")
    if not module_name or not class_name:
        raise ConfigError(
            f'"torchrl:{name}": write torchrl:MODULE:CLASS, e.g. torchrl:torchrl.envs:PendulumEnv'
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f'"torchrl:{name}" needs a module that cannot be imported: {error}') from error
    cls = getattr(module, class_name, None)
    if not (inspect.isclass(cls) and issubclass(cls, EnvBase)):
        raise ConfigError(f'"torchrl:{name}": {module_name} has no TorchRL environment {class_name}')
    return cls


def _count_argument(
    cls: type[EnvBase], settings: TorchRLOptions, given: Mapping[str, Any], num_envs: int
) -> dict[str, Any]:
    """Return the argument that says how many envs there are; none for a class that has none."""
    if settings.count not in ("", *COUNT_ARGUMENTS):
        raise ConfigError(f"torchrl_count = {settings.count}: must be {' or '.join(COUNT_ARGUMENTS)}")
    parameters = inspect.signature(cls.__init__).parameters
    names = [settings.count] if settings.count else [name for name in COUNT_ARGUMENTS if name in parameters]
    if not names or names[0] in given:
        return {}
    return {names[0]: [num_envs] if names[0] == "batch_size" else num_envs}


def _made(name: str, cls: type[EnvBase], arguments: Mapping[str, Any]) -> EnvBase:
    with blamed(f"torchrl:{name}", "cannot be made"):
        try:
            return cls(**arguments)
        except TypeError as error:
            raise ConfigError(f"torchrl:{name} does not take {', '.join(arguments)}: {error}") from error
        except ImportError as error:
            raise ConfigError(f"torchrl:{name} needs a package that is not installed: {error}") from error


class Reader:
    """Reads and writes the TensorDicts of one TorchRL environment as flat rows.

    Args:
        name: for messages.
        env: of any batch size.
        settings: options of ours.
        keys: parts of the observation, in this order; None takes `observation` or `policy` where there is
            such a key, and else all that are floating-point numbers, state first.

    Attributes:
        size: O.
        parts: names and sizes of what stands side by side.
        low: least actions `[A]`, float64.
        high: greatest actions.
    """

    def __init__(self, name: str, env: EnvBase, settings: TorchRLOptions, keys: Sequence[str] | None) -> None:
        self.name, self.env, self.axes = name, env, len(env.batch_size)
        spec = env.observation_spec
        leaves = {
            _path(key): part
            for key, part in spec.items(include_nested=True, leaves_only=True)
            if part.dtype.is_floating_point
        }
        paths = sorted(leaves, key=lambda path: [key_order(step) for step in path])
        if keys is None:
            main = next((key for key in MAIN_KEYS if any(path[0] == key for path in paths)), None)
            keys = None if main is None else [main]
        self.paths = choose(paths, keys, f"torchrl:{name}")
        if not self.paths:
            raise ConfigError(
                f"torchrl:{name} shows no floating-point numbers: {list(spec.keys(True, True))}"
            )
        rows = [int(self._flat(leaves[path].zero()).shape[-1]) for path in self.paths]
        self.size = sum(rows)
        self.parts = tuple(("/".join(path), size) for path, size in zip(self.paths, rows, strict=True))
        action = env.action_spec
        if not isinstance(action, Bounded | Unbounded) or not action.dtype.is_floating_point:
            raise ConfigError(
                f"torchrl:{name} takes actions {type(action).__name__}; our agents need real ones"
            )
        self.action_shape, self.action_dtype = action.shape, action.dtype
        self.low, self.high = self._bounds(action, settings)

    def _bounds(self, action: Any, settings: TorchRLOptions) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the greatest action of each."""
        if isinstance(action, Bounded):
            low, high = (self._first(side) for side in (action.space.low, action.space.high))
            if np.isfinite(low).all() and np.isfinite(high).all():
                return low, high
        if settings.bound is None:
            raise ConfigError(
                f"torchrl:{self.name} has unbounded actions: say how far they should go with "
                "--env-option torchrl_bound=1.0"
            )
        size = int(self._flat(action.zero()).shape[-1])
        return np.full(size, -settings.bound), np.full(size, settings.bound)

    def _first(self, side: Tensor) -> np.ndarray:
        return self._flat(side.expand(self.action_shape))[0].double().cpu().numpy()

    def _flat(self, part: Tensor) -> Tensor:
        """Return a leaf as `[B, numbers]`, B = 1 of a batch size `[]`."""
        return part.reshape(1 if not self.axes else part.shape[0], -1)

    def observation(self, td: TensorDictBase) -> Tensor:
        """Return observations `[B, O]`."""
        return torch.cat([self._flat(td.get(path)).double() for path in self.paths], -1)

    def action(self, rows: Tensor) -> Tensor:
        """Return what the environment takes for actions `[B, A]` in its units."""
        return rows.to(self.env.device or CPU, self.action_dtype).reshape(self.action_shape)

    def play(self, td: TensorDictBase, rows: Tensor) -> tuple[TensorDictBase, Outcome]:
        """Step; return what the next step starts from, and the outcome as tensors."""
        td = td.exclude("next").set(self.env.action_key, self.action(rows))
        after = self.env.step(td)
        next_td = after.get("next")
        reward = self._flat(next_td.get(self.env.reward_key))
        if reward.shape[-1] != 1:
            raise ConfigError(f"torchrl:{self.name} gives {reward.shape[-1]} rewards a step: one is wanted")
        flags = {name: next_td.get(name, None) for name in ("done", "terminated", "truncated")}
        done, terminated, truncated = (
            None if flag is None else self._flat(flag).any(-1) for flag in flags.values()
        )
        assert done is not None
        terminated = done if terminated is None and truncated is None else terminated
        if terminated is None:
            assert truncated is not None
            terminated = done & ~truncated
        truncated = (done & ~terminated) if truncated is None else truncated
        outcome = Outcome(
            self.observation(next_td),
            reward[:, 0].double(),
            terminated.clone(),
            truncated.clone(),
            fresh=True,
        )
        return self.env.step_mdp(after), outcome


def _path(key: Any) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def _facts(name: str, num_envs: int, reader: Reader, **more: Any) -> EnvFacts:
    return EnvFacts(
        env_id=f"torchrl:{name}",
        engine_name="torchrl",
        num_envs=num_envs,
        observation_size=reader.size,
        action_low=reader.low,
        action_high=reader.high,
        packages=("torchrl",),
        foreign=True,
        parts=reader.parts,
        **more,
    )


def _no_frame(name: str) -> np.ndarray:
    raise ConfigError(f"torchrl:{name} gives no pictures here")


def _on_host(outcome: Outcome) -> Outcome:
    parts = (part.cpu().numpy() if isinstance(part, Tensor) else part for part in outcome)
    return Outcome._make(parts)


class CopiedTorchRLEnv(ReplayedEnv):
    """Copies of an environment of batch size `[]`, one an env, stepped one after the other.

    Args:
        name: `MODULE:CLASS`.
        copies: B of them.
        settings: options of ours.
        options: see `EnvOptions`; env i draws the seeds of its episodes from a generator of seed + i.
    """

    def __init__(
        self, name: str, copies: list[EnvBase], settings: TorchRLOptions, options: EnvOptions
    ) -> None:
        self._reader = Reader(name, copies[0], settings, options.observation_keys)
        limit = options.max_episode_steps
        super().__init__(_facts(name, len(copies), self._reader, max_episode_steps=limit), options)
        self._name = name
        self._copies = tuple(copies)
        self._tds: list[Any] = [None] * len(copies)
        self._set_seed(options.seed)

    def frame(self, index: int = 0) -> np.ndarray:
        """Refuse: there are no pictures."""
        return _no_frame(self._name)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close all copies."""
        for copy in self.__dict__.get("_copies", ()):
            if not copy.is_closed:
                copy.close()
        super().close(raise_if_closed=raise_if_closed)

    def _begin(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        observation = np.zeros((self.num_envs, self.facts.observation_size))
        with Timed(self):
            for index in np.flatnonzero(mask):
                observation[index] = self._start(int(index), int(seeds[index]))
        return observation

    def _start(self, index: int, seed: int) -> np.ndarray:
        copy = self._copies[index]
        copy.set_seed(seed)
        self._tds[index] = copy.reset()
        return self._reader.observation(self._tds[index])[0].cpu().numpy()

    def _step_one(self, index: int, action: np.ndarray) -> Outcome:
        self._reader.env = self._copies[index]
        rows = torch.from_numpy(np.array(action[None]))
        self._tds[index], outcome = self._reader.play(self._tds[index], rows)
        return outcome

    def _play(self, action: np.ndarray) -> Outcome:
        with Timed(self):
            outcomes = [_on_host(self._step_one(index, row)) for index, row in enumerate(action)]
        columns = [np.concatenate(parts) for parts in zip(*(each[:4] for each in outcomes), strict=True)]
        observation, reward, terminated, truncated = columns
        return Outcome(observation, reward, terminated, truncated, fresh=True)

    def _replay(self, index: int, seed: int, actions: np.ndarray) -> None:
        with Timed(self):
            self._start(index, seed)
            for action in actions:
                self._step_one(index, action)


class BatchedTorchRLEnv(StatelessEnv):
    """An environment of batch size `[B]`; a resumed run begins new episodes.

    Args:
        name: `MODULE:CLASS`.
        inner: the environment.
        settings: options of ours.
        options: see `EnvOptions`; of several seeds the hash counts.
    """

    def __init__(self, name: str, inner: EnvBase, settings: TorchRLOptions, options: EnvOptions) -> None:
        reader = Reader(name, inner, settings, options.observation_keys)
        place = torch.device(inner.device or CPU)
        facts = _facts(
            name,
            inner.batch_size[0],
            reader,
            max_episode_steps=options.max_episode_steps,
            on_device=place.type != "cpu",
            simulation_device=place,
        )
        super().__init__(facts, options)
        self._name, self._reader = name, reader
        self._inner: tuple[EnvBase] = (inner,)  # no part of this module
        self._td: list[Any] = [None]
        self._set_seed(options.seed)

    def frame(self, index: int = 0) -> np.ndarray:
        """Refuse: there are no pictures."""
        return _no_frame(self._name)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environment."""
        for inner in self.__dict__.get("_inner", ()):
            if not inner.is_closed:
                inner.close()
        super().close(raise_if_closed=raise_if_closed)

    def _reseed(self, seed: int) -> None:
        self._inner[0].set_seed(seed)
        self._td[0] = None

    def _begin(self, mask: Array) -> Array:
        inner, td = self._inner[0], self._td[0]
        with Timed(self):
            if td is None:
                self._td[0] = inner.reset()
            else:
                flags = torch.as_tensor(mask, device=self.simulation_device).unsqueeze(-1)
                asked = TensorDict({"_reset": flags}, inner.batch_size, device=inner.device)
                fresh = inner.reset(td.copy().update(asked))
                self._td[0] = _merged(td, fresh, flags)
        return self._given(self._reader.observation(self._td[0]))

    def _play(self, action: Array) -> Outcome:
        rows = torch.from_numpy(np.array(action)) if isinstance(action, np.ndarray) else action
        with Timed(self):
            self._td[0], outcome = self._reader.play(self._td[0], rows)
        return outcome if self.facts.on_device else _on_host(outcome)

    def _given(self, values: Tensor) -> Array:
        return values if self.facts.on_device else values.cpu().numpy()


def _merged(old: TensorDictBase, fresh: TensorDictBase, mask: Tensor) -> TensorDictBase:
    """Return `fresh` where `mask` `[B, 1]`, and `old` elsewhere: some environments lose the others' rows."""

    def pick(new: Tensor, kept: Tensor | None) -> Tensor:
        if kept is None or kept.shape != new.shape:
            return new
        return torch.where(mask.reshape(-1, *(1,) * (new.dim() - 1)), new, kept)

    return fresh.exclude("_reset").apply(pick, old, default=None)
