"""What every agent is: networks, optimisers, a policy, and one update on a batch of replayed rows.

Legend for shape suffixes in `agents/`: N batch, M ensemble members, O observation, A action.
Leading axes (independent seeds) may stand in front of all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torchrl.envs.utils import ExplorationType, exploration_type

from rlsuite.blocks import ranks
from rlsuite.blocks.heads import Gaussian, squash, tanh_of_mean
from rlsuite.blocks.noise import Source, normal
from rlsuite.blocks.normalizer import RunningNorm
from rlsuite.blocks.standardise import Standardise, identity
from rlsuite.errors import ConfigError
from rlsuite.returns.stock import StockSpace

GENERATOR_NAMES = ("init", "act", "learn")
VALUE_SAMPLES = 10  # actions per observation of `soft_state_value`; authors' code of the STAC paper
DETERMINISTIC_NOISE = 0.03  # of an actor without a deviation, for actions in [-1, 1]; CORL's fine-tuning


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


class Policy(nn.Module):
    """Observation to action in [-1, 1] under TorchRL's exploration types.

    `exploration_scale` multiplies the behaviour noise and is read here alone.

    Args:
        actor: network whose output both functions read.
        mode: actor output -> evaluation action.
        sample: (actor output, exploration scale) -> behaviour action.
        normalizer: of the observations, or None.
        dropout: the actor's dropout, where it has one, is part of the behaviour; it never is of the mode.
    """

    exploration_scale: Tensor

    def __init__(
        self,
        actor: nn.Module,
        mode: Callable[[Any], Tensor],
        sample: Callable[[Any, Tensor], Tensor],
        normalizer: nn.Module | None = None,
        dropout: bool = True,
    ) -> None:
        super().__init__()
        self.actor, self.mode, self.sample, self.normalizer = actor, mode, sample, normalizer
        self.dropout = dropout
        self.register_buffer("exploration_scale", torch.ones(()))

    def forward(self, observation: Tensor) -> Tensor:
        """Return an action: random under ExplorationType.RANDOM, the policy's mode under all others."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        random = exploration_type() == ExplorationType.RANDOM
        with nullcontext() if random and self.dropout else evaluating(self.actor):
            output = self.actor(observation)
        if not random:
            return self.mode(output)
        scale = self.exploration_scale  # one number, or one per seed: `[S, 1, 1]`
        return self.sample(output, scale.view(-1, 1, 1) if scale.dim() else scale)


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Switch dropout off for the duration, whatever the modules' mode was."""
    were_training = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, was_training in zip(modules, were_training, strict=True):
            module.train(was_training)


def policy_module(policy: nn.Module) -> TensorDictModule:
    """Wrap a policy as the TensorDictModule `observation -> action` that TorchRL's tools expect."""
    return TensorDictModule(policy, in_keys=["observation"], out_keys=["action"])


def squashed_gaussian_policy(
    actor: nn.Module,
    generator: Source,
    normalizer: nn.Module | None = None,
    mode: Callable[[Gaussian], Tensor] = tanh_of_mean,
) -> TensorDictModule:
    """Return the policy of an actor with pre-tanh Gaussians: `mode`, or a sample with scaled noise."""

    def sample(gaussian: Gaussian, scale: Tensor) -> Tensor:
        return (gaussian.mean + gaussian.std * scale * normal(gaussian.mean, generator)).tanh()

    return policy_module(Policy(actor, mode, sample, normalizer))


