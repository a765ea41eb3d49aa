"""Policies that others trained reach on our tasks what they reach on Gymnasium's: observations mean the same.

The actors are Stable-Baselines3's (DLR-RM/rl-trained-agents, MIT), trained on the v3 tasks; files and known
returns are described in the README of the data folder. The folder is RLSUITE_TEST_DATA, by default
`../shared/data` seen from the checkout.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensordict.nn import TensorDictModule

from rlsuite.envs.make import make_env
from rlsuite.training.evaluate import evaluate

DATA = Path(os.environ.get("RLSUITE_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
# Mean returns of 5 deterministic episodes on Gymnasium v5.
KNOWN = [
    pytest.param("HalfCheetah", "tqc", 12_006, id="HalfCheetah-tqc"),
    pytest.param("HalfCheetah", "sac", 9_343, id="HalfCheetah-sac", marks=pytest.mark.long),
    pytest.param("Walker2d", "tqc", 4_492, id="Walker2d-tqc"),
    pytest.param("Walker2d", "sac", 3_918, id="Walker2d-sac", marks=pytest.mark.long),
]
TOLERANCE = 0.04  # of the return; five episodes of one policy spread by one to two percent
FULL_HOPPER = 3_500  # return of a Hopper that does not fall in 1,000 steps: about 3,650


def play(name: str, algorithm: str, episodes: int, **options: object) -> dict[str, list[float]]:
    """Play episodes with the mode of a stored actor."""
    path = DATA / "policies" / f"{name}-{algorithm}.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is not there; RLSUITE_TEST_DATA names the data folder")
    weights = load_file(path)

    def act(observation: torch.Tensor) -> torch.Tensor:
        hidden = observation
        for layer in ("latent_pi.0", "latent_pi.2"):
            hidden = torch.nn.functional.linear(hidden, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
            hidden = hidden.relu()
        return torch.nn.functional.linear(hidden, weights["mu.weight"], weights["mu.bias"]).tanh()

    env = make_env(name, episodes, threads=1, **options)
    try:
        policy = TensorDictModule(act, in_keys=["observation"], out_keys=["action"])
        return evaluate(policy, env, seeds=0)
    finally:
        env.close()


@pytest.mark.parametrize(("name", "algorithm", "known"), KNOWN)
def test_known_returns_are_reached(name: str, algorithm: str, known: float) -> None:
    returns = play(name, algorithm, episodes=5)["returns"]
    assert sum(returns) / 5 == pytest.approx(known, rel=TOLERANCE)


@pytest.mark.parametrize("algorithm", ["tqc", pytest.param("sac", marks=pytest.mark.long)])
def test_swimmers_swim(algorithm: str) -> None:
    """Both stored Swimmers cover 13 m in every episode; no published figure exists for v5."""
    assert all(320 < value < 350 for value in play("Swimmer", algorithm, episodes=2)["returns"])


@pytest.mark.parametrize("legacy_margin", [False, True])
def test_hopper_hops_in_both_physics(legacy_margin: bool) -> None:
    """TQC's Hopper falls in a third of its episodes, in either physics; where not, all returns agree."""
    found = play("Hopper", "tqc", episodes=5, legacy_margin=legacy_margin)
    whole = [r for r, n in zip(found["returns"], found["lengths"], strict=True) if n == 1_000]
    assert len(whole) >= 2
    assert all(FULL_HOPPER < value < 3_750 for value in whole)


def test_hoppers_sac_falls_as_it_does_on_gymnasium() -> None:
    """Known: 1,096 in 298 steps; most of its episodes end in one and the same fall."""
    found = play("Hopper", "sac", episodes=5)
    assert sum(found["returns"]) / 5 == pytest.approx(1_096, rel=TOLERANCE)
    assert sum(found["lengths"]) / 5 == pytest.approx(298, rel=TOLERANCE)


@pytest.mark.long
def test_legacy_margins_leave_the_mean_return_of_hopper_alone() -> None:
    """200 episodes each: 3,335 and 3,342, both with a standard error of 36."""
    means = []
    for legacy_margin in (False, True):
        returns = torch.tensor(play("Hopper", "tqc", episodes=200, legacy_margin=legacy_margin)["returns"])
        means.append(returns.mean().item())
    assert abs(means[0] - means[1]) < 200
    assert all(3_150 < mean < 3_550 for mean in means)
