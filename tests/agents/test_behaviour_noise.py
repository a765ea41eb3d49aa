"""Behaviour noise that remembers, in the policies of the agents that have it."""

import pytest
import torch
import whole_runs as runs
from helpers import random_batch, small_agent, with_field
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

AGENTS, OF_STATES = with_field("noise_correlation"), with_field("sde_steps")
KINDS = [(name, kind) for name in AGENTS for kind in ("ou", "pink", "held")]
KINDS += [(name, "sde") for name in OF_STATES]


def act(agent, td, kind=ExplorationType.RANDOM):
    with torch.no_grad(), set_exploration_type(kind):
        return agent.policy(td)


def observe(lead=(), rows=3, step=0):
    g = torch.Generator().manual_seed(step)
    count = torch.full((*lead, rows, 1), step)
    td = {"observation": torch.randn(*lead, rows, 4, generator=g), "step_count": count}
    return TensorDict(td, [*lead, rows])


def test_all_that_should_have_it():
    assert set(AGENTS) >= {"sac", "td3", "tqc", "simba_sac"}
    assert set(OF_STATES) >= {"sac", "td3"}


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_state_travels_with_its_row_and_evaluations_draw_nothing(name, kind):
    agent = small_agent(name, noise_correlation=kind)
    td = act(agent, observe())
    first = td["exploration"]
    assert first.shape == (3, 2, {"ou": 1, "pink": 10, "held": 2, "sde": 16}[kind])
    later = act(agent, td.update(observe(step=1)))["exploration"]
    if kind != "held":  # which is, too, for a random number of steps
        assert torch.equal(first, later) == (kind == "sde")  # kept for some steps
    assert torch.isfinite(td["action"]).all() and (td["action"].abs() <= 1).all()
    before = agent.generators["act"].get_state()
    mode = act(agent, observe(), ExplorationType.DETERMINISTIC)["action"]
    assert torch.equal(before, agent.generators["act"].get_state())
    white = small_agent(name)
    assert torch.equal(mode, act(white, observe(), ExplorationType.DETERMINISTIC)["action"])


@pytest.mark.parametrize("name", OF_STATES)
def test_noise_that_is_a_function_of_the_state(name):
    """Equal states get equal actions while the function is kept, other ones from the next on."""
    agent = small_agent(name, noise_correlation="sde", sde_steps=4)
    seen, actions = observe(rows=5), []
    td = seen.clone()
    for step in range(8):
        td["step_count"] = torch.full((5, 1), step)
        td = act(agent, td)
        actions.append(td["action"])
        td = td.select("exploration").update(seen)
    for step, action in enumerate(actions):
        assert torch.equal(action, actions[4 * (step // 4)])
    assert not torch.equal(actions[0], actions[4])


@pytest.mark.parametrize("network", ["mlp", "simba", "denoiser"])
def test_features_are_what_the_last_layer_reads(network):
    agent = small_agent("td3", noise_correlation="sde", network=network, exploration_noise=1.0)
    policy, observation = agent.policy.module, observe()["observation"]
    output, features = policy._act(observation)
    torch.testing.assert_close(policy.actor.trunk.head.weight.shape[-1], features.shape[-1])
    if network != "denoiser":  # there the head's output is one of several that are added
        torch.testing.assert_close(policy.actor.trunk.head(features).tanh(), output)
    assert not policy.actor.trunk.head._forward_pre_hooks


@pytest.mark.parametrize("name", OF_STATES)
def test_seeds_stay_apart_and_learning_knows_nothing_of_it(name):
    both = small_agent(name, lead=(2,), seed=(3, 4), noise_correlation="sde")
    alone = small_agent(name, seed=4, noise_correlation="sde")
    whole = act(both, observe((2,)))["action"]
    torch.testing.assert_close(whole[1], act(alone, observe((2,))[1])["action"])
    white = small_agent(name, seed=4)
    for agent in (alone, white):
        agent.update(random_batch())
    for left, right in zip(alone.parameters(), white.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("correlation", ["pink", "sde"])
def test_a_resumed_run_equals_the_unbroken_one(tmp_path, correlation):
    """What the noise remembers is saved in the middle of an episode."""
    fields = {"noise_correlation": correlation, "normalize_observations": True}
    train = {"steps": 210, "warmup_steps": 50, "seeds": 2, "num_envs": 1, "eval_every": 70, "log_every": 70}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    runs.train(whole, "td3", fields, **train)
    runs.train(broken, "td3", fields, **{**train, "steps": 140})
    runs.train(broken, "td3", fields, **train, resume=True)
    runs.assert_same_run(whole, broken)