def clipped_policy(
    actor: nn.Module,
    generator: Source,
    normalizer: nn.Module | None = None,
    noise: float | None = None,
) -> TensorDictModule:
    """Return the policy of an actor whose actions are clipped to [-1, 1]: its mean, or mean plus noise.

    Args:
        actor: gives an action, or a Gaussian of actions.
        generator: behaviour noise.
        normalizer: of the observations, or None.
        noise: deviation of the behaviour noise; None takes the Gaussian's own, and without one 0.03.
    """

    def mean(output: Gaussian | Tensor) -> Tensor:
        return output.mean if isinstance(output, Gaussian) else output

    def sample(output: Gaussian | Tensor, scale: Tensor) -> Tensor:
        own = output.std if isinstance(output, Gaussian) else DETERMINISTIC_NOISE
        center = mean(output)
        deviation = (own if noise is None else noise) * scale
        return (center + deviation * normal(center, generator)).clamp(-1, 1)

    return policy_module(Policy(actor, mean, sample, normalizer, dropout=False))


def td_target(batch: Batch, next_value: Tensor) -> Tensor:
    """Bellman target r + gamma (1 - terminated) v', `[N]`."""
    return batch.reward + batch.discount * (1 - batch.terminated) * next_value


def bellman_target(batch: Batch, next_q: Tensor) -> Tensor:
    """Clipped double-Q target r + gamma (1 - terminated) min_m Q', `[N]`, from `next_q` of `[M, N]`."""
    return td_target(batch, next_q.amin(-2))


def smoothed_action(action: Tensor, noise: Tensor, deviation: float, clip: float) -> Tensor:
    """Add clipped Gaussian noise to an action in [-1, 1] and stay there (target policy smoothing)."""
    return (action + (noise * deviation).clamp(-clip, clip)).clamp(-1, 1)


@torch.no_grad()
def smoothed_target(
    target_actor: Callable[[Tensor], Tensor],
    target_critic: Callable[[Tensor, Tensor], Tensor],
    batch: Batch,
    generator: Source,
    deviation: float,
    clip: float,
) -> Tensor:
    """Smooth the target policy's action and give TD3's target, `[N]`."""
    action = target_actor(batch.next_observation)
    action = smoothed_action(action, normal(action, generator), deviation, clip)
    return bellman_target(batch, target_critic(batch.next_observation, action))


def squared_td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared error of the critics `[M, N]` to a target `[N]`; summed over members."""
    return (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)


def sample_action(
    actor: Callable[[Tensor], Gaussian], observation: Tensor, generator: Source
) -> tuple[Tensor, Tensor]:
    """Draw actions in [-1, 1], `[N, A]`, and their log-densities, `[N]`."""
    gaussian = actor(observation)
    return squash(gaussian, normal(gaussian.mean, generator))


def soft_target(batch: Batch, next_q: Tensor, next_log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Soft Bellman target r + gamma (1 - terminated)(min_m Q' - alpha log pi'), `[N]`.

    Args:
        batch: reward, terminated, discount, `[N]`.
        next_q: what the target critics give the next observation and action, `[M, N]`.
        next_log_prob: log-density of the next action, `[N]`.
        alpha: temperature, scalar or `[1]`.
    """
    return td_target(batch, next_q.amin(-2) - alpha * next_log_prob)


def soft_state_value(
    draw: Callable[[Tensor, Source], tuple[Tensor, Tensor]],
    critic: Callable[[Tensor, Tensor], Tensor],
    alpha: Tensor,
    observation: Tensor,
) -> StateValue:
    """Value observations by the critics' mean at ten actions of the policy, `[*lead, N]`.

    The noise is the same at every call and for every seed: nothing that trains is touched.

    Args:
        draw: (observation, random stream) -> actions `[N, A]` and their log-densities `[N]`.
        critic: (observation, action) -> means of all critics, `[M, N]`.
        alpha: temperature, scalar or `[1]`.
        observation: `[*lead, N, O]`, normalised.
    """
    lead = observation.shape[:-2]
    streams = tuple(torch.Generator(observation.device).manual_seed(0) for _ in range(lead[0] if lead else 1))
    repeated = observation.repeat_interleave(VALUE_SAMPLES, -2)
    action, log_prob = draw(repeated, streams if lead else streams[0])
    q = critic(repeated, action).mean(-2)
    bonus = -alpha * log_prob.unflatten(-1, (-1, VALUE_SAMPLES)).mean(-1)
    return StateValue(q.unflatten(-1, (-1, VALUE_SAMPLES)).mean(-1) + bonus, bonus)


