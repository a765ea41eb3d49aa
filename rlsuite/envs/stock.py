"""Stock augmentation: the observation ends with a stock that says what the return so far should be added to.

c_0 is drawn at each episode's start, c' = (c + r) / gamma after each step, so that an agent that maximises
E f(c + G) at every step maximises E f(c_0 + G_0) of the whole episode (rlsuite.returns.objectives).
`stock:ID` wraps any environment of ours; `StockTransform` does the same to any of TorchRL's.

Legend: B envs, m components of the stock.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.transforms import Transform

from rlsuite.envs.base import Outcome, VectorEnv, take
from rlsuite.envs.seeding import (
    EPISODE_SEEDS,
    WORDS,
    Seeds,
    make_generators,
    pack_generators,
    unpack_generators,
)
from rlsuite.envs.wrapped import WrappedEnv
from rlsuite.errors import ConfigError
from rlsuite.returns.objectives import check_shaping, make_utility, shaped_reward
from rlsuite.returns.stock import EMBEDDING_SIZE, StockSpace, advance, default_range, embed


@dataclass(frozen=True, slots=True, kw_only=True)
class StockOptions:
    """Options of `stock:ID`, each written with the prefix `stock_`."""

    gamma: float | None = None
    """Discount that the stock is divided by: the agent's own. None: 1 for RiskyGrid and Homeostasis, 0.99 for
    all others."""
    low: float | tuple[float, ...] | None = None
    """Least first stock, of each component; None: minus the greatest return of environments that know it."""
    high: float | tuple[float, ...] | None = None
    """Greatest first stock, of each component; where it is the least, too, it is always the same."""
    shaped: str = ""
    """Name of a utility f: rewards become gamma f(c') - f(c), for agents that know nothing of stocks."""
    embedded: bool = False
    """Show the stock's features for networks instead of the stock itself, for such agents."""

    def __post_init__(self) -> None:
        """Raise ValueError for a discount that cannot be divided by."""
        if self.gamma is not None and not 0 < self.gamma <= 1:
            raise ValueError(f"stock_gamma = {self.gamma} is outside (0, 1]: the stock is divided by it")


class StockEnv(WrappedEnv):
    """An environment with a stock at the end of its observation; see `VectorEnv` for the contract.

    The stock after an episode's last step stands in ("next", "observation"); a reset draws a new one. A
    reward that is not a number makes the row invalid, as everywhere: it cannot enter a sample. Stocks stay
    within +-1e30.

    Args:
        inner: the environment inside, simulated on the host.
        options: discount and first stocks.
        seed: of env 0, env i using seed + i; or one for every env. First stocks have streams of their own:
            the inner environment's episodes are what they are without a stock.

    Raises:
        ConfigError: first stocks that are not finite or not known, a utility that cannot be shaped, an engine
            on a device.
    """

    def __init__(self, inner: VectorEnv, options: StockOptions, seed: Seeds = 0) -> None:
        if inner.facts.on_device:
            raise ConfigError(f"{inner.env_id} on the engine warp cannot have a stock: use --engine native")
        if inner.env_id.startswith("stock:"):
            raise ConfigError(f"{inner.env_id} has a stock already: one is enough")
        if inner.facts.private:
            raise ConfigError(f"{inner.env_id} tells critics more than actors, and cannot have a stock")
        if inner.facts.masked or inner.facts.pixels is not None:
            raise ConfigError(f"{inner.env_id} shows a mask of actions or pictures, and cannot have a stock")
        space = _space(inner, options)
        width = space.size * (EMBEDDING_SIZE if options.embedded else 1)
        facts = replace(
            inner.facts,
            env_id=f"stock:{inner.env_id}",
            observation_size=inner.facts.observation_size + width,
            stock=None if options.embedded or options.shaped else space,
        )
        super().__init__(inner, facts)
        self.space, self.options = space, options
        self._utility = make_utility(options.shaped) if options.shaped else None
        if self._utility is not None:
            check_shaping(self._utility, space.gamma)
        self._low = torch.tensor(space.low, dtype=torch.float64)
        self._high = torch.tensor(space.high, dtype=torch.float64)
        self._bound = torch.tensor(space.bound, dtype=torch.float64)
        self._stock = torch.zeros(inner.num_envs, space.size, dtype=torch.float64)
        self._set_seed(seed)

    @property
    def stocks(self) -> Tensor:
        """Return the current stocks, `[B, m]` float64."""
        return self._stock.clone()

    def restock(self, row: TensorDictBase, stock: Tensor | Sequence[float]) -> TensorDictBase:
        """Choose the stocks of all envs, right after a reset; return its row with them.

        Args:
            row: what `reset` returned.
            stock: `[m]`, or one for each env, `[B, m]`.

        Raises:
            ConfigError: a stock is not finite.
        """
        wanted = torch.as_tensor(stock, dtype=torch.float64, device="cpu")
        if not bool(wanted.isfinite().all()):
            raise ConfigError(f"first stocks {wanted.tolist()}: must be finite")
        self._stock = wanted.expand(self._stock.shape).clone()
        shown = row.get("observation").clone()
        features = self._features()
        shown[..., shown.shape[-1] - features.shape[-1] :] = features.to(shown)
        return row.set("observation", shown)

    def _set_seed(self, seed: Seeds) -> None:
        self.inner._set_seed(seed)
        self._generators = make_generators(_own_seeds(seed, self.num_envs), self.num_envs)

    def _advance(self, action: np.ndarray) -> Outcome:
        outcome = self.inner._advance(action)
        reward = torch.from_numpy(outcome.reward if outcome.rewards is None else outcome.rewards)
        before = self._stock
        self._stock = advance(before, reward.double().reshape(before.shape), self.space.gamma)
        if self._utility is not None:
            pair = (before, self._stock) if self._utility.vector else (before[:, 0], self._stock[:, 0])
            paid = shaped_reward(self._utility, *pair, self.space.gamma)
            outcome = outcome._replace(reward=paid.numpy())
        return outcome._replace(observation=self._shown(outcome.observation))

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        observation = self.inner._restart(mask)
        self._stock = self._stock.clone()  # the old one may have been handed out
        for index in np.flatnonzero(mask):
            draw = torch.from_numpy(self._generators[index].random(self.space.size))
            self._stock[index] = self._low + (self._high - self._low) * draw
        return self._shown(observation)

    def _features(self) -> Tensor:
        return embed(self._stock, self._bound) if self.options.embedded else self._stock

    def _shown(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate((observation, self._features().numpy()), -1)

    def _own_state(self) -> dict[str, Tensor]:
        inner = {f"inner/{key}": value for key, value in self.inner._own_state().items()}
        return inner | {"stock": self._stock.clone(), "stock_generators": pack_generators(self._generators)}

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        stock = take(state, "stock", self._stock.shape)
        generators = unpack_generators(take(state, "stock_generators", (self.num_envs, WORDS)))
        prefix = "inner/"
        self.inner._load_own_state(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
        self._stock, self._generators = stock.double(), generators


class StockTransform(Transform):
    """TorchRL transform that adds the entry `stock` `[*, m]` to resets and steps.

    c' = (c + r) / gamma; first stocks are uniform between `low` and `high`. Agents of this package want the
    stock in the observation: follow it with `CatTensors(["observation", "stock"], "observation")`.

    Args:
        gamma: discount.
        low: least first stock of each component.
        high: greatest first stock of each component.
        generator: draws the first stocks; None is torch's global stream.
        reward_key: entry of the rewards, `[*, m]`.
    """

    def __init__(
        self,
        gamma: float,
        low: Sequence[float],
        high: Sequence[float],
        *,
        generator: torch.Generator | None = None,
        reward_key: str = "reward",
    ) -> None:
        super().__init__(in_keys=[reward_key], out_keys=["stock"])
        self.space = checked_space(gamma, tuple(low), tuple(high))
        self.generator = generator

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        stock = tensordict.get("stock")
        reward = next_tensordict.get(self.in_keys[0]).to(stock)
        return next_tensordict.set("stock", advance(stock, reward, self.space.gamma))

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        low, high = torch.tensor(self.space.low), torch.tensor(self.space.high)
        draw = torch.rand(*tensordict_reset.batch_size, self.space.size, generator=self.generator)
        fresh = (low + (high - low) * draw).to(tensordict_reset.device)
        mask = tensordict.get("_reset", None)
        before = tensordict.get("stock", None)
        if mask is not None and before is not None:
            fresh = torch.where(mask.reshape(*mask.shape[: fresh.ndim - 1], 1), fresh, before)
        return tensordict_reset.set("stock", fresh)

    def transform_observation_spec(self, observation_spec: TensorSpec) -> TensorSpec:
        """Add the stock's own spec."""
        assert isinstance(observation_spec, Composite)
        shape = (*observation_spec.shape, self.space.size)
        observation_spec["stock"] = Unbounded(shape, dtype=torch.float32, device=observation_spec.device)
        return observation_spec


def checked_space(gamma: float, low: tuple[float, ...], high: tuple[float, ...]) -> StockSpace:
    """Return the space of stocks; raise ConfigError for ranges that are not finite or upside down."""
    if len(low) != len(high) or not low:
        raise ConfigError(f"stock_low {low} and stock_high {high} must have the same number of components")
    for least, greatest in zip(low, high, strict=True):
        if not (math.isfinite(least) and math.isfinite(greatest) and least <= greatest):
            raise ConfigError(f"first stocks from {least} to {greatest}: must be finite, the least one first")
    if not 0 < gamma <= 1:
        raise ConfigError(f"stock gamma = {gamma}: must be in (0, 1]")
    return StockSpace(gamma, low, high)


def _space(inner: VectorEnv, options: StockOptions) -> StockSpace:
    components = inner.facts.reward_size or 1
    low, high = options.low, options.high
    if low is None or high is None:
        if inner.facts.return_range is None:
            raise ConfigError(
                f"stock:{inner.env_id} needs --env-option stock_low=A stock_high=B, the range of first "
                "stocks: minus the greatest return to expect, and minus the least"
            )
        least, greatest = default_range(*inner.facts.return_range)
        low, high = least if low is None else low, greatest if high is None else high
    wide = [value if isinstance(value, tuple) else (value,) * components for value in (low, high)]
    if len(wide[0]) != components:
        raise ConfigError(f"stock_low and stock_high have {len(wide[0])} components, the reward {components}")
    gamma = inner.facts.return_gamma if options.gamma is None else options.gamma
    return checked_space(gamma, wide[0], wide[1])


def _own_seeds(seed: Seeds, count: int) -> Seeds:
    """Return the seeds of the first stocks' streams, unrelated to those of the inner environment."""
    if seed is None:
        return None
    each = list(seed) if isinstance(seed, Sequence) else [seed + index for index in range(count)]
    digests = [hashlib.sha256(f"stock {int(env_seed)}".encode()).digest() for env_seed in each]
    return [int(np.frombuffer(digest[:8], np.uint64)[0] % EPISODE_SEEDS) for digest in digests]
