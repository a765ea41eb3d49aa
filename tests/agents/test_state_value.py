"""What critics say of observations: a plain mean, without chance, of each seed's own networks."""

import pytest
import torch
from helpers import SPACES, WITH_CRITICS, random_batch, small_agent
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from rlsuite.agents.losses import soft_state_value
from rlsuite.agents.policies import evaluating
from rlsuite.training import state
from rlsuite.training.value_error import value_trace

VALUED = tuple(name for name in WITH_CRITICS if name != "recoil")  # whose critics know no rewards


@pytest.mark.parametrize("name", VALUED)
def test_state_values_are_repeatable_and_draw_from_no_stream_of_the_agent(name):
    agent = small_agent(name)
    observation = random_batch(7)["observation"]
    before = {key: g.get_state() for key, g in agent.generators.items()}
    weights = {key: p.clone() for key, p in state.agent_tensors(agent).items()}
    first, again = agent.state_value(observation), agent.state_value(observation)
    assert first.value.shape == first.bonus.shape == (7,)
    assert torch.equal(first.value, again.value) and torch.equal(first.bonus, again.bonus)
    assert not first.value.requires_grad
    for key, g in agent.generators.items():
        assert torch.equal(before[key], g.get_state())
    for key, tensor in state.agent_tensors(agent).items():
        assert torch.equal(tensor, weights[key])
    has_bonus = hasattr(agent, "log_alpha") and name != "cql"  # whose values know no entropy
    assert bool(first.bonus.any()) == has_bonus


@pytest.mark.parametrize("name", VALUED)
def test_seeds_are_valued_by_their_own_networks(name):
    agent = small_agent(name, lead=(2,))
    observation = random_batch(5, lead=(2,))["observation"]
    found = agent.state_value(observation).value
    alone = small_agent(name)
    state.load_agent_tensors(alone, state.cut_seed(state.agent_tensors(agent), 1, alone))
    torch.testing.assert_close(found[1], alone.state_value(observation[1]).value)
    flat = value_trace(agent).estimate(observation.flatten(0, 1))
    torch.testing.assert_close(flat.value, found.flatten())


def test_a_value_is_the_critics_mean_over_actions_and_members_and_the_bonus():
    """Actions 1, 2, ..., ten per observation; two critics a and 3a; log-density -a."""
    actions = torch.arange(1.0, 21.0).reshape(20, 1)
    found = soft_state_value(
        lambda rows, source: (actions, -actions.squeeze(-1)),
        lambda rows, action: torch.stack((action.squeeze(-1), 3 * action.squeeze(-1))),
        torch.tensor([0.5]),
        torch.zeros(2, SPACES.observation),
    )
    means = torch.tensor([5.5, 15.5])
    torch.testing.assert_close(found.bonus, 0.5 * means)
    torch.testing.assert_close(found.value, 2.5 * means)


def test_an_agent_without_critics_values_nothing():
    agent = small_agent("bc")
    assert agent.state_value(random_batch(7)["observation"]) is None
    with pytest.raises(NotImplementedError, match="BC has no critics"):
        agent.values(random_batch(7))


@pytest.mark.parametrize("name", ["sac", "stac"])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_a_given_action_is_valued_with_its_own_log_density(name, lead):
    agent = small_agent(name, lead=lead)
    rows = random_batch(5, lead=lead)
    observation, action = rows["observation"], rows["action"]
    found = agent.action_value(observation, action)
    with torch.no_grad(), evaluating(agent.actor, agent.critic):
        gaussian = agent.actor(agent.normalized(observation))
        law = TransformedDistribution(Normal(gaussian.mean, gaussian.std), TanhTransform())
        bonus = -agent.log_alpha.exp().float() * law.log_prob(action).sum(-1)
        critic = agent.critic if name == "sac" else agent.critic.expected
        q = critic(agent.normalized(observation), action).mean(-2)
    torch.testing.assert_close(found.bonus, bonus, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.value, q + bonus, rtol=1e-4, atol=1e-5)
    at_the_bound = agent.action_value(observation, torch.ones_like(action))
    assert at_the_bound.value.isfinite().all()


def test_agents_that_value_actions_have_both_value_errors():
    assert value_trace(small_agent("stac")).estimate_taken is not None
    assert value_trace(small_agent("td3")).estimate_taken is None
