"""ReBRAC, AWAC, A2PR and CQL: their losses against numbers worked out apart, their LossModules; float64."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent

from rlsuite.agents import a2pr, awac, cql, rebrac, td3_bc
from rlsuite.agents.a2pr import A2PRConfig, A2PRLoss
from rlsuite.agents.awac import AWACConfig, AWACLoss
from rlsuite.agents.cql import CQLConfig, CQLLoss, Sampled
from rlsuite.agents.losses import smoothed_action
from rlsuite.agents.rebrac import ReBRACConfig, ReBRACLoss
from rlsuite.agents.recoil import ReCOIL
from rlsuite.agents.td3_bc import TD3BCConfig
from rlsuite.blocks.heads import Gaussian
from rlsuite.blocks.mlp import LayerNorm
from rlsuite.blocks.noise import GivenNoise, Noise
from rlsuite.errors import ConfigError
from rlsuite.presets import load_preset
from rlsuite.registry import agent_class
from rlsuite.replay.batch import Batch
from rlsuite.runs.config import OfflineConfig
from rlsuite.training import start, state

pytestmark = pytest.mark.usefixtures("float64")


def t(*values):
    return torch.tensor(values)


def close(tensor, *values, abs_error=5e-9):
    assert tensor.flatten().tolist() == pytest.approx(values, abs=abs_error)


def acted():
    return t([0.5, -0.2], [0.1, 0.4])


def rows(action, *, reward=None, terminated=None, next_action=None, returns=None):
    """A batch of which nothing else is read."""
    zeros = torch.zeros(len(action))
    return Batch(
        action,
        action,
        zeros if reward is None else reward,
        action,
        zeros if terminated is None else terminated,
        0.99,
        next_action=next_action,
        returns=returns,
    )


# A2PR


def test_a2pr_takes_the_better_action_and_ties_only_where_one_is_good():
    proposed, gate = a2pr.choose(t(2.0, 1.0), t(1.0, 3.0), t(1.5, 4.0))
    assert proposed.tolist() == [1, 0] and gate.tolist() == [1, 0]
    assert a2pr.choose(t(2.0), t(2.0), t(9.0))[0].item() == 1
    at_the_value = a2pr.choose(t(1.0, 0.0), t(0.0, 1.0), t(1.0, 1.0))[1]
    assert at_the_value.tolist() == [1, 0]  # the proposal needs to be as good, the data's action better


def test_a2pr_actor_loss_by_hand_and_with_everything_open_td3_bcs():
    target, gate = t([0.4, 0.0], [0.2, 0.1]), t(1.0, 0.0)
    q = t(-3.0, -5.0)
    loss = a2pr.constrained_loss(acted(), q, target, gate, A2PRConfig(constraint=1.0))
    close(loss, 2.5125)
    close(a2pr.constrained_loss(acted(), q, target, gate, A2PRConfig(constraint=0.4)), 2.505)
    data = t([-0.3, 0.6], [0.2, 0.1])
    opened = a2pr.constrained_loss(acted(), q, data, torch.ones(2), A2PRConfig(constraint=1.0))
    batch = rows(data)
    theirs = td3_bc.actor_loss(lambda shown: acted(), lambda s, a: torch.stack((q, q)), batch, TD3BCConfig())
    assert opened.item() == theirs.item() == pytest.approx(2.845)


def test_a2pr_value_target_is_the_smaller_of_lagged_and_stepped_critics():
    batch = rows(torch.zeros(1, 1), reward=t(1.0))
    close(a2pr.value_target(batch, t([10.0], [12.0]), t([11.0], [9.0])), 9.91)
    close(a2pr.value_target(batch, t([10.0], [12.0]), t([11.0], [19.0])), 10.9)


def test_a2pr_proposals_loss_by_hand():
    latent = Gaussian(t([0.5, -0.5, 0.0, 1.0]), t([1.0, 0.5, 2.0, 1.0]))
    for better, loss in ((1.0, 0.334375), (0.0, 0.234375)):
        close(a2pr.vae_loss(t([0.1, 0.2]), latent, t([0.3, -0.2]), t(better), 1.0), loss)
    close(a2pr.vae_loss(t([0.1, 0.2]), latent, t([0.3, -0.2]), t(1.0), 1.5), 0.384375)


def test_a2pr_gradient_through_the_proposal_is_a_choice():
    gradients = []
    for through in (False, True):
        agent = small_agent("a2pr", target_gradient=through)
        batch = agent.read(random_batch())
        value = torch.full((32,), -9.0)  # below all: everything is tied
        networks = agent.actor, agent.critic, agent.vae
        noise = GivenNoise([torch.zeros(32, 4)])
        loss, proposed, gate = a2pr.actor_loss(networks, batch, value, agent.config, noise)
        assert 0 < proposed.sum() < 32 and gate.all()
        loss.backward()
        gradients.append(agent.actor.trunk[0].weight.grad)
    assert not torch.allclose(*gradients)


def test_a2pr_reads_values_before_the_value_networks_step():
    """A value network that jumps at its step changes neither proposals nor actor of the same update."""
    steps = []
    for rate in (1e-30, 1.0):
        agent = small_agent("a2pr", delay=1, lr_value=rate)
        agent.update(random_batch())
        steps.append([p.detach().clone() for net in (agent.vae, agent.actor) for p in net.parameters()])
    for still, jumped in zip(*steps, strict=True):
        assert torch.equal(still, jumped)


def test_a2pr_critics_and_value_network_are_one_layer_deeper_unless_told():
    agent = small_agent("a2pr")
    for network, layers in ((agent.actor, 3), (agent.critic, 4), (agent.value, 4)):
        assert sum(hasattr(layer, "weight") for layer in network.trunk) == layers
    assert small_agent("a2pr", hidden_critic=(8,)).critic.trunk[0].weight.shape[-2] == 8


# ReBRAC


def target_of(config, terminated=0.0):
    """ReBRAC's target for lagged twins of -20 and -18, without smoothing."""
    next_action = t([0.2, 0.3])
    batch = rows(torch.zeros(1, 2), reward=t(-1.0), terminated=t(terminated), next_action=next_action)
    critic = t([-20.0], [-18.0])
    noise = GivenNoise([torch.zeros(1, 2)])
    return rebrac.penalised_target(lambda shown: t([0.6, -0.1]), lambda s, a: critic, batch, config, noise)


