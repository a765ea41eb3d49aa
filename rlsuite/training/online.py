"""Online training: act, step, store, reset, update.

Legend: B worlds. "Step" alone is never used: env steps count single worlds, a vector step moves all B,
updates are gradient updates. With several seeds all counts are those of each.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent
from rlsuite.blocks.noise import normal, uniform
from rlsuite.errors import NumericalError
from rlsuite.runs.checkpoint import CheckpointStore, Loaded
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import Run, build, check_memory
from rlsuite.training.guard import LearnerGuard, write_dump
from rlsuite.training.loop import TrainResult, Work, drive, update
from rlsuite.training.processes import load_together
from rlsuite.training.recorder import Recorder

if TYPE_CHECKING:
    from rlsuite.envs.base import StepResult

DUMPED_ROWS = 50  # of each world that failed
NAN_RESET_SHARE = 1e-3  # world resets for numbers that are not finite, per env step, that end a run
NAN_RESET_GRACE = 10  # such resets are an accident, not a rate, up to this many


def train_online(
    agent_class: type[Agent],
    agent_config: Any,
    config: TrainConfig,
    folder: RunFolder,
    *,
    stop: StopFlag | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train one agent on one environment and leave metrics and checkpoints in `folder`.

    Args:
        agent_class: the algorithm.
        agent_config: an instance of its `Config`.
        config: the run's fields.
        folder: a locked run folder.
        stop: asked at every step boundary; set, the run saves and returns as interrupted.
        resume: go on from the newest checkpoint that verifies; without one, start over.

    Raises:
        ConfigError: a device, engine or replay size that this machine cannot give.
        DataError: no checkpoint is usable, or the last one could not be written.
        NumericalError: a loss, gradient or too many worlds were not finite; `dump/` says more.
        EnvironmentFailure: the environment broke.
    """
    run = build(agent_class, agent_config, config)
    loaded = load_together(CheckpointStore(folder.checkpoints), run.digest) if resume else None
    return interact(run, config.steps, folder, stop, resume=resume, loaded=loaded)


def interact(
    run: Run,
    goal: int,
    folder: RunFolder,
    stop: StopFlag | None,
    *,
    resume: bool,
    loaded: Loaded | None,
    seconds: float = 0.0,
) -> TrainResult:
    """Act and learn until `goal` env steps; close the worlds. See `rlsuite.training.loop.drive`."""

    def advance(recorder: Recorder, guard: LearnerGuard | None) -> None:
        with torch.no_grad():
            _vector_step(run, recorder)
        update(run, guard, run.clock.updates_due(run.config))

    def numbers() -> list[dict[str, float]]:
        rows = ranks.count(len(run.replay)) // len(run.seeds)
        shared = {"env/nan_resets": ranks.count(run.env.nan_resets), "replay/rows": rows}
        return [episodes | shared for episodes in run.episodes.take()]

    work = Work(advance, run.config.num_envs, goal, numbers, lambda: _check_worlds(run, folder.path))
    try:
        return drive(run, work, folder, stop, resume=resume, loaded=loaded, seconds=seconds)
    finally:
        run.env.close()
        run.eval_env.close()


def train_steps(run: Run, env_steps: int) -> None:
    """Take `env_steps` env steps and the updates they earn, without log, evaluation or checkpoint."""
    goal = run.clock.env_steps + env_steps
    with set_exploration_type(ExplorationType.RANDOM):
        while run.clock.env_steps < goal:
            with torch.no_grad():
                _vector_step(run, None)
            update(run, None, run.clock.updates_due(run.config))


def _vector_step(run: Run, recorder: Recorder | None) -> None:
    """Act in all envs, store the transitions, restart the envs whose episode ended."""
    env, observation = run.env, run.carried.get("observation")
    action = _warmup_action(run) if run.clock.env_steps < run.config.warmup_steps else None
    if action is None:
        action = _act(run, observation)
    result = env.step_tensors(action)
    truncated = result.truncated
    if any(plugin.stops for plugin in run.plugins.values()):
        step = _step_td(run, action, result)
        for plugin in run.plugins.values():
            if (stopped := plugin.stop_mask(step)) is not None:
                truncated = truncated | (stopped & ~result.terminated)
    done = result.terminated | truncated
    run.episodes.add(result.reward, done)
    reward = result.reward if run.reward is None else run.reward(result.reward)
    if not len(run.replay):
        _check_replay(run, recorder, _step_td(run, action, result))
    run.replay.extend_arrays(
        observation, action, reward, result.observation, result.terminated, truncated, done, result.valid
    )
    # A device is not asked whether an episode ended: that would wait for it.
    restarts = run.device.type != "cpu" or bool(done.any())
    run.carried.set("observation", env.reset_tensors(done) if restarts else result.observation)
    if run.act is None:  # a policy that carries more must know where episodes begin
        count = run.carried.get("step_count") + 1
        run.carried.set("step_count", count.masked_fill(done.unsqueeze(-1), 0))
    run.clock.env_steps += run.config.num_envs


def _act(run: Run, observation: Tensor) -> Tensor:
    """Return the behaviour's actions `[B, A]`; what a policy carries from step to step stays in `carried`."""
    if run.act is not None:
        return run.act(observation)
    run.carried = run.policy(run.carried)
    return run.carried.get("action")


def _warmup_action(run: Run) -> Tensor | None:
    """Return random actions `[B, A]` for the env steps before the first update; None: the policy acts."""
    if run.config.warmup_policy == "agent":
        return None
    shape = run.env.action_spec.shape
    actions = torch.empty(shape, device=run.device).view(*run.agent.lead, -1, shape[-1])
    source = run.streams.source("explore")
    if run.config.warmup_policy == "uniform":
        return uniform(actions, source, -1, 1).view(shape)
    return normal(actions, source).tanh().view(shape)


def _step_td(run: Run, action: Tensor, result: "StepResult[Tensor]") -> TensorDict:
    """Return one vector step as TorchRL has it, `[B]`."""
    done = result.terminated | result.truncated
    columns = {
        "terminated": result.terminated.unsqueeze(-1),
        "truncated": result.truncated.unsqueeze(-1),
        "done": done.unsqueeze(-1),
        "valid": result.valid.unsqueeze(-1),
    }
    columns |= {"observation": result.observation, "reward": result.reward.unsqueeze(-1)}
    size = [run.env.num_envs]
    before = {"observation": run.carried.get("observation"), "action": action}
    return TensorDict({**before, "next": TensorDict(columns, size)}, size)


def _check_replay(run: Run, recorder: Recorder | None, step: TensorDict) -> None:
    """Refuse a replay that does not fit into memory, and say how much it takes."""
    needed = check_memory(run, step)
    if recorder is not None:
        recorder.note(f"replay: {run.replay.capacity:,} rows, {needed / 2**20:.0f} MiB on {run.device}")


def _check_worlds(run: Run, folder: Path) -> None:
    """Stop, with the worlds' states and what led there in a dump, when they break down too often."""
    resets = run.env.nan_resets
    env_steps = run.clock.env_steps * len(run.seeds) // ranks.size()
    if resets > NAN_RESET_GRACE and resets > NAN_RESET_SHARE * env_steps:
        report = {"nan_resets": resets, "env_steps": env_steps}
        before = run.replay.before_failures(DUMPED_ROWS)
        place = write_dump(folder, report, {"env": run.env.state_dict(), "before": before})
        raise NumericalError(
            f"{resets} worlds had numbers that are not finite in {env_steps} env steps, more than "
            f"{NAN_RESET_SHARE:.1%}: the task or its time step is unstable; {place}"
        )
