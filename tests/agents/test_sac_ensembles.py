"""REDQ and DroQ: random subsets, dropout, delayed actors, by hand and by TorchRL's REDQ loss."""

import itertools

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from torch import nn

from rlsuite.agents.optim import polyak
from rlsuite.agents.sac import SACConfig, SACLoss, actor_loss, critic_loss, least_of, soft_target
from rlsuite.blocks.heads import Gaussian
from rlsuite.blocks.mlp import MLP, Dropout, LayerNorm, Linear
from rlsuite.blocks.noise import GivenNoise, Noise
from rlsuite.errors import ConfigError
from rlsuite.presets import load_preset
from rlsuite.replay.batch import Batch

pytestmark = pytest.mark.usefixtures("float64")

TARGETS = torch.tensor([-20.0, -18.0, -25.0, -19.0, -21.0]).unsqueeze(-1)
LOG_PROB = -1.5


def keys_for(*members):
    """A draw whose greatest entries are these members."""
    drawn = torch.zeros(5)
    drawn[list(members)] = 1.0
    return drawn


def fixed_actor(observation):
    """A Gaussian whose density at its mean, before the tanh (whose term is 0 there), is exp(-1.5)."""
    std = torch.full((1, 1), LOG_PROB).neg().exp() / (2 * torch.pi) ** 0.5
    return Gaussian(torch.zeros(1, 1), std)


@pytest.mark.parametrize(("pair", "expected"), [((1, 3), -19.513), ((2, 4), -25.453)])
def test_the_target_is_the_least_of_a_random_pair(pair, expected):
    zero = torch.zeros(1, 1)
    batch = Batch(zero, zero, torch.tensor([-1.0]), zero, torch.zeros(1), 0.99)
    noise = GivenNoise([zero, keys_for(*pair)])
    found = soft_target(lambda o, a: TARGETS, fixed_actor, batch, torch.tensor(0.2), noise, subset=2)
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_losses_by_hand():
    q = torch.tensor([-19.0, -20.0, -22.0, -18.0, -21.0]).unsqueeze(-1)
    assert critic_loss(q, torch.tensor([-19.513])).item() == pytest.approx(11.185845)
    zero = torch.zeros(1, 1)
    batch = Batch(zero, zero, zero[0], zero, zero[0], 0.99)
    noise = GivenNoise([zero])
    found, _ = actor_loss(fixed_actor, lambda o, a: q, batch, torch.tensor(0.2), noise, "mean")
    assert found.item() == pytest.approx(19.7)


def test_every_pair_is_as_likely_and_one_pair_serves_the_batch():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).unsqueeze(-1) * torch.ones(4, 3)
    noise = Noise(torch.Generator().manual_seed(0))
    drawn = torch.stack([least_of(values, 2, noise) for _ in range(6000)])
    assert (drawn == drawn[:, :1]).all()
    assert drawn.mean().item() == pytest.approx(
        sum(map(min, itertools.combinations(range(1, 5), 2))) / 6, abs=0.03
    )
    assert torch.equal(least_of(values, 0, noise), torch.ones(3))
    assert torch.equal(least_of(values, 4, noise), torch.ones(3))


def test_every_seed_draws_its_own_pair():
    values = torch.arange(10.0).unsqueeze(-1).expand(2, 10, 3)
    streams = tuple(torch.Generator().manual_seed(k) for k in range(2))
    together = [least_of(values, 2, Noise(streams))[:, 0] for _ in range(20)]
    for seed in range(2):
        alone = Noise(torch.Generator().manual_seed(seed))
        assert [least_of(values[seed], 2, alone)[0] for _ in range(20)] == [pair[seed] for pair in together]


def test_dropout_stands_before_the_norm():
    net = MLP(4, (4,), 1, layer_norm=True, dropout=0.01)
    kinds = [type(layer) for layer in net]
    assert kinds == [Linear, Dropout, LayerNorm, nn.ReLU, type(net.head)]
    norm, dropped = LayerNorm(4), torch.tensor([[1.0, 0.0, 3.0, 4.0]]) / 0.99
    found = norm(dropped).relu().flatten().tolist()
    assert found == pytest.approx([0, 0, 0.6324542923, 1.2649085846], abs=1e-6)


def test_actor_and_temperature_move_with_the_last_of_twenty_updates():
    agent = small_agent("sac", **load_preset("sac", "redq", "Hopper")[1], tau=0.005)
    still = agent.actor.trunk.head.weight.clone()
    head = agent.critic.trunk.head.weight.clone()
    for k in range(19):
        assert "loss/actor" not in agent.update(random_batch(seed=k))
    assert torch.equal(agent.actor.trunk.head.weight, still) and agent.log_alpha.item() == 0
    assert not torch.equal(agent.critic.trunk.head.weight, head)
    assert not torch.equal(agent.target_critic.trunk.head.weight, head)  # at every update
    assert "loss/actor" in agent.update(random_batch(seed=19))
    assert not torch.equal(agent.actor.trunk.head.weight, still) and agent.log_alpha.item() != 0
    assert agent.period == 20 and len(agent.critic(*two(random_batch()))) == 10


def test_twenty_updates_move_the_targets_by_a_tenth():
    """Were the critics' weights 1 and the targets' 0 all along: 1 - 0.995^20."""
    online, target = (nn.Linear(1, 1, bias=False) for _ in "ab")
    nn.init.ones_(online.weight)
    nn.init.zeros_(target.weight)
    for _ in range(20):
        polyak(target, online, SACConfig().tau)
    assert target.weight.item() == pytest.approx(0.0953895197)


def two(batch):
    return batch["observation"], batch["action"]


def test_dropout_is_part_of_targets_and_of_the_actors_critics_and_of_no_value():
    agent = small_agent("sac", layer_norm=True, dropout_critic=0.5)
    batch = random_batch()
    assert not torch.equal(agent.critic(*two(batch)), agent.critic(*two(batch)))
    before = agent.generators["learn"].get_state()
    first, second = (agent.state_value(batch["observation"]).value for _ in "ab")
    assert torch.equal(first, second)
    assert torch.equal(before, agent.generators["learn"].get_state())
    masks = []

    class Counting(Noise):
        def kept(self, like, rate):
            masks.append(rate)
            return super().kept(like, rate)

    agent.step(agent.read(batch), Counting(agent.generators["learn"]))
    assert masks == [0.5] * 6  # two layers in the target, in the critics' loss and in the actor's


@pytest.mark.parametrize("preset", ["redq", "droq"])
def test_the_loss_module_has_the_agents_gradients(preset):
    fields = {**load_preset("sac", preset, "HalfCheetah")[1], "delay": 1, "lr_critic": 1e-30}
    agent, twin = (small_agent("sac", **fields) for _ in "ab")
    module = SACLoss(twin.actor, twin.critic, twin.config, actions=2, generator=twin.generators["learn"])
    check_loss_module(module, agent, random_batch())


def test_a_subset_of_more_critics_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="target_subset = 3: must be at most critics = 2"):
        SACConfig(target_subset=3)


def test_presets_have_the_entropy_targets_of_mbpo():
    for preset in ("redq", "droq"):
        train, agent = load_preset("sac", preset, "HalfCheetah-v5")
        assert (train["updates_per_step"], agent["delay"], agent["target_entropy"]) == (20.0, 20, -3.0)
        assert load_preset("sac", preset, "Hopper")[0]["steps"] == 125_000
