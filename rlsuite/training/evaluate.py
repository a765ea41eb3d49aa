"""Evaluation: a fixed number of deterministic episodes on worlds of their own, and `rlsuite eval`."""

from collections.abc import Callable
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
from rlsuite.errors import ConfigError
from rlsuite.training.value_error import OURS, STAC, value_trace

DEFAULT_FPS = 30.0  # of a video, where the environment does not know its own


class Trace(Protocol):
    """Looks on while episodes are played."""

    def add(self, step: TensorDictBase, running: Tensor) -> None:
        """Take one vector step and which worlds' episodes it belongs to, `[B]` bool."""

    def errors(self) -> dict[str, Tensor]:
        """Return the value errors of every episode, `[B]`, by definition; none without critics."""


@torch.no_grad()
def evaluate(
    policy: TensorDictModuleBase,
    env: VectorEnv,
    *,
    seeds: Seeds,
    video: Path | None = None,
    trace: Trace | None = None,
    video_worlds: int = 1,
    begin: Callable[[TensorDictBase], TensorDictBase] | None = None,
) -> dict[str, list[float]]:
    """Run one episode in every world of `env` with the policy's mode.

    One episode a world, all of them counted: the mean is not biased to short episodes.

    Args:
        policy: observation -> action; exploration is switched off.
        env: worlds for evaluation alone; `len(returns)` is their number.
        seeds: of the worlds' initial states, of world 0 or one each; the same seeds give the same episodes.
        video: mp4 file for the episodes of the first worlds.
        trace: sees every step; see `rlsuite.training.value_error.value_trace`.
        video_worlds: how many of them, side by side; a world whose episode is over stands still.
        begin: changes the first row; see `chosen_stocks`.

    Returns:
        `returns` (undiscounted) and `lengths` (env steps), one number a world; with a trace that has them
        also `value_errors` and `stac_value_errors`.
    """
    env.seed_worlds(seeds)
    carried = env.reset() if begin is None else begin(env.reset())
    returns = torch.zeros(env.batch_size, dtype=torch.float64, device=env.device)
    lengths = torch.zeros(env.batch_size, dtype=torch.float64, device=env.device)
    running = torch.ones(env.batch_size, dtype=torch.bool, device=env.device)
    with set_exploration_type(ExplorationType.DETERMINISTIC), _video_writer(video, env, video_worlds) as film:
        while running.any():
            film(running)
            step = env.step(policy(carried))
            if trace is not None:
                trace.add(step, running)
            following = step.get("next")
            returns += torch.where(running, following.get("reward").squeeze(-1).double(), 0)
            lengths += running
            running &= ~following.get("done").squeeze(-1)
            carried = env.maybe_reset(env.step_mdp(step))
    found = {"returns": returns.tolist(), "lengths": lengths.tolist()}
    errors = {} if trace is None else trace.errors()
    return found | {name: values.tolist() for name, values in errors.items()}


def chosen_stocks(agent: Agent, env: VectorEnv) -> Callable[[TensorDictBase], TensorDictBase] | None:
    """Return what puts the agent's choice of a stock into an evaluation's first row; None without stocks."""
    if not isinstance(env, StockEnv) or not isinstance(agent, ChoosesStock):
        return None

    def begin(row: TensorDictBase) -> TensorDictBase:
        first = row.get("observation").unflatten(0, (*agent.lead, -1))
        stock = agent.first_stock(first)
        if stock is None:
            return row
        worlds = stock.unsqueeze(-2).expand(*first.shape[:-1], stock.shape[-1])
        return env.restock(row, worlds.reshape(-1, stock.shape[-1]))

    return begin


def per_seed(episodes: dict[str, list[float]], seeds: int) -> list[dict[str, list[float]]]:
    """Share out what `evaluate` returned among the agents, whose worlds stand in equal groups."""
    count = len(episodes["returns"]) // seeds
    return [
        {name: values[index * count : (index + 1) * count] for name, values in episodes.items()}
        for index in range(seeds)
    ]


def summary(episodes: dict[str, list[float]]) -> dict[str, float]:
    """Return, length and, where it was measured, value error of the episodes, as a metrics line names them.

    Means over the episodes; for the returns also the population spread.
    """
    returns = torch.tensor(episodes["returns"], dtype=torch.float64)
    line = {
        "eval/return_mean": returns.mean().item(),
        "eval/return_std": returns.std(correction=0).item(),
        "eval/length_mean": sum(episodes["lengths"]) / len(episodes["lengths"]),
    }
    for name, key in ((OURS, "eval/value_error"), (STAC, "eval/stac_value_error")):
        if errors := episodes.get(name):
            line[key] = sum(errors) / len(errors)
    return line