def test_rebrac_target_by_hand():
    close(target_of(ReBRACConfig(beta_critic=0.1)), -20.83168)
    close(target_of(ReBRACConfig(beta_critic=0.0)), -20.8)
    close(target_of(ReBRACConfig(beta_critic=0.1), terminated=1.0), -1.0)


@pytest.mark.parametrize(("normalize", "loss"), [(True, 1.0018), (False, 6.5018)])
def test_rebrac_actor_loss_by_hand(normalize, loss):
    twins = t([-4.0, -8.0], [-5.0, -6.0]).requires_grad_()
    config = ReBRACConfig(beta_actor=0.01, normalize_q=normalize)
    batch = rows(t([0.3, 0.2], [0.1, 0.0]))
    found = rebrac.actor_loss(lambda shown: acted(), lambda s, a: twins, batch, config)
    close(found, loss)
    found.backward()
    weight = 1 / 6.5 if normalize else 1.0
    close(twins.grad, 0, -weight / 2, -weight / 2, 0)  # of the minimum alone, and none through lambda


def test_rebrac_first_weights_and_norms():
    agent = small_agent("rebrac", lead=(2,))
    for network, bound in ((agent.actor, 1e-3), (agent.critic, 3e-3)):
        head = network.trunk.head
        assert (network.trunk[0].bias == 0.1).all()
        assert 0.5 * bound < head.weight.abs().max() <= bound >= head.bias.abs().max() > 0
    names = [type(layer).__name__ for layer in agent.critic.trunk]
    assert names == ["Linear", "ReLU", "LayerNorm"] * 2 + ["Head"]
    assert not any(isinstance(layer, LayerNorm) for layer in agent.actor.trunk)
    assert all(map(torch.equal, agent.critic.parameters(), agent.target_critic.parameters()))
    alone = small_agent("rebrac")
    alone_critic = small_agent("rebrac", init="uniform", critic_norm="none").critic
    assert (alone_critic.trunk[0].bias != 0.1).all()
    assert len(alone_critic.trunk) < len(alone.critic.trunk)