def soft_actor_loss(log_prob: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
    """Soft policy loss on `[N]` and `[M, N]`: alpha log pi - smaller (mean) return."""
    return (alpha * log_prob - q.amin(-2)).mean(-1)


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Temperature loss, linear in log alpha: its gradient is -(mean log pi + target entropy)."""
    return -(log_alpha.squeeze(-1) * (log_prob.detach().mean(-1) + target_entropy))


@torch.no_grad()
def descend_alpha(log_alpha: Tensor, log_prob: Tensor, target_entropy: float, rate: float | Tensor) -> None:
    """Move log alpha, `[1]`, by plain gradient descent on `alpha_loss`, in place.

    Args:
        log_alpha: `[1]`.
        log_prob: log-densities of the policy's own actions, `[N]`.
        target_entropy: where the entropy should be.
        rate: learning rate, scalar or `[1]`. A step that is not finite is not taken.
    """
    moved = log_alpha + rate * (ranks.mean(log_prob.mean(-1, keepdim=True)) + target_entropy)
    log_alpha.copy_(torch.where(moved.isfinite(), moved, log_alpha))


def adam(*groups: tuple[Sequence[Tensor], float | Tensor]) -> Adam:
    """Build the fused Adam of all agents (betas 0.9 and 0.999, eps 1e-8), fit for CUDA graphs on CUDA.

    Args:
        groups: parameters and their learning rate; what is stepped together shares one optimiser, as the
            cost of a small step is that of calling it.
    """
    on_cuda = groups[0][0][0].is_cuda
    return Adam([{"params": list(p), "lr": lr} for p, lr in groups], fused=True, capturable=on_cuda)


def take_step(
    optimizer: Optimizer, loss: Tensor, parameters: Sequence[Tensor], max_norm: float | None = None
) -> Tensor:
    """Differentiate `loss` with respect to `parameters` and step, unless a gradient is not finite.

    The skip happens inside the fused kernel (its `found_inf` input), so nothing waits for the device. One
    seed's bad gradient skips the step of all seeds of a batch, and the run is stopped for it.

    Args:
        optimizer: moves `parameters`.
        loss: `[*lead]`, one number per seed; the parameters have the same leading axes.
        parameters: what to differentiate by.
        max_norm: gradients of a greater norm are scaled down to it, for each entry of `loss` by itself.

    Returns:
        the norm of all gradients of each seed before that, `[*lead]`; not finite exactly when the step was
        skipped.
    """
    for parameter in parameters:
        parameter.grad = None
    # Not autograd.grad: its results may be transposed, and the fused kernel reads memory in order;
    # backward lays a gradient out like its parameter.
    loss.sum().backward(inputs=list(parameters))
    gradients = [p.grad for p in parameters if p.grad is not None]
    ranks.average_(gradients)  # so that a norm, or a number that is not finite, is every rank's
    if lead := loss.dim():
        norms = [torch.linalg.vector_norm(g, dim=tuple(range(lead, g.dim()))) for g in gradients]
    else:
        norms = list(torch._foreach_norm(gradients))
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    if max_norm is not None:
        scale = (max_norm / norm).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(scale.view(*norm.shape, *(1,) * (gradient.dim() - lead)))
    # GradScaler's protocol: the fused kernels read this attribute and leave weights and moments as they are.
    # x - x is 0 for a number and nan for inf and nan: fewer kernels than isfinite.
    total = norm.sum() if lead else norm
    optimizer.found_inf = (total - total).ne(0).float()  # type: ignore[attr-defined]
    optimizer.step()
    return norm


def polyak(target: Sequence[Tensor], online: Sequence[Tensor], tau: float) -> None:
    """Move `target` to (1 - tau) target + tau online, in place."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target), list(online), tau)


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
