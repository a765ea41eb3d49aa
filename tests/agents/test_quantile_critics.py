"""TQC and quantile DSAC: numbers by hand, TorchRL's TQC, plain programs of a few updates, presets."""

import itertools
import math

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from references import Adam, Net, draw, follow, frozen, rows_of, softplus, tanh_action
from tensordict.nn import InteractionType, TensorDictModule
from test_torchrl_oracles import Member, check_member_gradients, replace_normal
from torchrl.data import Bounded
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import TQCLoss as TorchRLTQCLoss

from rlsuite.agents.optim import descend_alpha
from rlsuite.agents.quantile_dsac import QuantileDSACConfig, QuantileDSACLoss, smaller_mean, smaller_quantiles
from rlsuite.agents.tqc import (
    TQCConfig,
    TQCLoss,
    actor_loss,
    critic_loss,
    mean_of_all,
    quantile_target,
    truncated,
)
from rlsuite.blocks.heads import Gaussian
from rlsuite.blocks.noise import GivenNoise
from rlsuite.errors import ConfigError
from rlsuite.presets import load_preset
from rlsuite.replay.batch import Batch
from rlsuite.strict import from_mapping

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:.*target network updater.*"),
    pytest.mark.filterwarnings("ignore:.*annotations.*"),
]


def members(*rows):
    """Quantiles `[M, 1, K]` of one row."""
    return torch.tensor(rows)[:, None]


def target(theta, pool, config):
    """The target at r 1, gamma 0.9 and alpha log pi -0.5, `[J]`."""
    std = torch.full((1, 2), math.exp(0.25) / math.sqrt(2 * math.pi))  # log pi = -0.5
    gaussian = Gaussian(torch.zeros(1, 2), std)
    batch = Batch(*(torch.zeros(1, 1),) * 2, torch.ones(1), torch.zeros(1, 1), torch.zeros(1), 0.9)
    networks = (lambda rows: gaussian), (lambda rows, action: theta)
    noise = GivenNoise([torch.zeros(1, 2)])
    return quantile_target(*networks, batch, torch.ones(1), config, noise, pool)


def test_tqcs_target_pools_all_members_before_it_drops():
    theta = members((1.0, 5.0, 9.0), (2.0, 4.0, 20.0))
    config = TQCConfig(quantiles=3, critics=2, drop=1)
    assert truncated(theta, config)[0].tolist() == [1, 2, 4, 5]
    assert target(theta, truncated, config)[0].tolist() == pytest.approx([2.35, 3.25, 5.05, 5.95])
    everything = truncated(theta, TQCConfig(quantiles=3, critics=2, drop=0))
    assert sorted(everything[0].tolist()) == [1, 2, 4, 5, 9, 20]
    assert truncated(members((3.0, 1.0, 2.0)), TQCConfig(quantiles=3, critics=1, drop=2)).tolist() == [[1.0]]


def test_tqcs_loss_and_gradients():
    theta = members((0.0, 3.0, 6.0), (1.0, 2.0, 8.0)).requires_grad_()
    y = torch.tensor([[2.35, 3.25, 5.05, 5.95]])
    loss = critic_loss(theta, y)
    assert loss.item() == pytest.approx(1.07796875)  # TorchRL's; the authors' mean over members is half of it
    (gradient,) = torch.autograd.grad(loss / 2, theta)
    expected = [-0.0277777778, -0.0333333333, 0.0208333333, -0.0277777778, -0.0697916667, 0.0277777778]
    assert gradient.flatten().tolist() == pytest.approx(expected)


def test_the_actor_follows_the_mean_of_all_quantiles():
    theta = members((0.0, 3.0, 6.0), (1.0, 2.0, 8.0))
    assert mean_of_all(theta).item() == pytest.approx(3.3333333333)
    std = torch.full((1, 2), math.exp(0.65) / math.sqrt(2 * math.pi))  # log pi = -1.3
    networks = (lambda rows: Gaussian(torch.zeros(1, 2), std)), (lambda rows, action: theta)
    batch = Batch(*(torch.zeros(1, 1),) * 6)
    noise = GivenNoise([torch.zeros(1, 2)])
    loss, log_prob = actor_loss(*networks, batch, torch.tensor([0.2]), noise, mean_of_all)
    assert log_prob.item() == pytest.approx(-1.3)
    assert loss.item() == pytest.approx(-3.5933333333)
    assert smaller_mean(theta).item() == pytest.approx(3.0)


