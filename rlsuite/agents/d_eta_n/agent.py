"""DηN: deep distributional value iteration with a stock, one agent for every first stock (arXiv 2501.13028).

Ávila Pires et al. 2025: quantiles of the return G(o, c, a) for discrete actions, greedy by E f(c + G), where
the stock c stands at the end of the observation. The choice depends on f and c, the regression does not. With
the utility `mean` it is QR-DQN (Dabney et al. 2018, arXiv 1710.10044). The paper's network and settings are
not published with its text that we have: they are our choice, docs/return_distributions.md.

Legend: N batch, O observation, A actions, K quantiles, m components of the stock (1 without a stock). Losses
are written for the last axes; leading axes are independent seeds, whose losses stay apart.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.agents.base import Agent, Spaces, StateValue
from rlsuite.agents.d_eta_n.config import DEtaNConfig
from rlsuite.agents.d_eta_n.model import StockQuantiles
from rlsuite.agents.d_eta_n.stock import (
    Stocked,
    action_values,
    check_stock,
    choosable,
    edit_stocks,
    expected_utility,
    sample_target,
    stocked,
)
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import make_optimizer
from rlsuite.agents.policies import policy_module
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.greedy import GreedyPolicy
from rlsuite.blocks.noise import Noise, Source
from rlsuite.blocks.quantiles import quantile_huber_loss, select
from rlsuite.replay.batch import Batch, unpack
from rlsuite.returns.stock import split

UNTOLD_UPDATES = 20_000  # length of a run that does not say how long it is


def critic_loss(
    critic: Callable[[Tensor, Tensor], Tensor], batch: Stocked, target: Tensor, config: DEtaNConfig
) -> tuple[Tensor, Tensor]:
    """Return the quantile Huber loss at the replayed actions, and their quantiles `[N, K, m]`."""
    theta = critic(batch.rows.observation, batch.stock)
    taken = select(theta, batch.rows.action.argmax(-1))
    return quantile_huber_loss(taken, target, config.kappa), taken


class DEtaN(Agent):
    """The learner: quantiles of the return by action, and their target.

    Raises:
        ConfigError: the environment has no stock and the utility needs one, or another discount, or a stock
            of several components that the utility cannot take.
    """

    Config: ClassVar[type] = DEtaNConfig
    discrete: ClassVar[bool] = True

    def build(self, spaces: Spaces, config: DEtaNConfig) -> None:
        """Make the network, its target and the epsilon-greedy policy."""
        self.utility, self.level = config.objective(), config.level
        self.size = check_stock(spaces, config, self.utility)
        outputs = 1 if config.shaped else max(1, self.size)
        init = self.generators["init"]
        self.critic = StockQuantiles(spaces, config, outputs, lead=self.lead, generator=init)
        rate = config.lr_critic
        self.critic_optimizer = make_optimizer(
            self, config, (list(self.critic.parameters()), rate), eps=config.adam_eps
        )
        self.add_parts(self.critic_optimizer, critic=self.critic)
        self.target_critic = self.add_target("target_critic", self.critic)
        acts, epsilon = self.generators["act"], config.epsilon_start
        self.policy = policy_module(GreedyPolicy(self.worth, acts, epsilon, mask=spaces.masked))
        self.begin(UNTOLD_UPDATES)

    def begin(self, updates: int) -> None:
        """Let exploration end within its share of a run of so many updates."""
        config = self.config
        span = config.epsilon_updates or max(1.0, config.epsilon_share * updates)
        self.epsilon_fall = (config.epsilon_start - config.epsilon_final) / span

    def quantiles(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return stocks `[*lead, N, m]` and quantiles `[*lead, N, A, K, m]` at raw observations."""
        _, stock = split(observation, self.size)
        shown, _ = split(self.normalized(observation), self.size)
        if not self.size:
            stock = torch.zeros_like(observation[..., :1])
        return stock, self.critic(shown, stock)

    def worth(self, observation: Tensor) -> Tensor:
        """Return the worth of every action at raw observations, `[*lead, N, A]` float64, without gradient."""
        with torch.no_grad():
            stock, theta = self.quantiles(observation)
            worth = action_values(self.utility, stock, theta, self.config)
            return choosable(worth, observation, self.critic.mask)

    def stocked(self, batch: Batch, noise: Noise | None, *, observe: bool = False) -> Stocked:
        """Return transitions with their stocks: the trunk's observations normalised, the stocks as they are.

        Args:
            batch: as replayed.
            noise: of the stocks' edits; None edits none.
            observe: the observations move the running statistics.
        """
        shown = self.normalized_batch(batch, observe=observe)
        if self.normalizer is not None and self.size:
            shown = shown._replace(
                observation=self._raw_stock(shown.observation, batch.observation),
                next_observation=self._raw_stock(shown.next_observation, batch.next_observation),
            )
        share = self.config.edited if noise is not None else 0.0

        def edit(plain: Stocked) -> Stocked:
            return edit_stocks(plain, self.critic.bound, share, noise) if noise and share else plain

        return stocked(shown, self.size, self.utility, self.config, edit)

    def step(self, batch: Batch, noise: Noise, **phase: Any) -> dict[str, Tensor]:
        """Edit stocks, which no statistics normalise, and learn from the batch."""
        return self.learn(self.stocked(batch, noise, observe=True), noise, **phase)

    def learn(self, batch: Stocked, noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Do one step of quantile regression, of the target network and of the exploration."""
        config = self.config
        mask = self.critic.mask
        target = sample_target(self.target_critic, batch, self.utility, config, mask=mask)
        loss, taken = critic_loss(self.critic, batch, target, config)
        metrics = {
            "loss/critic": loss.detach(),
            "q/mean": taken.detach().mean(-2).sum(-1).mean(-1),
            "q/std": taken.detach().std(-2).mean((-2, -1)),
        }
        metrics["grad_norm/critic"] = self.critic_optimizer.descend(loss)
        polyak(self.target_critic, self.critic, config.tau)
        epsilon = self.policy.module.epsilon
        with torch.no_grad():  # in place and on the device: a compiled or captured update follows it
            epsilon.sub_(self.epsilon_fall).clamp_(*sorted((config.epsilon_start, config.epsilon_final)))
        metrics["epsilon"] = epsilon.clone()
        return metrics

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the mean return of the replayed action as `q` and its distance to the target, `[N]`."""
        tensors = self.stocked(self.read(batch), None)
        mask = self.critic.mask
        target = sample_target(self.target_critic, tensors, self.utility, self.config, mask=mask)
        _, taken = critic_loss(self.critic, tensors, target, self.config)
        q = taken.mean(-2).sum(-1)
        return TensorDict({"q": q, "td_error": target.mean(-2).sum(-1) - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue | None:
        """Value observations `[*lead, N, O]` by the greedy action's mean return; None with shaped rewards."""
        if self.config.shaped:
            return None
        stock, theta = self.quantiles(observation)
        worth = action_values(self.utility, stock, theta, self.config)
        best = choosable(worth, observation, self.critic.mask).argmax(-1)
        value = select(theta, best).mean(-2).sum(-1)
        return StateValue(value, torch.zeros_like(value))

    @torch.no_grad()
    def expected_utility(self, observation: Tensor) -> Tensor:
        """Return what the agent expects of f(c + G), `[*lead, N]` float64, at observations with a stock."""
        stock, theta = self.quantiles(observation)
        if self.config.shaped:
            outcome = stock.double() if self.utility.vector else stock.double().squeeze(-1)
            return self.utility(outcome) + theta.double().mean(-2).sum(-1).amax(-1)
        return expected_utility(self.utility, stock, theta).amax(-1)

    @torch.no_grad()
    def first_stock(self, observation: Tensor) -> Tensor | None:
        """Choose the first stock for the best CVaR at `level`, `[*lead, 1]`; None where none is to be chosen.

        The objective -c_0 + E f(c_0 + G) / tau is averaged over the first observations, as c_0 is chosen
        before they are seen, and compared on a grid. A lower tail's choice is then refined by minus the
        tau-quantile of the return (Rockafellar and Uryasev 2000), where the agent finds that better.

        The attribute `level` may be set anew: one agent of `lower` or `upper` serves all levels.

        Args:
            observation: first observations `[*lead, N, O]`, with any stocks.
        """
        config = self.config
        if self.level is None or self.spaces.stock is None:
            return None
        low, high = self.spaces.stock.low[0], self.spaces.stock.high[0]
        grid = torch.linspace(low, high, config.stock_candidates, device=observation.device)
        sign = -1 if config.utility == "upper" else 1
        scale = 1.0 if config.utility == "mean_cvar" else self.level

        def objective(stock: Tensor) -> Tensor:
            """Return the objective's value from initial stocks `[*lead]`."""
            rows = observation.clone()
            rows[..., -1] = stock.unsqueeze(-1)
            return sign * (self.expected_utility(rows).mean(-1) / scale - stock.double())

        lead = observation.shape[:-2]
        values = torch.stack([objective(stock.expand(lead)) for stock in grid])
        value, place = values.max(0)
        best = grid[place]
        if config.utility == "lower":
            rows = observation.clone()
            rows[..., -1] = best.unsqueeze(-1)
            stock, theta = self.quantiles(rows)
            law = select(theta, action_values(self.utility, stock, theta, config).argmax(-1))
            every = law.flatten(-3).sort(-1).values  # of all first observations together, [*lead, N K]
            refined = -every[..., max(0, math.ceil(self.level * every.shape[-1]) - 1)]
            refined = refined.clamp(low, high)  # beyond, no stock was learnt from
            best = torch.where(objective(refined) > value, refined, best)
        return best.unsqueeze(-1)

    def _raw_stock(self, normalized: Tensor, raw: Tensor) -> Tensor:
        return torch.cat((split(normalized, self.size)[0], split(raw, self.size)[1]), -1)


class DEtaNLoss(AgentLoss):
    """DηN's loss for any TorchRL loop: `loss_critic` of a replayed batch.

    The target network is TorchRL's (`target_critic_params`, moved by `torchrl.objectives.SoftUpdate`).

    Args:
        critic: quantiles by action, as `StockQuantiles`.
        config: hyper-parameters; learning rate and exploration are the caller's business.
        generator: stock editing; None is torch's global stream.
    """

    def __init__(self, critic: StockQuantiles, config: DEtaNConfig, *, generator: Source = None) -> None:
        super().__init__({"critic": critic}, ("critic",), ["loss_critic"], generator)
        self.config = config
        self.utility, self.size, self.mask = config.objective(), critic.size, critic.mask
        self.bound = critic.bound.clone() if critic.size else None

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the loss."""
        config = self.config

        def edit(batch: Stocked) -> Stocked:
            assert self.bound is not None
            return edit_stocks(batch, self.bound, config.edited, self.noise)

        batch = stocked(unpack(tensordict, config.gamma), self.size, self.utility, config, edit)
        target_critic = self.net("critic", target=True)
        target = sample_target(target_critic, batch, self.utility, config, mask=self.mask)
        return TensorDict({"loss_critic": critic_loss(self.net("critic"), batch, target, config)[0]})