def test_smoothed_action_is_clipped_twice():
    close(smoothed_action(t(0.9), t(3.0), 0.2, 0.5), 1.0)
    close(smoothed_action(t(0.1), t(3.0), 0.2, 0.5), 0.6)


# AWAC


@pytest.mark.parametrize(
    ("temperature", "weights", "cap"),
    [
        (0.1, (100, 0.00673795), 0.46051702),
        (0.3333, (4.48236144, 0.22309669), 1.53490322),
        (1.0, (1.64872127, 0.60653066), 4.60517019),
    ],
)
def test_awac_weights(temperature, weights, cap):
    """Values of the data's actions 0.5 above and below those of the policy's, and just at the bound."""

    def critic(observation, action):
        q = torch.where(action.squeeze(-1) > 0, t(0.5, -0.5, cap - 1e-6, cap + 1e-6), torch.zeros(4))
        return torch.stack((q, q + 3))

    batch = rows(torch.full((4, 1), 0.9))
    policy = Gaussian(torch.full((4, 1), -0.9), torch.full((4, 1), 0.1))
    noise, config = GivenNoise([torch.zeros(4, 1)]), AWACConfig(temperature=temperature)
    found = awac.policy_weights(critic, lambda shown: policy, batch, config, noise)
    close(found[:2], *weights, abs_error=2e-6)
    assert found[2] < 100 and found[3].item() == pytest.approx(100)


def test_awac_actions_are_drawn_and_clipped():
    policy = Gaussian(t([0.5, 0.5]), t([0.1, 2.0]))
    found = awac.sampled_action(lambda shown: policy, None, GivenNoise([t([1.0, 1.0])]))
    close(found, 0.6, 1.0)


def test_awacs_mean_has_no_bound_unless_asked_for():
    rows = 1_000 * random_batch(seed=0)["observation"]
    mean, bounded = (
        small_agent("awac", tanh_mean=tanh).actor(rows).mean.abs().max() for tanh in (False, True)
    )
    assert mean > 1 >= bounded


def test_awac_goes_online_as_it_is():
    agent = small_agent("awac")
    agent.start_online()
    assert agent.update(random_batch())["loss/actor"].isfinite()


# CQL


def gap_of(returns=None, **fields):
    """The gap of one critic at one transition, two samples of each kind."""
    q = Sampled(t([[-20.0, -25.0]]), t([[-12.0, -30.0]]), t([[-15.0, -40.0]]))
    log_density = Sampled(torch.full((1, 2), 2 * math.log(0.5)), t([-0.5, 0.2]), t([0.1, -0.3]))
    return cql.conservative_gap(t([-14.0]), q, log_density, CQLConfig(**fields), returns)


def test_cql_gap_by_hand():
    close(gap_of(), 2.52775435)
    close(gap_of(importance=False), 2.17013096)
    close(10 * gap_of(), 25.27754347, abs_error=1e-7)
    close(gap_of(gap_floor=3.0), 3.0)
    flat = Sampled(*torch.zeros(3, 1, 1, 10))
    density = Sampled(*torch.full((3, 1, 10), math.log(0.25)))
    close(cql.conservative_gap(torch.zeros(1, 1), flat, density, CQLConfig()), 4.78749174)


@pytest.mark.parametrize(("recorded", "gap"), [(-18, 2.53092042), (-13, 3.02271088), (-11, 4.55236907)])
def test_cal_ql_bounds_the_policys_actions_by_the_recorded_return(recorded, gap):
    close(gap_of(returns=t(float(recorded))), gap)


def test_cal_ql_leaves_uniform_actions_and_the_rest_alone():
    q = Sampled(*(torch.full((1, 1, 1), value, requires_grad=True) for value in (-1.0, -5.0, 5.0)))
    density = Sampled(*torch.zeros(3, 1, 1))
    cql.conservative_gap(torch.zeros(1, 1), q, density, CQLConfig(), returns=t(0.0)).sum().backward()
    assert q.uniform.grad.item() > 0 and q.current.grad.item() > 0 and q.following.grad.item() == 0


