"""dm_control's own environments as TorchRL sees them.

Observations are flattened in dm_control's order. The end of an episode with discount 0 is a termination;
with discount 1 it is the time limit, a truncation. Rewards that are None count as 0.
"""

import importlib
from typing import Any

import numpy as np
import torch

from rlsuite.envs.base import Outcome
from rlsuite.envs.rendering import SceneCamera
from rlsuite.envs.replayed import ReplayedEnv
from rlsuite.envs.seeding import Seeds
from rlsuite.envs.tasks.dmc.base import FIRST_CAMERA, import_suite, load_original
from rlsuite.errors import ConfigError, unknown_name


class DMControlEnv(ReplayedEnv):
    """B copies of a dm_control suite task, stepped one after the other; see `VectorEnv` for the contract.

    A world whose physics diverges (dm_control's PhysicsError) is truncated and marked `valid = False`.

    Args:
        name: `domain-task`, e.g. cheetah-run or ball_in_cup-catch.
        num_envs: B worlds.
        device: where tensors are handed out.
        seed: world i draws the seeds of its episodes from a generator of seed + i.
        dtype: of observations, rewards and actions.
        max_episode_steps: shorter than dm_control's own limit.

    Raises:
        ConfigError: dm_control is not installed, unknown task, or a task that our agents cannot use.
    """

    def __init__(
        self,
        name: str,
        num_envs: int = 1,
        *,
        device: torch.device | str = "cpu",
        seed: Seeds = 0,
        dtype: torch.dtype = torch.float32,
        max_episode_steps: int | None = None,
    ) -> None:
        suite = import_suite()
        tasks = {f"{domain}-{task}": (domain, task) for domain, task in suite.ALL_TASKS}
        if name not in tasks:
            options = [f"dmc:{known}" for known in tasks]
            raise unknown_name(
                "a dm_control task",
                f"dmc:{name}",
                options,
                "python -c 'from dm_control import suite; print(suite.ALL_TASKS)'",
            )
        domain, task = tasks[name]
        try:
            self._worlds: list[Any] = [load_original(domain, task) for _ in range(num_envs)]
            first = self._worlds[0].reset()
        except RuntimeError as error:
            raise ConfigError(
                f'"dmc:{name}" cannot be made: {error} (tasks that draw need OpenGL: set MUJOCO_GL=egl)'
            ) from error
        self._physics_error = importlib.import_module("dm_control.rl.control").PhysicsError
        actions = self._worlds[0].action_spec()
        own_limit = self._worlds[0]._step_limit  # no public name; inf where there is none
        limits = [
            limit for limit in (own_limit, max_episode_steps) if limit is not None and np.isfinite(limit)
        ]
        super().__init__(
            env_id=f"dmc:{name}",
            engine_name="dmc",
            num_envs=num_envs,
            observation_size=len(_flat(first.observation)),
            action_low=np.broadcast_to(actions.minimum, actions.shape),
            action_high=np.broadcast_to(actions.maximum, actions.shape),
            max_episode_steps=int(min(limits)) if limits else None,
            packages=("mujoco", "dm_control"),
            device=device,
            dtype=dtype,
        )
        self._cameras: dict[int, SceneCamera] = {}
        self._set_seed(seed)

    def frame(self, world: int = 0) -> np.ndarray:
        """Return a picture of one world through the model's first camera, uint8 `[height, width, 3]`.

        Raises:
            EnvironmentFailure: no way to render without a display works here.
        """
        physics = self._worlds[world].physics
        if world not in self._cameras:
            settings = FIRST_CAMERA if physics.model.ncam else {}
            self._cameras[world] = SceneCamera(physics.model.ptr, settings)
        return self._cameras[world].picture(physics.data.ptr)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close all copies."""
        for camera in self.__dict__.get("_cameras", {}).values():
            camera.close()
        for env in self.__dict__.get("_worlds", ()):
            env.close()
        super().close(raise_if_closed=raise_if_closed)

    def _begin(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        observation = np.zeros((self.num_envs, self._observation_size))
        for world in np.flatnonzero(mask).tolist():
            observation[world] = _flat(self._start(world, int(seeds[world])).observation)
        return observation

    def _play(self, action: np.ndarray) -> Outcome:
        worlds = self.num_envs
        observation = np.zeros((worlds, self._observation_size))
        reward = np.zeros(worlds)
        terminated, truncated = np.zeros(worlds, np.bool_), np.zeros(worlds, np.bool_)
        sane = np.ones(worlds, np.bool_)
        for world, env in enumerate(self._worlds):
            try:
                step = env.step(action[world])
            except self._physics_error:
                sane[world], truncated[world] = False, True
                continue
            observation[world] = _flat(step.observation)
            reward[world] = step.reward or 0.0
            terminated[world] = step.last() and step.discount == 0
            truncated[world] = step.last() and step.discount != 0
        return Outcome(
            observation=torch.from_numpy(observation),
            reward=torch.from_numpy(reward),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            sane=None if sane.all() else torch.from_numpy(sane),
        )

    def _replay(self, world: int, seed: int, actions: np.ndarray) -> None:
        self._start(world, seed)
        for action in actions:
            try:
                self._worlds[world].step(action)
            except self._physics_error:
                return  # as it was when the state was saved: this world waits for its reset

    def _start(self, world: int, seed: int) -> Any:
        env = self._worlds[world]
        env.task.random.seed(seed)
        return env.reset()


def _flat(observation: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in observation.values()])
