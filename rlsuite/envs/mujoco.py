"""The environment that joins a task and an engine: vectorised MuJoCo as TorchRL sees it."""

from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.arrays import Array, join
from rlsuite.envs.base import EnvFacts, Outcome, VectorEnv, on_host, take
from rlsuite.envs.engines.native import NativeEngine
from rlsuite.envs.engines.warp_options import warp_device
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.rendering import SceneCamera
from rlsuite.envs.seeding import Seeds
from rlsuite.envs.starts import DeviceStarts, HostStarts, Starts
from rlsuite.envs.tasks.base import Fields, Task, Values
from rlsuite.envs.variation import PREFIX, Ranges, Variation, actuator_names
from rlsuite.errors import ConfigError

PACKAGES = {"native": ("mujoco",), "warp": ("mujoco", "mujoco-warp", "warp-lang")}


class MujocoEnv(VectorEnv):
    """A task on an engine; see `VectorEnv` for the contract.

    On the engine `native` env i draws its initial states from the generator of
    `gymnasium.make(id).reset(seed=seed + i)`, so whole trajectories are bitwise those of Gymnasium, resets
    included. On `warp` physics, task functions and initial states stay on the device, in float32 and equal
    in distribution; `step` and `maybe_reset` never wait for it.

    Args:
        task: what to do.
        num_envs: B.
        options: see `EnvOptions`; engine "auto" is "native".
        ranges: of what every episode draws anew of the model.

    Raises:
        ConfigError: the engine `warp` lacks its package or its device, or cannot run the task's model.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int = 1,
        options: EnvOptions | None = None,
        ranges: Ranges | None = None,
    ) -> None:
        options = options or EnvOptions()
        simulator: Any
        if ranges is not None and (options.engine == "warp" or task.refresh):
            raise ConfigError(
                f"{task.env_id}: {PREFIX}* options are for the engine native, and not for dm_control's tasks"
            )
        if options.engine == "warp":
            place = warp_device(options.device)
            from rlsuite.envs.engines.warp import WarpEngine

            simulator = WarpEngine(
                task.model(), num_envs, task.fields, refresh=task.refresh, device=place, options=options.warp
            )
            fields: Fields = simulator.read()
        else:
            names = (*task.fields, *(task.infos.fields if options.infos and task.infos else ()))
            simulator = native = NativeEngine(
                task.model(), num_envs, names, refresh=task.refresh, threads=options.threads
            )
            fields = native.arrays if task.arrays == "any" else native.read()
        engine_name = "warp" if options.engine == "warp" else "native"
        rest = simulator.qpos0, simulator.qvel0
        goal = rest[0].new_zeros(num_envs, task.goal_size)
        fields = {**fields, "goal": goal.numpy() if isinstance(fields["qpos"], np.ndarray) else goal}
        variation = None if ranges is None else Variation(ranges, simulator, num_envs)
        if variation is not None:
            drawn = variation.factors
            fields["variation"] = drawn if isinstance(fields["qpos"], np.ndarray) else torch.from_numpy(drawn)
        kept = private_size(task, fields, variation)
        low, high = simulator.model.actuator_ctrlrange.T
        facts = EnvFacts(
            env_id=task.env_id,
            engine_name=engine_name,
            num_envs=num_envs,
            observation_size=task.observation(fields).shape[-1] + kept,
            action_low=low,
            action_high=high,
            max_episode_steps=options.max_episode_steps or task.max_episode_steps,
            packages=(*PACKAGES[engine_name], *task.packages),
            fps=1 / task.dt,
            on_device=engine_name == "warp",
            simulation_device=simulator.device,
            simulation_dtype=rest[0].dtype,
            private=kept,
            action_names=tuple(actuator_names(simulator.model)),
        )
        super().__init__(facts, options)
        self.task = task
        self.engine = simulator
        self._fields = fields
        self.variation = variation
        self._functions = task if facts.on_device or task.arrays == "any" else through_tensors(task)
        self._starts: Starts = (DeviceStarts if facts.on_device else HostStarts)(
            task.initial, num_envs, *rest
        )
        self._camera: SceneCamera | None = None
        self._quiet = True
        self._tells = self._functions.infos if options.infos and not facts.on_device else None
        self._said: list[Values] = [{}]  # of the last step; to write to a list costs less than to a module
        self._set_seed(options.seed)

    @property
    def generators(self) -> list[np.random.Generator]:
        """What each env's next episodes are drawn from; see `VectorEnv`."""
        return self._starts.generators if isinstance(self._starts, HostStarts) else super().generators

    def infos(self) -> Values:
        """Return what the task says of the last step, each `[B]` or `[B, ...]`; see `EnvOptions.infos`."""
        return self._said[0]

    def reset_infos(self) -> Values:
        """Return what the task says of fresh states, for all envs."""
        return {} if self._tells is None else self._tells.reset(self._fields)

    def stream(self) -> AbstractContextManager[None]:
        """Return a context in which torch and the engine queue their GPU work in one stream."""
        if not self.facts.on_device:
            return super().stream()
        from rlsuite.envs.engines.warp import shared_stream

        return shared_stream(self.simulation_device)

    def frame(self, index: int = 0) -> np.ndarray:
        """Return a picture of one env, uint8 `[height, width, 3]`; loads OpenGL on the first call.

        Raises:
            EnvironmentFailure: no way to render without a display works here.
        """
        # A copy of model and state is posed anew: looking at an env must not change its future.
        if self._camera is None:
            self._scene = copy(self.engine.model)
            self._camera = SceneCamera(self._scene, self.task.camera, self.frame_size)
        fields, pose = self._fields, mujoco.MjData(self._scene)
        pose.qpos[:], pose.qvel[:] = _row(fields["qpos"], index), _row(fields["qvel"], index)
        if self.task.show_goal is not None:
            self.task.show_goal(self._scene, _row(fields["goal"], index))
        mujoco.mj_forward(self._scene, pose)
        return self._camera.picture(pose)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Stop the threads and free what rendering holds."""
        if "engine" in self.__dict__:
            self.engine.close()
            if self._camera is not None:
                self._camera.close()
        super().close(raise_if_closed=raise_if_closed)

    def _set_seed(self, seed: Seeds) -> None:
        self._starts.seed(seed)
        if self.variation is not None:
            self.variation.seed(seed)

    def _advance(self, action: Array) -> Outcome:
        task, fields = self._functions, self._fields
        before = task.before(fields)
        tells = self._tells
        known = None if tells is None or tells.before is None else tells.before(fields)
        self.engine.step(action, task.substeps)
        sane = self.engine.sane()
        if sane is None:
            return self._outcome(before, known, action, None)
        if self.facts.on_device:
            # Nobody looked at the actions; MuJoCo's clamp may hide a NaN among them from the physics.
            sane &= ~action.isnan().any(-1)
        with np.errstate(all="ignore"):
            return self._outcome(before, known, action, sane)

    def _outcome(self, before: Array, known: Array | None, action: Array, sane: Array | None) -> Outcome:
        """Let the task judge the state that was reached; see `_advance`."""
        task, fields, tells = self._functions, self._fields, self._tells
        terminated = task.terminated(fields)
        if tells is None:
            reward = task.reward(before, fields, action, terminated)
        else:
            said = tells.step(before if known is None else known, fields, action, terminated)
            self._said[0] = said
            reward = (
                task.reward(before, fields, action, terminated)
                if tells.reward is None
                else tells.reward(said)
            )
        return Outcome(self._observation(), reward, terminated, sane=sane, fresh=True)

    def _observation(self) -> Array:
        """Return `[B, O]`: what the task shows, then what it and the variation tell critics alone."""
        task, fields = self._functions, self._fields
        shown = task.observation(fields)
        if not self.facts.private:
            return shown
        parts = [shown] if task.private is None else [shown, task.private(fields)]
        if self.variation is not None and self.variation.told:
            parts.append(self.variation.factors)
        return join(*parts)

    def _restart(self, mask: Array) -> Array:
        if self.variation is not None:
            self.variation.draw(mask)
        start = self._starts.draw(mask)
        self.engine.set_state(mask, start.qpos, start.qvel, start.act, start.warmstart)
        if start.goal is not None:
            goal = self._fields["goal"]
            if self.facts.on_device:
                goal.copy_(torch.where(mask.unsqueeze(-1), start.goal, goal))
            else:
                goal[mask] = start.goal[mask]
        return self._observation()

    def _own_state(self) -> dict[str, Tensor]:
        state = self._starts.state_dict()
        if self.variation is not None:
            state |= self.variation.state_dict()
        if self.task.goal_size:
            state["goal"] = torch.as_tensor(self._fields["goal"]).clone()
        return self.engine.state_dict() | state

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        goal = torch.as_tensor(self._fields["goal"])
        saved_goal = take(state, "goal", goal.shape) if self.task.goal_size else goal
        if self.variation is not None:
            self.variation.load_state_dict(state)
        self.engine.load_state_dict(state)
        self._starts.load_state_dict(state)
        goal.copy_(saved_goal)


def private_size(task: Task, fields: Fields, variation: Variation | None) -> int:
    """Return how many numbers critics are told alone."""
    told = 0 if task.private is None else int(task.private(fields).shape[-1])
    return told + (len(variation.names) if variation is not None and variation.told else 0)


def through_tensors(task: Task) -> Task:
    """Return a task that hands arrays to functions which know tensors only, and gives arrays back.

    Fields and what `before` returns stay tensors.
    """

    def reward(before: Array, fields: Fields, action: np.ndarray, ended: np.ndarray) -> np.ndarray:
        return on_host(task.reward(before, fields, torch.from_numpy(action), torch.from_numpy(ended)))

    def infos(before: Array, fields: Fields, action: np.ndarray, ended: np.ndarray) -> Values:
        assert tells is not None
        return _on_host(tells.step(before, fields, torch.from_numpy(action), torch.from_numpy(ended)))

    def private(fields: Fields) -> np.ndarray:
        assert task.private is not None
        return on_host(task.private(fields))

    tells = task.infos
    return replace(
        task,
        private=private if task.private else None,
        observation=lambda fields: on_host(task.observation(fields)),
        reward=reward,
        terminated=lambda fields: on_host(task.terminated(fields)),
        infos=tells and replace(tells, step=infos, reset=lambda fields: _on_host(tells.reset(fields))),
    )


def _on_host(values: Values) -> Values:
    return {name: on_host(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def _row(array: Array, index: int) -> np.ndarray:
    row = array[index]
    return on_host(row) if isinstance(row, Tensor) else row
