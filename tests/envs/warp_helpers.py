"""Two engines side by side; shared by the tests of engine warp."""

import numpy as np
import torch

from rlsuite.envs.engines.native import NativeEngine
from rlsuite.envs.engines.warp import WarpEngine
from rlsuite.envs.engines.warp_options import WarpOptions
from rlsuite.envs.tasks.base import Fields, Task

# Largest differences of one env step from the same state, float32 against float64, relative to
# max(1, largest number of the field): about three times what was seen for all tasks.
TOLERANCE = {
    "qpos": 1e-5,
    "qvel": 5e-5,
    "xpos": 5e-5,
    "xipos": 5e-5,
    "site_xpos": 5e-5,
    "cinert": 5e-5,
    "cvel": 5e-5,
    "qfrc_actuator": 5e-5,
    "qfrc_constraint": 1e-3,
    "cfrc_ext": 1e-3,
    "sensordata": 5e-5,
    "xmat": 5e-5,
    "geom_xpos": 5e-5,
    "subtree_com": 5e-5,
    "reward": 1e-3,
    "observation": 1e-3,
}
# A contact that is a micrometre inside its margin in float64 may be outside in float32: another step follows.
SHARE_OF_CLOSE_CALLS = 0.01


class Pair:
    """The same worlds on the native engine and on engine warp; differences are taken on the CPU."""

    def __init__(
        self,
        task: Task,
        worlds: int,
        options: WarpOptions | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.task, self.worlds = task, worlds
        self.native = NativeEngine(task.model(), worlds, task.fields, refresh=task.refresh, threads=1)
        self.warp = WarpEngine(
            task.model(), worlds, task.fields, refresh=task.refresh, device=device, options=options
        )
        self.goal = torch.zeros(worlds, task.goal_size, dtype=torch.float64)
        self._random = np.random.default_rng(0)
        self._limits = torch.from_numpy(self.native.model.actuator_ctrlrange.copy())

    def start(self, mask: torch.Tensor | None = None) -> None:
        """Start both engines from the same new states."""
        mask = torch.ones(self.worlds, dtype=torch.bool) if mask is None else mask
        for world in mask.nonzero().flatten().tolist():
            rest = self.native.qpos0.numpy(), self.native.qvel0.numpy()
            drawn = self.task.initial.draw(self._random, *rest)
            qpos, qvel = (torch.from_numpy(part).expand(self.worlds, -1) for part in drawn[:2])
            alone = torch.arange(self.worlds) == world
            act = None if drawn.act is None else torch.from_numpy(drawn.act).expand(self.worlds, -1)
            for engine in (self.native, self.warp):
                engine.set_state(alone, qpos, qvel, act)
            if drawn.goal is not None:
                self.goal[world] = torch.from_numpy(drawn.goal)

    def synchronise(self) -> None:
        """Give Warp the state of the native engine, its solver's warm start included; fields stay stale."""
        state = self.warp.state_dict()
        for name in ("qpos", "qvel", "act", "qacc_warmstart"):
            if f"physics.{name}" in state:
                state[f"physics.{name}"] = torch.from_numpy(
                    np.stack(
                        [getattr(data, name) for data in [self.native.data(i) for i in range(self.worlds)]]
                    )
                )
        self.warp.load_state_dict(state)

    def step(self, synchronised: bool = True) -> dict[str, torch.Tensor]:
        """One env step of both under random controls; return the differences by field and world `[B]`."""
        if synchronised:
            self.synchronise()
        low, high = self._limits.T
        control = low + (high - low) * torch.from_numpy(
            self._random.uniform(size=(self.worlds, len(self._limits)))
        )
        results = []
        for engine in (self.native, self.warp):
            fields: Fields = {**engine.read(), "goal": self.goal.to(engine.qpos0)}
            own = control.to(engine.qpos0)
            before = self.task.before(fields)
            engine.step(own, self.task.substeps)
            ended = self.task.terminated(fields)
            results.append(
                {
                    **{name: fields[name].clone().cpu() for name in self.task.fields},
                    "reward": self.task.reward(before, fields, own, ended).cpu(),
                    "observation": self.task.observation(fields).cpu(),
                }
            )
        return {name: difference(results[0][name], results[1][name]) for name in results[0]}


def difference(exact: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Largest difference of each world `[B]`, relative to max(1, largest number of all worlds)."""
    if not exact.numel():
        return torch.zeros(len(exact))
    largest = (found.double() - exact).abs().reshape(len(exact), -1).amax(-1)
    return largest / max(1.0, exact.abs().max().item())


def assert_close(steps: list[dict[str, torch.Tensor]], where: str) -> None:
    """Assert that in all steps and worlds, but for close calls, every field stays within its tolerance."""
    for name in steps[0]:
        differences = torch.stack([step[name] for step in steps])
        beyond = ~(differences <= TOLERANCE[name])  # nan is beyond
        share, worst = beyond.double().mean().item(), differences.max().item()
        assert share <= SHARE_OF_CLOSE_CALLS, f"{where}: {name} is off by up to {worst:.1e} in {share:.1%}"
