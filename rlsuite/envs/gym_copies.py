"""Copies of one Gymnasium environment, stepped in this process or in workers; imports no torch.

A step never resets, and every copy is reset with a seed of its own. What an environment returns is checked,
so that the message says what is wrong with it.

Legend: B envs, O observation, A action, T env steps of one episode so far.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState

STEP_VALUES = 5  # what `step` returns
RESET_VALUES = 2
SUCCESS_NAMES = ("is_success", "success")
START_SECONDS = 60.0  # that workers may take to start and make their copies, beside the limit of a step
CLOSE_SECONDS = 5.0  # that workers are given to leave


class Played(NamedTuple):
    """Result of one step of all copies: `[B, O]` float64, `[B]` float64, `[B]` bool twice, `[B]` float64.

    `success` is 0 or 1, and nan where `info` does not say.
    """

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray


class Copies(Protocol):
    """B copies of one environment with flat observations; actions are of the environment's own space."""

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start episodes from `seeds` `[B]` in the envs of `mask`; return `[B, O]`, other rows free."""

    def step(self, actions: Sequence[Any]) -> Played:
        """Step all copies, one action each."""

    def replay(self, index: int, seed: int, actions: Sequence[Any]) -> None:
        """Reset one copy with `seed`, then take the actions."""

    def render(self, index: int) -> Any:
        """Return what one copy's `render` gives."""

    def close(self) -> None:
        """Close all copies."""


class Copy:
    """One copy, whose answers are checked and given as numbers."""

    def __init__(self, env: gymnasium.Env) -> None:
        self.env = env
        self._shape = env.observation_space.shape

    def reset(self, seed: int) -> np.ndarray:
        """Start an episode; return its first observation `[O]`."""
        values = self.env.reset(seed=seed)
        if not isinstance(values, tuple) or len(values) != RESET_VALUES:
            raise TypeError(f"reset returned {_told(values)} instead of (observation, info)")
        return self._observation("reset", values[0])

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, float]:
        """Take one action; return observation `[O]`, reward, terminated, truncated, success."""
        values = self.env.step(action)
        if not isinstance(values, tuple) or len(values) != STEP_VALUES:
            raise TypeError(
                f"step returned {_told(values)} instead of (observation, reward, terminated, truncated, info)"
            )
        observation, reward, terminated, truncated, info = values
        shaped = np.shape(cast(Any, reward))
        if shaped or isinstance(reward, str) or not hasattr(reward, "__float__"):
            raise TypeError(f"step returned the reward {reward!r}, which is no single number")
        row = self._observation("step", observation)
        return row, float(reward), bool(terminated), bool(truncated), _success(info)

    def replay(self, seed: int, actions: Sequence[Any]) -> None:
        """Reset with `seed`, then take the actions."""
        self.env.reset(seed=seed)
        for action in actions:
            self.env.step(action)

    def _observation(self, method: str, observation: Any) -> np.ndarray:
        row = np.asarray(observation, np.float64)
        if row.shape != self._shape:
            raise ValueError(
                f"{method} returned an observation of shape {row.shape}, and its space says {self._shape}"
            )
        return row


class LocalCopies:
    """Copies in this process, one after the other."""

    def __init__(self, builders: Sequence[Callable[[], gymnasium.Env]]) -> None:
        self.envs = [build() for build in builders]
        self._copies = [Copy(env) for env in self.envs]
        shape = self.envs[0].observation_space.shape
        assert shape is not None
        self._shape = (len(builders), *shape)

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start episodes in the envs of `mask`; see `Copies`."""
        observation = np.zeros(self._shape)
        for index in np.flatnonzero(mask):
            observation[index] = self._copies[index].reset(int(seeds[index]))
        return observation

    def step(self, actions: Sequence[Any]) -> Played:
        """Step all copies; see `Copies`."""
        observation, (reward, success) = np.empty(self._shape), np.empty((2, len(self.envs)))
        ends = np.empty((2, len(self.envs)), np.bool_)
        for index, (copy, action) in enumerate(zip(self._copies, actions, strict=True)):
            observation[index], reward[index], ends[0, index], ends[1, index], success[index] = copy.step(
                action
            )
        return Played(observation, reward, ends[0], ends[1], success)

    def replay(self, index: int, seed: int, actions: Sequence[Any]) -> None:
        """Play an episode again; see `Copies`."""
        self._copies[index].replay(seed, actions)

    def render(self, index: int) -> Any:
        """Return what one copy's `render` gives."""
        return self.envs[index].render()

    def close(self) -> None:
        """Close all copies."""
        for env in self.envs:
            env.close()


