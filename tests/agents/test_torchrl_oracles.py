"""SAC's and TD3's losses and gradients against TorchRL's own, same parameters and noise, float64."""

import math

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from tensordict.nn import InteractionType, TensorDictModule
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss as TorchRLSACLoss
from torchrl.objectives import TD3Loss as TorchRLTD3Loss

from rlsuite.agents.losses import sample_action, smoothed_action
from rlsuite.agents.sac import SACLoss, soft_target
from rlsuite.agents.td3 import TD3Config, TD3Loss, smoothed_target
from rlsuite.blocks.heads import Gaussian
from rlsuite.blocks.noise import GivenNoise, Noise
from rlsuite.replay.batch import unpack

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:.*target network updater.*"),
    pytest.mark.filterwarnings("ignore:.*annotations.*"),
]
GAMMA = 0.99


class Member(nn.Module):
    """One member of stacked twin critics as a plain network: (observation, action) -> [N, 1]."""

    def __init__(self, critic: nn.Module, index: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for layer in critic.trunk:
            if hasattr(layer, "weight"):
                outputs, inputs = layer.weight.shape[-2:]
                plain = nn.Linear(inputs, outputs)
                plain.weight.data.copy_(layer.weight[index])
                plain.bias.data.copy_(layer.bias[index])
                layer = plain
            self.layers.append(layer)

    def forward(self, observation, action):
        return self.layers(torch.cat((observation, action), -1))


def members(critic):
    return [ValueOperator(Member(critic, i), in_keys=["observation", "action"]) for i in range(2)]


def replace_normal(monkeypatch, draws):
    """Give torch.distributions the draws in turn."""
    queue = list(draws)
    monkeypatch.setattr(
        "torch.distributions.normal._standard_normal",
        lambda shape, dtype, device: queue.pop(0).reshape(shape),
    )


def test_sac(monkeypatch):
    agent = small_agent("sac", alpha_init=0.3)
    batch = random_batch(64)
    g = torch.Generator().manual_seed(5)
    noise = {name: torch.randn(64, 2, generator=g) for name in ("now", "next")}

    actor = ProbabilisticActor(
        TensorDictModule(agent.actor, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -1, "high": 1, "tanh_loc": False},
        spec=Bounded(-1, 1, (2,), dtype=torch.float64),
        return_log_prob=True,
        default_interaction_type=InteractionType.RANDOM,
    )
    oracle = TorchRLSACLoss(
        actor, members(agent.critic), loss_function="l2", alpha_init=0.3, target_entropy=-2.0
    )
    oracle.make_value_estimator(gamma=GAMMA)
    replace_normal(monkeypatch, [noise["next"], noise["now"]])
    expected = oracle(batch.clone())
    (expected["loss_qvalue"] + expected["loss_actor"] + expected["loss_alpha"]).backward()

    replace_normal(monkeypatch, [])
    module = SACLoss(agent.actor, agent.critic, agent.config, actions=2)
    module.noise = GivenNoise([noise["next"], noise["now"]])
    found = module(batch)
    for ours, theirs in (("critic", "qvalue"), ("actor", "actor"), ("alpha", "alpha")):
        torch.testing.assert_close(
            found[f"loss_{ours}"], expected[f"loss_{theirs}"].reshape(()), rtol=1e-6, atol=1e-8
        )
    (found["loss_critic"] + found["loss_actor"] + found["loss_alpha"]).backward()
    check_member_gradients(module, oracle)
    ours = {".".join(k): v.grad for k, v in module.actor_params.items(True, True)}
    theirs = {
        ".".join(k): v.grad for k, v in oracle.actor_network_params.items(True, True) if v.grad is not None
    }
    for name, gradient in ours.items():
        match = next(v for k, v in theirs.items() if k.endswith(name))
        torch.testing.assert_close(gradient, match, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(module.log_alpha.grad.reshape(()), oracle.log_alpha.grad.reshape(()))


def check_member_gradients(module, oracle):
    ours = {".".join(k[1:]): v.grad for k, v in module.critic_params.items(True, True)}
    theirs = {".".join(k[-2:]): v.grad for k, v in oracle.qvalue_network_params.items(True, True)}
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-6, atol=1e-8)


def test_td3(monkeypatch):
    agent = small_agent("td3")
    batch = random_batch(64)
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(5))
    actor = TensorDictModule(agent.actor, in_keys=["observation"], out_keys=["action"])
    oracle = TorchRLTD3Loss(
        actor,
        members(agent.critic),
        bounds=(-1.0, 1.0),
        loss_function="l2",
        policy_noise=0.2,
        noise_clip=0.5,
        delay_actor=True,
    )
    oracle.make_value_estimator(gamma=GAMMA)
    with monkeypatch.context() as patch:
        patch.setattr("torch.randn", lambda *a, **k: noise)
        patch.setattr("torch.randn_like", lambda *a, **k: noise)
        patch.setattr("torch.normal", lambda mean, std, *a, **k: mean + std * noise)
        expected = oracle(batch.clone())
    (expected["loss_qvalue"] + expected["loss_actor"]).backward()

    module = TD3Loss(agent.actor, agent.critic, agent.config)
    module.noise = GivenNoise([noise])
    found = module(batch)
    torch.testing.assert_close(found["loss_critic"], expected["loss_qvalue"].reshape(()))
    torch.testing.assert_close(found["loss_actor"], expected["loss_actor"].reshape(()))
    (found["loss_critic"] + found["loss_actor"]).backward()
    check_member_gradients(module, oracle)
    theirs = {
        ".".join(k): v.grad for k, v in oracle.actor_network_params.items(True, True) if v.grad is not None
    }
    for key, value in module.actor_params.items(True, True):
        match = next(v for k, v in theirs.items() if k.endswith(".".join(key)))
        torch.testing.assert_close(value.grad, match)