@pytest.mark.parametrize(
    ("gap", "term", "slope"), [(2.5, 23.10539554, -11.55269777), (0.5, None, 2.03871137)]
)
def test_cql_factor_rises_where_the_gap_is_too_wide(gap, term, slope):
    log_factor = torch.ones(1, requires_grad=True)
    penalty, loss = cql.weighted_gap(t(gap), log_factor, CQLConfig(weight=5.0, gap=0.8))
    if term is not None:
        close(penalty, term, abs_error=1e-7)
    assert not penalty.requires_grad
    loss.backward()
    close(log_factor.grad, slope, abs_error=1e-7)


def test_cql_samples_have_the_densities_of_torchs_distributions():
    torch.manual_seed(0)
    agent = small_agent("cql")
    batch = agent.read(random_batch(3))
    action, log_density = cql.sample_all(agent.actor, batch, 5, Noise(torch.Generator().manual_seed(3)))
    assert action.shape == (3, 15, 2) and (action.abs() < 1).all()
    for part, shown, density in (
        (action[:, 5:10], batch.next_observation, log_density.following),
        (action[:, 10:], batch.observation, log_density.current),
    ):
        policy = agent.actor(shown)
        normal = torch.distributions.Normal(policy.mean.unsqueeze(1), policy.std.unsqueeze(1))
        squashed = torch.distributions.TransformedDistribution(
            normal, torch.distributions.TanhTransform(cache_size=0)
        )
        torch.testing.assert_close(density, squashed.log_prob(part).sum(-1), rtol=1e-8, atol=1e-8)
    close(log_density.uniform, *[2 * math.log(0.5)] * 15)


def test_cql_values_of_many_actions_are_those_of_each():
    agent = small_agent("cql", lead=(2,))
    batch = agent.read(random_batch(4, lead=(2,)))
    action = torch.rand(2, 4, 3, 2)
    found = cql.values_of(agent.critic, batch.observation, action)
    assert found.shape == (2, 2, 4, 3)
    for k in range(3):
        each = agent.critic(batch.observation, action[..., k, :])
        torch.testing.assert_close(found[..., k], each)


def test_cql_bootstraps_from_the_best_of_its_draws():
    agent = small_agent("cql", best_next=True, actions=4)
    batch, draws = agent.read(random_batch(6)), torch.randn(6, 4, 2)
    found = cql.next_target(agent.target_critic, agent.actor, batch, agent.config, GivenNoise([draws]))
    policy = agent.actor(batch.next_observation)
    each = [
        agent.target_critic(batch.next_observation, (policy.mean + policy.std * draws[:, k]).tanh()).amin(0)
        for k in range(4)
    ]
    best = torch.stack(each).amax(0)
    torch.testing.assert_close(found, batch.reward + 0.99 * (1 - batch.terminated) * best)


