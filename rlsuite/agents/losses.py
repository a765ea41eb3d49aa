"""Targets and losses that several agents share, all pure functions; shapes as in `agents/base.py`."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlsuite.agents.base import StateValue
from rlsuite.blocks.heads import Gaussian, squash
from rlsuite.blocks.noise import Noise
from rlsuite.replay.batch import Batch

VALUE_SAMPLES = 10  # actions per observation of `soft_state_value`; authors' code of the STAC paper

INSIDE = 1 - 1e-6  # of the bounds of an action whose density is asked for: at 1 it has none

Actor = Callable[[Tensor], Gaussian]
Critic = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[Tensor, Noise], tuple[Tensor, Tensor]]


def td_target(batch: Batch, next_value: Tensor) -> Tensor:
    """Bellman target r + gamma (1 - terminated) v', `[N]`."""
    return batch.reward + batch.discount * (1 - batch.terminated) * next_value


def squared_td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared error of the critics `[M, N]` to a target `[N]`; summed over members."""
    return (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)


def smoothed_action(action: Tensor, noise: Tensor, std: float, clip: float) -> Tensor:
    """Add clipped Gaussian noise to an action in [-1, 1] and stay there (target policy smoothing)."""
    return (action + (noise * std).clamp(-clip, clip)).clamp(-1, 1)


def smoothed_next_action(
    target_actor: Callable[[Tensor], Tensor], batch: Batch, std: float, clip: float, noise: Noise
) -> Tensor:
    """Return the smoothed action of a target policy at the next observations, `[N, A]`."""
    action = target_actor(batch.next_observation)
    return smoothed_action(action, noise.normal(action), std, clip)


def sample_action(actor: Actor, observation: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw actions in [-1, 1], `[N, A]`, and their log-densities, `[N]`."""
    gaussian = actor(observation)
    return squash(gaussian, noise.normal(gaussian.mean))


def entropy_target(configured: float | None, actions: int, share: float = 1.0) -> float:
    """Return the configured target entropy, or minus a share of the action's length."""
    return -share * actions if configured is None else configured


def soft_state_value(draw: Draw, critic: Critic, alpha: Tensor, observation: Tensor) -> StateValue:
    """Value observations by the critics' mean at ten actions of the policy, `[*lead, N]`.

    The noise is the same at every call and for every seed: nothing that trains is touched.

    Args:
        draw: (observation, noise) -> actions `[N, A]` and their log-densities `[N]`.
        critic: (observation, action) -> means of all critics, `[M, N]`.
        alpha: temperature, scalar or `[1]`.
        observation: `[*lead, N, O]`, normalised.
    """
    lead = observation.shape[:-2]
    streams = tuple(torch.Generator(observation.device).manual_seed(0) for _ in range(lead[0] if lead else 1))
    repeated = observation.repeat_interleave(VALUE_SAMPLES, -2)
    action, log_prob = draw(repeated, Noise(streams if lead else streams[0]))
    q = critic(repeated, action).mean(-2)
    bonus = -alpha * log_prob.unflatten(-1, (-1, VALUE_SAMPLES)).mean(-1)
    return StateValue(q.unflatten(-1, (-1, VALUE_SAMPLES)).mean(-1) + bonus, bonus)


def soft_action_value(
    actor: Actor, critic: Critic, alpha: Tensor, observation: Tensor, action: Tensor
) -> StateValue:
    """Value given actions by the critics' mean, with minus alpha times the log-density as the bonus, `[N]`.

    So the STAC paper's code values the action of an evaluation (`rlsuite.training.value_error`).

    Args:
        actor: observation -> Gaussian before the tanh.
        critic: (observation, action) -> means of all critics, `[M, N]`.
        alpha: temperature, scalar or `[1]`.
        observation: `[*lead, N, O]`, normalised.
        action: in [-1, 1], `[*lead, N, A]`.
    """
    policy = actor(observation)
    before_tanh = action.clamp(-INSIDE, INSIDE).atanh()
    bonus = -alpha * squash(policy, (before_tanh - policy.mean) / policy.std)[1]
    return StateValue(critic(observation, action).mean(-2) + bonus, bonus)
