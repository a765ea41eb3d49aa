"""CrossQ: batch renormalisation by hand and by TorchRL, losses and gradients equal to TorchRL's, presets."""

import copy

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torchrl.modules import BatchRenorm1d, TanhNormal
from torchrl.objectives import CrossQLoss as TorchRLCrossQ

from rlsuite.agents.crossq import CrossQConfig, CrossQLoss, joint_values
from rlsuite.agents.optim import Adam
from rlsuite.agents.sac import critic_loss
from rlsuite.blocks.batch_renorm import BatchRenorm, RenormMLP
from rlsuite.blocks.heads import Gaussian
from rlsuite.blocks.noise import GivenNoise, Noise
from rlsuite.presets import load_preset
from rlsuite.replay.batch import Batch
from rlsuite.training import state

pytestmark = pytest.mark.usefixtures("float64")

LEARNING = Noise(None)
FOUR = torch.tensor([[0.0], [2.0], [10.0], [12.0]], dtype=torch.float64)


def renorm(mean, var, **fields):
    layer = BatchRenorm(1, **fields)
    layer.mean.fill_(mean)
    layer.var.fill_(var)
    return layer


def test_before_the_warmup_it_is_batch_normalisation():
    layer = BatchRenorm(1)
    expected = torch.tensor([-1.1766741827, -0.7844494551, 0.7844494551, 1.1766741827]).unsqueeze(-1)
    torch.testing.assert_close(layer(FOUR, LEARNING), expected, rtol=0, atol=1e-10)
    assert layer.mean.item() == pytest.approx(0.06)
    assert layer.var.item() == pytest.approx(1.25)  # of the population: 26; torch's own would be 1.3367
    assert layer.passes.item() == 1
    torch.testing.assert_close(layer(FOUR), (FOUR - 0.06) / 1.251**0.5)
    assert layer.passes.item() == 1


@pytest.mark.parametrize(
    ("mean", "var", "expected"),
    [
        (5.0, 25.0, (-0.9999800006, -0.5999880004, 0.9999800006, 1.3999720008)),
        (0.0, 1.0, (1.4699774519, None, None, 8.5300225481)),
    ],
)
def test_behind_the_warmup_running_statistics_correct_it(mean, var, expected):
    found = renorm(mean, var, warmup=0)(FOUR, LEARNING).flatten().tolist()
    for value, wanted in zip(found, expected, strict=True):
        assert wanted is None or value == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("warmup", [0, 3])
def test_it_is_torchrls_batch_renorm(warmup):
    ours = BatchRenorm(5, warmup=warmup, eps=1e-5)
    theirs = BatchRenorm1d(5, warmup_steps=warmup, eps=1e-5).double()
    for k in range(5):  # TorchRL's factor grows beyond 1 at twice the warmup
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(k)) * (1 + k) + k
        mine, other = (x.clone().requires_grad_() for _ in "ab")
        found, expected = ours(mine, LEARNING), theirs(other)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        found.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours.mean, theirs.running_mean, rtol=1e-12, atol=1e-12)
        theirs.running_var.copy_(ours.var)  # theirs is corrected for the sample
    theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_rows_that_are_not_finite_leave_the_statistics_of_their_network_alone():
    layer = BatchRenorm(2, lead=(2,))
    x = torch.randn(2, 8, 2)
    x[0, 3, 1] = float("nan")
    layer(x, LEARNING)
    assert torch.equal(layer.mean[0], torch.zeros(2)) and torch.equal(layer.var[0], torch.ones(2))
    torch.testing.assert_close(layer.mean[1], 0.01 * x[1].mean(0))
    assert layer.passes.flatten().tolist() == [0, 1]


