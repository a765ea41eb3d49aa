"""Runs the contenders of `throughput.py` that are other people's: Stable-Baselines3, and SBX (in JAX).

    python benchmarks/peers.py NAME --threads N    # started and spoken to by throughput.py (turns.py)

Nothing of this project is imported: SBX runs in an environment of its own. Every contender starts from
seed 0, with its library's defaults but for what is said here.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from turns import Gate, Unavailable, answer, claim_output, turns

TASK = "HalfCheetah-v5"
BATCH = 256
REPLAY_SIZE = 100_000  # random transitions that updates draw from
WARM_UP = 1_000  # env steps before the first update of whole training
SETTLE = 500  # env steps with updates before the first turn
ROLLOUT = 2_048  # env steps of all envs that PPO learns from at once; a turn is whole ones
FOREVER = 10**9
NETWORK = {"net_arch": [256, 256]}  # TD3's default is 400-300


class Way(NamedTuple):
    """How a contender is run: a function of its threads, and how many units belong together."""

    run: Callable[[int], None]
    grain: int = 1


def model_of(library: str, algorithm: str, **fields: Any) -> Any:
    """Return an untrained model of one of the two libraries.

    Raises:
        Unavailable: the library is not installed here.
    """
    try:
        if library == "sb3":
            import stable_baselines3 as models
        else:
            import sbx as models  # type: ignore[no-redef]
    except ImportError as error:
        raise Unavailable(str(error)) from error
    import gymnasium

    if library == "sb3":
        fields["device"] = "cpu"
    return getattr(models, algorithm.upper())(
        "MlpPolicy",
        gymnasium.make(TASK),
        batch_size=BATCH,
        policy_kwargs=NETWORK,
        seed=0,
        **fields,
    )


def fill(buffer: Any) -> None:
    """Fill a replay buffer with random transitions that end nowhere."""
    draws = np.random.default_rng(0)
    buffer.observations[:] = draws.standard_normal(buffer.observations.shape)
    buffer.next_observations[:] = draws.standard_normal(buffer.next_observations.shape)
    buffer.actions[:] = draws.uniform(-1, 1, buffer.actions.shape)
    buffer.rewards[:] = draws.standard_normal(buffer.rewards.shape)
    buffer.full = True


def finish(model: Any) -> None:
    """Wait for what JAX has queued: it returns before the numbers are there."""
    if hasattr(model.policy, "qf_state"):
        import jax

        jax.block_until_ready(model.policy.qf_state.params)


def updates(library: str, algorithm: str, a_call: int, threads: int) -> None:
    """Sample and update by the library's own `train`, `a_call` updates a call; 0: a turn is one call."""
    model = model_of(library, algorithm, buffer_size=REPLAY_SIZE, learning_starts=0)
    fill(model.replay_buffer)
    model.learn(2)  # makes what training needs: logger, progress
    model.train(gradient_steps=a_call or 2, batch_size=BATCH)  # compiles, where something is compiled
    finish(model)
    for count in turns():
        size = a_call or count
        for _ in range(count // size):
            model.train(gradient_steps=size, batch_size=BATCH)
        finish(model)


def training(library: str, algorithm: str, threads: int) -> None:
    """Whole training by the library's own `learn`; a unit is an env step, with one update each."""
    model = model_of(library, algorithm, learning_starts=WARM_UP, train_freq=1, gradient_steps=1)
    gate = Gate(WARM_UP + SETTLE)

    def after_step(names: dict[str, Any], _: dict[str, Any]) -> bool:
        if model.num_timesteps >= gate.goal:
            finish(model)
        return gate.passed(model.num_timesteps)

    model.learn(FOREVER, callback=after_step)


def training_ppo(num_envs: int, threads: int) -> None:
    """Whole training of SB3's PPO by `learn`, with our preset's settings; a unit is an env step of any env.

    Its envs are stepped one after the other, as its `make_vec_env` has it by default, and normalised.
    """
    try:
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import VecNormalize
    except ImportError as error:
        raise Unavailable(str(error)) from error
    model = PPO(
        "MlpPolicy",
        VecNormalize(make_vec_env(TASK, num_envs, seed=0)),
        n_steps=ROLLOUT // num_envs,
        batch_size=64,
        n_epochs=10,
        clip_range_vf=0.2,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    )
    gate = Gate(2 * ROLLOUT)

    def after_step(names: dict[str, Any], _: dict[str, Any]) -> bool:
        return gate.passed(model.num_timesteps)

    model.learn(FOREVER, callback=after_step)


CONTENDERS: Mapping[str, Way] = {
    "sb3 sac": Way(partial(updates, "sb3", "sac", 0)),
    "sb3 td3": Way(partial(updates, "sb3", "td3", 0), grain=2),
    "sbx sac": Way(partial(updates, "sbx", "sac", 1)),
    "sbx sac, 64 a call": Way(partial(updates, "sbx", "sac", 64), grain=64),
    "training sb3 sac": Way(partial(training, "sb3", "sac")),
    "training sbx sac": Way(partial(training, "sbx", "sac")),
    **{
        f"training sb3 ppo, {count} envs": Way(partial(training_ppo, count), grain=ROLLOUT)
        for count in (8, 64)
    },
}


def main() -> None:
    """Run one contender until its input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--threads", type=int, default=1)
    line = parser.parse_args()
    claim_output()
    try:
        import torch

        torch.set_num_threads(line.threads)
        CONTENDERS[line.name].run(line.threads)
    except (Unavailable, ImportError) as error:
        answer({"unavailable": str(error)})


if __name__ == "__main__":
    main()
