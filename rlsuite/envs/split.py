"""An environment in groups that are stepped in turn: a policy acts on one while another one steps.

::

    split = SplitEnv("HalfCheetah", 64, groups=2)
    split.start()
    while True:
        turn = split.recv()                     # the group that was sent longest ago
        split.send(turn.group, policy(turn.observation))

A group is an environment of its own; one thread steps them in the order in which they were sent. So what
comes back, and in which order, does not depend on how fast anybody was: the numbers are those of one
environment of all envs.

Legend: B envs, G groups, O observation, A action.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from rlsuite.envs.base import StepResult, VectorEnv
from rlsuite.envs.make import make_env
from rlsuite.envs.options import changed
from rlsuite.errors import ConfigError


class Turn(NamedTuple):
    """What one group has to say.

    Attributes:
        group: 0 .. G - 1.
        envs: which of all envs they are.
        observation: `[B / G, O]` to act on next: where an episode ended, the first one of the next.
        result: of the step; None after `start`.
    """

    group: int
    envs: slice
    observation: np.ndarray
    result: StepResult[np.ndarray] | None


class SplitEnv:
    """B envs in G equal groups, with `send` and `recv` in EnvPool's manner.

    Args:
        env_id: what `make_env` takes.
        num_envs: B.
        groups: G, of B / G envs each.
        make_options: fields of `EnvOptions`; with `seed`, env i is what it is in an environment of all B.

    Attributes:
        envs: the groups' environments; to be looked at while nothing is under way.
        num_envs: B.

    Raises:
        ConfigError: B is no multiple of G, G is below 1, or an environment on a device, which queues its work
            anyway.
    """

    def __init__(self, env_id: str, num_envs: int, groups: int = 2, **make_options: Any) -> None:
        if groups < 1 or num_envs % groups:
            raise ConfigError(f"{num_envs} envs in {groups} groups: give a multiple of at least 1 group")
        size = num_envs // groups
        options = changed(None, make_options)
        seeds = options.seed
        self.num_envs = num_envs
        self.envs: list[VectorEnv] = []
        for group in range(groups):
            first = group * size
            seed = seeds + first if isinstance(seeds, int) else seeds and seeds[first : first + size]
            self.envs.append(make_env(env_id, size, options, seed=seed))
        if self.envs[0].facts.on_device:
            raise ConfigError(
                f"{env_id} is simulated on a device, which queues its work: groups bring nothing"
            )
        self._slices = [slice(group * size, (group + 1) * size) for group in range(groups)]
        self._under_way: deque[tuple[int, Future[Turn]]] = deque()
        # One thread: the order of steps is that of `send`, and each has all of the engine's threads.
        self._stepper = ThreadPoolExecutor(1, thread_name_prefix="rlsuite-split")

    @property
    def waiting(self) -> tuple[int, ...]:
        """The groups that were sent and not yet received, the next one first."""
        return tuple(group for group, _ in self._under_way)

    def start(self) -> None:
        """Start new episodes in all groups, which `recv` then gives.

        Raises:
            ConfigError: a group is under way.
        """
        if self._under_way:
            raise ConfigError(f"receive groups {', '.join(map(str, self.waiting))} before `start`")
        for group in range(len(self.envs)):
            self._submit(group, self._begin, group)

    def send(self, group: int, action: np.ndarray) -> None:
        """Step a group under actions `[B / G, A]` in [-1, 1] and restart what ends; does not wait.

        The array is read later: it must not be written to before the group is received.

        Raises:
            ConfigError: the group is under way already.
        """
        if group in self.waiting:
            raise ConfigError(f"group {group} is under way: receive it before it is sent again")
        self._submit(group, self._step, group, action)

    def recv(self) -> Turn:
        """Wait for the group that was sent longest ago.

        Raises:
            ConfigError: none was sent.
            EnvironmentFailure: its step failed.
        """
        if not self._under_way:
            raise ConfigError("nothing to receive: call `start` or `send` first")
        return self._under_way.popleft()[1].result()

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the future depends on; all groups must have been received.

        Raises:
            ConfigError: a group is under way.
        """
        self._refuse_under_way("state_dict")
        return {
            f"{group}.{name}": value
            for group, env in enumerate(self.envs)
            for name, value in env.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned; see `VectorEnv`."""
        self._refuse_under_way("load_state_dict")
        for group, env in enumerate(self.envs):
            prefix = f"{group}."
            env.load_state_dict(
                {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            )

    def close(self) -> None:
        """Wait for what is under way, and close all."""
        self._stepper.shutdown(cancel_futures=True)
        self._under_way.clear()
        for env in self.envs:
            env.close(raise_if_closed=False)

    def _submit(self, group: int, work: Callable[..., Turn], *arguments: Any) -> None:
        self._under_way.append((group, self._stepper.submit(work, *arguments)))

    def _begin(self, group: int) -> Turn:
        return Turn(group, self._slices[group], self.envs[group].reset_arrays(), None)

    def _step(self, group: int, action: np.ndarray) -> Turn:
        env = self.envs[group]
        result = env.step_arrays(action)
        done = result.terminated | result.truncated
        observation = env.reset_arrays(done) if np.count_nonzero(done) else result.observation
        return Turn(group, self._slices[group], observation, result)

    def _refuse_under_way(self, what: str) -> None:
        if self._under_way:
            raise ConfigError(f"{what}: receive groups {', '.join(map(str, self.waiting))} first")