def test_target_and_loss_by_hand():
    batch = Batch(
        torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([1.0, 0.0]), torch.ones(2, 1),
        torch.tensor([0.0, 1.0]), 0.99,
    )  # fmt: skip
    seen = []

    def critic(observation, action, noise):
        seen.append(observation)
        return torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.5, 1.0, 2.5, 5.0]])

    def actor(observation):
        # log-density (before the tanh's term, which vanishes at 0) of -1 and 0.5
        density = torch.tensor([[-1.0], [0.5]])
        return Gaussian(torch.zeros(2, 1), (-density).exp() / (2 * torch.pi) ** 0.5)

    q, target = joint_values(critic, actor, batch, torch.tensor(0.2), GivenNoise([torch.zeros(2, 1)]))
    torch.testing.assert_close(target, torch.tensor([3.673, 0.0]))
    assert len(seen) == 1 and seen[0].flatten().tolist() == [0.0, 0.0, 1.0, 1.0]
    loss = critic_loss(q, target, CrossQConfig().critic_scale)
    assert loss.item() == pytest.approx(4.2167145)


class TheirNet(nn.Module):
    """A `RenormMLP` of one member, built of TorchRL's layers; in evaluation it uses running statistics."""

    def __init__(self, net, member=None):
        super().__init__()

        def of(tensor):
            return (tensor if member is None else tensor[member]).detach().clone()

        self.norms, self.layers = nn.ModuleList(), nn.ModuleList()
        for norm in net.norms:
            twin = BatchRenorm1d(norm.weight.shape[-1], eps=norm.eps, warmup_steps=norm.warmup).double()
            twin.running_mean.copy_(of(norm.mean))
            twin.running_var.copy_(of(norm.var))
            twin.weight.data.copy_(of(norm.weight))
            twin.bias.data.copy_(of(norm.bias))
            self.norms.append(twin)
        for layer in net.layers:
            twin = nn.Linear(*layer.weight.shape[-1:], layer.weight.shape[-2])
            twin.weight.data.copy_(of(layer.weight))
            twin.bias.data.copy_(of(layer.bias))
            self.layers.append(twin)

    def forward(self, *inputs):
        x = self.norms[0](torch.cat(inputs, -1))
        for layer, norm in zip(self.layers[:-1], self.norms[1:], strict=True):
            x = norm(layer(x).relu())
        return self.layers[-1](x)


class TheirActor(nn.Module):
    """The agent's actor without its statistics moving: TorchRL's loss has one mode for both passes."""

    def __init__(self, actor):
        super().__init__()
        self.actor = actor

    def forward(self, observation):
        return tuple(self.actor(observation))


@pytest.mark.parametrize("warmup", [0, 1000])
def test_losses_and_gradients_are_torchrls(warmup):
    """Critics in full; the actor by running statistics, which is TorchRL's network in evaluation mode."""
    agent = small_agent("crossq", critic_scale=1.0, renorm_warmup=warmup, hidden_actor=(8,))
    for k in range(4):  # statistics of some kind
        agent.update(random_batch(seed=k))
    config = CrossQConfig(critic_scale=1.0)
    ours = CrossQLoss(copy.deepcopy(agent.actor), copy.deepcopy(agent.critic), config, actions=2)
    policy = ProbabilisticTensorDictSequential(
        TensorDictModule(
            TheirActor(copy.deepcopy(agent.actor)), in_keys=["observation"], out_keys=["loc", "scale"]
        ),
        ProbabilisticTensorDictModule(
            in_keys=["loc", "scale"],
            out_keys=["action"],
            distribution_class=TanhNormal,
            distribution_kwargs={"low": -1, "high": 1, "tanh_loc": False, "event_dims": 1},
            return_log_prob=True,
        ),
    )
    members = [
        TensorDictModule(
            TheirNet(agent.critic.trunk, m),
            in_keys=["observation", "action"],
            out_keys=["state_action_value"],
        )
        for m in range(2)
    ]
    theirs = TorchRLCrossQ(policy, members, loss_function="l2", target_entropy=-2.0, num_qvalue_nets=2)
    theirs.make_value_estimator(gamma=0.99)
    batch = random_batch(32, seed=9)
    torch.manual_seed(5)
    expected = theirs(batch.clone())
    torch.manual_seed(5)
    found = ours(batch)
    torch.testing.assert_close(found["loss_critic"], expected["loss_qvalue"], rtol=1e-10, atol=1e-10)
    found["loss_critic"].backward()
    expected["loss_qvalue"].backward()
    grads = {
        key: p.grad
        for key, p in theirs.qvalue_network_params.flatten_keys(".").items()
        if getattr(p, "grad", None) is not None
    }
    compared = 0
    for key, parameter in ours.critic_params.flatten_keys(".").items():
        if parameter.grad is None:
            continue
        other = next(g for name, g in grads.items() if name.endswith(key.removeprefix("trunk.")))
        torch.testing.assert_close(parameter.grad, other, rtol=1e-10, atol=1e-12)
        compared += 1
    assert compared == 12  # weight and bias of three norms and three layers