class _video_writer:
    """Context manager giving a function that appends a frame of the first worlds while one of them runs."""

    def __init__(self, path: Path | None, env: VectorEnv, worlds: int) -> None:
        self.path, self.env = path, env
        self.pictures: list[np.ndarray | None] = [None] * worlds
        self.writer: Any = None

    def __enter__(self) -> Any:
        if self.path is not None:
            try:
                import imageio.v2 as imageio
            except ImportError as error:
                raise ConfigError('videos need imageio: pip install "rlsuite[video]"') from error
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fps = getattr(self.env, "fps", DEFAULT_FPS)
            self.writer = imageio.get_writer(self.path, fps=fps, macro_block_size=1)
        return self.film

    def film(self, running: Tensor) -> None:
        """Append a frame; worlds that are not running `[B]` any more keep their last picture."""
        if self.writer is None:
            return
        filmed = running[: len(self.pictures)].nonzero().flatten().tolist()
        for world in filmed:
            self.pictures[world] = self.env.frame(world)
        if filmed:
            self.writer.append_data(mosaic([picture for picture in self.pictures if picture is not None]))

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()


def evaluate_run(
    path: Path,
    *,
    episodes: int,
    seed: int | None,
    video: Path | None,
    which: str,
    seed_index: int | None = None,
    video_worlds: int = 1,
) -> dict[str, Any]:
    """Evaluate the saved policies of a run on the run's environment, on the CPU, in Gymnasium's precision.

    Args:
        path: the run folder; it may belong to a run that is still training.
        episodes: how many of each agent, all from different initial states.
        seed: of the initial states; None is each agent's own evaluation stream.
        video: mp4 file for the first episodes.
        which: "last", "best", or the env steps of a checkpoint.
        seed_index: which agent of a run with several seeds, from 0; None is all of them.
        video_worlds: how many episodes the video shows side by side.

    Returns:
        return_mean, return_std, length_mean, value_error (of agents with critics), stac_value_error (where
        the agent can value single actions), returns, lengths, value_errors and stac_value_errors (over all
        agents), env, env_options, legacy_margin, agent, step, seeds (the root of every agent evaluated),
        versions; with several agents also `each`, their return means.

    Raises:
        ConfigError: `path` is no run folder, `which` is none of the above, there is no such agent, or the
            video is to show more episodes than there are.
        DataError: there is no usable checkpoint.
    """
    from rlsuite.envs.make import make_env
    from rlsuite.training.assembly import eval_engine
    from rlsuite.training.rng import SeedStreams
    from rlsuite.training.savedrun import load_run

    run = load_run(path, which)
    config, train = run.config, run.config.train
    if seed_index is not None and not 0 <= seed_index < train.seeds:
        raise ConfigError(f"seed index {seed_index}: {path} has {train.seeds} agent(s), counted from 0")
    if not 1 <= video_worlds <= episodes:
        raise ConfigError(
            f"video worlds = {video_worlds}: must be from 1 to the number of episodes, {episodes}"
        )
    indices = range(train.seeds) if seed_index is None else (seed_index,)
    env = make_env(
        train.env,
        episodes,
        engine=eval_engine(train.engine),
        render=video is not None,
        observation_keys=train.observation_keys or None,
        options=train.env_options,
        legacy_margin=train.legacy_margin,
    )
    each = []
    try:
        for index in indices:
            streams = SeedStreams([train.seed + index])
            agent = run.agent(env, streams, index)
            own = streams.seeds("eval")[0] if seed is None else seed
            film = video if index == indices[0] else None
            trace = value_trace(agent)
            each.append(
                evaluate(
                    agent.policy,
                    env,
                    seeds=own,
                    video=film,
                    video_worlds=video_worlds,
                    trace=trace,
                    begin=chosen_stocks(agent, env),
                )
            )
        versions = env.versions
    finally:
        env.close()
    found = {name: [value for own in each for value in own[name]] for name in each[0]}
    return {
        **{name.removeprefix("eval/"): value for name, value in summary(found).items()},
        **found,
        **({"each": [summary(own)["eval/return_mean"] for own in each]} if len(each) > 1 else {}),
        "env": train.env,
        "env_options": dict(train.env_options),
        "legacy_margin": train.legacy_margin,
        "agent": config.agent_name,
        "step": run.loaded.step,
        "seeds": [train.seed + index for index in indices],
        "versions": versions,
    }
