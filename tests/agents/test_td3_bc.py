"""TD3+BC: its actor loss by hand and against the authors' formula, its LossModule, its limits."""

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from torch.nn import functional as F

from rlsuite.agents.td3_bc import TD3BCConfig, TD3BCLoss, actor_loss
from rlsuite.replay.batch import Batch

pytestmark = pytest.mark.usefixtures("float64")


def loss_of(q, action, data, alpha=2.5):
    """The loss with a first critic that says `q`, a second one that is not asked, and these actions."""
    batch = Batch(data, data, q, data, q, 0.99)
    critic = torch.stack((q, 100 * q.detach() - 7))
    return actor_loss(lambda shown: action, lambda shown, action: critic, batch, TD3BCConfig(alpha=alpha))


def test_actor_loss_by_hand():
    """Q 2 and -4: mean |Q| is 3, lambda 2.5 / 3, mean Q -1; one of two actions is off by 0.5 and 1."""
    q = torch.tensor([2.0, -4.0])
    found = loss_of(q, torch.tensor([[0.5, 1.0], [0.0, 0.0]]), torch.zeros(2, 2))
    assert found.item() == pytest.approx(2.5 / 3 + (0.25 + 1) / 4, abs=1e-12)


def test_the_scale_of_the_critics_does_not_matter():
    g = torch.Generator().manual_seed(0)
    action, data = (torch.rand(16, 2, generator=g) for _ in "ab")
    small = action.sum(-1) - 0.7
    losses = [loss_of(factor * small, action, data) for factor in (1, 1e3)]
    torch.testing.assert_close(*losses)


def test_no_gradient_flows_through_lambda():
    q = torch.tensor([1.0, 3.0], requires_grad=True)
    loss_of(q, torch.zeros(2, 1), torch.zeros(2, 1)).backward()
    torch.testing.assert_close(q.grad, torch.full((2,), -2.5 / 2 / 2))


def test_updates_are_those_of_the_authors_formula():
    """Without noise, four updates of a plain program: two of them move actor and targets."""
    fields = {"target_noise": 0.0, "tau": 0.1, "normalize_observations": False}
    agent, plain = (small_agent("td3_bc", **fields) for _ in "ab")
    critic_adam = torch.optim.Adam(plain.critic.parameters(), lr=3e-4)
    actor_adam = torch.optim.Adam(plain.actor.parameters(), lr=3e-4)
    for k in range(4):
        batch = random_batch(seed=k)
        agent.update(batch)
        following, observation = batch["next"], batch["observation"]
        with torch.no_grad():
            next_q = plain.target_critic(
                following["observation"], plain.target_actor(following["observation"])
            )
            mask = 1 - following["terminated"].squeeze(-1).double()
            target = following["reward"].squeeze(-1) + 0.99 * mask * torch.minimum(*next_q)
        first, second = plain.critic(observation, batch["action"])
        critic_adam.zero_grad()
        (F.mse_loss(first, target) + F.mse_loss(second, target)).backward()
        critic_adam.step()
        if k % 2:
            action = plain.actor(observation)
            q = plain.critic(observation, action)[0]
            loss = -(2.5 / q.abs().mean().detach()) * q.mean() + F.mse_loss(action, batch["action"])
            actor_adam.zero_grad()
            loss.backward()
            actor_adam.step()
            for old, new in ((plain.target_critic, plain.critic), (plain.target_actor, plain.actor)):
                for a, b in zip(old.parameters(), new.parameters(), strict=True):
                    a.data.copy_(0.1 * b.data + 0.9 * a.data)
    for (name, a), b in zip(agent.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)


def test_the_loss_module_has_the_agents_gradients():
    """The critics' rate is tiny: the module's actor loss reads them before their step."""
    agent, twin = (small_agent("td3_bc", lr_critic=1e-30, delay=1) for _ in "ab")
    module = TD3BCLoss(twin.actor, twin.critic, twin.config, generator=twin.generators["learn"])
    check_loss_module(module, agent, random_batch())


def test_alpha_zero_clones():
    """Only the imitation term is left: the critics cannot move the actor."""
    agents = [small_agent("td3_bc", alpha=0.0, delay=1) for _ in "ab"]
    batch, other = random_batch(), random_batch()
    other["next", "reward"] *= 100
    for agent, rows in zip(agents, (batch, other), strict=True):
        for _ in range(3):
            agent.update(rows)
    for a, b in zip(agents[0].actor.parameters(), agents[1].actor.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(*(next(agent.critic.parameters()) for agent in agents))
