"""Whole episodes on engine warp are distributed as on the native engine: random and trained policies."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlsuite.envs.base import VectorEnv
from rlsuite.envs.names import tasks_by_name

pytest.importorskip("mujoco_warp")
stats = pytest.importorskip("scipy.stats")

Policy = Callable[[Tensor], Tensor]
SIGNIFICANT = 0.01  # two samples of one distribution fall below this once in a hundred; the seeds are fixed
DATA = Path(os.environ.get("RLSUITE_TEST_DATA", Path(__file__).parents[2] / "../shared/data")) / "policies"
TRAINED = [
    f"{task}-{kind}" for task in ("HalfCheetah", "Hopper", "Walker2d", "Swimmer") for kind in ("sac", "tqc")
]


def episodes(env: VectorEnv, policy: Policy) -> tuple[Tensor, Tensor]:
    """Return undiscounted returns and lengths of one episode of every world."""
    td = env.reset()
    returns, lengths = torch.zeros(2, env.num_envs)
    running = torch.ones(env.num_envs, dtype=torch.bool)
    while running.any():
        td["action"] = policy(td["observation"])
        td = env.step(td)
        after = td["next"]
        assert after["valid"].all()
        returns += torch.where(running, after["reward"].flatten(), 0)
        lengths += running
        running &= ~after["done"].flatten()
        td = env.maybe_reset(env.step_mdp(td))
    return returns, lengths


def uniform(env: VectorEnv, seed: int) -> Policy:
    g = torch.Generator().manual_seed(seed)
    return lambda observation: torch.rand(env.action_spec.shape, generator=g) * 2 - 1


def assert_alike(make, name: str, worlds: int, policy: Policy | None = None, **options: object) -> None:
    samples = []
    for seed, engine in ((100, "native"), (200, "warp")):
        env = make(name, worlds, engine=engine, device="cpu", seed=seed, **options)
        samples.append(episodes(env, policy or uniform(env, seed)))
        if engine == "warp":
            env.engine.check()
    for what, native, ours in zip(("returns", "lengths"), *samples, strict=True):
        p = stats.ks_2samp(native.numpy(), ours.numpy()).pvalue
        assert p > SIGNIFICANT, (
            f"{name}, {what}: p = {p:.4f}, means {native.mean():.2f} and {ours.mean():.2f}"
        )


@pytest.mark.long
def test_random_episodes_are_alike(make):
    assert_alike(make, "Humanoid", 32)


@pytest.mark.long
@pytest.mark.parametrize("name", tasks_by_name())
def test_random_episodes_of_all_tasks_are_alike(make, name):
    assert_alike(make, name, 256, max_episode_steps=200)


@pytest.mark.long
@pytest.mark.parametrize("name", TRAINED)
def test_trained_policies_fare_alike(make, name):
    file = DATA / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip(f"{file} is not there; set RLSUITE_TEST_DATA")
    weights = load_file(file)

    def layer(values: Tensor, part: str) -> Tensor:
        return torch.nn.functional.linear(values, weights[f"{part}.weight"], weights[f"{part}.bias"])

    def policy(observation: Tensor) -> Tensor:
        hidden = layer(layer(observation, "latent_pi.0").relu(), "latent_pi.2").relu()
        return layer(hidden, "mu").tanh()

    assert_alike(make, name.partition("-")[0], 64, policy)
