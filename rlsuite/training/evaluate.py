"""Evaluation: a fixed number of deterministic episodes on worlds of their own, and `rlsuite eval`."""

from pathlib import Path
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.errors import ConfigError

DEFAULT_FPS = 30.0  # of a video, where the environment does not know its own


@torch.no_grad()
def evaluate(
    policy: TensorDictModule, env: EnvBase, *, seed: int, video: Path | None = None
) -> dict[str, list[float]]:
    """Run one episode in every world of `env` with the policy's mode.

    One episode a world, all of them counted: the mean is not biased to short episodes.

    Args:
        policy: observation -> action; exploration is switched off.
        env: worlds for evaluation alone; `len(returns)` is their number.
        seed: of the worlds' initial states; the same seed gives the same episodes.
        video: mp4 file for the first world's episode.

    Returns:
        `returns` (undiscounted) and `lengths` (env steps), one number a world.
    """
    env.set_seed(seed)
    carried = env.reset()
    returns = torch.zeros(env.batch_size, dtype=torch.float64, device=env.device)
    lengths = torch.zeros(env.batch_size, dtype=torch.float64, device=env.device)
    running = torch.ones(env.batch_size, dtype=torch.bool, device=env.device)
    with set_exploration_type(ExplorationType.DETERMINISTIC), _video_writer(video, env) as film:
        while running.any():
            film(bool(running[0]))
            step = env.step(policy(carried))
            following = step.get("next")
            returns += torch.where(running, following.get("reward").squeeze(-1).double(), 0)
            lengths += running
            running &= ~following.get("done").squeeze(-1)
            carried = env.maybe_reset(env.step_mdp(step))
        return {"returns": returns.tolist(), "lengths": lengths.tolist()}


def summary(episodes: dict[str, list[float]]) -> dict[str, float]:
    """Mean and population spread of the returns and mean length, under the names of a metrics line."""
    returns = torch.tensor(episodes["returns"], dtype=torch.float64)
    return {
        "eval/return_mean": returns.mean().item(),
        "eval/return_std": returns.std(correction=0).item(),
        "eval/length_mean": sum(episodes["lengths"]) / len(episodes["lengths"]),
    }


class _video_writer:
    """Context manager giving a function that appends the current frame of world 0 while asked to."""

    def __init__(self, path: Path | None, env: EnvBase) -> None:
        self.path, self.env = path, env
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

    def film(self, running: bool) -> None:
        """Append a frame."""
        if self.writer is not None and running:
            self.writer.append_data(self.env.frame(0))

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()


def evaluate_run(
    path: Path, *, episodes: int, seed: int | None, video: Path | None, which: str
) -> dict[str, Any]:
    """Evaluate a saved policy of a run on the run's environment, on the CPU, in Gymnasium's precision.

    Args:
        path: the run folder; it may belong to a run that is still training.
        episodes: how many, all from different initial states.
        seed: of the initial states; None is the run's own evaluation stream.
        video: mp4 file for the first episode.
        which: "last", "best", or the env steps of a checkpoint.

    Returns:
        return_mean, return_std, length_mean, returns, lengths, env, agent, step, seed, versions.

    Raises:
        ConfigError: `path` is no run folder, or `which` is none of the above.
        DataError: there is no usable checkpoint.
    """
    from rlsuite.envs.make import make_env
    from rlsuite.training.rng import Streams
    from rlsuite.training.savedrun import load_run

    run = load_run(path, which)
    config = run.config
    streams = Streams(config.train.seed)
    seed = streams.seed("eval") if seed is None else seed
    options: dict[str, Any] = {"render": True} if video is not None else {}
    env = make_env(config.train.env, episodes, engine=config.train.engine, seed=seed, **options)
    try:
        found = evaluate(run.agent(env, streams).policy, env, seed=seed, video=video)
        versions = env.versions
    finally:
        env.close()
    metrics = summary(found)
    return {
        **{name.removeprefix("eval/"): value for name, value in metrics.items()},
        **found,
        "env": config.train.env,
        "agent": config.agent_name,
        "step": run.loaded.step,
        "seed": seed,
        "versions": versions,
    }
