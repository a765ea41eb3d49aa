"""SAC and TD3 of Stable-Baselines3, evaluated as our runs are: same episodes, same lines of metrics.

    python benchmarks/sb3_baseline.py --agents sac,td3 --envs HalfCheetah-v5 --seeds 2 --out FOLDER

One run folder each, FOLDER/AGENT-ENV-sSEED, that every tool for our runs reads. The library's own loop
trains with its own defaults, but for the env steps before the first update, which are ours, and TD3's
exploration noise of 0.1, without which it has none. A run that was stopped or killed goes on from its
checkpoint; it begins a new episode there, so that it is not the unbroken run bit for bit.
"""

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.noise import NormalActionNoise
from tensordict.nn import TensorDictModule
from torch import Tensor

from rlsuite.envs.make import make_env
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.metrics import MetricsFile
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import env_seeds
from rlsuite.training.evaluate import evaluate, summary
from rlsuite.training.rng import SeedStreams

INTERRUPTED = 75
WARM_UP = {"sac": 5_000, "td3": 10_000}  # our agents' defaults
NOISE = 0.1  # TD3's behaviour, deviation in [-1, 1]: its paper's, and rl-zoo's
COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One run."""

    algorithm: str
    env: str
    seed: int
    steps: int
    warmup_steps: int
    eval_every: int
    eval_episodes: int
    checkpoint_every: int

    @property
    def config(self) -> dict[str, Any]:
        """What `config.toml` says, in the tables of our runs."""
        train = {key: value for key, value in asdict(self).items() if key != "algorithm"}
        noise = {"noise": NOISE} if self.algorithm == "td3" else {}
        return {"agent_name": f"sb3_{self.algorithm}", "preset": "default", "train": train, "agent": noise}


class OneEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One environment of ours as Gymnasium's, actions in [-1, 1]: with the starts of our run of that seed."""

    def __init__(self, env_id: str, seed: int) -> None:
        self.env = make_env(env_id, 1, seed=[seed], threads=1)
        size = self.env.observation_spec["observation"].shape[-1]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, self.env.action_spec.shape[1:], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin the next episode; a seed of the caller's is not ours."""
        self.carried = self.env.reset()
        return self.carried["observation"][0].numpy().copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one env step."""
        self.carried["action"] = torch.from_numpy(np.asarray(action, np.float32)).unsqueeze(0)
        step = self.env.step(self.carried)
        next_td = step["next"]
        self.carried = self.env.step_mdp(step)
        ends = (bool(next_td[key]) for key in ("terminated", "truncated"))
        return next_td["observation"][0].numpy().copy(), float(next_td["reward"]), *ends, {}


def training_env(env_id: str, seed: int) -> gymnasium.Env[Any, Any]:
    """Return what the library trains on: Gymnasium's own environment where it has it."""
    return OneEnv(env_id, seed) if env_id.startswith("dmc:") else gymnasium.make(env_id)


def make_model(at: Setting, env: gymnasium.Env[Any, Any], seed: int) -> Any:
    """Return the untrained model."""
    fields: dict[str, Any] = {}
    if at.algorithm == "td3":
        size = env.action_space.shape
        assert size is not None
        fields["action_noise"] = NormalActionNoise(np.zeros(size), NOISE * np.ones(size))
    return getattr(stable_baselines3, at.algorithm.upper())(
        "MlpPolicy",
        env,
        batch_size=256,
        buffer_size=min(at.steps, 1_000_000),
        learning_starts=at.warmup_steps,
        train_freq=1,
        gradient_steps=1,
        seed=seed,
        device="cpu",
        **fields,
    )


# Checkpoints: tensors and JSON, as our runs have.


def optimizers_of(model: Any) -> dict[str, torch.optim.Optimizer]:
    """Return the model's optimisers by name."""
    every = {"actor": model.actor.optimizer, "critic": model.critic.optimizer}
    temperature = getattr(model, "ent_coef_optimizer", None)
    return every if temperature is None else {**every, "ent_coef": temperature}


def save(store: CheckpointStore, model: Any, at: Setting, evaluations: int, seconds: float) -> None:
    """Write a checkpoint of a model, its replay and all chance."""
    buffer, count = model.replay_buffer, model.replay_buffer.size()
    moments = {
        f"{name}|{index}|{key}": value
        for name, optimizer in optimizers_of(model).items()
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }
    policy = dict(model.policy.state_dict())
    if hasattr(model, "log_ent_coef"):
        policy["log_ent_coef"] = model.log_ent_coef.detach()
    kind, keys, place, spare, cached = np.random.get_state(legacy=True)
    documents = {
        "counters": {
            "steps": model.num_timesteps,
            "updates": model._n_updates,
            "place": buffer.pos,
            "full": bool(buffer.full),
            "evaluations": evaluations,
            "seconds": seconds,
        },
        "rng": {"place": int(place), "spare": int(spare), "cached": float(cached), "kind": str(kind)},
    }
    tensors: dict[str, Mapping[str, Tensor]] = {
        "policy": policy,
        "optim": moments,
        "replay": {name: torch.from_numpy(getattr(buffer, name)[:count]) for name in COLUMNS},
        "rng": {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))},
    }
    store.save(model.num_timesteps, tensors=tensors, documents=documents, config_digest=digest_of(at))


