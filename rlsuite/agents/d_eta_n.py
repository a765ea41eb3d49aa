"""DηN: deep distributional value iteration with a stock, one agent for every first stock (arXiv 2501.13028).

Ávila Pires et al. 2025: quantiles of the return G(o, c, a) for discrete actions, greedy by E f(c + G), where
the stock c stands at the end of the observation. The choice depends on f and c, the regression does not. With
the utility `mean` it is QR-DQN (Dabney et al. 2018, arXiv 1710.10044). The paper's network and settings are
not published with its text that we have: they are our choice, docs/return_distributions.md.

Legend: N batch, O observation, A actions, K quantiles, m components of the stock (1 without a stock). Losses
are written for the last axes; leading axes are independent seeds, whose losses stay apart.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictParams
from torch import Tensor, nn
from torchrl.objectives import LossModule

from rlsuite.agents.base import Agent, Batch, Spaces, StateValue, Trained, check_range, columns
from rlsuite.agents.policies import policy_module
from rlsuite.agents.steps import adam, polyak, take_step
from rlsuite.blocks.convolution import ConvTrunk
from rlsuite.blocks.greedy import GreedyPolicy
from rlsuite.blocks.mlp import ACTIVATIONS, MLP, Activation, Linear
from rlsuite.blocks.noise import Source, uniform
from rlsuite.blocks.quantiles import greedy_quantiles, quantile_huber_loss, select
from rlsuite.errors import ConfigError
from rlsuite.returns.objectives import Exponential, Mean, Utility, check_discount, check_shaping, make_utility
from rlsuite.returns.stock import EMBEDDING_SIZE, embed, relabelled, split


@dataclass(frozen=True, slots=True, kw_only=True)
class DEtaNConfig:
    """Hyper-parameters of DηN; defaults for small tasks, after a follow-up's code (arXiv 2602.04131)."""

    utility: Literal["mean", "lower", "upper", "mean_cvar", "target", "range", "exponential", "norm"] = "mean"
    """f of stock + return, to be maximised in expectation; `mean` makes the agent QR-DQN."""
    level: float | None = None
    """Tail level tau of `mean_cvar`. With it, evaluations of `lower`, `upper` and `mean_cvar` choose the
    first stock for the best CVaR; without it they take the environment's."""
    weight: float = 0.5
    """Of the mean in `mean_cvar`."""
    goal: float = 0.0
    """Of `target` and lower end of `range`; under a discount the stock must hold it instead."""
    high: float = math.inf
    """Upper end of `range`."""
    rate: float = 1.0
    """Risk aversion of `exponential`."""
    shaped: bool = False
    """Learn the law of the rewards gamma f(c') - f(c) and maximise its mean: the baseline without return
    distributions, right for homogeneous utilities."""
    quantiles: int = 128
    """Quantiles of the return, K."""
    kappa: float = 0.1
    """Where the quantile loss turns from square to linear, in units of the return; 0 is linear everywhere."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the trunk's layers; the last is also the width at which the stock comes in."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    normalize_observations: bool = False
    """Feed the trunk observations in running deviations from their running mean; the stock stays as it is."""
    gamma: float = 0.99
    """Discount per env step; that of the stock."""
    tau: float = 0.01
    """Polyak rate of the target network."""
    lr_critic: float = 1e-3
    """Learning rate."""
    adam_eps: float = 1e-4
    """Adam's epsilon; about 0.01 / batch size."""
    edited: float = 0.5
    """Share of replayed rows that get another stock, uniform within the return's bound."""
    average_ties: bool = False
    """Where actions are equally good for f, learn the mean of their quantiles instead of the first one's."""
    mean_bonus: float = 0.0
    """Weight of the mean return in choosing an action, a tie-break where f is flat."""
    epsilon_start: float = 1.0
    """Share of random actions at first."""
    epsilon_final: float = 0.05
    """Share of random actions in the end."""
    epsilon_updates: int = 10_000
    """Updates over which that share falls."""
    stock_candidates: int = 201
    """First stocks that an evaluation with `level` compares."""

    def __post_init__(self) -> None:
        """Raise ValueError for values outside their range, ConfigError for a utility that gamma forbids."""
        check_range("gamma", self.gamma, 0, 1, open_low=True)
        check_range("tau", self.tau, 0, 1, open_low=True)
        for name in ("lr_critic", "adam_eps"):
            check_range(name, getattr(self, name), 0, math.inf, open_low=True)
        for name in ("kappa", "mean_bonus"):
            check_range(name, getattr(self, name), 0, math.inf)
        for name in ("edited", "epsilon_start", "epsilon_final", "weight"):
            check_range(name, getattr(self, name), 0, 1)
        for name in ("quantiles", "epsilon_updates", "stock_candidates"):
            check_range(name, getattr(self, name), 1, math.inf)
        if self.level is not None:
            check_range("level", self.level, 0, 1, open_low=True)
            if self.utility not in ("lower", "upper", "mean_cvar"):
                raise ConfigError(f"level = {self.level} is of CVaR; utility {self.utility} has no tail")
        if not self.hidden:
            raise ConfigError("hidden is empty: at least one layer takes the stock")
        check_discount(self.objective(), self.gamma)
        if self.shaped:
            check_shaping(self.objective(), self.gamma)

    def objective(self) -> Utility:
        """Return the utility that the fields describe."""
        if self.utility == "mean_cvar" and self.level is None:
            raise ConfigError("utility mean_cvar needs a level, e.g. --agent.level 0.25")
        tau = 1.0 if self.level is None else self.level
        numbers = {"weight": self.weight, "goal": self.goal, "high": self.high, "rate": self.rate}
        return make_utility(self.utility, tau=tau, **numbers)


