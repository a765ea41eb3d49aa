"""Evaluation: a fixed number of deterministic episodes on envs of their own, and `rlsuite eval`."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import Agent, ChoosesStock
from rlsuite.envs.base import VectorEnv
from rlsuite.envs.rendering import mosaic
from rlsuite.envs.seeding import Seeds
from rlsuite.envs.stock import StockEnv
from rlsuite.errors import ConfigError, RLSuiteError
from rlsuite.runs.signals import StopFlag
from rlsuite.training.value_error import OURS, STAC, value_trace

logger = logging.getLogger(__name__)

DEFAULT_FPS = 30.0  # of a video, where the environment does not know its own
LONGEST = 10_000  # env steps of an evaluation episode where the environment has no time limit; our choice
GRACE_SECONDS = 3.0  # that an evaluation may still take once a signal asked the run to stop


class Abandoned(Exception):
    """An evaluation was given up because a signal asked the run to stop."""


class EpisodeTrace(Protocol):
    """Looks on while episodes are played."""

    def add(self, step: TensorDictBase, running: Tensor) -> None:
        """Take one vector step and which envs' episodes it belongs to, `[B]` bool."""

    def errors(self) -> dict[str, Tensor]:
        """Return the value errors of every episode, `[B]`, by definition; none without critics."""


@torch.no_grad()
def evaluate(
    policy: TensorDictModuleBase,
    env: VectorEnv,
    *,
    seeds: Seeds,
    video: Path | None = None,
    trace: EpisodeTrace | None = None,
    video_envs: int | range = 1,
    begin: Callable[[TensorDictBase], TensorDictBase] | None = None,
    stop: StopFlag | None = None,
) -> dict[str, list[float]]:
    """Run one episode in every one of the `num_envs` of `env` with the policy's mode.

    One episode each, all of them counted: the mean is not biased to short episodes.

    Args:
        policy: observation -> action; exploration is switched off.
        env: for evaluation alone; `len(returns)` is its `num_envs`.
        seeds: of the initial states, of env 0 or one each; the same seeds give the same episodes.
        video: mp4 file for the episodes of some envs.
        trace: sees every step; see `rlsuite.training.value_error.value_trace`.
        video_envs: which, or how many of the first, side by side; one whose episode is over stands still.
        begin: changes what the policy sees first; see `chosen_stocks`.
        stop: once it is set, an evaluation that does not end within `GRACE_SECONDS` is given up.

    Returns:
        `returns` (undiscounted) and `lengths` (env steps), one number an env; `success`, 0 or 1, of the last
        step, where the environment says so; with a trace that has them
        also `value_errors` and `stac_value_errors`. Where the environment names no time limit, episodes end
        after `LONGEST` steps.

    Raises:
        Abandoned: `stop` was set.
    """
    env.seed_worlds(seeds)
    td = env.reset() if begin is None else begin(env.reset())
    returns = torch.zeros(env.batch_size, dtype=torch.float64, device=env.device)
    lengths = torch.zeros(env.batch_size, dtype=torch.float64, device=env.device)
    success: np.ndarray | None = None
    running = torch.ones(env.batch_size, dtype=torch.bool, device=env.device)
    with set_exploration_type(ExplorationType.DETERMINISTIC), _video_writer(video, env, video_envs) as film:
        count, heard = 0, 0.0
        while running.any():
            if stop is not None and stop.stop is not None:
                heard = heard or time.monotonic()
                if time.monotonic() - heard > GRACE_SECONDS:
                    raise Abandoned
            if env.max_episode_steps is None and count >= LONGEST:
                _say_cut(env.env_id)
                break
            count += 1
            film(running)
            step = env.step(policy(td))
            if trace is not None:
                trace.add(step, running)
            next_td = step.get("next")
            returns += torch.where(running, next_td.get("reward").squeeze(-1).double(), 0)
            lengths += running
            if env.success is not None:
                before = env.success if success is None else success
                success = np.where(running.numpy(force=True), env.success, before)
            running &= ~next_td.get("done").squeeze(-1)
            td = env.maybe_reset(env.step_mdp(step))
    episodes = {"returns": returns.tolist(), "lengths": lengths.tolist()}
    if success is not None:
        episodes["success"] = success.astype(float).tolist()
    errors = {} if trace is None else trace.errors()
    return episodes | {name: values.tolist() for name, values in errors.items()}


@cache
def _say_cut(env_id: str) -> None:
    """Warn, once a process, that an environment's episodes do not end by themselves."""
    logger.warning(
        "%s names no time limit: evaluation episodes are cut at %d env steps; give it one with "
        "--env-option max_episode_steps=N",
        env_id,
        LONGEST,
    )


