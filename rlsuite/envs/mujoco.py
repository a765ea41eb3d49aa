"""The environment that joins a task and an engine: vectorised MuJoCo as TorchRL sees it."""

from contextlib import AbstractContextManager
from copy import copy

import mujoco
import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.base import Outcome, VectorEnv, take
from rlsuite.envs.engines.base import Engine
from rlsuite.envs.engines.native import NativeEngine
from rlsuite.envs.engines.warp_options import WarpOptions, warp_device
from rlsuite.envs.rendering import SceneCamera
from rlsuite.envs.seeding import Seeds
from rlsuite.envs.starts import DeviceStarts, HostStarts
from rlsuite.envs.tasks.base import Task

PACKAGES = {"native": ("mujoco",), "warp": ("mujoco", "mujoco-warp", "warp-lang")}


class MujocoEnv(VectorEnv):
    """A task on an engine; see `VectorEnv` for the contract.

    On the engine `native` world i draws its initial states from the generator of
    `gymnasium.make(id).reset(seed=seed + i)`, so whole trajectories are bitwise those of Gymnasium, resets
    included. On `warp` physics, task functions and initial states stay on the device, in float32 and equal
    in distribution; `step` and `maybe_reset` never wait for it.

    Args:
        task: what to do.
        num_envs: B worlds.
        engine: "native" (CPU, float64) or "warp" (`device`, float32).
        device: where tensors are handed out, and where `warp` runs.
        seed: of world 0, world i using seed + i; or one for every world.
        dtype: of observations, rewards and actions.
        threads: of the native engine, at most so many; 0 takes all cores.
        max_episode_steps: instead of the task's own limit.
        warp: settings of the engine `warp`; None for the defaults.

    Raises:
        ConfigError: the engine `warp` lacks its package or its device, or cannot run the task's model.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int = 1,
        *,
        engine: str = "native",
        device: torch.device | str = "cpu",
        seed: Seeds = 0,
        dtype: torch.dtype = torch.float32,
        threads: int = 0,
        max_episode_steps: int | None = None,
        warp: WarpOptions | None = None,
    ) -> None:
        if engine == "warp":
            place = warp_device(device)
            from rlsuite.envs.engines.warp import WarpEngine

            simulator: Engine = WarpEngine(
                task.model(), num_envs, task.fields, refresh=task.refresh, device=place, options=warp
            )
        else:
            simulator = NativeEngine(
                task.model(), num_envs, task.fields, refresh=task.refresh, threads=threads
            )
        rest = simulator.qpos0, simulator.qvel0
        fields = {**simulator.read(), "goal": rest[0].new_zeros(num_envs, task.goal_size)}
        super().__init__(
            env_id=task.env_id,
            engine_name=engine,
            num_envs=num_envs,
            observation_size=task.observation(fields).shape[-1],
            action_low=simulator.model.actuator_ctrlrange[:, 0],
            action_high=simulator.model.actuator_ctrlrange[:, 1],
            max_episode_steps=max_episode_steps or task.max_episode_steps,
            packages=(*PACKAGES[engine], *task.packages),
            device=device,
            dtype=dtype,
            simulation_device=simulator.device,
            simulation_dtype=rest[0].dtype,
            host_asks=engine == "native",
        )
        self.task = task
        self.engine = simulator
        self._fields = fields
        self._starts = (HostStarts if engine == "native" else DeviceStarts)(task.initial, num_envs, *rest)
        self._camera: SceneCamera | None = None
        self._set_seed(seed)

    def stream(self) -> AbstractContextManager[None]:
        """Return a context in which torch and the engine queue their GPU work in one stream."""
        if self.engine_name != "warp":
            return super().stream()
        from rlsuite.envs.engines.warp import shared_stream

        return shared_stream(self.simulation_device)

    def frame(self, world: int = 0) -> np.ndarray:
        """Return a picture of one world, uint8 `[height, width, 3]`; loads OpenGL on the first call.

        Raises:
            EnvironmentFailure: no way to render without a display works here.
        """
        # A copy of model and state is posed anew: looking at a world must not change its future.
        if self._camera is None:
            self._scene = copy(self.engine.model)
            self._camera = SceneCamera(self._scene, self.task.camera)
        fields, pose = self._fields, mujoco.MjData(self._scene)
        pose.qpos[:], pose.qvel[:] = fields["qpos"][world].cpu(), fields["qvel"][world].cpu()
        if self.task.show_goal is not None:
            self.task.show_goal(self._scene, fields["goal"][world].cpu().numpy())
        mujoco.mj_forward(self._scene, pose)
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
        self._starts.seed(seed)

    def _advance(self, action: Tensor) -> Outcome:
        task, fields = self.task, self._fields
        before = task.before(fields)
        self.engine.step(action, task.substeps)
        terminated = task.terminated(fields)
        sane = self.engine.sane()
        if not self._host_asks and sane is not None:
            # Nobody looked at the actions; MuJoCo's clamp may hide a NaN among them from the physics.
            sane &= ~action.isnan().any(-1)
        return Outcome(
            observation=task.observation(fields),
            reward=task.reward(before, fields, action, terminated),
            terminated=terminated,
            sane=sane,
        )

    def _restart(self, mask: Tensor) -> Tensor:
        start = self._starts.draw(mask)
        self.engine.set_state(mask, start.qpos, start.qvel, start.act, start.warmstart)
        if start.goal is not None:
            goal = self._fields["goal"]
            goal.copy_(torch.where(mask.unsqueeze(-1), start.goal, goal))
        return self.task.observation(self._fields)

    def _own_state(self) -> dict[str, Tensor]:
        own = self._starts.state_dict()
        if self.task.goal_size:
            own["goal"] = self._fields["goal"].clone()
        return self.engine.state_dict() | own

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        goal = self._fields["goal"]
        saved_goal = take(state, "goal", goal.shape) if self.task.goal_size else goal
        self.engine.load_state_dict(state)
        self._starts.load_state_dict(state)
        goal.copy_(saved_goal)
