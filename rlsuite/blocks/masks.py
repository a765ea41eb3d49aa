"""Masks of discrete actions: an observation's last A numbers, 1 where an action is allowed.

Where a mask allows nothing (a state that no episode goes on from, say) it is not heeded: something has to be
chosen.
"""

from torch import Tensor

FORBIDDEN = -1e9  # logits and scores: its probability is 0 to the last bit, and its gradient, too


def allowed(observation: Tensor, actions: int) -> Tensor:
    """Return which of `actions` A are allowed at observations `[*, O]`, `[*, A]` bool."""
    mask = observation[..., -actions:] > 0.5
    return mask | ~mask.any(-1, keepdim=True)


def masked(scores: Tensor, observation: Tensor) -> Tensor:
    """Return scores `[*, A]` with those of actions that are not allowed at `[*, O]` below all others."""
    return scores.masked_fill(~allowed(observation, scores.shape[-1]), FORBIDDEN)