def digest_of(at: Setting) -> str:
    """Return what says whose checkpoint it is; its length may change."""
    return "|".join(str(value) for key, value in asdict(at).items() if key in ("algorithm", "env", "seed"))


def restore(model: Any, loaded: Any) -> tuple[int, float]:
    """Put a checkpoint into a fresh model; return its evaluations and seconds."""
    counters, rng = loaded.documents["counters"], loaded.documents["rng"]
    policy = dict(loaded.tensors["policy"])
    if hasattr(model, "log_ent_coef"):
        model.log_ent_coef.data.copy_(policy.pop("log_ent_coef"))
    model.policy.load_state_dict(policy)
    for name, optimizer in optimizers_of(model).items():
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in loaded.tensors["optim"].items():
            owner, index, moment = key.split("|")
            if owner == name:
                entries.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    buffer = model.replay_buffer
    for name, rows in loaded.tensors["replay"].items():
        getattr(buffer, name)[: len(rows)] = rows.numpy()
    buffer.pos, buffer.full = counters["place"], counters["full"]
    model.num_timesteps, model._n_updates = counters["steps"], counters["updates"]
    torch.set_rng_state(loaded.tensors["rng"]["torch"])
    keys = loaded.tensors["rng"]["numpy"].numpy().astype(np.uint32)
    np.random.set_state((rng["kind"], keys, rng["place"], rng["spare"], rng["cached"]))
    return counters["evaluations"], counters["seconds"]


def train(at: Setting, path: Path, stop: StopFlag) -> bool:
    """Train one run in its folder, to its end or to a stop signal; return whether it is finished."""
    begun = (path / "config.toml").exists()
    opened = (
        RunFolder.open(path).__enter__() if begun else RunFolder.create(path, at.config, {"seed": at.seed})
    )
    with opened as folder:
        store = CheckpointStore(folder.checkpoints, keep_last=1)
        loaded = store.load(config_digest=digest_of(at)) if begun and folder.checkpoints.exists() else None
        done = 0 if loaded is None else loaded.step
        if done >= at.steps:
            return True
        streams = SeedStreams([at.seed])
        # After a resume other episodes than the first ones are played.
        first = streams.seeds("env")[0] + done
        model = make_model(at, training_env(at.env, first), (at.seed + done) % 2**31)
        evaluations, seconds = (0, 0.0) if loaded is None else restore(model, loaded)
        random.seed(at.seed)
        metrics = MetricsFile(folder.metrics)
        metrics.rewind(done)
        started = time.monotonic() - seconds
        eval_env = make_env(at.env, at.eval_episodes, threads=1)
        policy = TensorDictModule(
            lambda seen: model.policy._predict(seen, deterministic=True), ["observation"], ["action"]
        )
        saved = done
        try:
            while model.num_timesteps < at.steps and stop.stop is None:
                goal = (model.num_timesteps // at.eval_every + 1) * at.eval_every
                model.learn(
                    min(goal, at.steps) - model.num_timesteps,
                    callback=lambda *_: stop.stop is None,
                    reset_num_timesteps=False,
                )
                if stop.stop is None:
                    model.policy.set_training_mode(False)
                    begin = streams.seeds("eval")[0] + evaluations * at.eval_episodes
                    seeds = env_seeds([begin], at.eval_episodes)
                    line = summary(evaluate(policy, eval_env, seeds=seeds))
                    evaluations += 1
                    clocks = {"step": model.num_timesteps, "updates": model._n_updates}
                    metrics.append({**clocks, "seconds": round(time.monotonic() - started, 3), **line})
                    print(
                        f"{path.name}: {line['eval/return_mean']:,.1f} at {model.num_timesteps:,}", flush=True
                    )
                if model.num_timesteps - saved >= at.checkpoint_every:
                    save(store, model, at, evaluations, time.monotonic() - started)
                    saved = model.num_timesteps
            if saved != model.num_timesteps:
                save(store, model, at, evaluations, time.monotonic() - started)
        finally:
            eval_env.close()
            metrics.close()
        return bool(model.num_timesteps >= at.steps)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agents", default="sac,td3")
    parser.add_argument("--envs", default="HalfCheetah-v5")
    parser.add_argument("--seeds", type=int, default=2, help="0, 1, ...")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--eval-every", type=int, default=10_000)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--checkpoint-every", type=int, default=50_000)
    parser.add_argument("--warmup-steps", type=int, help="before the first update; by default our agents'")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    line = parser.parse_args(argv)
    if unknown := set(line.agents.split(",")) - set(WARM_UP):
        parser.error(f"--agents {sorted(unknown)[0]}: must be of {', '.join(WARM_UP)}")
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not finished, one run after the other; return 0, or 75 when stopped."""
    line = parse(argv)
    torch.set_num_threads(line.threads)
    with StopFlag() as stop:
        for seed in range(line.seeds):
            for env in line.envs.split(","):
                for agent in line.agents.split(","):
                    at = Setting(
                        algorithm=agent,
                        env=env,
                        seed=seed,
                        steps=line.steps,
                        warmup_steps=WARM_UP[agent] if line.warmup_steps is None else line.warmup_steps,
                        eval_every=line.eval_every,
                        eval_episodes=line.eval_episodes,
                        checkpoint_every=line.checkpoint_every,
                    )
                    name = f"{agent}-{env.replace(':', '-')}-s{seed}"
                    if not train(at, line.out / name, stop):
                        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