class _Group(gymnasium.Env):
    """Some of the copies, in a worker of Gymnasium's; made there when first asked for something."""

    observation_space = gymnasium.spaces.Box(0.0, 0.0, (1,))
    action_space = gymnasium.spaces.Box(0.0, 0.0, (1,))

    def __init__(self, builders: Sequence[Callable[[], gymnasium.Env]], number: int) -> None:
        self._builders, self._number = builders, number
        self._copies: LocalCopies | None = None

    def ask(self, method: str, arguments: Sequence[Sequence[Any] | None]) -> Any:
        """Call a method of the copies with this worker's share of the arguments; None asks for nothing."""
        mine = arguments[self._number]
        if self._copies is None:
            self._copies = LocalCopies(self._builders)
        return None if mine is None else getattr(self._copies, method)(*mine)

    def close(self) -> None:
        if self._copies is not None:
            self._copies.close()


class _Workers(AsyncVectorEnv):
    """Gymnasium's workers, without its first question, which waits for the answers however long."""

    def _check_spaces(self) -> None:
        pass  # they are those of `_Group`


class WorkerCopies:
    """Copies in worker processes of Gymnasium's AsyncVectorEnv, shared out evenly; every wait has a limit.

    Workers are new processes, not forks: a fork of a process with threads (torch's, BLAS's) may inherit a
    lock that nobody will ever open. They import Gymnasium and the environment, and no torch of ours. A script
    that makes some keeps its code below `if __name__ == "__main__":`, as always with new processes.

    Args:
        builders: one per copy.
        workers: processes, at most one per copy; a worker steps its copies one after the other.
        timeout: seconds that one step or reset may take, 0 for no limit.
    """

    def __init__(self, builders: Sequence[Callable[[], gymnasium.Env]], workers: int, timeout: float) -> None:
        count = min(workers, len(builders))
        self._shares = np.array_split(np.arange(len(builders)), count)
        self._timeout = timeout or None
        self._started = False
        groups = [
            partial(_Group, [builders[index] for index in share], number)
            for number, share in enumerate(self._shares)
        ]
        self._vector = _Workers(
            groups, shared_memory=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED
        )

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start episodes in the envs of `mask`; see `Copies`."""
        return np.concatenate(self._ask("reset", [(mask[share], seeds[share]) for share in self._shares]))

    def step(self, actions: Sequence[Any]) -> Played:
        """Step all copies, the workers at once; see `Copies`."""
        answers = self._ask("step", [([actions[index] for index in share],) for share in self._shares])
        return Played._make(np.concatenate(parts) for parts in zip(*answers, strict=True))

    def replay(self, index: int, seed: int, actions: Sequence[Any]) -> None:
        """Play an episode again; see `Copies`."""
        self._ask("replay", self._for_one(index, seed, actions))

    def render(self, index: int) -> Any:
        """Return what one copy's `render` gives."""
        return next(answer for answer in self._ask("render", self._for_one(index)) if answer is not None)

    def close(self) -> None:
        """Let the workers leave; those that do not are killed."""
        vector = self._vector
        if vector.closed:
            return
        idle = vector._state == AsyncState.DEFAULT
        vector.closed = True
        pipes = [pipe for pipe in vector.parent_pipes if pipe is not None]  # None: its worker failed
        if idle:
            for pipe in pipes:
                with suppress(OSError):
                    pipe.send(("close", None))
        limit = time.monotonic() + (CLOSE_SECONDS if idle else 0.0)
        for process in vector.processes:
            process.join(max(0.0, limit - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(CLOSE_SECONDS)
        for pipe in pipes:
            pipe.close()

    def _for_one(self, index: int, *arguments: Any) -> list[Sequence[Any] | None]:
        return [
            (int(np.flatnonzero(share == index)[0]), *arguments) if index in share else None
            for share in self._shares
        ]

    def _ask(self, method: str, arguments: Sequence[Sequence[Any] | None]) -> Sequence[Any]:
        try:
            self._vector.call_async("ask", method, arguments)
            limit = self._timeout and self._timeout + (0.0 if self._started else START_SECONDS)
            answers = self._vector.call_wait(timeout=limit)
            self._started = True
            return answers
        except multiprocessing.TimeoutError as error:
            self._kill()
            raise TimeoutError(f"the workers have not come back for {self._timeout:g} s") from error
        except (EOFError, OSError) as error:
            if any(pipe is None for pipe in self._vector.parent_pipes):  # the environment raised it
                self._kill()
                raise
            for process in self._vector.processes:
                process.join(0.5)  # one that has died says so at once
            codes = [process.exitcode for process in self._vector.processes]
            self._kill()
            raise ChildProcessError(f"a worker died (exit codes {codes})") from error

    def _kill(self) -> None:
        self._vector._state = AsyncState.WAITING_CALL  # nobody is asked to leave
        self.close()


def _success(info: Any) -> float:
    """Return what an `info` says of success, under the names that Gymnasium-Robotics gives it, or nan."""
    if isinstance(info, dict):
        for name in SUCCESS_NAMES:
            if name in info and np.ndim(info[name]) == 0:
                return float(info[name])
    return float("nan")


def _told(values: Any) -> str:
    return f"{len(values)} values" if isinstance(values, tuple) else f"a {type(values).__name__}"
