"""Build the replay of an online run."""

from typing import Any

from rlsuite import distributed as ranks
from rlsuite.envs.base import VectorEnv
from rlsuite.errors import ConfigError
from rlsuite.replay.her import Goals, HerReplay, distance_rule
from rlsuite.replay.mixed import MixedReplay
from rlsuite.replay.offline import OfflineReplay
from rlsuite.replay.pixels import PixelReplay
from rlsuite.replay.rollout import RolloutReplay
from rlsuite.replay.uniform import UniformReplay
from rlsuite.runs.config import TrainConfig


def new_replay(
    config: TrainConfig,
    env: VectorEnv,
    seeds: int,
    *,
    on_policy: bool = False,
    recorded: OfflineReplay | None = None,
    failure_reward: float | None = None,
    **more: Any,
) -> UniformReplay:
    """Make an empty replay for this process's share of the transitions.

    Args:
        config: of the run.
        env: whose transitions it holds.
        seeds: agents, each with transitions of its own.
        on_policy: for an agent that learns from one rollout at a time.
        recorded: what is mixed into every batch, as many rows as a batch of it has.
        failure_reward: of returns in mixed batches, see `rlsuite.replay.mixed.returns_to_go`.
        more: arguments of `UniformReplay`.

    Raises:
        ConfigError: hindsight replay of an environment without goals.
    """
    capacity = config.replay_size // ranks.size() * seeds
    ring = {
        "num_envs": env.num_envs,
        "batch_size": config.batch_size // ranks.size(),
        "n_step": config.n_step,
        **more,
    }
    if (pixels := env.facts.pixels) is not None and not on_policy:
        if config.replay == "her":
            raise ConfigError(f"replay her: {env.env_id} shows pictures, in which no goal stands")
        height, width, channels, frames = pixels
        return PixelReplay(capacity, frame=height * width * channels, frames=frames, **ring)
    if on_policy:
        return RolloutReplay(capacity, **ring)
    if config.replay == "her":
        return HerReplay(capacity, goals=goals_of(env, config), k=config.her_k, **ring)
    if recorded is not None:
        return MixedReplay(capacity, recorded=recorded, failure_reward=failure_reward, **ring)
    return UniformReplay(capacity, **ring)


def goals_of(env: VectorEnv, config: TrainConfig) -> Goals:
    """Return where an environment's goals stand in its observations, and the rule of their rewards.

    Raises:
        ConfigError: it shows no goals.
    """
    facts = env.facts.goal
    if facts is None:
        raise ConfigError(
            f"replay her: {env.env_id} shows no goals; it takes gym: environments that show achieved_goal "
            "and desired_goal as vectors and have compute_reward (--observation-keys: both among them)"
        )
    rule = facts.rule if config.her_distance is None else distance_rule(config.her_distance)
    return Goals(facts.achieved, facts.desired, rule)
