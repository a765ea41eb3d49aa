"""dm_control's own environments as TorchRL sees them.

Observations are flattened in dm_control's order. The end of an episode with discount 0 is a termination;
with discount 1 it is the time limit, a truncation. Rewards that are None count as 0.
"""

import importlib
from typing import Any

import numpy as np

from rlsuite.envs.base import EnvFacts, Outcome
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.rendering import SceneCamera
from rlsuite.envs.replayed import ReplayedEnv
from rlsuite.envs.tasks.dmc.base import FIRST_CAMERA, import_suite, load_original
from rlsuite.errors import ConfigError, unknown_name


class DMControlEnv(ReplayedEnv):
    """B copies of a dm_control suite task, stepped one after the other; see `VectorEnv` for the contract.

    An env whose physics diverges (dm_control's PhysicsError) is truncated and marked `valid = False`.

    Args:
        name: `domain-task`, e.g. cheetah-run or ball_in_cup-catch.
        num_envs: B.
        options: see `EnvOptions`; env i draws the seeds of its episodes from a generator of seed + i, and a
            time limit can only be shorter than dm_control's own.

    Raises:
        ConfigError: dm_control is not installed, unknown task, or a task that our agents cannot use.
    """

    def __init__(self, name: str, num_envs: int = 1, options: EnvOptions | None = None) -> None:
        options = options or EnvOptions()
        suite = import_suite()
        tasks = {f"{domain}-{task}": (domain, task) for domain, task in suite.ALL_TASKS}
        if name not in tasks:
            raise unknown_name(
                "a dm_control task",
                f"dmc:{name}",
                [f"dmc:{known}" for known in tasks],
                "python -c 'from dm_control import suite; print(suite.ALL_TASKS)'",
            )
        try:
            self._originals: list[Any] = [load_original(*tasks[name]) for _ in range(num_envs)]
            first = self._originals[0].reset()
        except RuntimeError as error:
            raise ConfigError(
                f'"dmc:{name}" cannot be made: {error} (tasks that draw need OpenGL: set MUJOCO_GL=egl)'
            ) from error
        self._physics_error = importlib.import_module("dm_control.rl.control").PhysicsError
        actions = self._originals[0].action_spec()
        own_limit = self._originals[0]._step_limit  # no public name; inf where there is none
        limits = [
            limit
            for limit in (own_limit, options.max_episode_steps)
            if limit is not None and np.isfinite(limit)
        ]
        facts = EnvFacts(
            env_id=f"dmc:{name}",
            engine_name="dmc",
            num_envs=num_envs,
            observation_size=len(_flat(first.observation)),
            action_low=np.broadcast_to(actions.minimum, actions.shape),
            action_high=np.broadcast_to(actions.maximum, actions.shape),
            max_episode_steps=int(min(limits)) if limits else None,
            packages=("mujoco", "dm_control"),
        )
        super().__init__(facts, options)
        self._cameras: dict[int, SceneCamera] = {}
        self._set_seed(options.seed)

    def frame(self, index: int = 0) -> np.ndarray:
        """Return a picture of one env through the model's first camera, uint8 `[height, width, 3]`.

        Raises:
            EnvironmentFailure: no way to render without a display works here.
        """
        physics = self._originals[index].physics
        if index not in self._cameras:
            settings = FIRST_CAMERA if physics.model.ncam else {}
            self._cameras[index] = SceneCamera(physics.model.ptr, settings, self.frame_size)
        return self._cameras[index].picture(physics.data.ptr)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close all copies."""
        for camera in self.__dict__.get("_cameras", {}).values():
            camera.close()
        for env in self.__dict__.get("_originals", ()):
            env.close()
        super().close(raise_if_closed=raise_if_closed)

    def _begin(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        observation = np.zeros((self.num_envs, self.facts.observation_size))
        for index in np.flatnonzero(mask):
            observation[index] = _flat(self._start(int(index), int(seeds[index])).observation)
        return observation

    def _play(self, action: np.ndarray) -> Outcome:
        count = self.num_envs
        observation = np.zeros((count, self.facts.observation_size))
        reward = np.zeros(count)
        terminated, truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        sane = np.ones(count, np.bool_)
        for index, env in enumerate(self._originals):
            try:
                step = env.step(action[index])
            except self._physics_error:
                sane[index], truncated[index] = False, True
                continue
            observation[index] = _flat(step.observation)
            reward[index] = step.reward or 0.0
            terminated[index] = step.last() and step.discount == 0
            truncated[index] = step.last() and step.discount != 0
        return Outcome(observation, reward, terminated, truncated, sane=None if sane.all() else sane)

    def _replay(self, index: int, seed: int, actions: np.ndarray) -> None:
        self._start(index, seed)
        for action in actions:
            try:
                self._originals[index].step(action)
            except self._physics_error:
                return  # as it was when the state was saved: this env waits for its reset

    def _start(self, index: int, seed: int) -> Any:
        env = self._originals[index]
        env.task.random.seed(seed)
        return env.reset()


def _flat(observation: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in observation.values()])