def test_quantile_dsacs_target_is_the_smaller_of_every_pair():
    theta = members((1.0, 3.0, 6.0), (2.0, 2.0, 7.0))
    config = QuantileDSACConfig(quantiles=3)
    assert smaller_quantiles(theta, config)[0].tolist() == [1, 2, 6]
    y = target(theta, smaller_quantiles, config)
    assert y[0].tolist() == pytest.approx([2.35, 3.25, 6.85])
    assert critic_loss(members((0.0, 3.0, 6.0)), y).item() == pytest.approx(0.5358101852)
    assert smaller_quantiles(theta, config).mean() <= smaller_mean(theta)


def test_the_plain_step_of_the_temperature():
    """Entropy -4 where -6 is wanted: alpha falls from 0.2."""
    log_alpha = torch.tensor([math.log(0.2)])
    descend_alpha(log_alpha, torch.full((8,), 4.0), -6.0, 3e-4)
    assert log_alpha.exp().item() == pytest.approx(0.1998800360, abs=1e-10)


@pytest.mark.parametrize("drop", [0, 1])
def test_tqc_is_torchrls(monkeypatch, drop):
    agent = small_agent("tqc", quantiles=5, critics=3, drop=drop, alpha_init=0.3)
    batch = random_batch(64)
    g = torch.Generator().manual_seed(5)
    noise = [torch.randn(64, 2, generator=g) for _ in range(2)]
    actor = ProbabilisticActor(
        TensorDictModule(agent.actor, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -1, "high": 1, "tanh_loc": False},
        spec=Bounded(-1, 1, (2,), dtype=torch.float64),
        return_log_prob=True,
        default_interaction_type=InteractionType.RANDOM,
    )
    networks = [ValueOperator(Member(agent.critic, i), in_keys=["observation", "action"]) for i in range(3)]
    oracle = TorchRLTQCLoss(
        actor,
        networks,
        num_qvalue_nets=3,
        top_quantiles_to_drop_per_net=drop,
        alpha_init=0.3,
        target_entropy=-2.0,
    )
    oracle.make_value_estimator(gamma=0.99)
    replace_normal(monkeypatch, noise)
    expected = oracle(batch.clone())
    (expected["loss_qvalue"] + expected["loss_actor"] + expected["loss_alpha"]).backward()
    module = TQCLoss(agent.actor, agent.critic, agent.config, actions=2)
    module.noise = GivenNoise(noise)
    found = module(batch)
    for ours, theirs in (("critic", "qvalue"), ("actor", "actor"), ("alpha", "alpha")):
        torch.testing.assert_close(
            found[f"loss_{ours}"], expected[f"loss_{theirs}"].reshape(()), rtol=1e-10, atol=1e-12
        )
    (found["loss_critic"] + found["loss_actor"] + found["loss_alpha"]).backward()
    check_member_gradients(module, oracle)
    theirs = {
        ".".join(k): v.grad for k, v in oracle.actor_network_params.items(True, True) if v.grad is not None
    }
    for key, value in module.actor_params.items(True, True):
        match = next(v for k, v in theirs.items() if k.endswith(".".join(key)))
        torch.testing.assert_close(value.grad, match, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(module.log_alpha.grad.reshape(()), oracle.log_alpha.grad.reshape(()))


class Program:
    """Both algorithms by loops over critics and quantiles, with an Adam for each network."""

    def __init__(self, agent, smaller):
        self.c, self.smaller = agent.config, smaller
        self.actor = Net(agent.actor.trunk)
        self.critics = [Net(agent.critic.trunk, m) for m in range(self.c.critics)]
        self.targets = [frozen(net) for net in self.critics]
        self.log_alpha = torch.full((1,), math.log(self.c.alpha_init), requires_grad=True)
        self.critic_adams = [Adam(net.parameters, self.c.lr_critic) for net in self.critics]
        self.actor_adam = Adam(self.actor.parameters, self.c.lr_actor)
        self.alpha_adam = Adam([self.log_alpha], self.c.lr_alpha)

    def policy(self, s, stream):
        mean, raw = self.actor(s).chunk(2, -1)
        std = raw.clamp(-20, 2).exp() if self.c.actor_std == "exp" else softplus(raw.clamp(min=-5))
        return tanh_action(mean, std, draw(mean, stream))

    def kept(self, outputs):
        """Target quantiles of one row, of every critic's."""
        if self.smaller:
            return [min(pair) for pair in zip(*outputs, strict=True)]
        pooled = sorted(itertools.chain(*outputs))
        return pooled[: len(pooled) - self.c.drop * len(outputs)]

    def update(self, rows, stream):
        alpha = self.log_alpha.detach().exp()
        levels = (torch.arange(self.c.quantiles) + 0.5) / self.c.quantiles
        with torch.no_grad():
            action, log_prob = self.policy(rows.s_next, stream)
            outputs = [net(torch.cat((rows.s_next, action), -1)) for net in self.targets]
            later = torch.tensor([self.kept([o[n].tolist() for o in outputs]) for n in range(len(rows.s))])
            later = later - (alpha * log_prob)[:, None]
            y = rows.r[:, None] + self.c.gamma * (1 - rows.d)[:, None] * later
        gradients = []
        for net in self.critics:
            q, loss = net(torch.cat((rows.s, rows.a), -1)), 0.0
            for j in range(y.shape[1]):
                error = y[:, j : j + 1] - q
                huber = torch.where(error.abs() <= 1, 0.5 * error**2, error.abs() - 0.5)
                loss = loss + (torch.where(error < 0, 1 - levels, levels) * huber).mean() / y.shape[1]
            gradients.append(torch.autograd.grad(loss, net.parameters))
        action, log_prob = self.policy(rows.s, stream)
        means = torch.stack([net(torch.cat((rows.s, action), -1)).mean(-1) for net in self.critics])
        value = means.min(0).values if self.smaller else means.mean(0)
        self.actor_adam.descend((alpha * log_prob - value).mean())
        gap = log_prob.detach().mean() - rows.a.shape[-1]
        if self.c.alpha_step == "adam":
            self.alpha_adam.descend(-(self.log_alpha * gap).sum())
        elif self.c.alpha_step == "sgd":
            with torch.no_grad():
                self.log_alpha += self.c.lr_alpha * gap
        for adam, gradient in zip(self.critic_adams, gradients, strict=True):
            adam.step(gradient)
        for old, new in zip(self.targets, self.critics, strict=True):
            follow(old, new, self.c.tau)

    def pairs(self, agent):
        yield agent.log_alpha, self.log_alpha
        yield from zip(agent.actor.parameters(), self.actor.parameters, strict=True)
        for network, nets in ((agent.critic, self.critics), (agent.target_critic, self.targets)):
            stacked = [torch.stack(ps) for ps in zip(*(net.parameters for net in nets), strict=True)]
            yield from zip(network.parameters(), stacked, strict=True)


RATES = {"lr_critic": 1e-3, "lr_actor": 1e-3, "lr_alpha": 1e-2, "quantiles": 7}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tqc", {"critics": 3, "drop": 2}),
        ("tqc", {"critics": 2, "drop": 0, "layer_norm": True}),
        ("quantile_dsac", {}),
        ("quantile_dsac", {"alpha_step": "fixed"}),
    ],
)
def test_updates_are_those_of_a_plain_program(name, fields):
    agent = small_agent(name, **RATES, **fields)
    reference = Program(agent, name == "quantile_dsac")
    stream = torch.Generator()
    stream.set_state(agent.generators["learn"].get_state())
    before = agent.log_alpha.item()
    for k in range(20):
        batch = random_batch(8, seed=k)
        agent.update(batch)
        reference.update(rows_of(batch), stream)
    for ours, theirs in reference.pairs(agent):
        assert (ours - theirs).norm() <= 1e-11 * theirs.norm()
    assert torch.equal(stream.get_state(), agent.generators["learn"].get_state())
    assert (agent.log_alpha.item() == before) == (agent.config.alpha_step == "fixed")


