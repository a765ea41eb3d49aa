"""A run's policy in Python: `rlsuite.load("runs/x").act(observation)`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.envs.base import VectorEnv
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.training.assembly import eval_engine
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import load_run
from rlsuite.version import __version__

Observation = np.ndarray | Mapping[str, Any] | int


class LoadedPolicy:
    """The policy of one agent of a run, on the CPU, in the words of its environment.

    Attributes:
        policy: the TorchRL policy, `observation -> action` in [-1, 1].
        middle: (high + low) / 2 of each action in the environment's units, `[A]`, float32.
        half_range: (high - low) / 2, `[A]`.
        bounds: attributes low and high, the ends of each action's range, `[A]`; no action is outside.
        observation_size: O, numbers of an observation as a vector.
        parts: names and sizes of what stands side by side in an observation.
        action_names: of each action; empty where they have none.
        agent_name, env_id: of the run.
        facts: run, agent, environment, env steps, seed and versions, for a record.
    """

    def __init__(
        self,
        run: Path,
        checkpoint: str | int,
        seed_index: int,
        agent_options: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(checkpoint, bool) or not isinstance(checkpoint, str | int):
            raise ConfigError(f'checkpoint = {checkpoint!r}: name "last", "best" or its number of env steps')
        saved = load_run(run, str(checkpoint), agent_options)
        train = saved.config.train
        if not 0 <= seed_index < train.seeds:
            raise ConfigError(f"seed index {seed_index}: {run} has {train.seeds} agent(s), counted from 0")
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)  # what runs are made of, whatever the caller works with
        try:
            self._read(saved, seed_index)
        finally:
            torch.set_default_dtype(before)
        self.agent_name, self.env_id = saved.config.agent_name, train.env
        best = saved.best_evaluations() if str(checkpoint) == "best" else ()
        self.facts: dict[str, Any] = {
            "run": run.name,
            "agent": self.agent_name,
            "env": train.env,
            "env_options": dict(train.env_options),
            "env_steps": best[seed_index].step if best else saved.loaded.step,
            "seed": train.seed + seed_index,
            "versions": self._versions,
        }

    def _read(self, saved: Any, seed_index: int) -> None:
        train = saved.config.train
        env = make_env(
            train.env,
            1,
            engine=eval_engine(train.engine),
            observation_keys=train.observation_keys or None,
            options=train.env_options,
            legacy_margin=train.legacy_margin,
        )
        try:
            self.policy = saved.agent(env, SeedStreams([train.seed + seed_index]), seed_index).policy
            self.observation_size = env.facts.shown_size
            whole = (("observation", self.observation_size),)
            fits = sum(size for _, size in env.facts.parts) == self.observation_size
            self.parts = env.facts.parts if fits else whole
            self.action_names = env.facts.action_names
            self._words = Words(env, self.observation_size)
            self._versions = {"rlsuite": __version__, "torch": str(torch.__version__), **env.versions}
        finally:
            env.close()
        middle, half = np.array(env.middle), np.array(env.half_range)  # float64
        self.middle, self.half_range = (torch.tensor(part, dtype=torch.float32) for part in (middle, half))
        self.low, self.high = (torch.tensor(e, dtype=torch.float32) for e in (middle - half, middle + half))
        self._middle, self._half = torch.tensor(middle), torch.tensor(half)

    def act(self, observation: Observation, *, deterministic: bool = True) -> np.ndarray:
        """Return the actions for one observation or several, as the environment's `step` takes them.

        Discrete actions are integers (`[N]` for several), continuous ones float32 in the environment's units
        and inside its box.

        Args:
            observation: as the environment shows it (a vector, a dictionary, a number of a state), several of
                them along a leading axis, or flattened, `[O]` or `[N, O]`.
            deterministic: the evaluation action; False draws from the behaviour policy.

        Raises:
            ConfigError: it is no observation of this environment.
        """
        rows, single = self._words.rows(observation, self.env_id)
        actions = self._words.spoken(self._units(rows, deterministic))
        return actions[0] if single else actions

    def scaled(self, rows: Tensor) -> Tensor:
        """Return evaluation actions `[N, A]`, float32, in the environment's units for vectors `[N, O]`."""
        return self._units(rows, True).float()

    def _units(self, rows: Tensor, deterministic: bool) -> Tensor:
        """Return actions `[N, A]`, float64; of discrete ones the scores."""
        if not len(rows):
            return self._middle.new_zeros(0, len(self._middle))
        mode = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
        with torch.no_grad(), set_exploration_type(mode):
            action = self.policy(TensorDict({"observation": rows}, [len(rows)]))["action"]
        # In float64, as the training environment computes it: a saturated action is the end of the range.
        return self._middle + self._half * action.double()

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Return (action, state), as Stable-Baselines3's `predict` does: its evaluation tools take this.

        Args:
            observation: as in `act`.
            state: handed back; these policies have no memory.
            episode_start: unused, for the same reason.
            deterministic: as in `act`.
        """
        return self.act(observation, deterministic=deterministic), state


class Words:
    """Observations and actions as an environment gives them, beside the vectors that policies see.

    Args:
        env: made by `make_env`, of one env, in this process.
        size: O, of the policy's vectors.
    """

    def __init__(self, env: VectorEnv, size: int) -> None:
        self.size = size
        inner: Any = env
        while hasattr(inner, "inner"):
            inner = inner.inner
        copies = getattr(inner, "_copies", None)  # Gymnasium's environment, behind our contract
        shown = None if copies is None else copies.envs[0]
        self._space: Any = None if shown is None else shown.unwrapped.observation_space
        self._flatten: Callable[[Any], np.ndarray] | None = None
        flat = None if shown is None else shown.observation_space
        if flat is not None and flat is not self._space and flat.shape == (size,):
            self._flatten = getattr(shown, "observation", None)
        self._discrete = env.discrete
        self._grid: Any = getattr(env, "_values", None)  # of a box that was made discrete
        self._actions: Any = getattr(inner, "_actions", None)
        middle, half = np.array(inner.middle), np.array(inner.half_range)
        self._low, self._high = middle - half, middle + half

    def rows(self, observation: Any, env_id: str) -> tuple[Tensor, bool]:
        """Return vectors `[N, O]`, float32, and whether there was one observation alone.

        Raises:
            ConfigError: it is no observation of this environment.
        """
        try:
            given = self._native(observation) if self._flatten is not None else None
            if given is None:
                array = np.asarray(observation, np.float32)
                if array.ndim not in (1, 2) or array.shape[-1] != self.size:
                    raise ValueError(f"its shape is {array.shape}")
                given = array.reshape(-1, self.size), array.ndim == 1
        except (ValueError, TypeError, KeyError, IndexError, AssertionError, AttributeError) as error:
            shown = "" if self._flatten is None else f", as {self._space} or flat"
            raise ConfigError(
                f"{env_id} shows {self.size} numbers{shown}: give [{self.size}], or N of these, and not "
                f"{_described(observation)} ({type(error).__name__}: {error})"
            ) from error
        return torch.from_numpy(np.ascontiguousarray(given[0], np.float32)), given[1]

    def _native(self, observation: Any) -> tuple[np.ndarray, bool] | None:
        """Flatten what the environment itself shows; None where it is a vector already."""
        assert self._flatten is not None
        space = self._space
        if isinstance(observation, Mapping):
            count = _count(observation, space)
            if count is None:
                return self._flatten(observation)[None], True
            return np.stack([self._flatten(_pick(observation, index)) for index in range(count)]), False
        array = np.asarray(observation)
        if isinstance(space, gymnasium.spaces.Discrete):
            if not np.issubdtype(array.dtype, np.integer):
                return None
            return np.stack([self._flatten(item) for item in array.reshape(-1)]), array.ndim == 0
        if not space.shape or len(space.shape) == 1:
            return None
        if array.shape == space.shape:
            return self._flatten(array)[None], True
        return (array.reshape(len(array), -1), False) if array.shape[1:] == space.shape else None

    def spoken(self, units: Tensor) -> np.ndarray:
        """Return actions `[N, A]` as the environment takes them."""
        actions = units.numpy()
        if self._discrete and self._grid is not None:
            actions = np.asarray(self._grid)[actions.argmax(-1)]
        elif self._discrete and self._actions is None:
            return actions.argmax(-1)
        if self._actions is None:
            return actions.clip(self._low, self._high).astype(np.float32)
        native = self._actions.native(actions)
        return np.array(native) if len(native) else self._none()

    def _none(self) -> np.ndarray:
        """Return the actions of no observations."""
        example = np.asarray(self._actions.native(np.zeros((1, len(self._low)))))
        return example[:0]


def _count(observation: Mapping[str, Any], space: Any) -> int | None:
    """Return how many observations a dictionary holds along a leading axis; None: one, without that axis."""
    name, part = next(iter(space.spaces.items()))
    if isinstance(part, gymnasium.spaces.Dict):
        return _count(observation[name], part)
    array = np.asarray(observation[name])
    return None if array.shape == (part.shape or ()) else len(array)


def _pick(observation: Any, index: int) -> Any:
    if isinstance(observation, Mapping):
        return {name: _pick(part, index) for name, part in observation.items()}
    return np.asarray(observation)[index]


def _described(observation: Any) -> str:
    if isinstance(observation, Mapping):
        return f"the parts {', '.join(map(str, observation))}"
    return f"shape {np.shape(observation)}" if hasattr(observation, "shape") else type(observation).__name__


def load(
    run: str | Path,
    *,
    checkpoint: str | int = "last",
    seed_index: int = 0,
    agent_options: Mapping[str, Any] | None = None,
) -> LoadedPolicy:
    """Read the policy of a run folder, which may still be training.

    Args:
        run: the run folder.
        checkpoint: "last", "best" (the weights of the best evaluation), or the env steps of a checkpoint that
            was kept.
        seed_index: which agent of a run with several seeds, from 0.
        agent_options: other values of fields that the agent's policy reads, `{"strength": 8.0}` of famo2o.

    Raises:
        ConfigError: no such run, checkpoint, agent or field.
        DataError: there is no usable checkpoint.
    """
    return LoadedPolicy(Path(run), checkpoint, seed_index, agent_options)
