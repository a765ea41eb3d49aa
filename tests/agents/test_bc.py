"""BC: its two losses, its LossModule, and that it clones."""

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from torch.nn import functional as F

from rlsuite.agents.bc import BCLoss, cloning_loss
from rlsuite.blocks.heads import Gaussian
from rlsuite.blocks.noise import Noise

pytestmark = pytest.mark.usefixtures("float64")


def test_losses_are_torchs():
    g = torch.Generator().manual_seed(0)
    policy, action = (torch.rand(8, 3, generator=g) for _ in "ab")

    def loss(output):
        return cloning_loss(lambda shown, noise: output, policy, action, Noise(None))

    torch.testing.assert_close(loss(policy), F.mse_loss(policy, action))
    gaussian = Gaussian(policy, torch.full((8, 3), 0.3))
    oracle = -torch.distributions.Normal(*gaussian).log_prob(action).sum(-1).mean()
    torch.testing.assert_close(loss(gaussian), oracle)


@pytest.mark.parametrize("loss", ["mse", "likelihood"])
def test_the_loss_module_has_the_agents_gradients(loss):
    agent, twin = (small_agent("bc", loss=loss) for _ in "ab")
    check_loss_module(BCLoss(twin.actor), agent, random_batch())


@pytest.mark.parametrize("loss", ["mse", "likelihood"])
def test_it_clones_a_linear_policy(loss):
    agent = small_agent("bc", loss=loss, lr_actor=1e-2, normalize_observations=False)
    for k in range(200):
        batch = random_batch(128, seed=k)
        batch["action"] = (0.3 * batch["observation"][:, :2]).tanh()
        agent.update(batch)
    rows = random_batch(128, seed=999)
    expected = (0.3 * rows["observation"][:, :2]).tanh()
    assert (agent.policy(rows)["action"] - expected).square().mean() < 0.01 * expected.square().mean()
    if loss == "likelihood":  # the data have no noise: the deviation falls
        assert (agent.actor.log_std < -0.5).all()


def test_rewards_and_ends_are_not_read():
    agents = [small_agent("bc") for _ in "ab"]
    batch = random_batch()
    agents[0].update(batch)
    agents[1].update(batch.exclude("next").set("next", random_batch(seed=5)["next"]))
    for a, b in zip(agents[0].parameters(), agents[1].parameters(), strict=True):
        assert torch.equal(a, b)