def test_cql_updates_are_those_of_a_plain_program():
    """Four updates written out, with the agent's own draws: all losses are of the old networks."""
    fields = {"actions": 3, "tau": 0.1, "lr_actor": 1e-3, "normalize_observations": False, "gap": 0.7}
    agent, plain = (small_agent("cql", **fields) for _ in "ab")
    policy = [*plain.actor.parameters(), plain.log_alpha]
    adams = [
        torch.optim.Adam(group, lr=rate)
        for group, rate in ((policy, 1e-3), ([*plain.critic.parameters(), plain.log_factor], 3e-4))
    ]
    for k in range(4):
        agent.update(random_batch(seed=k))
        batch, noise = plain.read(random_batch(seed=k)), Noise(plain.generators["learn"])
        target = cql.next_target(plain.target_critic, plain.actor, batch, plain.config, noise)
        action, log_density = cql.sample_all(plain.actor, batch, 3, noise)
        losses = []
        for member in range(2):
            q = plain.critic(batch.observation, batch.action)[member]
            sampled = [plain.critic(batch.observation, action[:, j])[member] for j in range(9)]
            density = torch.cat(tuple(log_density), -1)
            soft = torch.stack([value - density[:, j] for j, value in enumerate(sampled)], -1).logsumexp(-1)
            gap = (soft - q).mean() - 0.7
            factor = plain.log_factor.exp()
            losses.append((q - target).square().mean() + (10 * factor.detach() * gap).sum())
            losses.append(-0.5 * (10 * factor * gap.detach()).sum())
        gaussian = plain.actor(batch.observation)
        distribution = torch.distributions.Normal(*gaussian)
        u = gaussian.mean + gaussian.std * noise.normal(gaussian.mean)
        log_prob = (distribution.log_prob(u) - torch.log(1 - u.tanh() ** 2)).sum(-1)
        q = plain.critic(batch.observation, u.tanh()).amin(0)
        policy_loss = (plain.log_alpha.exp().detach() * log_prob - q).mean()
        alpha_loss = -(plain.log_alpha * (log_prob.detach().mean() - 2)).sum()
        for adam, loss in zip(adams, (policy_loss + alpha_loss, sum(losses)), strict=True):
            group = adam.param_groups[0]["params"]
            for parameter, gradient in zip(
                group, torch.autograd.grad(loss, group, retain_graph=True), strict=True
            ):
                parameter.grad = gradient.contiguous()
        for adam in adams:
            adam.step()
        for old, new in zip(plain.target_critic.parameters(), plain.critic.parameters(), strict=True):
            old.data.copy_(0.1 * new.data + 0.9 * old.data)
    for (name, a), b in zip(agent.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11, msg=name)
    assert agent.log_factor.item() != 1


def test_cal_ql_is_switched_off_where_rows_have_no_return():
    """Online rows have none: then, and with returns that are out of the way, it is CQL."""
    batch = random_batch()
    low, without = batch.clone(), batch.clone()
    low["return"] = torch.full_like(low["return"], -1e6)
    del without["return"]
    agents = [small_agent("cql", calibrated=calibrated) for calibrated in (True, True, True, False)]
    for agent, given in zip(agents, (batch, low, without, batch), strict=True):
        agent.update(given)
    weights = [agent.critic.trunk[0].weight for agent in agents]
    assert not torch.equal(weights[0], weights[3])
    assert torch.equal(weights[1], weights[3]) and torch.equal(weights[2], weights[3])


def test_a_failures_reward_without_calibration_is_refused():
    with pytest.raises(ConfigError, match="calibrated"):
        CQLConfig(failure_reward=-5.0)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_the_learnt_factor_is_saved(lead):
    agent, other = (small_agent("cql", gap=0.8, lead=lead, seed=k) for k in range(2))
    for k in range(3):
        agent.update(random_batch(seed=k, lead=lead))
    state.load_agent_tensors(other, {key: value.clone() for key, value in state.agent_tensors(agent).items()})
    assert torch.equal(agent.log_factor, other.log_factor) and (agent.log_factor != 1).all()


# LossModules: rates of what other losses read after its step are tiny


def test_the_loss_modules_have_the_agents_gradients():
    still = {"lr_critic": 1e-30}
    agent, twin = (small_agent("rebrac", delay=1, **still) for _ in "ab")
    check_loss_module(
        ReBRACLoss(twin.actor, twin.critic, twin.config, generator=twin.generators["learn"]),
        agent,
        random_batch(),
    )
    agent, twin = (small_agent("awac", normalize_observations=False, **still) for _ in "ab")
    check_loss_module(
        AWACLoss(twin.actor, twin.critic, twin.config, generator=twin.generators["learn"]),
        agent,
        random_batch(),
    )
    agent, twin = (small_agent("a2pr", delay=1, lr_vae=1e-30, **still) for _ in "ab")
    module = A2PRLoss(
        twin.actor, twin.critic, twin.value, twin.vae, twin.config, generator=twin.generators["learn"]
    )
    check_loss_module(module, agent, random_batch())