class Stocked(NamedTuple):
    """Replayed rows with their stocks `[N, m]`, and the rewards by component `[N, m]`."""

    rows: Batch
    stock: Tensor
    next_stock: Tensor
    reward: Tensor


def expected_utility(utility: Utility, stock: Tensor, theta: Tensor) -> Tensor:
    """Mean over the quantiles of f(c + theta), `[*, A]` float64, for c `[*, m]` and theta `[*, A, K, m]`.

    In double precision: c may be far greater than the differences between actions. Quantiles of several
    components are marginal: right for utilities that are sums over components.
    """
    total = stock.double().unsqueeze(-2).unsqueeze(-2) + theta.double()
    return utility(total if utility.vector else total.squeeze(-1)).mean(-1)


def quantile_target(batch: Stocked, following: Tensor) -> Tensor:
    """Target samples r + gamma (1 - terminated) theta', `[N, K, m]`; a truncated row bootstraps."""
    discount = batch.rows.discount * (1 - batch.rows.terminated)
    return batch.reward.unsqueeze(-2) + discount[..., None, None] * following


def edit_stocks(batch: Stocked, bound: Tensor, share: float, generator: Source) -> Stocked:
    """Give a share of the rows a stock uniform in [-bound, bound]; rewards stay as they are."""
    draw = uniform(batch.stock.new_empty(*batch.stock.shape[:-1], 1 + batch.stock.shape[-1]), generator)
    fresh = bound * (2 * draw[..., 1:] - 1)
    discount = batch.rows.discount
    wide = discount.unsqueeze(-1) if isinstance(discount, Tensor) else discount
    stock, following = relabelled(batch.stock, batch.next_stock, wide, fresh, draw[..., :1] < share)
    return batch._replace(stock=stock, next_stock=following)


