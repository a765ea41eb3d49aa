"""The online training loop: act, step, store, reset, update, log, evaluate, save.

Legend: B worlds. "Step" alone is never used: env steps count single worlds, a vector step moves all B,
updates are gradient updates.
"""

import logging
import math
import os
import resource
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import GENERATOR_NAMES, Agent, Spaces
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, DataError, NumericalError
from rlsuite.replay.uniform import UniformReplay
from rlsuite.training import state
from rlsuite.training.checkpoint import CheckpointStore, CheckpointWriteError, Chunk, config_digest
from rlsuite.training.config import TrainConfig
from rlsuite.training.evaluate import evaluate, summary
from rlsuite.training.graphs import Update, verified
from rlsuite.training.guard import READ_EVERY, LearnerGuard, write_dump
from rlsuite.training.recorder import Recorder
from rlsuite.training.rng import Streams
from rlsuite.training.runfolder import RunFolder
from rlsuite.training.signals import StopFlag
from rlsuite.training.tensorfile import check_like

logger = logging.getLogger(__name__)

NAN_RESET_SHARE = 1e-3  # world resets for numbers that are not finite, per env step, that end a run
NAN_RESET_GRACE = 10  # such resets are an accident, not a rate, up to this many
FINAL_SAVE_TRIES = 3
# What may differ when a run goes on: nothing here changes what is learnt.
NOT_DIGESTED = ("steps", "threads", "cuda_graphs", "loggers", "eval_every", "checkpoint_every", "log_every")


@dataclass(slots=True)
class Clock:
    """Where a run is: env steps, updates, evaluations; and the returns that rank its checkpoints."""

    env_steps: int = 0
    updates: int = 0
    evaluations: int = 0
    failed_saves: int = 0
    last_return: float | None = None
    best_return: float | None = None

    def passed(self, every: int, num_envs: int) -> bool:
        """Whether the last vector step reached or passed a multiple of `every` env steps (0: never)."""
        return every > 0 and self.env_steps // every != (self.env_steps - num_envs) // every

    def updates_due(self, config: TrainConfig) -> int:
        """Updates that the env steps after warm-up have earned and that are not done yet."""
        earned = max(0, self.env_steps - config.warmup_steps) * config.updates_per_step
        return math.floor(earned + 1e-9) - self.updates


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended; returns are of evaluations, None where none was made."""

    interrupted: bool
    env_steps: int
    updates: int
    best_return: float | None
    final_return: float | None


@dataclass(slots=True)
class Run:
    """Everything that acts, learns or is saved in one run."""

    config: TrainConfig
    digest: str
    device: torch.device
    streams: Streams
    env: EnvBase
    eval_env: EnvBase
    agent: Agent
    replay: UniformReplay
    clock: Clock
    sums: state.RunningSums
    episodes: state.EpisodeSums
    carried: TensorDictBase
    update: Update | None = None  # chosen at the first update, which brings the first batch


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
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    run = build(agent_class, agent_config, config)
    store = CheckpointStore(folder.checkpoints)
    guard = LearnerGuard(folder.path) if config.guard else None
    recorder = Recorder(folder.path, loggers=config.loggers, total_steps=config.steps)
    with recorder, set_exploration_type(ExplorationType.RANDOM):
        try:
            store.remove_stages()
            loaded = store.load(config_digest=run.digest) if resume else None
            if loaded is not None:
                restore(run, loaded.tensors, loaded.documents, loaded.chunks())
                recorder.load_state_dict(loaded.documents["recorder"])
            if resume:
                recorder.rewind(run.clock.env_steps)
            interrupted = _loop(run, folder.path, store, recorder, guard, stop)
        finally:
            run.env.close()
            run.eval_env.close()
    clock = run.clock
    return TrainResult(interrupted, clock.env_steps, clock.updates, clock.best_return, clock.last_return)


def build(agent_class: type[Agent], agent_config: Any, config: TrainConfig) -> Run:
    """Make every object of a run from its configuration; all chance comes from `config.seed`."""
    device = pick_device(config.device)
    streams = Streams(config.seed, device)
    options: dict[str, Any] = {"engine": config.engine, "device": device, "threads": config.threads}
    env = make_env(config.env, config.num_envs, seed=streams.seed("env"), **options)
    eval_env = make_env(config.env, config.eval_episodes, seed=streams.seed("eval"), **options)
    agent = new_agent(agent_class, agent_config, env, streams, device)
    replay = UniformReplay(
        config.replay_size,
        num_envs=config.num_envs,
        batch_size=config.batch_size,
        n_step=config.n_step,
        gamma=agent_config.gamma,
        device=device,
        generator=streams.torch("sample"),
    )
    settings = {key: value for key, value in asdict(config).items() if key not in NOT_DIGESTED}
    digest = config_digest({"agent": agent_class.__name__, **asdict(agent_config), "train": settings})
    return Run(
        config,
        digest,
        device,
        streams,
        env,
        eval_env,
        agent,
        replay,
        Clock(),
        state.RunningSums(),
        state.EpisodeSums(config.num_envs, device),
        env.reset(),
    )


def new_agent(
    agent_class: type[Agent],
    agent_config: Any,
    env: EnvBase,
    streams: Streams,
    device: torch.device | str = "cpu",
) -> Agent:
    """Make an untrained agent for `env` with the run's streams."""
    generators = {name: streams.torch(name) for name in GENERATOR_NAMES}
    return agent_class(spaces_of(env), agent_config, generators, device=device)