def test_the_actors_loss_is_torchrls_formula_in_learning_mode():
    agent = small_agent("crossq", hidden_actor=(8,))
    for k in range(3):
        agent.update(random_batch(seed=k))
    before = {key: value.clone() for key, value in agent.actor.state_dict().items()}
    batch = random_batch(32, seed=4)
    module = CrossQLoss(agent.actor, agent.critic, agent.config, actions=2)
    torch.manual_seed(0)
    found = module(batch)["loss_actor"]
    torch.manual_seed(0)
    _, noise = (torch.empty(32, 2).normal_() for _ in range(2))  # of the next action, and of this
    actor = TheirNet(small_like(before))
    mean, raw = actor(batch["observation"]).chunk(2, -1)
    law = TanhNormal(mean, raw.clamp(-20, 2).exp(), low=-1, high=1, tanh_loc=False, event_dims=1)
    action = (mean + raw.clamp(-20, 2).exp() * noise).tanh()
    with module.critic_params.detach().to_module(module.critic):
        q = module.critic(batch["observation"], action).amin(0)
    alpha = module.log_alpha.exp().detach()
    torch.testing.assert_close(found, (alpha * law.log_prob(action) - q).mean(), rtol=1e-7, atol=1e-8)


def small_like(saved):
    """The trunk of the small actor with saved tensors."""
    net = RenormMLP(4, (8,), 4)
    net.load_state_dict({key.removeprefix("trunk."): value for key, value in saved.items()})
    return net


def test_the_loss_module_has_the_agents_gradients():
    agent, twin = (small_agent("crossq", lr_critic=1e-30, delay=1) for _ in "ab")
    module = CrossQLoss(twin.actor, twin.critic, twin.config, actions=2, generator=twin.generators["learn"])
    check_loss_module(module, agent, random_batch())


def test_statistics_are_saved_state_and_move_at_updates_alone():
    agent = small_agent("crossq")
    saved = set(state.agent_tensors(agent))
    for part in ("actor", "critic"):
        for name in ("mean", "var", "passes"):
            assert f"{part}.trunk.norms.0.{name}" in saved
    before = {name: t.clone() for name, t in agent.named_buffers()}
    agent.policy(random_batch())
    agent.values(random_batch())
    agent.state_value(random_batch()["observation"])
    assert all(torch.equal(t, before[name]) for name, t in agent.named_buffers())
    for _ in range(3):
        agent.update(random_batch())
    assert agent.critic.trunk.norms[0].passes.flatten().tolist() == [3, 3]  # one joint pass an update
    assert agent.actor.trunk.norms[0].passes.tolist() == [1]  # every third update


def test_a_seed_of_several_has_the_statistics_of_its_own_batch():
    agent = small_agent("crossq", lead=(2,))
    alone = BatchRenorm(4)
    batch = random_batch(lead=(2,))
    for _ in range(3):
        agent.update(batch)
    alone(batch["observation"][1], LEARNING)
    torch.testing.assert_close(agent.actor.trunk.norms[0].mean[1], alone.mean)
    assert agent.critic.trunk.norms[0].mean.shape == (2, 2, 6)


def test_adams_first_decay():
    ends = []
    for beta in (0.5, 0.9):
        p = nn.Parameter(torch.zeros(1))
        adam = Adam(([p], 1e-3), betas=(beta, 0.999))
        adam.descend((p * 1.0).sum())
        adam.descend((p * -1.0).sum())
        ends.append(p.item())
    assert ends == pytest.approx([-6.6666666e-4, -9.4736841e-4], rel=1e-6)


def test_presets():
    assert CrossQConfig().hidden == (2048, 2048)
    assert load_preset("crossq", "small", "Swimmer")[1] == {"hidden": [256, 256], "gamma": 0.9999}
