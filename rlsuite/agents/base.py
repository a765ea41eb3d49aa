"""What every agent is: networks, optimisers, a policy, and one update on a batch of replayed rows.

Legend for shape suffixes in `agents/`: N batch, M ensemble members, O observation, A action.
Leading axes (independent seeds) may stand in front of all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsuite.blocks.noise import Source
from rlsuite.blocks.normalizer import RunningNorm, Standardise, identity
from rlsuite.errors import ConfigError
from rlsuite.returns.stock import StockSpace

GENERATOR_NAMES = ("init", "act", "learn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spaces:
    """What an agent must know of an environment.

    Attributes:
        observation: length of the flat observation vector, O.
        action: length of the action vector, A. Agents act in [-1, 1].
        half_range: (high - low) / 2 of each action in the environment's units, A numbers.
        discrete: an action is one of A, whichever of its A numbers is the greatest.
        picture: height, width and channels of an observation that is a flattened picture, or None.
        stock: what stands in the observation's last places, where the environment has a stock.
    """

    observation: int
    action: int
    half_range: tuple[float, ...]
    discrete: bool = False
    picture: tuple[int, ...] | None = None
    stock: StockSpace | None = None


class Trained(NamedTuple):
    """One named part of an agent; `optimizer` is None for what no optimiser moves (targets)."""

    name: str
    module: nn.Module
    optimizer: Optimizer | None


class Batch(NamedTuple):
    """The columns of a replayed batch as plain tensors.

    `reward`, `terminated` (0 or 1) and `discount` are `[N]`; `discount` is gamma to the number of summed
    rewards. Nothing else of the end of an episode enters a loss: a truncated row bootstraps.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    discount: Tensor | float


def columns(batch: TensorDictBase, gamma: float) -> Batch:
    """Read a replayed TensorDict into plain tensors; `gamma` is the discount unless the batch brings one."""
    following = batch.get("next")
    discount = batch.get("discount", None)
    reward = following.get("reward").squeeze(-1)
    return Batch(
        batch.get("observation"),
        batch.get("action"),
        reward,
        following.get("observation"),
        following.get("terminated").squeeze(-1).to(reward.dtype),
        gamma if discount is None else discount.squeeze(-1),
    )


class WindowShape(NamedTuple):
    """Which windows of recorded episodes an agent learns from, in rows.

    Attributes:
        horizon: length of a whole window.
        stride: between the starts of neighbouring windows.
        short: those that the end of an episode cuts are there, too.
    """

    horizon: int
    stride: int = 1
    short: bool = True


class StateValue(NamedTuple):
    """What an agent's critics say of observations under its policy.

    Attributes:
        value: mean over critics and actions, entropy bonus included, `[N]`.
        bonus: the temperature times the policy's entropy, `[N]`; zero without a temperature.
    """

    value: Tensor
    bonus: Tensor


