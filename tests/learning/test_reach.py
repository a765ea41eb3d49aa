"""Every agent learns: a point on a line that should go to 0, about 20 s each."""

import pytest
import torch
import toys  # noqa: F401  # registers the environments

from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.training.assembly import build
from rlsuite.training.evaluate import evaluate
from rlsuite.training.online import train_steps

RANDOM_RETURN = -18.0  # of uniform actions; doing nothing is about -15
BEST_RETURN = -1.9  # |x| from 0.75 on average to 0 at 0.3 a step


@pytest.mark.parametrize(
    "name", ["dsac_t", "sac", *(pytest.param(x, marks=pytest.mark.long) for x in ("stac", "td3"))]
)
def test_every_agent_learns_to_reach(name):
    torch.set_num_threads(1)
    kind = agent_class(name)
    fields = {"hidden": (32, 32), "lr_critic": 3e-3, "lr_actor": 3e-3, "gamma": 0.95}
    if name != "td3":
        fields |= {"alpha_init": 0.1, "lr_alpha": 3e-3}
    config = TrainConfig(
        env="gym:ToyReach-v0", warmup_steps=500, batch_size=64, device="cpu", eval_episodes=20
    )
    run = build(kind, kind.Config(**fields), config)
    before = sum(evaluate(run.policy, run.eval_env, seeds=1)["returns"]) / 20
    train_steps(run, 3_500)
    assert run.clock.updates == 3_000
    after = sum(evaluate(run.policy, run.eval_env, seeds=1)["returns"]) / 20
    assert before < -8
    assert after > BEST_RETURN - 0.6