class StockQuantiles(nn.Module):
    """Quantiles of the return by action: a trunk sees the observation, the stock's features come in after it.

    Features are relu(W_o trunk(o) + W_c phi(c)), then one hidden layer and a linear head.

    Args:
        spaces: sizes, and the shape of pictures.
        config: widths.
        outputs: components of the return, m.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    bound: Tensor

    def __init__(
        self, spaces: Spaces, config: DEtaNConfig, outputs: int, *, lead: tuple[int, ...], generator: Source
    ) -> None:
        super().__init__()
        self.shape = (spaces.action, config.quantiles, outputs)
        self.size = 0 if spaces.stock is None else spaces.stock.size
        shared: dict[str, Any] = {"activation": config.activation, "lead": lead, "generator": generator}
        *hidden, width = config.hidden
        shown = spaces.observation - self.size
        if spaces.picture is not None:
            self.trunk: nn.Module = ConvTrunk(spaces.picture, hidden, width, **shared)
        else:
            self.trunk = MLP(shown, hidden, width, **shared)
        if spaces.stock is not None:
            self.embedding = Linear(EMBEDDING_SIZE * self.size, width, lead=lead, generator=generator)
            self.register_buffer("bound", torch.tensor(spaces.stock.bound), persistent=False)
        self.activation = ACTIVATIONS[config.activation]()
        self.head = MLP(width, (width,), math.prod(self.shape), **shared)

    def forward(self, shown: Tensor, stock: Tensor) -> Tensor:
        """Return `[*lead, N, A, K, m]` for what is shown `[*lead, N, O - m]` and stocks `[*lead, N, m]`."""
        features = self.trunk(shown)
        if self.size:
            features = features + self.embedding(embed(stock, self.bound))
        return self.head(self.activation(features)).to(shown.dtype).unflatten(-1, self.shape)


def action_values(utility: Utility, stock: Tensor, theta: Tensor, config: DEtaNConfig) -> Tensor:
    """Worth of every action, `[*, A]` float64, at stocks `[*, m]` with quantiles `[*, A, K, m]`."""
    mean = theta.double().mean(-2).sum(-1)
    if config.shaped:
        return mean
    return expected_utility(utility, stock, theta) + config.mean_bonus * mean


@torch.no_grad()
def sample_target(
    target_critic: Callable[[Tensor, Tensor], Tensor], batch: Stocked, utility: Utility, config: DEtaNConfig
) -> Tensor:
    """Give the target samples `[N, K, m]`: the target network chooses by f at (o', c') and tells the law."""
    theta = target_critic(batch.rows.next_observation, batch.next_stock)
    value = action_values(utility, batch.next_stock, theta, config)
    return quantile_target(batch, greedy_quantiles(theta, value, config.average_ties))


def stocked(
    rows: Batch, size: int, utility: Utility, config: DEtaNConfig, edit: Callable[[Stocked], Stocked]
) -> Stocked:
    """Take replayed rows apart and give some another stock.

    Args:
        rows: observations with `size` components of a stock at their end; none is a stock of 0.
        size: m, or 0.
        utility: of the shaped reward.
        config: whether rewards are shaped.
        edit: changes stocks.
    """
    shown, stock = split(rows.observation, size)
    next_shown, following = split(rows.next_observation, size)
    reward = rows.reward.unsqueeze(-1)
    if not size:
        stock = following = torch.zeros_like(reward)
    discount = rows.discount.unsqueeze(-1) if isinstance(rows.discount, Tensor) else rows.discount
    if size > 1:
        reward = discount * following - stock  # the vector's components, which no row holds
    batch = Stocked(rows._replace(observation=shown, next_observation=next_shown), stock, following, reward)
    if size:
        batch = edit(batch)
    if config.shaped:
        pair = (batch.stock.double(), batch.next_stock.double())
        if not utility.vector:
            pair = (pair[0].squeeze(-1), pair[1].squeeze(-1))
        paid = (rows.discount * utility(pair[1]) - utility(pair[0])).to(reward.dtype)
        batch = batch._replace(reward=paid.unsqueeze(-1))
    return batch


class DEtaNLoss(LossModule):
    """DηN's loss for any TorchRL loop: `loss_critic` of a replayed batch.

    The target network is TorchRL's (`target_critic_params`, moved by `torchrl.objectives.SoftUpdate`).

    Args:
        critic: quantiles by action, as `StockQuantiles`.
        config: hyper-parameters; learning rate and exploration are the caller's business.
        generator: stock editing; None is torch's global stream.
    """

    critic_params: TensorDictParams
    target_critic_params: TensorDictParams

    def __init__(self, critic: StockQuantiles, config: DEtaNConfig, *, generator: Source = None) -> None:
        super().__init__()
        self.in_keys = [
            "observation",
            "action",
            *(("next", k) for k in ("observation", "reward", "terminated")),
        ]
        self.out_keys = ["loss_critic"]
        self.config, self.generator = config, generator
        self.utility, self.size = config.objective(), critic.size
        self.bound = critic.bound.clone() if critic.size else None
        self.convert_to_functional(critic, "critic", create_target_params=True)

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the loss."""
        config = self.config

        def edit(batch: Stocked) -> Stocked:
            assert self.bound is not None
            return edit_stocks(batch, self.bound, config.edited, self.generator)

        rows = columns(tensordict, config.gamma)
        batch = stocked(rows, self.size, self.utility, config, edit)
        with self.target_critic_params.to_module(self.critic):
            target = sample_target(self.critic, batch, self.utility, config)
        with self.critic_params.to_module(self.critic):
            theta = self.critic(batch.rows.observation, batch.stock)
        taken = select(theta, rows.action.argmax(-1))
        return TensorDict({"loss_critic": quantile_huber_loss(taken, target, config.kappa)})