def chosen_stocks(agent: Agent, env: VectorEnv) -> Callable[[TensorDictBase], TensorDictBase] | None:
    """Return what puts the agent's choice of a stock into an evaluation's first step; None without stocks."""
    if not isinstance(env, StockEnv) or not isinstance(agent, ChoosesStock):
        return None

    def begin(td: TensorDictBase) -> TensorDictBase:
        first = td.get("observation").unflatten(0, (*agent.lead, -1))
        stock = agent.first_stock(first)
        if stock is None:
            return td
        stocks = stock.unsqueeze(-2).expand(*first.shape[:-1], stock.shape[-1])
        return env.restock(td, stocks.reshape(-1, stock.shape[-1]))

    return begin


def per_seed(episodes: dict[str, list[float]], seeds: int) -> list[dict[str, list[float]]]:
    """Share out what `evaluate` returned among the agents, whose envs stand in equal groups."""
    count = len(episodes["returns"]) // seeds
    return [
        {name: values[index * count : (index + 1) * count] for name, values in episodes.items()}
        for index in range(seeds)
    ]


def summary(episodes: dict[str, list[float]]) -> dict[str, float]:
    """Return, length and, where it was measured, value error of the episodes, as a metrics line names them.

    Means over the episodes; for the returns also the population standard deviation.
    """
    returns = torch.tensor(episodes["returns"], dtype=torch.float64)
    line = {
        "eval/return_mean": returns.mean().item(),
        "eval/return_std": returns.std(correction=0).item(),
        "eval/length_mean": sum(episodes["lengths"]) / len(episodes["lengths"]),
    }
    if success := episodes.get("success"):
        line["eval/success"] = sum(success) / len(success)
    for name, key in ((OURS, "eval/value_error"), (STAC, "eval/stac_value_error")):
        if errors := episodes.get(name):
            line[key] = sum(errors) / len(errors)
    return line


class _video_writer:
    """Context manager giving a function that appends a frame of some envs while one of them runs.

    The film is written beside its name, read back, and renamed at the end: a file of its name is whole.

    Raises:
        ConfigError: imageio is missing, or no film came of it.
    """

    def __init__(self, path: Path | None, env: VectorEnv, envs: int | range) -> None:
        self.path, self.env = path, env
        self.shown = range(envs) if isinstance(envs, int) else envs
        self.frames: list[np.ndarray | None] = [None] * len(self.shown)
        self.writer: Any = None
        self.stage: Path | None = None

    def __enter__(self) -> Any:
        if self.path is not None:
            try:
                import imageio.v2 as imageio
            except ImportError as error:
                raise ConfigError('videos need imageio: pip install "rlsuite[video]"') from error
            fps = float(getattr(self.env, "fps", DEFAULT_FPS) or DEFAULT_FPS)
            self.stage = self.path.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix}")
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.stage.touch()
                self.writer = imageio.get_writer(  # ffmpeg's own words would stand beside our line
                    self.stage, fps=fps, macro_block_size=1, ffmpeg_log_level="quiet"
                )
            except (OSError, ValueError) as error:
                self._discard()
                raise ConfigError(f"the video {self.path} cannot be written: {_first_line(error)}") from error
        return self.film

    def film(self, running: Tensor) -> None:
        """Append a frame; envs that are not running `[B]` any more keep their last one."""
        if self.writer is None:
            return
        filmed = running[self.shown.start : self.shown.stop].nonzero().flatten().tolist()
        for index in filmed:
            self.frames[index] = frame_of(self.env, self.shown[index])
        if not filmed:
            return
        frame = mosaic([frame for frame in self.frames if frame is not None])
        try:
            self.writer.append_data(frame)
        except (OSError, ValueError, RuntimeError) as error:  # ffmpeg's complaint comes as any of these
            raise ConfigError(f"the video {self.path} cannot be written: {_first_line(error)}") from error

    def __exit__(self, failure: object, *_: object) -> None:
        if self.writer is None or self.stage is None or self.path is None:
            return
        try:
            self.writer.close()
            if failure is None:
                check_film(self.stage)
                self.stage.replace(self.path)
        except (OSError, ValueError, RuntimeError, IndexError) as error:
            if failure is None:
                raise ConfigError(f"the video {self.path} is not whole: {_first_line(error)}") from error
        finally:
            self._discard()

    def _discard(self) -> None:
        if self.stage is not None:
            with contextlib.suppress(OSError):
                self.stage.unlink(missing_ok=True)


def frame_of(env: VectorEnv, index: int) -> np.ndarray:
    """Return a picture of one env, `[height, width, 3]`, uint8.

    Raises:
        ConfigError: the environment gives none.
    """
    try:
        return env.frame(index)
    except RLSuiteError:
        raise
    except Exception as error:  # drivers below it, and other people's code
        raise ConfigError(
            f"{env.env_id} gives no pictures: {type(error).__name__}: {_first_line(error)}"
        ) from error


