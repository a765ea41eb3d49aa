"""Targets and losses that several agents share, all pure functions; shapes as in `agents/base.py`."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlsuite.agents.base import Batch, StateValue
from rlsuite.blocks.heads import Gaussian, squash
from rlsuite.blocks.noise import Source, normal

VALUE_SAMPLES = 10  # actions per observation of `soft_state_value`; authors' code of the STAC paper


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
