"""Policies: what turns an actor's output into actions, by chance or, while evaluating, without."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type

from rlsuite.blocks.exploration import RememberingNoise, StateDependentNoise
from rlsuite.blocks.heads import Gaussian, NoiseActor, tanh_of_mean
from rlsuite.blocks.noise import Source, normal

FIXED_ROWS, FIXED_STRIDE = 8_191, 1_009  # of noise of evaluations: rows, and those between two envs
DETERMINISTIC_NOISE = 0.03  # of an actor without a std, for actions in [-1, 1]; CORL's fine-tuning


class Policy(nn.Module):
    """Observation to action in [-1, 1] under TorchRL's exploration types.

    `exploration_scale` multiplies the behaviour noise and is read here alone. With noise that remembers the
    policy also takes and returns the noise's state, and takes the steps since the episode began.

    Args:
        actor: network whose output, an action or a Gaussian, both functions read.
        mode: actor output -> evaluation action.
        sample: (actor output, scaled noise of variance 1) -> behaviour action.
        generator: behaviour noise.
        normalizer: of the observations, or None.
        dropout: the actor's dropout, where it has one, is part of the behaviour; it never is of the mode.
        remembering: behaviour noise that has a state; None draws it anew at every step. What depends on the
            state of the environment reads the input of the actor's last layer, `actor.trunk.head`.
    """

    exploration_scale: Tensor
    one_graph = True  # its evaluation action is `mode` of the actor's output and nothing else

    def __init__(
        self,
        actor: nn.Module,
        mode: Callable[[Any], Tensor],
        sample: Callable[[Any, Tensor], Tensor],
        generator: Source,
        normalizer: nn.Module | None = None,
        *,
        dropout: bool = True,
        remembering: RememberingNoise | None = None,
    ) -> None:
        super().__init__()
        self.actor, self.mode, self.sample, self.normalizer = actor, mode, sample, normalizer
        self.generator, self.dropout = generator, dropout
        self.remembering = remembering
        self.register_buffer("exploration_scale", torch.ones(()))

    def forward(
        self, observation: Tensor, state: Tensor | None = None, step_count: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return an action: random under ExplorationType.RANDOM, the policy's mode under all others.

        Args:
            observation: `[*, B, O]`.
            state: of noise that remembers, `[*, B, A, K]`; None begins it anew.
            step_count: env steps since the episode began, `[*, B, 1]`, for noise that remembers.
        """
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        random = exploration_type() == ExplorationType.RANDOM
        with nullcontext() if random and self.dropout else evaluating(self.actor):
            output, features = self._act(observation)
        mean = output.mean if isinstance(output, Gaussian) else output
        if self.remembering is None:
            fresh = normal(mean, self.generator) if random else None
            return self.mode(output) if fresh is None else self.sample(output, self._scale() * fresh)
        if not random:  # no draw: evaluations leave the streams of training alone
            kept = mean.new_zeros(*mean.shape, self.remembering.filters) if state is None else state
            return self.mode(output), kept
        state = self._next_state(mean, state, step_count)
        return self.sample(output, self._scale() * self.remembering.value(state, features)), state

    def _act(self, observation: Tensor) -> tuple[Any, Tensor]:
        """Return the actor's output and, for noise that remembers, what its last layer was given."""
        if not isinstance(self.remembering, StateDependentNoise):
            return self.actor(observation), observation
        seen: list[Tensor] = []
        actor: Any = self.actor  # of our own, with a trunk that ends in a head
        hook = actor.trunk.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            return self.actor(observation), seen[-1]
        finally:
            hook.remove()

    def _scale(self) -> Tensor:
        scale = self.exploration_scale  # one number, or one per seed: `[S, 1, 1]`
        return scale.view(-1, 1, 1) if scale.dim() else scale

    def _next_state(self, mean: Tensor, state: Tensor | None, step_count: Tensor | None) -> Tensor:
        assert self.remembering is not None
        # Drawn at every step, needed or not: what one env draws depends on no other's episodes.
        fresh = normal(mean.unsqueeze(-1).expand(*mean.shape, self.remembering.filters), self.generator)
        step = torch.zeros(mean.shape[:-1], dtype=torch.int64, device=mean.device)
        if state is not None and step_count is not None:
            step = step_count.squeeze(-1)
        return self.remembering(fresh if state is None else state, fresh, step)


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
    if getattr(policy, "remembering", None) is None:
        return TensorDictModule(policy, in_keys=["observation"], out_keys=["action"])
    keys = ["observation", "exploration", "step_count"]
    return TensorDictModule(policy, in_keys=keys, out_keys=["action", "exploration"])


