"""`rlsuite data make`: joins policies and replays of runs to the recipes, which know no agent."""

import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.cli._line import check_run
from rlsuite.envs.base import VectorEnv
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.offline.collect import Act
from rlsuite.offline.load import load_dataset
from rlsuite.offline.locate import minari_root
from rlsuite.offline.make import (
    Source,
    mixture_source,
    pointmaze_source,
    replay_source,
    rollout_source,
    save,
)
from rlsuite.offline.names import Recipe, recipe
from rlsuite.offline.policyfile import PolicyFile
from rlsuite.replay.packed import chunk_columns
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import SavedRun, load_run

if TYPE_CHECKING:
    from rlsuite.cli.data import MakeLine

DEFAULT_STEPS = 1_000_000
PROGRESS_SECONDS = 10.0  # between two lines


def make(line: "MakeLine") -> int:
    """Make the data set of a command line and say where it is and how good it is; return 0."""
    chosen = recipe(line.name)
    _check_flags(line, chosen)
    out = line.out or minari_root()
    tell = _progress(line.steps or DEFAULT_STEPS)
    source = _source(line, chosen, tell)
    made = save(
        source,
        chosen,
        out,
        layout=line.layout,
        command=shlex.join(["rlsuite", *sys.argv[1:]]),
        seed=line.seed,
        tell=tell if chosen.kind == "pointmaze" else None,
    )
    found = made.behaviour
    print(f"{made.path}: {made.tally.steps:,} env steps in {made.tally.episodes:,} episodes")
    if "return_mean" in found:
        score = f", D4RL score {found['d4rl_score']:.1f}" if "d4rl_score" in found else ""
        print(
            f"behaviour: return {found['return_mean']:,.1f} +- {found['return_std']:,.1f} over "
            f"{found['episodes']:,} whole episodes{score}"
        )
    if line.layout == "minari":
        print(f"load it with --dataset {chosen.dataset_id} and MINARI_DATASETS_PATH={out}")
    return 0


def _check_flags(line: "MakeLine", chosen: Recipe) -> None:
    """Raise ConfigError for a policy or parts that are missing, or that nobody would read."""
    wants_policy = chosen.kind in ("medium", "expert", "medium-replay")
    if wants_policy and line.policy is None:
        what = "a run folder" if chosen.kind == "medium-replay" else "a run folder or a safetensors file"
        raise ConfigError(f"{chosen.name} needs --policy: {what}")
    if line.policy is not None and not wants_policy:
        raise ConfigError(f"{chosen.name} takes no --policy: {chosen.summary}")
    if bool(line.parts) != (chosen.kind == "medium-expert"):
        raise ConfigError(
            f"--parts A B belongs to mixtures, and to all of them; {chosen.name}: {chosen.summary}"
        )
    if line.noise and chosen.kind not in ("medium", "expert"):
        raise ConfigError(f"{chosen.name} takes no --noise: {chosen.summary}")


def _source(line: "MakeLine", chosen: Recipe, tell: Callable[[int], None]) -> Source:
    steps = line.steps or DEFAULT_STEPS
    if chosen.kind == "pointmaze":
        return pointmaze_source(chosen, steps, line.seed)
    if chosen.kind == "medium-expert":
        parts = [load_dataset(name) for name in line.parts]
        return mixture_source(parts, chosen.env, line.steps)
    run = None
    if line.policy is not None and (line.policy.is_dir() or chosen.kind == "medium-replay"):
        check_run(line.policy)
        run = load_run(line.policy, line.checkpoint)
        if run.config.train.env.partition("-v")[0] != chosen.env:
            raise ConfigError(f"{line.policy} is a run on {run.config.train.env}, not on {chosen.env}")
    env = make_env(chosen.env, line.num_envs, seed=line.seed)
    if run is None:
        act, policy = (None, {"name": "uniform"}) if line.policy is None else _from_file(line, env)
    elif chosen.kind == "medium-replay":
        return _replay(run, env, line)
    else:
        act, policy = _from_run(run, env, line)
    return rollout_source(env, act, steps, seed=line.seed, policy=policy, noise=line.noise, tell=tell)


def _from_file(line: "MakeLine", env: VectorEnv) -> tuple[Act, dict[str, Any]]:
    assert line.policy is not None
    policy = PolicyFile(line.policy)
    sizes = (env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1])
    if (policy.observation, policy.action) != sizes:
        raise ConfigError(
            f"{line.policy} maps {policy.observation} numbers to {policy.action}, {env.env_id} needs "
            f"{sizes[0]} to {sizes[1]}"
        )
    generator = torch.Generator().manual_seed(line.seed)

    def sampled(observation: Tensor) -> Tensor:
        return policy.sample(observation, generator)

    facts = {"name": line.policy.name, "sha256": policy.sha256, "mode": line.mode}
    return (sampled if line.mode == "sample" else policy.mean), facts


def _from_run(run: SavedRun, env: VectorEnv, line: "MakeLine") -> tuple[Act, dict[str, Any]]:
    policy = run.agent(env, SeedStreams([line.seed])).policy
    mode = ExplorationType.RANDOM if line.mode == "sample" else ExplorationType.DETERMINISTIC

    def act(observation: Tensor) -> Tensor:
        with set_exploration_type(mode):
            return policy(TensorDict({"observation": observation}, [len(observation)]))["action"]

    return act, {**_facts(run), "mode": line.mode}


def _replay(run: SavedRun, env: VectorEnv, line: "MakeLine") -> Source:
    counters = run.loaded.documents["counters"]["replay"]
    chunks = [chunk_columns(rows) for _, rows in run.loaded.chunks()]
    if not chunks:
        raise ConfigError(f"{line.policy} has no replay in its checkpoint")
    rows = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return replay_source(
        rows,
        total=counters["total"],
        num_envs=counters["num_envs"],
        env=env,
        policy=_facts(run),
        steps=line.steps,
    )


def _facts(run: SavedRun) -> dict[str, Any]:
    """Say which policy of which run acted."""
    weights = run.loaded.manifest.files["agent.safetensors"]
    return {
        "name": run.config.agent_name,
        "env_steps": run.loaded.step,
        "seed": run.config.train.seed,
        "config_digest": run.loaded.manifest.config_digest,
        "sha256": weights.sha256,
    }


def _progress(total: int) -> Callable[[int], None]:
    """Return a function that prints the steps so far, every ten seconds at most."""
    begun = last = time.monotonic()

    def tell(steps: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            rate = steps / (now - begun)
            print(f"{steps:,} of {total:,} env steps, {rate:,.0f} a second", file=sys.stderr, flush=True)

    return tell
