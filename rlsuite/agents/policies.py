"""Policies: what turns an actor's output into actions, by chance or, while evaluating, without."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type

from rlsuite.blocks.exploration import Correlation, process_of
from rlsuite.blocks.heads import Gaussian, tanh_of_mean
from rlsuite.blocks.noise import Source, normal

DETERMINISTIC_NOISE = 0.03  # of an actor without a std, for actions in [-1, 1]; CORL's fine-tuning


class Policy(nn.Module):
    """Observation to action in [-1, 1] under TorchRL's exploration types.

    `exploration_scale` multiplies the behaviour noise and is read here alone. With correlated noise the
    policy also takes and returns the noise's state, and takes the steps since the episode began.

    Args:
        actor: network whose output, an action or a Gaussian, both functions read.
        mode: actor output -> evaluation action.
        sample: (actor output, scaled noise of variance 1) -> behaviour action.
        generator: behaviour noise.
        normalizer: of the observations, or None.
        dropout: the actor's dropout, where it has one, is part of the behaviour; it never is of the mode.
        correlation: of the noise from step to step.
    """

    exploration_scale: Tensor

    def __init__(
        self,
        actor: nn.Module,
        mode: Callable[[Any], Tensor],
        sample: Callable[[Any, Tensor], Tensor],
        generator: Source,
        normalizer: nn.Module | None = None,
        *,
        dropout: bool = True,
        correlation: Correlation = "white",
    ) -> None:
        super().__init__()
        self.actor, self.mode, self.sample, self.normalizer = actor, mode, sample, normalizer
        self.generator, self.dropout = generator, dropout
        self.correlated = None if correlation == "white" else process_of(correlation)
        self.register_buffer("exploration_scale", torch.ones(()))

    def forward(
        self, observation: Tensor, state: Tensor | None = None, step_count: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return an action: random under ExplorationType.RANDOM, the policy's mode under all others.

        Args:
            observation: `[*, B, O]`.
            state: of correlated noise, `[*, B, A, K]`; None begins it anew.
            step_count: env steps since the episode began, `[*, B, 1]`, for correlated noise.
        """
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        random = exploration_type() == ExplorationType.RANDOM
        with nullcontext() if random and self.dropout else evaluating(self.actor):
            output = self.actor(observation)
        mean = output.mean if isinstance(output, Gaussian) else output
        if self.correlated is not None and (state is None or random):
            state = self._next_state(mean, state, step_count)
        if not random:
            action = self.mode(output)
        else:
            scale = self.exploration_scale  # one number, or one per seed: `[S, 1, 1]`
            scale = scale.view(-1, 1, 1) if scale.dim() else scale
            if self.correlated is None or state is None:
                fresh = normal(mean, self.generator)
            else:
                fresh = self.correlated.value(state)
            action = self.sample(output, scale * fresh)
        return action if self.correlated is None else (action, state)  # type: ignore[return-value]

    def _next_state(self, mean: Tensor, state: Tensor | None, step_count: Tensor | None) -> Tensor:
        assert self.correlated is not None
        fresh = normal(mean.unsqueeze(-1).expand(*mean.shape, self.correlated.filters), self.generator)
        begins = torch.ones(mean.shape[:-1], dtype=torch.bool, device=mean.device)
        if state is not None and step_count is not None:
            begins = (step_count == 0).squeeze(-1)
        return self.correlated(fresh if state is None else state, fresh, begins)


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
    if getattr(policy, "correlated", None) is None:
        return TensorDictModule(policy, in_keys=["observation"], out_keys=["action"])
    keys = ["observation", "exploration", "step_count"]
    return TensorDictModule(policy, in_keys=keys, out_keys=["action", "exploration"])


def squashed_gaussian_policy(
    actor: nn.Module,
    generator: Source,
    normalizer: nn.Module | None = None,
    mode: Callable[[Gaussian], Tensor] = tanh_of_mean,
    correlation: Correlation = "white",
) -> TensorDictModule:
    """Return the policy of an actor with pre-tanh Gaussians: `mode`, or a sample with scaled noise."""

    def sample(gaussian: Gaussian, noise: Tensor) -> Tensor:
        return (gaussian.mean + gaussian.std * noise).tanh()

    return policy_module(Policy(actor, mode, sample, generator, normalizer, correlation=correlation))


def clipped_policy(
    actor: nn.Module,
    generator: Source,
    normalizer: nn.Module | None = None,
    std: float | None = None,
    correlation: Correlation = "white",
) -> TensorDictModule:
    """Return the policy of an actor whose actions are clipped to [-1, 1]: its mean, or mean plus noise.

    Args:
        actor: gives an action, or a Gaussian of actions.
        generator: behaviour noise.
        normalizer: of the observations, or None.
        std: of the behaviour noise; None takes the Gaussian's, and without one 0.03.
        correlation: of the noise from step to step.
    """

    def mean(output: Gaussian | Tensor) -> Tensor:
        return output.mean if isinstance(output, Gaussian) else output

    def sample(output: Gaussian | Tensor, noise: Tensor) -> Tensor:
        actors = output.std if isinstance(output, Gaussian) else DETERMINISTIC_NOISE
        return (mean(output) + (actors if std is None else std) * noise).clamp(-1, 1)

    fields: dict[str, Any] = {"dropout": False, "correlation": correlation}
    return policy_module(Policy(actor, mean, sample, generator, normalizer, **fields))