class NoisePolicy(Policy):
    """Policy of an actor whose noise is an input: a = clip(p(s, z)), z of variance 1.

    Evaluations draw noise, too, from no random stream: a table, of which every env reads another row at every
    step of its episode. Without a step count all steps read the first.

    Args:
        actor: (observation, noise) -> action, without bounds; see `rlsuite.blocks.heads.NoiseActor`.
        generator: behaviour noise.
        normalizer: of the observations, or None.
        mean: evaluations take z = 0.
    """

    fixed: Tensor

    def __init__(
        self, actor: NoiseActor, generator: Source, normalizer: nn.Module | None = None, *, mean: bool = False
    ) -> None:
        super().__init__(actor, clipped, lambda output, _: output, generator, normalizer)
        self.one_graph = mean
        if not mean:
            table = torch.empty(FIXED_ROWS, actor.action)
            table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(0), device="cpu"))
            self.register_buffer("fixed", table, persistent=False)

    def forward(self, observation: Tensor, step_count: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return actions `[*, B, A]`; see `Policy.forward`."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        actor: Any = self.actor
        like = observation.new_zeros(*observation.shape[:-1], actor.action)
        if exploration_type() == ExplorationType.RANDOM:
            noise = self._scale() * normal(like, self.generator)
        elif self.one_graph:
            noise = like
        else:
            noise = self._fixed_rows(like, step_count)
        return clipped(actor(observation, noise))

    def _fixed_rows(self, like: Tensor, step_count: Tensor | None) -> Tensor:
        row = FIXED_STRIDE * torch.arange(like.shape[-2] if like.dim() > 1 else 1, device=like.device)
        step = 0 if step_count is None else step_count.squeeze(-1)
        return self.fixed[(row + step) % FIXED_ROWS].to(like.dtype).expand_as(like)


def clipped(action: Tensor) -> Tensor:
    """Return actions in [-1, 1]."""
    return action.clamp(-1, 1)


def noise_policy(
    actor: NoiseActor, generator: Source, normalizer: nn.Module | None = None, *, mean: bool = False
) -> TensorDictModule:
    """Return the policy of an actor that is fed noise, see `NoisePolicy`."""
    policy = NoisePolicy(actor, generator, normalizer, mean=mean)
    keys = ["observation"] if mean else ["observation", "step_count"]
    return TensorDictModule(policy, in_keys=keys, out_keys=["action"])


def squashed_gaussian_policy(
    actor: nn.Module,
    generator: Source,
    normalizer: nn.Module | None = None,
    mode: Callable[[Gaussian], Tensor] = tanh_of_mean,
    remembering: RememberingNoise | None = None,
) -> TensorDictModule:
    """Return the policy of an actor with pre-tanh Gaussians: `mode`, or a sample with scaled noise."""

    def sample(gaussian: Gaussian, noise: Tensor) -> Tensor:
        return (gaussian.mean + gaussian.std * noise).tanh()

    return policy_module(Policy(actor, mode, sample, generator, normalizer, remembering=remembering))


def clipped_policy(
    actor: nn.Module,
    generator: Source,
    normalizer: nn.Module | None = None,
    std: float | None = None,
    remembering: RememberingNoise | None = None,
) -> TensorDictModule:
    """Return the policy of an actor whose actions are clipped to [-1, 1]: its mean, or mean plus noise.

    Args:
        actor: gives an action, or a Gaussian of actions.
        generator: behaviour noise.
        normalizer: of the observations, or None.
        std: of the behaviour noise; None takes the Gaussian's, and without one 0.03.
        remembering: noise with a state; None draws it anew at every step.
    """

    def mean(output: Gaussian | Tensor) -> Tensor:
        return output.mean if isinstance(output, Gaussian) else output

    def sample(output: Gaussian | Tensor, noise: Tensor) -> Tensor:
        actors = output.std if isinstance(output, Gaussian) else DETERMINISTIC_NOISE
        return (mean(output) + (actors if std is None else std) * noise).clamp(-1, 1)

    fields: dict[str, Any] = {"dropout": False, "remembering": remembering}
    return policy_module(Policy(actor, mean, sample, generator, normalizer, **fields))
