"""simba_sac and dsac_flash: targets against numbers by hand, updates against plain programs, presets."""

import math

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from references import rows_of
from unit_references import DSACFlash, SimbaSAC

from rlsuite.agents.dsac_flash import DSACFlashLoss
from rlsuite.agents.gaussian_returns import critic_loss
from rlsuite.agents.simba_sac import (
    SimbaSACConfig,
    SimbaSACLoss,
    alpha_loss,
    cross_entropy,
    entropy_of_std,
    target_distribution,
)
from rlsuite.blocks.categorical import Categorical, gaussian_histogram, project_atoms
from rlsuite.blocks.heads import Gaussian, squash
from rlsuite.blocks.normed import BatchNorm, RMSNorm, UnitLinear
from rlsuite.errors import ConfigError
from rlsuite.presets import load_preset
from rlsuite.replay.batch import Batch
from rlsuite.strict import from_mapping

pytestmark = pytest.mark.usefixtures("float64")

Z = torch.arange(-2.0, 3.0).double()
P = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1]).double()


def t(*values):
    return torch.tensor(values)


def rows(reward, gamma=0.9, terminated=0.0):
    return Batch(t(0.0), t(0.0), t(reward), t(0.0), t(terminated), gamma)


def target(logits, entropy=0.0, **fields):
    return target_distribution(logits, t(entropy), rows(**fields), Z)[0][0].tolist()


def same(probabilities):
    """Two members of the same distribution for one row."""
    return probabilities.log().expand(2, 1, 5)


def test_the_target_is_the_shifted_distribution_projected():
    assert target(same(P), -0.1, reward=0.5) == pytest.approx([0.021, 0.141, 0.302, 0.338, 0.198])
    assert target(same(P), -0.1, reward=0.5, terminated=1.0) == pytest.approx([0, 0, 0.5, 0.5, 0])
    assert target(same(P), reward=0.0, gamma=1.0) == pytest.approx(P.tolist())  # atoms on atoms lose no mass
    assert target(same(P), reward=3.0) == pytest.approx([0, 0, 0, 0.08, 0.92])


def test_the_member_with_the_smaller_mean_gives_the_whole_distribution():
    logits = torch.stack((t(0.0, 1, 2, 0, -1), t(1.0, 0, 0, 0, 1)))[:, None]
    assert Categorical(logits, Z).mean.flatten().tolist() == pytest.approx([-0.2390758299, 0])
    expected = [0.016833374, 0.1308728593, 0.3931897391, 0.3903373348, 0.0687666929]
    assert target(logits, -0.1, reward=0.5) == pytest.approx(expected)
    assert target(logits.flip(0), -0.1, reward=0.5) == pytest.approx(expected)
    predictions = torch.stack((t(0.5, -0.5, 0.2, 0.1, 0), torch.zeros(5)))[:, None].requires_grad_()
    losses = [cross_entropy(predictions[m : m + 1], t(*expected)[None]) for m in range(2)]
    assert [loss.item() for loss in losses] == pytest.approx([1.6588639539, 1.6094379124])
    (gradient,) = torch.autograd.grad(sum(losses), predictions)
    assert gradient[0, 0].tolist() == pytest.approx(
        [0.2785397506, -0.0222111592, -0.1743719464, -0.1923428083, 0.1103861633]
    )


def brute_force(p, atoms, support):
    """Every atom's mass to its neighbours, one by one."""
    result = torch.zeros_like(p)
    width = (support[1] - support[0]).item()
    for n in range(len(p)):
        for k in range(p.shape[1]):
            atom = min(max(atoms[n, k].item(), support[0].item()), support[-1].item())
            result[n] += p[n, k] * (1 - (atom - support).abs() / width).clamp(min=0)
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_projection_is_exact(dtype):
    g = torch.Generator().manual_seed(0)
    support = torch.linspace(-5, 5, 101, dtype=dtype)
    p = torch.rand(8, 101, generator=g, dtype=dtype).softmax(-1)
    atoms = 0.99 * support + 3 * torch.randn(8, 1, generator=g, dtype=dtype)
    atoms[0] = support  # on the atoms, up to rounding
    atoms[1] = 5.0
    found = project_atoms(p, atoms, support)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, brute_force(p, atoms, support), rtol=0, atol=tolerance)
    torch.testing.assert_close(found.sum(-1), torch.ones(8, dtype=dtype))
    inside = torch.arange(8) > 1
    kept = (p * atoms.clamp(-5, 5)).sum(-1)
    torch.testing.assert_close((found * support).sum(-1)[inside], kept[inside], rtol=0, atol=10 * tolerance)