def train_steps(run: Run, env_steps: int) -> None:
    """Take `env_steps` env steps and the updates they earn, without log, evaluation or checkpoint."""
    goal = run.clock.env_steps + env_steps
    with set_exploration_type(ExplorationType.RANDOM):
        while run.clock.env_steps < goal:
            with torch.no_grad():
                _vector_step(run, None)
            for _ in range(run.clock.updates_due(run.config)):
                _update(run, None)


def spaces_of(env: EnvBase) -> Spaces:
    """Read what an agent must know from an environment made by `make_env`."""
    return Spaces(
        observation=env.observation_spec["observation"].shape[-1],
        action=env.action_spec.shape[-1],
        half_range=env.half_range,
    )


def pick_device(name: str) -> torch.device:
    """Resolve "auto", "cpu" or "cuda"; ConfigError when CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError('device "cuda": torch sees no CUDA device here; use --device cpu')
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def free_bytes(device: torch.device) -> int:
    """Bytes that may still be allocated on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        mapped = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, StopIteration):  # not Linux: pages in use by caches count as taken
        mapped = 0
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return free if limit == resource.RLIM_INFINITY else max(0, min(free, limit - mapped))


def _loop(
    run: Run,
    folder: Path,
    store: CheckpointStore,
    recorder: Recorder,
    guard: LearnerGuard | None,
    stop: StopFlag | None,
) -> bool:
    """Run to the end or to a stop signal; return whether it was a signal."""
    config, clock, num_envs = run.config, run.clock, run.config.num_envs
    saved_at = clock.env_steps if clock.env_steps else None
    while clock.env_steps < config.steps:
        with torch.no_grad():
            _vector_step(run, recorder)
        for _ in range(clock.updates_due(config)):
            _update(run, guard)
        line: dict[str, float] = {}
        if clock.passed(config.log_every, num_envs):
            line |= run.sums.take() | run.episodes.take()
            line |= {"env/nan_resets": run.env.nan_resets, "replay/rows": len(run.replay)}
            line |= {"ckpt/failed": clock.failed_saves} if clock.failed_saves else {}
        last = clock.env_steps >= config.steps
        if clock.passed(config.eval_every, num_envs) or (last and config.eval_every):
            line |= _evaluate(run)
        if line:
            recorder.log(clock.env_steps, clock.updates, line)
        recorder.tick(clock.env_steps, clock.updates)
        _check_worlds(run, folder)
        stopped = stop is not None and stop.stop is not None
        if (stopped and not last) or (clock.passed(config.checkpoint_every, num_envs) and not last):
            _read_guard(run, guard)
            _save(run, store, recorder, final=stopped)
            saved_at = clock.env_steps
        if stopped and not last:
            return True
    if saved_at != clock.env_steps:
        _read_guard(run, guard)
        _save(run, store, recorder, final=True)
    return False


def _vector_step(run: Run, recorder: Recorder | None) -> None:
    """Act in all worlds, store the rows, reset the worlds whose episode ended."""
    config, clock = run.config, run.clock
    carried = run.carried
    if clock.env_steps < config.warmup_steps and config.warmup_policy == "uniform":
        shape = run.env.action_spec.shape
        uniform = torch.rand(shape, generator=run.streams.torch("explore"), device=run.device)
        carried.set("action", uniform * 2 - 1)
    else:
        carried = run.agent.policy(carried)
    step = run.env.step(carried)
    if not len(run.replay):
        try:
            needed = run.replay.check_memory(step, free_bytes(run.device))
        except MemoryError as error:
            raise ConfigError(str(error)) from error
        if recorder is not None:
            recorder.note(f"replay: {run.replay.capacity:,} rows, {needed / 2**20:.0f} MiB on {run.device}")
    run.replay.extend(step)
    run.episodes.add(step.get("next"))
    run.carried = run.env.maybe_reset(run.env.step_mdp(step))
    clock.env_steps += config.num_envs