def test_targets_bootstrap_on_termination_alone():
    batch = random_batch(64)
    rows = unpack(batch, GAMMA)
    q = torch.ones(2, 64) * torch.tensor([[3.0], [2.0]])
    expected = torch.where(batch["next", "terminated"], 0.0, 1.0).squeeze(-1)
    assert batch["next", "truncated"].any()
    reward = batch["next", "reward"].squeeze(-1)
    action = torch.zeros(64, 2)

    def critic(observation, action):
        return q

    bellman = smoothed_target(
        lambda shown: action, critic, rows, TD3Config(gamma=GAMMA), GivenNoise([action])
    )
    torch.testing.assert_close(bellman, reward + GAMMA * expected * 2)
    # In the middle of this Gaussian before the tanh the log-density of both actions together is 0.5.
    gaussian = Gaussian(action, torch.full_like(action, math.exp(-0.25) / math.sqrt(2 * math.pi)))
    soft = soft_target(critic, lambda shown: gaussian, rows, torch.tensor(0.1), GivenNoise([action]))
    torch.testing.assert_close(soft, reward + GAMMA * expected * (2 - 0.05))


def test_td3_smoothing_clips_noise_and_action():
    action = torch.tensor([0.0, 0.9, -0.9])
    noise = torch.tensor([10.0, 1.0, -1.0])
    assert smoothed_action(action, noise, 0.2, 0.5).tolist() == pytest.approx([0.5, 1.0, -1.0])


def test_sac_action_and_density_match_torchrl():
    agent = small_agent("sac")
    observation = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    action, log_prob = sample_action(agent.actor, observation, Noise(torch.Generator().manual_seed(2)))
    gaussian = agent.actor(observation)
    oracle = TanhNormal(gaussian.mean, gaussian.std, low=-1, high=1, tanh_loc=False, event_dims=1)
    torch.testing.assert_close(log_prob, oracle.log_prob(action), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_the_loss_module_has_the_agents_gradients(name):
    """The critics' learning rate is tiny: the modules' actor loss reads them before their step."""
    agent, twin = (
        small_agent(name, lr_critic=1e-30, **({"delay": 1} if name == "td3" else {})) for _ in "ab"
    )
    generator = twin.generators["learn"]
    if name == "sac":
        module = SACLoss(twin.actor, twin.critic, twin.config, actions=2, generator=generator)
    else:
        module = TD3Loss(twin.actor, twin.critic, twin.config, generator=generator)
    check_loss_module(module, agent, random_batch())