def test_the_gaussian_histogram():
    found = gaussian_histogram(t(0.3, 2.2, 9.0, 1e6), Z)
    expected = [0.0081174324, 0.1351029505, 0.462895778, 0.3406670079, 0.0532168311]
    assert found[0].tolist() == pytest.approx(expected)
    assert (found[0] * Z).sum().item() == pytest.approx(0.2957628549)
    assert found.sum(-1).tolist() == pytest.approx([1, 1, 1, 1])
    means = (found * Z).sum(-1)
    assert means[1].item() == pytest.approx(1.7143995337)  # what is cut off at the end is missing above
    assert means[1] < means[2] < means[3] <= 2  # a target further out is never worth less
    far = gaussian_histogram(t(-1e6, 1e6).float(), Z.float())
    torch.testing.assert_close(far[:, [0, -1]], torch.eye(2, dtype=torch.float32), rtol=0, atol=1e-3)
    fine = torch.linspace(-5, 5, 101)
    values = torch.linspace(-4.5, 4.5, 7)
    torch.testing.assert_close((gaussian_histogram(values, fine) * fine).sum(-1), values, rtol=0, atol=1e-3)


def test_the_target_entropy_and_the_temperatures_gradient():
    for actions, expected in (
        (6, -2.8690887101),
        (3, -1.4345443550),
        (1, -0.4781814517),
        (17, -8.1290846786),
    ):
        assert entropy_of_std(None, 0.15, actions) == pytest.approx(expected)
    assert entropy_of_std(None, 0.14676266317373993, 6) == pytest.approx(-3.0)
    log_alpha = t(math.log(0.01)).requires_grad_()
    loss = alpha_loss(log_alpha, torch.full((8,), 4.0), entropy_of_std(None, 0.15, 6))
    loss.backward()
    assert log_alpha.grad.item() == pytest.approx(-0.0113091129)


def test_the_density_of_a_squashed_action():
    _, log_prob = squash(Gaussian(t(0.0, -1.0), t(0.5, 0.2)), (t(0.3, -1.2) - t(0.0, -1.0)) / t(0.5, 0.2))
    assert log_prob.item() == pytest.approx(1.0607675096)


def test_dsac_ts_loss_and_gradients_of_its_release_form():
    mean, std = t(0.4)[:, None].requires_grad_(), t(0.3)[:, None].requires_grad_()
    loss = critic_loss(Gaussian(mean, std), t(0.7), t(1.6), t(0.25), "release")
    assert loss.item() == pytest.approx(-0.0323807566)  # 1.6 is cut to 1.15
    loss.backward()
    assert mean.grad.item() == pytest.approx(-0.0986842105)
    assert std.grad.item() == pytest.approx(-0.1572779605)


@pytest.mark.parametrize(
    ("spread", "std", "weight"), [(0.25, 0.3, 0.3289473684), (0.5, 0.5, 0.7142857143), (50, 50, 0.9999600016)]
)
def test_dsac_ts_weight_forgets_its_constant_where_returns_are_large(spread, std, weight):
    """Read off the mean's gradient at an error of 0.01: in scaled units the constant would decide."""
    mean = t(0.0)[:, None].requires_grad_()
    law = Gaussian(mean, t(float(std))[:, None])
    critic_loss(law, t(0.01), t(0.0), t(float(spread)), "release").backward()
    assert mean.grad.item() == pytest.approx(-0.01 * weight)