class Agent(nn.Module):
    """Base of all agents. Subclasses set `Config` and define `update`, `values` and `parts`.

    Everything that changes while training is a parameter, a buffer, the update count, an optimiser of
    `parts` or one of `generators`: the checkpoint saves these and needs no knowledge of the algorithm.

    Args:
        spaces: sizes and action range of the environment.
        config: an instance of the subclass's `Config`.
        generators: random streams "init" (weights), "act" (behaviour) and "learn" (updates), all on
            `device`, or for each a tuple with one stream per seed of the first leading axis; see
            `make_generators`.
        device: where parameters live.
        lead: leading axes of independent seeds; batches then carry them too.
    """

    Config: ClassVar[type]
    adopts_statistics: ClassVar[bool] = False
    """Observations are normalised by the moments of a data set, taken once, instead of running ones."""
    discrete: ClassVar[bool] = False
    """Acts by choosing one of A actions: environments must be of the same kind."""
    stages: ClassVar[tuple[str, ...]] = ()
    """What it learns one after the other, from recorded data only; its `Config` then has `updates`, their
    sum. Empty: every update does the same."""
    policy: TensorDictModule

    def __init__(
        self,
        spaces: Spaces,
        config: Any,
        generators: Mapping[str, Source],
        *,
        device: torch.device | str = "cpu",
        lead: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.spaces, self.config, self.lead = spaces, config, lead
        missing = [name for name in GENERATOR_NAMES if name not in generators]
        if missing:
            raise ValueError(f"generators lacks {missing}; make_generators(seed) builds all of them")
        self.generators = {name: generators[name] for name in GENERATOR_NAMES}
        self.normalizer: RunningNorm | Standardise | None = None
        if getattr(config, "normalize_observations", False):
            size = spaces.observation
            fresh = identity(size) if self.adopts_statistics else RunningNorm(size, lead=lead)
            self.normalizer = fresh.to(device)
        self.update_count = 0  # on the host: it decides what an update does, without a synchronisation

    def rows(self, batch: TensorDictBase, *, observe: bool = True) -> Batch:
        """Read a replayed TensorDict as plain tensors, observations normalised where the agent does so.

        Args:
            batch: `[*lead, N]` replayed rows.
            observe: the observations move the running statistics.
        """
        rows = columns(batch, getattr(self.config, "gamma", 1.0))
        if self.normalizer is None:
            return rows
        if observe and isinstance(self.normalizer, RunningNorm):
            self.normalizer.observe(rows.observation)
        return rows._replace(
            observation=self.normalized(rows.observation),
            next_observation=self.normalized(rows.next_observation),
        )

    def normalized(self, observation: Tensor) -> Tensor:
        """Return observations as the networks see them."""
        return observation if self.normalizer is None else self.normalizer(observation)

    @property
    def period(self) -> int:
        """Updates after which the same things happen again: the delay of the agents that have one."""
        return int(getattr(self.config, "delay", 1))

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Take one gradient step on `batch` (`[*lead, N]` rows); return metrics `[*lead]` on the device."""
        raise NotImplementedError

    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return `q` and `td_error`, each `[N]`, for the rows of `batch`, without gradient."""
        raise NotImplementedError(f"{type(self).__name__} has no critics: it cannot value rows")

    def state_value(self, observation: Tensor) -> StateValue | None:
        """Value observations `[*lead, N, O]`, without chance or gradient; None for agents without critics."""
        return None

    def first_stock(self, observation: Tensor) -> Tensor | None:
        """Choose the stock of evaluation episodes at their first observations `[*lead, N, O]`.

        Returns:
            `[*lead, m]`, or None for the environment's own.
        """
        return None

    def parts(self) -> tuple[Trained, ...]:
        """Return every trained part and every target, by name."""
        raise NotImplementedError

    def start_online(self) -> None:
        """Change from recorded rows to acting: decayed learning rates go back to where they began."""

    @property
    def windows(self) -> WindowShape | None:
        """Windows of recorded data to learn from; None: single rows."""
        return None

    def prepare(self, data: Any) -> str | None:
        """Called before every update on recorded data, with what is sampled from; return words for the user.

        An agent with stages sets up there what the stage it is in reads.
        """
        return None

    def inherit(self, config: Any, saved: Mapping[str, Tensor]) -> None:
        """Take over what an earlier run learnt in stages that this one does not repeat.

        Args:
            config: of the earlier agent, an instance of `Config`.
            saved: its parameters and buffers by name.

        Raises:
            ConfigError: this agent has no stages, or its settings are others.
        """
        raise ConfigError(f"{type(self).__name__} does not learn in stages: it cannot go on from another run")

    def adopt_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and deviation `[O]` of recorded observations, where the agent normalises by them.

        Agents with running statistics need none: they follow the rows that are replayed.

        Raises:
            DataError: they are not finite, or of another length.
        """
        if isinstance(self.normalizer, Standardise):
            self.normalizer.adopt(mean, std)

    def get_extra_state(self) -> Tensor:
        """Return the update count as a tensor, so that `state_dict` holds tensors alone."""
        return torch.tensor(self.update_count)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the update count."""
        self.update_count = int(state)


def make_generators(seed: int | Sequence[int], device: torch.device | str = "cpu") -> dict[str, Source]:
    """Return the random streams of an agent from its seed, for use outside the training loop.

    For an agent with a leading axis of seeds, `seed` is one number each, and so are the streams.
    """
    if not isinstance(seed, int):
        every = [make_generators(own, device) for own in seed]
        return {name: tuple(streams[name] for streams in every) for name in GENERATOR_NAMES}  # type: ignore[misc]
    children = torch.randint(2**62, (len(GENERATOR_NAMES),), generator=torch.Generator().manual_seed(seed))
    return {
        name: torch.Generator(device).manual_seed(int(child))
        for name, child in zip(GENERATOR_NAMES, children, strict=True)
    }


def check_range(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    """Raise ValueError unless low <= value <= high (low < value with `open_low`)."""
    if not (low < value if open_low else low <= value) or not value <= high:
        bracket = "(" if open_low else "["
        raise ValueError(f"{name} = {value} is outside {bracket}{low}, {high}]")
