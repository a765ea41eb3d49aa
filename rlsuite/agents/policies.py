"""Policies: what turns an actor's output into actions, by chance or, while evaluating, without."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type

from rlsuite.blocks.heads import Gaussian, tanh_of_mean
from rlsuite.blocks.noise import Source, normal

DETERMINISTIC_NOISE = 0.03  # of an actor without a deviation, for actions in [-1, 1]; CORL's fine-tuning


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