# Rates are kept as float32: these are exact there.
PLAIN = {"hidden": (12, 12), "lr_critic": 2**-10, "lr_actor": 2**-10, "lr_alpha": 2**-7}
XQC = {"network": "xqc", "actor_std": "clamp", "joint_actor": False, "order": "critic", "delay": 3}
VARIANTS = {
    "flash": ("simba_sac", SimbaSAC, {}),
    "xqc": ("simba_sac", SimbaSAC, XQC),
    "simbav2": ("simba_sac", SimbaSAC, {"network": "simbav2", "delay": 1}),
    "gaussian": ("dsac_flash", DSACFlash, {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_updates_are_those_of_a_plain_program(variant):
    name, program, fields = VARIANTS[variant]
    agent = small_agent(name, **PLAIN, **fields)
    agent.reward_scale.scale.fill_(2.5)
    reference = program(agent)
    stream = torch.Generator()
    stream.set_state(agent.generators["learn"].get_state())
    before = {key: p.detach().clone() for key, p in agent.named_parameters()}
    for k in range(4):
        batch = random_batch(6, seed=k)
        agent.update(batch)
        reference.update(rows_of(batch), stream)
    for ours, theirs in reference.pairs(agent):
        # A shift whose effect the next norm takes away has no gradient but rounding.
        assert (ours - theirs).norm() <= 1e-8 * theirs.norm().clamp(min=1e-2)
    assert all(not torch.equal(p, before[key]) for key, p in agent.named_parameters())
    assert torch.equal(stream.get_state(), agent.generators["learn"].get_state())


@pytest.mark.parametrize("network", ["flash", "xqc", "simbav2"])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_norms_are_kept(network, lead):
    agent = small_agent("simba_sac", network=network, lead=lead, lr_critic=0.1, lr_actor=0.1)
    for k in range(4):
        agent.update(random_batch(lead=lead, seed=k))
    seen = 0
    for module in (*agent.actor.modules(), *agent.critic.modules()):
        if isinstance(module, UnitLinear):
            norm = module.weight.norm(dim=-1)
            torch.testing.assert_close(norm, torch.ones_like(norm), rtol=0, atol=1e-7)
            seen += 1
        elif isinstance(module, RMSNorm) or (isinstance(module, BatchNorm) and module.unit_norm):
            square = module.weight.square().sum(-1) + getattr(module, "bias", torch.zeros(1)).square().sum(-1)
            torch.testing.assert_close(square, torch.full_like(square, module.weight.shape[-1]))
    assert seen >= 6


@pytest.mark.parametrize(
    ("name", "loss", "fields"),
    [
        ("simba_sac", SimbaSACLoss, {}),
        ("simba_sac", SimbaSACLoss, {"order": "critic", "network": "xqc"}),
        ("simba_sac", SimbaSACLoss, {"norm": "layer", "target": "hl_gauss"}),
        ("dsac_flash", DSACFlashLoss, {}),
    ],
)
def test_the_loss_module_has_the_agents_gradients(name, loss, fields):
    """Rates are tiny: the second loss of an update reads networks after the first one's step."""
    rates = dict.fromkeys(("lr_critic", "lr_actor", "lr_alpha"), 1e-30)
    agent, twin = (small_agent(name, **rates, **fields) for _ in "ab")
    module = loss(twin.actor, twin.critic, twin.config, actions=2, generator=twin.generators["learn"])
    check_loss_module(module, agent, random_batch())


@pytest.mark.parametrize("name", ["simba_sac", "dsac_flash"])
def test_rewards_are_scaled_where_they_are_learnt_from_and_values_are_not(name):
    plain, scaled = small_agent(name), small_agent(name)
    scaled.reward_scale.scale.fill_(10.0)
    batch = random_batch()
    larger = batch.clone()
    larger["next", "reward"] *= 10
    first, second = plain.values(batch), scaled.values(larger)
    torch.testing.assert_close(10 * first["q"], second["q"])
    torch.testing.assert_close(10 * first["td_error"], second["td_error"])
    states = [agent.state_value(batch["observation"]) for agent in (plain, scaled)]
    torch.testing.assert_close(10 * states[0].value, states[1].value)
    plain.update(batch)
    scaled.update(larger)
    for a, b in zip(plain.actor.parameters(), scaled.actor.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    if name == "simba_sac":  # DSAC-T's constants are in the environment's units, and feel the scale
        for a, b in zip(plain.critic.parameters(), scaled.critic.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_values_read_running_statistics_of_the_targets_too():
    agent = small_agent("simba_sac")
    before = agent.target_critic.trunk.entry.mean.clone()
    for k in range(3):
        agent.update(random_batch(seed=k))
    after = agent.target_critic.trunk.entry.mean
    assert not torch.equal(before, after)
    assert torch.equal(after, agent.critic.trunk.entry.mean)  # both saw the same inputs


def test_presets_are_the_authors():
    train, fields = load_preset("simba_sac", "flash_sac", "HalfCheetah-v5")
    config = from_mapping(SimbaSACConfig, fields, "preset")
    assert (train["batch_size"], train["updates_per_step"], train["warmup_steps"]) == (512, 1.0, 10_000)
    assert (config.hidden, config.hidden_actor) == ((256,) * 3, (128,) * 3)
    assert (config.gamma, config.tau, config.delay, config.noise_correlation) == (0.99, 0.01, 2, "held")
    for name, network, order, delay in (("simbav2", "simbav2", "actor", 1), ("xqc", "xqc", "critic", 3)):
        train, fields = load_preset("simba_sac", name, "HalfCheetah-v5")
        config = from_mapping(SimbaSACConfig, fields, "preset")
        assert (config.network, config.order, config.delay) == (network, order, delay)
        assert (train["updates_per_step"], config.gamma, config.tau) == (2.0, 0.995, 0.005)
        assert entropy_of_std(None, config.entropy_std, 6) == pytest.approx(-3.0)
    _, fields = load_preset("simba_sac", "narrow", "HalfCheetah-v5")
    assert from_mapping(SimbaSACConfig, fields, "preset").hidden == (128,) * 3


def test_norms_that_a_network_does_not_have_are_refused():
    with pytest.raises(ConfigError, match="network must be flash"):
        SimbaSACConfig(network="xqc", norm="layer")
    with pytest.raises(ValueError, match="one width"):
        small_agent("simba_sac", hidden=(8, 16))
