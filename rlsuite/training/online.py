"""Online training: act, step, store, reset, update.

"Step" alone is never used: env steps count single envs, a vector step moves all `num_envs`, updates are
gradient updates. With several seeds all counts are those of each.
"""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent
from rlsuite.blocks.masks import masked
from rlsuite.blocks.noise import normal, uniform
from rlsuite.envs.base import StepResult
from rlsuite.errors import ConfigError, EnvironmentFailure, NumericalError
from rlsuite.replay.uniform import NoValidRows
from rlsuite.runs.checkpoint import CheckpointStore, Loaded
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import OnlineRun, build
from rlsuite.training.callbacks import Hooks
from rlsuite.training.checks import check_memory
from rlsuite.training.guard import write_dump
from rlsuite.training.learning import update
from rlsuite.training.loop import Session, TrainResult
from rlsuite.training.prior import Prior, load_prior
from rlsuite.training.processes import load_together
from rlsuite.training.recorder import Recorder

DUMPED_ROWS = 50  # transitions of each env that failed
NAN_RESET_SHARE = 1e-3  # env resets for numbers that are not finite, per env step, that end a run
NAN_RESET_GRACE = 10  # such resets are an accident, not a rate, up to this many


def train_online(
    agent_class: type[Agent],
    agent_config: Any,
    config: TrainConfig,
    folder: RunFolder,
    *,
    stop: StopFlag | None = None,
    resume: bool = False,
    hooks: Hooks | None = None,
) -> TrainResult:
    """Train one agent on one environment and leave metrics and checkpoints in `folder`.

    Args:
        agent_class: the algorithm.
        agent_config: an instance of its `Config`.
        config: the run's fields.
        folder: a locked run folder.
        stop: asked at every step boundary; set, the run saves and returns as interrupted.
        resume: go on from the newest checkpoint that verifies; without one, start over.
        hooks: callbacks, and what else looks on.

    Raises:
        ConfigError: a device, engine or replay size that this machine cannot give.
        DataError: no checkpoint is usable, or the last one could not be written.
        NumericalError: a loss, gradient or too many envs were not finite; `dump/` says more.
        EnvironmentFailure: the environment broke.
    """
    prior = load_prior(config)
    run = build(agent_class, agent_config, config, prior=prior)
    run.hooks = hooks or run.hooks
    loaded = load_together(CheckpointStore(folder.checkpoints), run.digest) if resume else None
    if loaded is None:
        preload(run, prior)
    return act_and_learn(run, folder, config.steps, stop, resume=resume, loaded=loaded)


def preload(run: OnlineRun, prior: Prior | None) -> None:
    """Put recorded transitions into a new run's replay, unless its batches are mixed.

    Raises:
        ConfigError: they do not fit into it, or it does not fit into memory.
    """
    if prior is None or run.config.offline_share is not None:
        return
    try:
        check_memory(run, prior.data.rows)
        run.replay.preload(prior.data.rows)
    except BaseException as error:
        run.close()
        if isinstance(error, ValueError) and not isinstance(error, ConfigError):
            raise ConfigError(f"{error}: raise --replay-size") from error
        raise


def act_and_learn(
    run: OnlineRun,
    folder: RunFolder,
    goal: int,
    stop: StopFlag | None,
    *,
    resume: bool,
    loaded: Loaded | None,
    seconds: float = 0.0,
) -> TrainResult:
    """Act and learn until `goal` env steps, and close the environments; see `Session` for the arguments."""
    config, clock = run.config, run.clock
    with (
        closing(run),
        run.env.stream(),  # one for torch and the engine, so that neither waits for the other
        Session(run, folder, goal, stop, resume=resume, loaded=loaded, seconds=seconds) as session,
    ):
        while session.goes_on:
            with torch.no_grad():
                vector_step(run, session.recorder)
            try:
                update(run, session.guard, clock.updates_due(config))
            except NoValidRows as error:
                raise EnvironmentFailure(
                    f"{run.env.env_id} gave observations or rewards that are no finite numbers (NaN, None) "
                    f"at nearly every step: {error}"
                ) from error
            if session.report(config.num_envs, partial(env_metrics, run)):
                check_envs(run, folder.path)  # not at every step: asking a device for its counts waits for it
            session.save_when_due(config.num_envs)
        return session.finish()


def train_steps(run: OnlineRun, env_steps: int) -> None:
    """Take `env_steps` env steps and the updates they earn, without log, evaluation or checkpoint."""
    goal = run.clock.env_steps + env_steps
    with run.env.stream(), set_exploration_type(ExplorationType.RANDOM):
        while run.clock.env_steps < goal:
            with torch.no_grad():
                vector_step(run, None)
            update(run, None, run.clock.updates_due(run.config))


