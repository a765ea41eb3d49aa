"""Base class of all agents: networks, optimisers, a policy, and one update on a batch of transitions.

Legend for shape suffixes in `agents/`: N batch, M ensemble members, O observation, A action.
Leading axes (independent seeds) may stand in front of all of them.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsuite.agents.kron import Kron
from rlsuite.blocks.encoder import EncoderFields, Pixels, new_encoder
from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import Noise, Source
from rlsuite.blocks.normalizer import RunningNorm, Standardise, identity
from rlsuite.blocks.reward_scale import RewardScale
from rlsuite.replay.batch import Batch, unpack
from rlsuite.replay.rollout import Steps
from rlsuite.returns.stock import StockSpace

GENERATOR_NAMES = ("init", "act", "learn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spaces:
    """Sizes and bounds of an environment's observations and actions, as an agent needs them.

    Attributes:
        observation: length of the flat observation vector, O.
        action: length of the action vector, A. Agents act in [-1, 1].
        half_range: (high - low) / 2 of each action in the environment's units, A numbers.
        center: (high + low) / 2 of each action in these units, A numbers; empty is all zeros.
        discrete: an action is one of A, whichever of its A numbers is the greatest.
        picture: height, width and channels of an observation that is a flattened picture, or None.
        pixels: height, width, channels and frames of an observation that is pictures of bytes, or None.
        masked: the observation's last A numbers say which of the discrete actions are allowed.
        stock: what stands in the observation's last places, where the environment has a stock.
        private: how many of the observation's last numbers only critics see.
    """

    observation: int
    action: int
    half_range: tuple[float, ...]
    center: tuple[float, ...] = ()
    discrete: bool = False
    picture: tuple[int, ...] | None = None
    pixels: Pixels | None = None
    masked: bool = False
    stock: StockSpace | None = None
    private: int = 0

    @property
    def shown(self) -> int:
        """Numbers of an observation that an actor sees."""
        return self.observation - self.private


class Trained(NamedTuple):
    """One named part of an agent; `optimizer` is None for what no optimiser moves (targets)."""

    name: str
    module: nn.Module
    optimizer: Optimizer | None


class WindowShape(NamedTuple):
    """Which windows of recorded episodes an agent learns from, in rows.

    Attributes:
        horizon: length of a whole window.
        stride: between the starts of neighbouring windows.
        short: those that the end of an episode cuts are there, too.
        inner: they lead to their own last state, not to the one after it.
    """

    horizon: int
    stride: int = 1
    short: bool = True
    inner: bool = False


class Columns(NamedTuple):
    """What an agent's batches must have beside the columns that all batches have.

    Attributes:
        next_action: the recorded action at the next observation. Transitions that have none are left out.
        returns: the recorded rewards to the end of the episode, discounted by the agent's gamma.
        failure_reward: in `returns`, what an episode ends with that has failed
            (`rlsuite.offline.transforms.returns_to_go`).
        expert: demonstrations, a second data set, are the second half of every batch.
    """

    next_action: bool = False
    returns: bool = False
    failure_reward: float | None = None
    expert: bool = False


class StateValue(NamedTuple):
    """Values that an agent's critics give observations under its policy.

    Attributes:
        value: mean over critics and actions, entropy bonus included, `[N]`.
        bonus: the temperature times the policy's entropy, `[N]`; zero without a temperature.
    """

    value: Tensor
    bonus: Tensor


class Agent(nn.Module):
    """Base of all agents. Subclasses set `Config` and define `build`, `learn` and `values`.

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
    needs_data: ClassVar[bool] = False
    """Learns from recorded data; without them there is nothing to learn from."""
    asymmetric: ClassVar[bool] = False
    """Its actor can do without numbers of an observation that its critics see."""
    discrete: ClassVar[bool | None] = False
    """Acts by choosing one of A actions: environments must be of the same kind; None takes both."""
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
        self.gamma = float(getattr(config, "gamma", 1.0))
        self.reward_scale: RewardScale | None = None  # follows every env step's rewards, where there is one
        self.normalizer: RunningNorm | Standardise | None = None
        if getattr(config, "normalize_observations", False):
            size, raw = spaces.observation, spaces.action if spaces.masked else 0
            fresh = identity(size) if self.adopts_statistics else RunningNorm(size, raw=raw, lead=lead)
            self.normalizer = fresh.to(device)
        with torch.device(device):
            self.encoder = new_encoder(config, spaces.pixels, lead, self.generators["init"])
        if self.encoder is not None:  # networks see its features
            self.spaces = spaces = replace(spaces, observation=self.encoder.features)
        self.update_count = 0  # on the host: it decides what an update does, without a synchronisation
        self._parts: list[Trained] = []
        self.followers: list[Kron] = []  # optimisers that look after factors of theirs between updates
        with torch.device(device):
            self.build(spaces, config)

    # What a subclass defines

    def build(self, spaces: Spaces, config: Any) -> None:
        """Make networks, targets, optimisers and the policy, on the agent's device."""
        raise NotImplementedError

    def learn(self, batch: Any, noise: Noise, **phase: Any) -> dict[str, Tensor]:
        """Take one gradient step: a straight line of tensor operations, to be run as it is or compiled.

        No Python state is written, nothing is read back to the host, and all chance comes from `noise`.

        Args:
            batch: what `read` returned, observations normalised.
            noise: random numbers in the order in which they are asked for.
            phase: what `phase` returned.

        Returns:
            metrics `[*lead]` by name.
        """
        raise NotImplementedError

    def phase(self) -> dict[str, Any]:
        """Return what is special about the next update, as keywords of `learn`; each value is a graph."""
        return {}

    @property
    def period(self) -> int:
        """Updates after which the same phases come again: the delay of the agents that have one."""
        return int(getattr(self.config, "delay", 1))

    @classmethod
    def obstacle(cls, config: Any) -> str | None:
        """Return why updates with this configuration are not to be compiled, or None."""
        if isinstance(config, EncoderFields) and config.encoder != "none":
            return "convolutions of pictures are library calls, which compiling does not make faster"
        return None

    @classmethod
    def columns(cls, config: Any) -> Columns:
        """Return which further columns of recorded data an agent with this configuration learns from."""
        return Columns()

    @classmethod
    def online_columns(cls, config: Any) -> Columns:
        """Return which of them batches must have online, too; only returns can be had there.

        Who asks for returns of recorded data alone goes on without them.
        """
        return cls.columns(config)._replace(returns=False, failure_reward=None)

    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return `q` and `td_error`, each `[N]`, for the transitions of `batch`, without gradient."""
        raise NotImplementedError(f"{type(self).__name__} has no critics: it cannot value transitions")

    def state_value(self, observation: Tensor) -> StateValue | None:
        """Value observations `[*lead, N, O]`, without chance or gradient; None for agents without critics."""
        return None

    def begin(self, updates: int) -> None:
        """Learn how many updates the run makes in all, for schedules that are a share of it."""

    def start_online(self) -> None:
        """Change from recorded data to acting: decayed learning rates go back to where they began."""

    # What a subclass calls in `build`

    def add_parts(self, optimizer: Optimizer | None, **modules: nn.Module) -> None:
        """Name what one optimiser moves; None for what none does (targets, a temperature of its own step)."""
        if isinstance(optimizer, Kron) and optimizer not in self.followers:
            self.followers.append(optimizer)
        self._parts += [Trained(name, module, optimizer) for name, module in modules.items()]

    def critic_parameters(self, critic: nn.Module) -> list[nn.Parameter]:
        """Return what the critics' loss moves: the critics and, where pictures are seen, the encoder."""
        return [*critic.parameters(), *(() if self.encoder is None else self.encoder.parameters())]

    def encoder_part(self) -> dict[str, nn.Module]:
        """Return the encoder by its name, to be added to the parts of the critics' optimiser."""
        return {} if self.encoder is None else {"encoder": self.encoder}

    def add_target(self, name: str, module: nn.Module) -> Any:
        """Copy a network as a target that no optimiser moves, and name it a part."""
        target = copy.deepcopy(module).requires_grad_(False)
        self.add_parts(None, **{name: target})
        return target

    def net_shape(self) -> NetShape:
        """Return what all networks of the agent share; widths, trunk and activation are its `Config`'s."""
        names = ("hidden", "network", "activation")
        fields = {name: getattr(self.config, name) for name in names if hasattr(self.config, name)}
        return NetShape(**fields, lead=self.lead, generator=self.generators["init"])

    # What the loop calls

    def update(self, batch: TensorDictBase | Batch) -> dict[str, Tensor]:
        """Take one gradient step on `batch` (`[*lead, N]` transitions); return metrics `[*lead]`.

        `rlsuite.agents.compiled.compiled(agent)` is the same as one compiled function.
        """
        metrics = self.step(self.read(batch), Noise(self.generators["learn"]), **self.phase())
        self.end_update()
        return metrics

    def end_update(self) -> None:
        """Count an update, and let optimisers do what is due beside their steps; it is never compiled."""
        self.update_count += 1
        for optimizer in self.followers:
            optimizer.follow(self.generators["learn"])

    def read(self, batch: Any) -> Any:
        """Return what `learn` reads of a replayed batch: plain tensors, as a compiled function takes them."""
        if not isinstance(batch, Batch):
            return unpack(batch, self.gamma)
        return batch if isinstance(batch.discount, Tensor) else batch._replace(discount=self.gamma)

    def step(self, batch: Any, noise: Noise, **phase: Any) -> dict[str, Tensor]:
        """Show the observations to the running statistics and learn from the batch: what is compiled.

        Of pictures `learn` gets the encoder's features, whose gradient the critics' loss carries on.
        """
        if self.encoder is None:
            return self.learn(self.normalized_batch(batch, observe=True), noise, **phase)
        observation = self.encoder(batch.observation, noise)
        with torch.no_grad():
            next_observation = self.encoder(batch.next_observation, noise)
        features = batch._replace(observation=observation, next_observation=next_observation)
        return self.learn(features, noise, **phase)

    def normalized_batch(self, batch: Batch, *, observe: bool = False) -> Batch:
        """Return the batch with the observations as the networks see them.

        Args:
            batch: `[*lead, N]` transitions.
            observe: the observations move the running statistics first.
        """
        if self.preprocessor is None:
            return batch
        if observe and isinstance(self.normalizer, RunningNorm):
            self.normalizer.observe(batch.observation)
        return batch._replace(
            observation=self.normalized(batch.observation),
            next_observation=self.normalized(batch.next_observation),
        )

    def normalized(self, observation: Tensor) -> Tensor:
        """Return observations as the networks see them."""
        return observation if self.preprocessor is None else self.preprocessor(observation)

    @property
    def preprocessor(self) -> nn.Module | None:
        """What observations go through before the networks: the encoder or the statistics; None: nothing."""
        return self.normalizer if self.encoder is None else self.encoder

    def parts(self) -> tuple[Trained, ...]:
        """Return every trained part and every target, by name."""
        return tuple(self._parts)

    def adopt_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and std `[O]` of recorded observations, where the agent normalises by them.

        Agents with running statistics need none: they follow the transitions that are replayed.

        Raises:
            DataError: they are not finite, or of another length.
        """
        if isinstance(self.normalizer, Standardise):
            self.normalizer.adopt(mean, std)

    def adopt_rewards(self, low: float, high: float) -> None:
        """Take the smallest and the greatest of the recorded rewards, where the agent has a use for them."""

    def get_extra_state(self) -> Tensor:
        """Return the update count as a tensor, so that `state_dict` holds tensors alone."""
        return torch.tensor(self.update_count)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the update count."""
        self.update_count = int(state)


