"""The environment that joins a task and an engine: vectorised MuJoCo as TorchRL sees it."""

import mujoco
import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.base import Outcome, VectorEnv, take
from rlsuite.envs.engines.native import NativeEngine
from rlsuite.envs.rendering import SceneCamera
from rlsuite.envs.seeding import WORDS, Seeds, make_generators, pack_generators, unpack_generators
from rlsuite.envs.tasks.base import Task


class MujocoEnv(VectorEnv):
    """A task on the native engine, numerically Gymnasium's.

    World i draws its initial states from the generator of `gymnasium.make(id).reset(seed=seed + i)`, so
    whole trajectories are bitwise those of Gymnasium, resets included. See `VectorEnv` for the contract.

    Args:
        task: what to do.
        num_envs: B worlds.
        device: where tensors are handed out; physics and task functions run on the CPU in float64.
        seed: of world 0; world i uses seed + i.
        dtype: of observations, rewards and actions.
        threads: at most so many; 0 takes all cores.
        max_episode_steps: instead of the task's own limit.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int = 1,
        *,
        device: torch.device | str = "cpu",
        seed: Seeds = 0,
        dtype: torch.dtype = torch.float32,
        threads: int = 0,
        max_episode_steps: int | None = None,
    ) -> None:
        model = task.model()
        engine = NativeEngine(model, num_envs, task.fields, threads=threads)
        fields = {**engine.read(), "goal": torch.zeros(num_envs, task.goal_size, dtype=torch.float64)}
        super().__init__(
            env_id=task.env_id,
            engine_name="native",
            num_envs=num_envs,
            observation_size=task.observation(fields).shape[-1],
            action_low=model.actuator_ctrlrange[:, 0],
            action_high=model.actuator_ctrlrange[:, 1],
            max_episode_steps=max_episode_steps or task.max_episode_steps,
            packages=("mujoco", "gymnasium"),
            device=device,
            dtype=dtype,
        )
        self.task = task
        self.engine = engine
        self._fields = fields
        self._camera: SceneCamera | None = None
        self._set_seed(seed)

    def frame(self, world: int = 0) -> np.ndarray:
        """Return a picture of one world, uint8 `[height, width, 3]`; loads OpenGL on the first call.

        Raises:
            EnvironmentFailure: no way to render without a display works here.
        """
        if self._camera is None:
            self._camera = SceneCamera(self.engine.model, self.task.camera)
        # A copy of the state is posed anew: looking at a world must not change its future.
        fields, pose = self.engine.read(), mujoco.MjData(self.engine.model)
        pose.qpos[:], pose.qvel[:] = fields["qpos"][world], fields["qvel"][world]
        mujoco.mj_forward(self.engine.model, pose)
        return self._camera.picture(pose)

    @property
    def fps(self) -> float:
        """Pictures per second of a video in real time, one an env step."""
        return 1 / self.task.dt

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Stop the threads and free what rendering holds."""
        if "engine" in self.__dict__:
            self.engine.close()
            if self._camera is not None:
                self._camera.close()
        super().close(raise_if_closed=raise_if_closed)

    def _set_seed(self, seed: Seeds) -> None:
        self._generators = make_generators(seed, self.num_envs)

    def _advance(self, action: Tensor) -> Outcome:
        task, fields = self.task, self._fields
        before = task.before(fields)
        self.engine.step(action, task.substeps)
        terminated = task.terminated(fields)
        return Outcome(
            observation=task.observation(fields),
            reward=task.reward(before, fields, action, terminated),
            terminated=terminated,
            sane=self.engine.sane(),
        )

    def _restart(self, mask: np.ndarray) -> Tensor:
        engine, fields = self.engine, self._fields
        rest = engine.qpos0.numpy(), engine.qvel0.numpy()
        qpos, qvel = torch.empty_like(fields["qpos"]), torch.empty_like(fields["qvel"])
        for world in np.flatnonzero(mask):
            start = self.task.initial.draw(self._generators[world], *rest)
            qpos[world], qvel[world] = torch.as_tensor(start.qpos), torch.as_tensor(start.qvel)
            if start.goal is not None:
                fields["goal"][world] = torch.as_tensor(start.goal)
        engine.set_state(torch.from_numpy(mask), qpos, qvel)
        return self.task.observation(fields)

    def _own_state(self) -> dict[str, Tensor]:
        own = {"generators": pack_generators(self._generators)}
        if self.task.goal_size:
            own["goal"] = self._fields["goal"].clone()
        return self.engine.state_dict() | own

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        generators = unpack_generators(take(state, "generators", (self.num_envs, WORDS)))
        goal = self._fields["goal"]
        saved_goal = take(state, "goal", goal.shape) if self.task.goal_size else goal
        self.engine.load_state_dict(state)
        goal.copy_(saved_goal)
        self._generators = generators