def vector_step(run: OnlineRun, recorder: Recorder | None) -> None:
    """Act in all envs, store the transitions, reset the envs whose episode ended.

    Args:
        run: its clock moves on by `num_envs`.
        recorder: is told how large the replay is, at the first step.
    """
    env, observation = run.env, run.td.get("observation")
    action = next_action(run)
    result = env.step_tensors(action)
    truncated = result.truncated
    if any(plugin.stops for plugin in run.plugins.values()):
        step = step_td(observation, action, result)
        for plugin in run.plugins.values():
            if (stopped := plugin.stop_mask(step)) is not None:
                truncated = truncated | (stopped & ~result.terminated)
    done = result.terminated | truncated
    run.episodes.add(result.reward, done, env.success)
    if not len(run.replay):
        needed = check_memory(run, step_td(observation, action, result))
        if recorder is not None:
            recorder.note(f"replay: {run.replay.capacity:,} rows, {needed / 2**20:.0f} MiB on {run.device}")
    task_reward = result.reward if run.reward is None else run.reward(result.reward)

    def keep(reward: Tensor, next_observation: Tensor) -> None:
        """Store the transitions with what is learnt from as their reward."""
        if (scale := run.agent.reward_scale) is not None:
            run.td.set("carried_return", scale.observe(reward, done, run.td.get("carried_return", None)))
        flags = (result.terminated, truncated, done, result.valid)
        run.replay.extend_arrays(observation, action, reward, next_observation, *flags)

    next_observation = result.observation
    if run.take_over is None:
        keep(task_reward, next_observation)
    else:  # the reward is known when the next step is decided, at observations after the reset
        next_observation = next_observation.clone()
    # A device is not asked whether an episode ended: that would wait for it.
    resets = run.device.type != "cpu" or bool(done.any())
    run.td.set("observation", env.reset_tensors(done) if resets else result.observation)
    if run.act is None:  # a policy that carries more must know where episodes begin
        count = run.td.get("step_count") + 1
        run.td.set("step_count", count.masked_fill(done.unsqueeze(-1), 0))
    run.clock.env_steps += run.config.num_envs
    if run.take_over is not None:
        begins = run.take_over.decide(run.td.get("observation"), proposed_action(run), done)
        keep(run.take_over.reward(task_reward, begins, done), next_observation)


def next_action(run: OnlineRun) -> Tensor:
    """Return the actions of all envs, `[num_envs, A]`: the policy's, or of whoever takes over."""
    if run.take_over is None:
        return proposed_action(run)
    if not run.take_over.decided:
        none = torch.zeros(run.env.num_envs, dtype=torch.bool, device=run.device)
        run.take_over.decide(run.td.get("observation"), proposed_action(run), none)
    return run.take_over.action


def proposed_action(run: OnlineRun) -> Tensor:
    """Return the policy's actions, or random ones before it acts, `[num_envs, A]`."""
    return act(run, run.td.get("observation")) if past_warmup(run) else warmup_action(run)


def act(run: OnlineRun, observation: Tensor) -> Tensor:
    """Return the behaviour's actions, `[num_envs, A]`; what a policy carries stays in `run.td`."""
    if run.act is not None:
        return run.act(observation)
    run.td = run.policy(run.td)
    return run.td.get("action")


def step_td(observation: Tensor, action: Tensor, result: StepResult[Tensor]) -> TensorDict:
    """Return one vector step as TorchRL has it, `[num_envs]`."""
    flags = {"terminated": result.terminated, "truncated": result.truncated, "valid": result.valid}
    flags["done"] = result.terminated | result.truncated
    columns = {name: flag.unsqueeze(-1) for name, flag in flags.items()}
    after = {"observation": result.observation, "reward": result.reward.unsqueeze(-1), **columns}
    size = observation.shape[:1]
    return TensorDict({"observation": observation, "action": action, "next": TensorDict(after, size)}, size)


def past_warmup(run: OnlineRun) -> bool:
    """Return whether the agent's policy acts, and not random actions."""
    begun = run.clock.env_steps - run.clock.offline
    return begun >= run.config.warmup_steps or run.config.warmup_policy == "agent"


def warmup_action(run: OnlineRun) -> Tensor:
    """Draw random actions of all envs, `[num_envs, A]`, each seed's from its own stream."""
    shape = run.env.action_spec.shape
    like = torch.empty(shape, device=run.device).view(*run.agent.lead, -1, shape[-1])
    source = run.streams.source("explore")
    uniform_policy = run.config.warmup_policy == "uniform"
    action = uniform(like, source, -1, 1) if uniform_policy else normal(like, source).tanh()
    action = action.view(shape)
    if not run.env.facts.masked:
        return action
    return masked((action + 1) / 2, run.td.get("observation")).clamp(-1, 1)


def env_metrics(run: OnlineRun) -> list[dict[str, float]]:
    """Return what the envs and the replay have to log, for every seed."""
    transitions = ranks.count(len(run.replay)) // len(run.seeds)
    shared: dict[str, float] = {"env/nan_resets": ranks.count(run.env.nan_resets), "replay/rows": transitions}
    if (new := run.replay.new_share) is not None:
        shared["replay/new_share"] = new
    pairs = zip(run.episodes.take(), run.episodes.regrets(run.reference), strict=True)
    lines = [episodes | regret | shared for episodes, regret in pairs]
    if run.take_over is not None:
        lines = [line | more for line, more in zip(lines, run.take_over.numbers(), strict=True)]
    return lines


def check_envs(run: OnlineRun, folder: Path) -> None:
    """Stop, with the envs' states and what led there in a dump, when they break down too often.

    Raises:
        NumericalError: more than `NAN_RESET_SHARE` of the env steps ended in numbers that are not finite.
    """
    resets = run.env.nan_resets
    env_steps = run.clock.env_steps * len(run.seeds) // ranks.size()
    if resets > NAN_RESET_GRACE and resets > NAN_RESET_SHARE * env_steps:
        report = {"nan_resets": resets, "env_steps": env_steps}
        before = run.replay.before_failures(DUMPED_ROWS)
        place = write_dump(folder, report, {"env": run.env.state_dict(), "before": before})
        raise NumericalError(
            f"{resets} envs had numbers that are not finite in {env_steps} env steps, more than "
            f"{NAN_RESET_SHARE:.1%}: the task or its time step is unstable; {place}"
        )
