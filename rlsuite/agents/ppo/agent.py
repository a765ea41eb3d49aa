"""PPO: proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347), in CleanRL's form.

The details that matter (Huang et al. 2022, "The 37 implementation details of PPO") are fields. What differs
from CleanRL is said in docs/ppo.md: statistics that stand still within a rollout, and time limits that are
bootstrapped.

Legend: N minibatch, T vector steps, B envs, R = T B rows of a rollout, O observation, A action. Losses are
written for the last axis; leading axes are independent seeds, whose losses stay apart.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite import distributed as ranks
from rlsuite.agents.advantages import generalised_advantages, sums_so_far
from rlsuite.agents.base import OnPolicyAgent, Spaces, StateValue
from rlsuite.agents.optimizers import make_optimizer
from rlsuite.agents.policies import policy_module
from rlsuite.agents.ppo.config import PPOConfig
from rlsuite.agents.ppo.model import HIDDEN_GAIN, Law, PPOActor, entropy, log_prob, ppo_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.heads import ValueNetwork
from rlsuite.blocks.mlp import orthogonal_
from rlsuite.blocks.noise import Noise, Source
from rlsuite.blocks.normalizer import RunningNorm
from rlsuite.replay.rollout import Steps

SMALL = 1e-8  # added to a std, or below the root of a variance, before it divides; CleanRL, Gymnasium
FIRST_COUNT = 1e-4  # of the returns' statistics, with mean 0 and variance 1; Gymnasium's NormalizeReward


class Losses(NamedTuple):
    """Parts of the loss and what is logged of them, `[*lead]` each; the last two have no gradient."""

    actor: Tensor
    critic: Tensor
    entropy: Tensor
    kl: Tensor
    clipped: Tensor


def mean(x: Tensor, weight: Tensor) -> Tensor:
    """Return the mean over `[N]` of the rows whose weight is 1 and not 0."""
    return (weight * x).sum(-1) / weight.sum(-1).clamp(min=1)


def standardised(advantage: Tensor, weight: Tensor) -> Tensor:
    """Return advantages `[N]` less their mean over their std, of the rows whose weight is 1 (unbiased)."""
    rows = weight.sum(-1, keepdim=True)
    centred = advantage - ranks.mean(mean(advantage, weight).unsqueeze(-1))
    var = ranks.mean((weight * centred.square()).sum(-1, keepdim=True) / (rows - 1).clamp(min=1))
    return centred / (var.sqrt() + SMALL)


def ppo_losses(law: Law, value: Tensor, batch: dict[str, Tensor], config: PPOConfig) -> Losses:
    """Return the clipped surrogate (equation 7), the value loss and the entropy of a minibatch.

    Args:
        law: of actions at the observations, with gradient.
        value: V at the observations, `[N]`, with gradient.
        batch: `action` `[N, A]`, and `log_prob`, `value`, `advantage`, `target`, `weight`, `[N]` each.
        config: hyper-parameters.
    """
    weight, advantage = batch["weight"], batch["advantage"]
    if config.normalize_advantages:
        advantage = standardised(advantage, weight)
    log_ratio = log_prob(law, batch["action"]) - batch["log_prob"]
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - config.clip, 1 + config.clip)
    actor = -mean(torch.minimum(advantage * ratio, advantage * bounded), weight)
    error = (value - batch["target"]).square()
    if config.clip_value:
        near = batch["value"] + (value - batch["value"]).clamp(-config.clip, config.clip)
        error = torch.maximum(error, (near - batch["target"]).square())
    with torch.no_grad():
        kl = mean(ratio - 1 - log_ratio, weight)  # Schulman's estimate, which is never negative
        clipped = mean(((ratio - 1).abs() > config.clip).to(ratio.dtype), weight)
    return Losses(actor, 0.5 * mean(error, weight), mean(entropy(law), weight), kl, clipped)


def total_loss(losses: Losses, config: PPOConfig) -> Tensor:
    """Return what is descended, `[*lead]`."""
    return losses.actor + config.value_coef * losses.critic - config.entropy_coef * losses.entropy


class PPO(OnPolicyAgent):
    """The learner: an actor, a value network, and running statistics of observations and returns."""

    Config: ClassVar[type] = PPOConfig
    discrete: ClassVar[bool | None] = None
    rate: Tensor

    def build(self, spaces: Spaces, config: PPOConfig) -> None:
        """Make actor, value network, their optimiser and the returns' statistics."""
        shape = self.net_shape()
        log_std = None if spaces.discrete else config.log_std
        self.actor = PPOActor(
            spaces.observation,
            spaces.action,
            shape,
            head_gain=config.head_gain,
            log_std=log_std,
            mask=spaces.masked,
        )
        self.critic = ValueNetwork(spaces.observation, shape)
        orthogonal_(self.critic, HIDDEN_GAIN, self.generators["init"])
        orthogonal_(self.critic.trunk.head, 1.0, self.generators["init"])
        self.returns = RunningNorm(1, lead=self.lead)
        self.returns.count.fill_(FIRST_COUNT)
        self.register_buffer("rate", torch.tensor(config.lr, dtype=torch.float32))
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = make_optimizer(self, config, (parameters, self.rate), eps=config.adam_eps)
        self.add_parts(self.optimizer, actor=self.actor, critic=self.critic)
        self.policy = policy_module(ppo_policy(self.actor, self.generators["act"], self.normalizer))
        self.updates_to_come = 0

    def begin(self, updates: int) -> None:
        """Let the learning rate fall over so many updates."""
        self.updates_to_come = updates

    def read(self, batch: Any) -> Any:
        """Return a minibatch as it is: columns by name."""
        return batch

    def step(self, batch: dict[str, Tensor], noise: Noise, **phase: Any) -> dict[str, Tensor]:
        """Learn from a minibatch; the statistics stand still until `after_rollout`."""
        return self.learn({**batch, "observation": self.normalized(batch["observation"])}, noise)

    def learn(self, batch: dict[str, Tensor], noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Step actor and value network together."""
        law, value = self.actor(batch["observation"]), self.critic(batch["observation"])
        losses = ppo_losses(law, value, batch, self.config)
        norm = self.optimizer.descend(total_loss(losses, self.config), self.config.max_grad_norm)
        return {
            "loss/actor": losses.actor.detach(),
            "loss/critic": losses.critic.detach(),
            "entropy": losses.entropy.detach(),
            "kl": losses.kl,
            "clip_share": losses.clipped,
            "grad_norm/all": norm,
        }

    @torch.no_grad()
    def study(self, steps: Steps, carried: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
        """Return log-densities, values, advantages and targets of a rollout under the policy that made it.

        Returns:
            `log_prob`, `value`, `advantage`, `target` and `weight` (0 for rows that are not valid), each
            `[*lead, R]`; and the discounted return so far, `[*lead, B]`.
        """
        config, shape = self.config, steps.reward.shape[-2:]
        if config.anneal and self.updates_to_come:
            self.rate.fill_(config.lr * max(0.0, 1 - self.update_count / self.updates_to_come))
        reward, carried = self.scaled_reward(steps, carried)
        observation = self.normalized(steps.observation.flatten(-3, -2))
        value = self.critic(observation)
        next_value = self.critic(self.normalized(steps.next_observation.flatten(-3, -2)))
        advantage = generalised_advantages(
            steps,
            reward,
            value.unflatten(-1, shape),
            next_value.unflatten(-1, shape),
            config.gamma,
            config.gae_lambda,
        ).flatten(-2)
        columns = {
            "log_prob": log_prob(self.actor(observation), steps.action.flatten(-3, -2)),
            "value": value,
            "advantage": advantage,
            "target": advantage + value,
            "weight": steps.valid.flatten(-2),
        }
        return columns, carried

    def scaled_reward(self, steps: Steps, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a rollout's rewards as the agent learns from them, and the discounted return so far.

        The statistics of returns take the rollout in first: its own rewards are scaled by it, too.
        """
        config = self.config
        before = torch.zeros_like(steps.reward[..., 0, :]) if carried is None else carried
        total, carried = sums_so_far(steps.reward, steps.done, config.gamma, before)
        if not config.scale_rewards:
            return steps.reward, carried
        self.returns.observe(total.flatten(-2).unsqueeze(-1))
        scaled = steps.reward / self.return_std().unsqueeze(-1)
        return scaled.clamp(-config.reward_clip, config.reward_clip), carried

    def return_std(self) -> Tensor:
        """Return the std of discounted returns, `[*lead, 1]`."""
        return (self.returns.var + SMALL).sqrt()

    def after_rollout(self, steps: Steps) -> None:
        """Show the observations to the running statistics, which the next rollout is made with."""
        if isinstance(self.normalizer, RunningNorm):
            self.normalizer.observe(steps.observation.flatten(-3, -2))

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` in the environment's rewards."""
        value = self.critic(self.normalized(observation))
        if self.config.scale_rewards:
            value = value * self.return_std()
        return StateValue(value, torch.zeros_like(value))


class PPOLoss(AgentLoss):
    """PPO's losses as a TorchRL LossModule: `loss_actor`, `loss_critic`, `loss_entropy`, to be added up.

    It reads what TorchRL's policies and its GAE leave in a batch: `action_log_prob`, `state_value`,
    `advantage`, `value_target`. Coefficients are in the losses.

    Args:
        actor: observation -> distribution, as `rlsuite.agents.ppo.model.PPOActor`.
        critic: observation -> value, as `rlsuite.blocks.heads.ValueNetwork`.
        config: hyper-parameters; learning rate and the gradient's norm are the caller's business.
        generator: unused, as the losses draw nothing.
    """

    def __init__(
        self, actor: PPOActor, critic: ValueNetwork, config: PPOConfig, *, generator: Source = None
    ) -> None:
        outputs = ["loss_actor", "loss_critic", "loss_entropy"]
        super().__init__({"actor": actor, "critic": critic}, (), outputs, generator)
        self.in_keys = [
            "observation",
            "action",
            "action_log_prob",
            "state_value",
            "advantage",
            "value_target",
        ]
        self.config = config

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        advantage = tensordict.get("advantage").squeeze(-1)
        batch = {
            "action": tensordict.get("action"),
            "log_prob": tensordict.get("action_log_prob"),
            "value": tensordict.get("state_value").squeeze(-1),
            "advantage": advantage,
            "target": tensordict.get("value_target").squeeze(-1),
            "weight": torch.ones_like(advantage),
        }
        observation, config = tensordict.get("observation"), self.config
        losses = ppo_losses(self.net("actor")(observation), self.net("critic")(observation), batch, config)
        return TensorDict(
            {
                "loss_actor": losses.actor,
                "loss_critic": config.value_coef * losses.critic,
                "loss_entropy": -config.entropy_coef * losses.entropy,
            }
        )