class DEtaN(Agent):
    """The learner: quantiles of the return by action, and their target.

    Args:
        spaces: sizes, pictures and the stock of the environment; actions are discrete.
        config: hyper-parameters.
        generators: streams "init", "act" and "learn"; see `rlsuite.agents.base.make_generators`.
        device: where parameters live.
        lead: leading axes of independent seeds; batches then carry them too.

    Raises:
        ConfigError: the environment has no stock and the utility needs one, or another discount, or a stock
            of several components that the utility cannot take.
    """

    Config: ClassVar[type] = DEtaNConfig
    discrete: ClassVar[bool] = True
    bound: Tensor

    def __init__(
        self,
        spaces: Spaces,
        config: DEtaNConfig,
        generators: Mapping[str, Source],
        *,
        device: torch.device | str = "cpu",
        lead: tuple[int, ...] = (),
    ) -> None:
        super().__init__(spaces, config, generators, device=device, lead=lead)
        self.utility, self.level = config.objective(), config.level
        self.size = check_stock(spaces, config, self.utility)
        outputs = 1 if config.shaped else max(1, self.size)
        with torch.device(device):
            self.critic = StockQuantiles(
                spaces, config, outputs, lead=lead, generator=self.generators["init"]
            )
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_parameters = list(self.critic.parameters())
        self.target_parameters = list(self.target_critic.parameters())
        self.critic_optimizer = adam((self.critic_parameters, config.lr_critic))
        for group in self.critic_optimizer.param_groups:
            group["eps"] = config.adam_eps
        greedy = GreedyPolicy(self.worth, self.generators["act"], config.epsilon_start).to(device)
        self.policy = policy_module(greedy)

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
            return action_values(self.utility, stock, theta, self.config)

    def batch(self, batch: TensorDictBase, *, observe: bool = True, edited: bool = True) -> Stocked:
        """Read replayed rows: the trunk's observations normalised, the stocks as they are or edited."""
        rows = self.rows(batch, observe=observe)
        if self.normalizer is not None and self.size:
            rows = rows._replace(
                observation=self._raw_stock(rows.observation, batch.get("observation")),
                next_observation=self._raw_stock(rows.next_observation, batch.get(("next", "observation"))),
            )
        share = self.config.edited if edited else 0.0

        def edit(found: Stocked) -> Stocked:
            return edit_stocks(found, self.critic.bound, share, self.generators["learn"]) if share else found

        return stocked(rows, self.size, self.utility, self.config, edit)

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One step of quantile regression, of the target network and of the exploration."""
        config, rows = self.config, self.batch(batch)
        target = sample_target(self.target_critic, rows, self.utility, config)
        taken = select(self.critic(rows.rows.observation, rows.stock), rows.rows.action.argmax(-1))
        loss = quantile_huber_loss(taken, target, config.kappa)
        metrics = {
            "loss/critic": loss.detach(),
            "q/mean": taken.detach().mean(-2).sum(-1).mean(-1),
            "q/std": taken.detach().std(-2).mean((-2, -1)),
        }
        metrics["grad_norm/critic"] = take_step(self.critic_optimizer, loss, self.critic_parameters)
        polyak(self.target_parameters, self.critic_parameters, config.tau)
        policy = self.policy.module
        with torch.no_grad():  # in place and on the device: a captured update follows it
            fall = (config.epsilon_start - config.epsilon_final) / config.epsilon_updates
            policy.epsilon.sub_(fall).clamp_(*sorted((config.epsilon_start, config.epsilon_final)))
        metrics["epsilon"] = policy.epsilon.clone()
        self.update_count += 1
        return metrics

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the mean return of the replayed action as `q` and its distance to the target, `[N]`."""
        rows = self.batch(batch, observe=False, edited=False)
        target = sample_target(self.target_critic, rows, self.utility, self.config)
        taken = select(self.critic(rows.rows.observation, rows.stock), rows.rows.action.argmax(-1))
        q = taken.mean(-2).sum(-1)
        return TensorDict({"q": q, "td_error": target.mean(-2).sum(-1) - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue | None:
        """Value observations `[*lead, N, O]` by the greedy action's mean return; None with shaped rewards."""
        if self.config.shaped:
            return None
        stock, theta = self.quantiles(observation)
        best = action_values(self.utility, stock, theta, self.config).argmax(-1)
        value = select(theta, best).mean(-2).sum(-1)
        return StateValue(value, torch.zeros_like(value))

    @torch.no_grad()
    def expected_utility(self, observation: Tensor) -> Tensor:
        """Return what the agent expects of f(c + G), `[*lead, N]` float64, at observations with a stock."""
        stock, theta = self.quantiles(observation)
        if self.config.shaped:
            own = stock.double() if self.utility.vector else stock.double().squeeze(-1)
            return self.utility(own) + theta.double().mean(-2).sum(-1).amax(-1)
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
            """Of stocks `[*lead]`."""
            rows = observation.clone()
            rows[..., -1] = stock.unsqueeze(-1)
            return sign * (self.expected_utility(rows).mean(-1) / scale - stock.double())

        lead = observation.shape[:-2]
        found = torch.stack([objective(stock.expand(lead)) for stock in grid])
        value, place = found.max(0)
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

    def parts(self) -> tuple[Trained, ...]:
        """The network with its optimiser, and its target."""
        return (
            Trained("critic", self.critic, self.critic_optimizer),
            Trained("target_critic", self.target_critic, None),
        )

    def _raw_stock(self, normalized: Tensor, raw: Tensor) -> Tensor:
        return torch.cat((split(normalized, self.size)[0], split(raw, self.size)[1]), -1)


def check_stock(spaces: Spaces, config: DEtaNConfig, utility: Utility) -> int:
    """Return the number of components of the stock, 0 without one; ConfigError where they do not fit."""
    space = spaces.stock
    if space is None:
        if not isinstance(utility, Mean | Exponential):
            raise ConfigError(
                f"utility {config.utility} depends on the stock, and the environment has none: "
                "use --env stock:ID, or --agent.utility mean"
            )
        return 0
    if space.gamma != config.gamma:
        raise ConfigError(
            f"the stock is divided by {space.gamma}, the agent discounts by {config.gamma}: give "
            f"--env-option stock_gamma={config.gamma}, or --agent.gamma {space.gamma}"
        )
    if space.size > 1 and not utility.vector:
        raise ConfigError(
            f"utility {config.utility} takes one number, the stock has {space.size} components: use norm"
        )
    return space.size