def check_film(path: Path) -> None:
    """Raise ValueError unless the file can be opened and shows a frame."""
    import imageio.v2 as imageio

    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with imageio.get_reader(path, "ffmpeg") as reader:
        reader.get_data(0)  # type: ignore[attr-defined]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def evaluate_run(  # noqa: PLR0913 (the flags of a command)
    path: Path,
    *,
    episodes: int,
    seed: int | None,
    video: Path | None,
    which: str,
    seed_index: int | None = None,
    video_envs: int = 1,
    same: bool = False,
    agent_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate the saved policies of a run on the run's environment, on the CPU, in Gymnasium's precision.

    Args:
        path: the run folder; it may belong to a run that is still training.
        episodes: how many of each agent, all from different initial states.
        seed: of the initial states; None is each agent's own evaluation stream.
        video: mp4 file for the first episodes.
        which: "last", "best", or the env steps of a checkpoint.
        seed_index: which agent of a run with several seeds, from 0; None is all of them.
        video_envs: how many episodes the video shows side by side.
        same: with "best", play the episodes of the evaluation that was best, not `episodes` from `seed`.
        agent_options: other values of the agent's fields; see `rlsuite.training.savedrun.load_run`.

    Returns:
        return_mean, return_std, length_mean, value_error (of agents with critics), stac_value_error (where
        the agent can value single actions), returns, lengths, value_errors, stac_value_errors and success, 0
        or 1, where the environment says so (of every episode of all agents), env, env_options, legacy_margin,
        agent, step, seeds (the root of every agent evaluated), versions; with several agents also `each`,
        their return means.

    Raises:
        ConfigError: `path` is no run folder, `which` is none of the above, there is no such agent, or the
            video is to show more episodes than there are.
        DataError: there is no usable checkpoint.
    """
    from rlsuite.envs.make import make_env
    from rlsuite.training.assembly import env_seeds, eval_engine, per_seed_policy
    from rlsuite.training.rng import SeedStreams
    from rlsuite.training.savedrun import load_run

    run = load_run(path, which, agent_options)
    config, train = run.config, run.config.train
    if seed_index is not None and not 0 <= seed_index < train.seeds:
        raise ConfigError(f"seed index {seed_index}: {path} has {train.seeds} agent(s), counted from 0")
    indices = range(train.seeds) if seed_index is None else (seed_index,)
    best = run.best_evaluations() if which == "best" else ()
    if same:
        if not best:
            raise ConfigError(
                f"{path} does not say which evaluation was best: leave out --same-episodes (it goes with "
                "--checkpoint best, and older runs do not keep it)"
            )
        episodes = best[0].episodes
    if not 1 <= video_envs <= episodes:
        raise ConfigError(f"video_envs = {video_envs}: must be from 1 to the number of episodes, {episodes}")
    # Several agents' products are one batched product: what is to be the same is computed the same way,
    # of one agent, too, whose evaluation was played beside the others'.
    together = same and train.seeds > 1
    env = make_env(
        train.env,
        episodes * (train.seeds if together else 1),
        engine=eval_engine(train.engine),
        render=video is not None,
        observation_keys=train.observation_keys or None,
        options=train.env_options,
        legacy_margin=train.legacy_margin,
    )
    each = []
    try:
        if together:
            agent = run.agents(env, SeedStreams([train.seed + index for index in range(train.seeds)]))
            first = episodes * indices[0]
            episodes_of_all = evaluate(
                per_seed_policy(agent),
                env,
                seeds=env_seeds([evaluation.first_seed for evaluation in best], episodes),
                video=video,
                video_envs=range(first, first + video_envs),
                trace=value_trace(agent),
                begin=chosen_stocks(agent, env),
            )
            played_by = per_seed(episodes_of_all, train.seeds)
            each = [played_by[index] for index in indices]
        for index in () if together else indices:
            streams = SeedStreams([train.seed + index])
            agent = run.agent(env, streams, index)
            first_seed = streams.seeds("eval")[0] if seed is None else seed
            seeds = env_seeds([best[index].first_seed], episodes) if same else first_seed
            film = video if index == indices[0] else None
            trace = value_trace(agent)
            each.append(
                evaluate(
                    agent.policy,
                    env,
                    seeds=seeds,
                    video=film,
                    video_envs=video_envs,
                    trace=trace,
                    begin=chosen_stocks(agent, env),
                )
            )
        versions = env.versions
    finally:
        env.close()
    everything = {name: [value for played in each for value in played[name]] for name in each[0]}
    return {
        **{name.removeprefix("eval/"): value for name, value in summary(everything).items()},
        **everything,
        **({"each": [summary(played)["eval/return_mean"] for played in each]} if len(each) > 1 else {}),
        "env": train.env,
        "env_options": dict(train.env_options),
        "legacy_margin": train.legacy_margin,
        "agent": config.agent_name,
        "step": run.loaded.step,
        **({"steps": [best[index].step for index in indices]} if len(best) > 1 else {}),
        "seeds": [train.seed + index for index in indices],
        "versions": versions,
    }