@pytest.mark.parametrize("fields", [{}, {"calibrated": True, "importance": False, "best_next": True}])
def test_cqls_loss_module_has_the_agents_gradients(fields):
    agent, twin = (small_agent("cql", **fields) for _ in "ab")
    module = CQLLoss(twin.actor, twin.critic, twin.config, actions=2, generator=twin.generators["learn"])
    check_loss_module(module, agent, random_batch())


# Presets, and what may follow online


@pytest.mark.parametrize(
    ("agent", "env", "data", "run", "own"),
    [
        (
            "rebrac",
            "Hopper-v5",
            "rlsuite/hopper/medium-replay-v0",
            {"batch_size": 1024},
            {"beta_actor": 0.05, "beta_critic": 0.5, "lr_critic": 1e-3},
        ),
        ("rebrac", "Walker2d-v4", "walker2d-random-v2", {}, {"beta_actor": 0.01, "beta_critic": 0.0}),
        (
            "rebrac",
            "",
            "antmaze-medium-diverse-v2",
            {"reward": "antmaze100", "eval_episodes": 100},
            {"beta_actor": 0.001, "beta_critic": 0.0, "gamma": 0.999, "lr_critic": 5e-5},
        ),
        ("rebrac", "d4rl:AdroitHandDoor", "door-human-v1", {"batch_size": 256}, {"beta_actor": 0.1}),
        ("awac", "d4rl:AdroitHandDoor", "door-human-v1", {}, {"temperature": 0.1}),
        ("a2pr", "Hopper-v4", "hopper-medium-v2", {}, {"constraint": 0.4, "gamma": 0.995}),
        ("cql", "d4rl:AdroitHandDoor", "door-human-v1", {"reward": None}, {"weight": 1.0, "lr_actor": 1e-4}),
        ("cql", "Hopper-v4", "hopper-medium-v2", {"reward": "locomotion"}, {"weight": None}),
        (
            "cql",
            "",
            "antmaze-umaze-v2",
            {"reward": "antmaze10"},
            {"gap": 0.8, "gap_floor": -200.0, "best_next": True, "normalize_observations": False},
        ),
    ],
)
def test_presets_of_data_sets_are_corls(agent, env, data, run, own):
    train, fields = load_preset(agent, "default", env, data)
    agent_class(agent).Config(**{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()})
    assert {key: train.get(key) for key in run} == run
    assert {key: fields.get(key) for key in own} == own


def test_cal_ql_and_rebrac_may_go_on_online_and_recoil_may_not(monkeypatch):
    monkeypatch.setattr(start, "train_offline", lambda *_, **__: "begun")
    line = OfflineConfig(dataset="d", then_online=10)
    assert start.train(cql.CQL, CQLConfig(calibrated=True), line, None) == "begun"
    assert start.train(rebrac.ReBRAC, ReBRACConfig(), line, None) == "begun"
    with pytest.raises(ConfigError, match="only recorded data have"):
        start.train(ReCOIL, ReCOIL.Config(), replace(line, expert="e"), None)


def test_rebracs_online_target_has_no_penalty_and_its_actors_is_relaxed():
    batch = rows(torch.zeros(1, 2), reward=t(-1.0))
    networks = lambda shown: t([0.6, -0.1]), lambda s, a: t([-20.0], [-18.0])
    noise = GivenNoise([torch.zeros(1, 2)])
    close(rebrac.penalised_target(*networks, batch, ReBRACConfig(beta_critic=0.1), noise), -20.8)
    config = ReBRACConfig(beta_actor=0.4, normalize_q=False)
    whole = rebrac.actor_loss(*networks, batch, config)
    half = rebrac.actor_loss(*networks, batch, config, 0.5)
    close(whole - half, 0.5 * 0.4 * (0.6**2 + 0.1**2))
    agent = small_agent("rebrac", online_floor=0.25)
    agent.begin(10)
    for _ in range(2):
        agent.update(agent_batch())
    assert agent.penalty_factor().item() == 1
    agent.start_online()
    seen = []
    for _ in range(8):
        seen.append(agent.penalty_factor().item())
        agent.update(agent_batch())
    assert seen == pytest.approx([1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.25])


def agent_batch():
    """A batch as it is made online: without next actions."""
    return random_batch().exclude(("next", "action"))