class StagedAgent(Agent):
    """An agent that learns from windows of recorded data in stages, one after the other.

    Its `Config` has `updates`, the sum over all stages. `read` then returns the columns of a window batch
    by name.
    """

    needs_data = True
    stages: ClassVar[tuple[str, ...]]
    """Names of the stages, in their order."""

    @property
    def windows(self) -> WindowShape:
        """Return which windows of recorded data it learns from."""
        raise NotImplementedError

    @property
    def stage(self) -> str:
        """The stage of the next update."""
        raise NotImplementedError

    def prepare(self, data: Any) -> str | None:
        """Set `data`, the window replay, up for the stage of the next update; return a line for the user.

        Called before every update.
        """
        return None

    def inherit(self, config: Any, saved: Mapping[str, Tensor]) -> None:
        """Take over what an earlier run learnt in stages that this one does not repeat.

        Args:
            config: of the earlier agent, an instance of `Config`.
            saved: its parameters and buffers by name.

        Raises:
            ConfigError: its settings are others.
        """
        raise NotImplementedError


class OnPolicyAgent(Agent):
    """An agent that learns from what its present policy did, a few passes over each rollout.

    The policy is the same during a rollout. `read`, `step` and `learn` get minibatches by column name:
    "observation", "action" and what `study` returned, `[*lead, N, ...]` each.
    """

    def study(self, steps: Steps, carried: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
        """Return what `learn` needs beside a rollout's rows, by name, `[*lead, R]` each, time-major.

        Called once a rollout, before its updates.

        Args:
            steps: the rollout.
            carried: what the last call left for this one, one row an env, `[*lead, B]`; None before.

        Returns:
            the columns, and what to carry to the next rollout, `[*lead, B]`.
        """
        raise NotImplementedError

    def after_rollout(self, steps: Steps) -> None:
        """Look at a rollout once more after its updates: what changes now holds for the next one."""


@runtime_checkable
class ChoosesStock(Protocol):
    """An agent that chooses the stock with which its evaluation episodes begin."""

    def first_stock(self, observation: Tensor) -> Tensor | None:
        """Return stocks `[*lead, m]` for first observations `[*lead, N, O]`; None: the environment's own."""


def make_generators(seed: int | Sequence[int], device: torch.device | str = "cpu") -> dict[str, Source]:
    """Return the random streams of an agent from its seed, for use outside the training loop.

    For an agent with a leading axis of seeds, `seed` is one number each, and so are the streams.
    """
    if not isinstance(seed, int):
        every = [make_generators(each, device) for each in seed]
        return {name: tuple(streams[name] for streams in every) for name in GENERATOR_NAMES}  # type: ignore[misc]
    children = torch.randint(2**62, (len(GENERATOR_NAMES),), generator=torch.Generator().manual_seed(seed))
    return {
        name: torch.Generator(device).manual_seed(int(child))
        for name, child in zip(GENERATOR_NAMES, children, strict=True)
    }