def _update(run: Run, guard: LearnerGuard | None) -> None:
    """One gradient update on one batch."""
    batch = run.replay.sample()
    if run.update is None:
        captured = run.config.cuda_graphs and run.device.type == "cuda"
        run.update = verified(run.agent, batch) if captured else run.agent.update
    metrics = run.update(batch)
    run.clock.updates += 1
    run.sums.add(metrics)
    if guard is not None:
        guard.check(metrics, batch, run.clock.updates)
        if run.clock.updates % READ_EVERY == 0:
            _read_guard(run, guard)


def _read_guard(run: Run, guard: LearnerGuard | None) -> None:
    """Stop on a number that was not finite, with the parts' norms in the dump; before every save, too."""
    if guard is None:
        return

    def norms() -> dict[str, float]:
        return {
            part.name: torch.stack([p.detach().norm() for p in part.module.parameters()]).norm().item()
            for part in run.agent.parts()
        }

    guard.read(norms=norms, tensors=lambda: {"agent": state.agent_tensors(run.agent)})


def _evaluate(run: Run) -> dict[str, float]:
    """Evaluate with a seed of the number of evaluations alone, so that training feels nothing."""
    clock = run.clock
    seed = (run.streams.seed("eval") + clock.evaluations * run.config.eval_episodes) % 2**31
    metrics = summary(evaluate(run.agent.policy, run.eval_env, seed=seed))
    clock.evaluations += 1
    clock.last_return = metrics["eval/return_mean"]
    if clock.best_return is None or clock.last_return > clock.best_return:
        clock.best_return = clock.last_return
    return metrics


def _check_worlds(run: Run, folder: Path) -> None:
    """Stop, with the worlds' states in a dump, when they break down more often than by accident."""
    resets = run.env.nan_resets
    if resets > NAN_RESET_GRACE and resets > NAN_RESET_SHARE * run.clock.env_steps:
        report = {"nan_resets": resets, "env_steps": run.clock.env_steps}
        place = write_dump(folder, report, {"env": run.env.state_dict()})
        raise NumericalError(
            f"{resets} worlds had numbers that are not finite in {run.clock.env_steps} env steps, more than "
            f"{NAN_RESET_SHARE:.1%}: the task or its time step is unstable; {place}"
        )


def snapshot(run: Run, recorder: Recorder) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
    """Return everything but the replay's rows: tensors by part and JSON documents by name."""
    sums, counts = run.sums.state()
    tensors: dict[str, Mapping[str, Tensor]] = {
        "agent": state.agent_tensors(run.agent),
        "optim": state.optimizer_tensors(run.agent),
        "env": run.env.state_dict(),
        "carried": state.carried_tensors(run.carried),
        "episodes": run.episodes.state(),
        "sums": sums,
    }
    documents = {
        "rng": run.streams.state_dict(),
        "counters": {"clock": asdict(run.clock), "sums": counts, "replay": run.replay.state_dict()},
        "recorder": recorder.state_dict(),
    }
    return tensors, documents


def restore(
    run: Run, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any], chunks: Any
) -> None:
    """Put a snapshot and the replay's chunks into a freshly built run; DataError when they do not fit."""
    try:
        counters = documents["counters"]
        state.load_agent_tensors(run.agent, tensors["agent"])
        state.load_optimizer_tensors(run.agent, tensors["optim"])
        run.env.load_state_dict(tensors["env"])
        # Beyond what a reset gives there is what policies carry from step to step.
        fresh = state.carried_tensors(run.carried)
        check_like("carried", {key: tensors["carried"][key] for key in fresh}, fresh)
        run.carried = state.load_carried(tensors["carried"], run.config.num_envs, run.device)
        run.episodes.load(tensors["episodes"])
        run.sums.load(tensors["sums"], counters["sums"])
        run.streams.load_state_dict(documents["rng"])
        run.replay.load(counters["replay"], (rows for _, rows in chunks))
        for name, value in counters["clock"].items():
            setattr(run.clock, name, value)
    except (KeyError, ValueError, AttributeError) as error:
        raise DataError(f"the checkpoint does not fit this run: {error!r}") from error


def _save(run: Run, store: CheckpointStore, recorder: Recorder, *, final: bool) -> None:
    """Write a checkpoint; a failed one costs a warning in the middle of a run and the run at its end."""
    tensors, documents = snapshot(run, recorder)
    for attempt in range(FINAL_SAVE_TRIES if final else 1):
        chunks = [
            Chunk(
                name=chunk.name,
                version=chunk.version,
                rows=partial(dict, chunk.rows),
                nbytes=sum(t.numel() * t.element_size() for t in chunk.rows.values()),
            )
            for chunk in run.replay.chunks()
        ]
        try:
            store.save(
                run.clock.env_steps,
                tensors=tensors,
                documents=documents,
                chunks=chunks,
                config_digest=run.digest,
                score=run.clock.last_return,
            )
        except CheckpointWriteError as error:
            run.clock.failed_saves += 1
            logger.warning("%s", error)
            if final and attempt + 1 == FINAL_SAVE_TRIES:
                raise
        else:
            return