@pytest.mark.parametrize(("name", "loss"), [("tqc", TQCLoss), ("quantile_dsac", QuantileDSACLoss)])
def test_the_loss_module_has_the_agents_gradients(name, loss):
    agent, twin = (small_agent(name, quantiles=5) for _ in "ab")
    module = loss(twin.actor, twin.critic, twin.config, actions=2, generator=twin.generators["learn"])
    check_loss_module(module, agent, random_batch())


def test_presets_are_the_sources():
    for env, drop in (("Hopper-v5", 5), ("HalfCheetah-v5", 0), ("Walker2d-v5", 2), ("Ant-v5", 2)):
        train, fields = load_preset("tqc", "default", env)
        config = from_mapping(TQCConfig, fields, "preset")
        assert (config.drop, config.critics, config.quantiles, config.alpha_init) == (drop, 5, 25, 1.0)
        assert (config.hidden, config.hidden_actor) == ((512,) * 3, (256,) * 2)
        assert train["warmup_steps"] == 10_000
    train, fields = load_preset("quantile_dsac", "default", "Swimmer-v4")
    config = from_mapping(QuantileDSACConfig, fields, "preset")
    assert (train["warmup_policy"], config.target_entropy, config.alpha_step) == ("tanh_normal", -1.0, "sgd")
    assert (config.layer_norm, config.actor_std, config.evaluation) == (True, "softplus", "mean")
    _, fields = load_preset("quantile_dsac", "fixed_alpha", "Humanoid-v5")
    assert (fields["alpha_init"], fields["alpha_step"]) == (0.05, "fixed")


def test_dropping_all_quantiles_is_refused():
    with pytest.raises(ConfigError, match="drop = 25 of 25"):
        TQCConfig(drop=25)
