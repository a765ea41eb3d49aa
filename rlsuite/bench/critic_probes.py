"""What a trained critic has left: inactive units, rank of its features, errors on recorded transitions.

Legend: N rows, M members, F features.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Agent
from rlsuite.errors import ConfigError
from rlsuite.plugins.grama import GraMaConfig
from rlsuite.plugins.redo import ReDoConfig
from rlsuite.registry import plugin_class

KEPT = 0.99  # of the sum of singular values: what `feature_rank` counts (Kumar et al. 2021, arXiv 2010.14498)
TAU_GRADIENT, TAU_ACTIVATION = 0.01, 0.025  # thresholds of inactive units: GraMa's and ReDo's papers


@runtime_checkable
class Integrates(Protocol):
    """An agent whose critic reaches a value in several steps."""

    def step_errors(self, batch: TensorDictBase) -> Tensor:
        """Return the distance to the target after every step, `[*lead, K]`."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What one critic has left.

    Attributes:
        inactive_by_gradient: share of hidden units at or below a hundredth of their layer's mean gradient;
            nan where the network's units cannot be followed.
        inactive_by_activation: the same at or below 0.025 of the mean activation.
        feature_rank: singular values that make up 99 % of their sum, of the last hidden layer, mean over
            members.
        td_error: mean distance of the values to their target.
        step_errors: the same after every integration step; empty where there is none.
    """

    inactive_by_gradient: float
    inactive_by_activation: float
    feature_rank: float
    td_error: float
    step_errors: tuple[float, ...]


def probe(agent: Agent, part: str, batch: TensorDictBase) -> Probe:
    """Look into one network of an agent; the agent makes updates on the way: give a copy that nobody needs.

    Args:
        agent: of one seed.
        part: the trained network that is looked into: critic, or field.
        batch: `[N]` recorded transitions.
    """
    errors = agent.step_errors(batch).tolist() if isinstance(agent, Integrates) else []
    td_error = errors[-1] if errors else agent.values(batch)["td_error"].abs().mean().item()
    rank = feature_rank(features(agent, part, batch))
    settings: Any = {"period": 1, "measure_only": True, "parts": (part,)}
    gradient = share(agent, "grama", GraMaConfig(tau=TAU_GRADIENT, **settings), batch)
    activation = share(agent, "redo", ReDoConfig(tau=TAU_ACTIVATION, **settings), batch)
    return Probe(gradient, activation, rank, td_error, tuple(errors))


def share(agent: Agent, name: str, config: Any, batch: TensorDictBase) -> float:
    """Return the share of inactive units by the scores of one plug-in, after an update; nan if it refuses."""
    try:
        plugin = plugin_class(name)(config, agent, None)
    except ConfigError:
        return math.nan
    shares: dict[str, Tensor] = {}
    for _ in range(max(agent.period, 1)):
        agent.update(batch)
        shares |= plugin.after_update(agent)
    for reset in plugin.resets.values():  # type: ignore[attr-defined]
        reset.detach()
    return next(iter(shares.values())).mean().item() if shares else math.nan


def features(agent: Agent, part: str, batch: TensorDictBase) -> Tensor:
    """Return what the output layer of a network reads of recorded actions in an update, `[M, N, F]`.

    The policy's own loss shows the network other actions, in some updates and of some agents last, which
    would make ranks of different critics ranks of different points. A joint pass has the next rows, too.
    """
    network = getattr(agent, part)
    seen: list[Tensor] = []
    learns = False

    def enter(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal learns  # neither a target's pass nor one that an action is improved by
        learns = torch.is_grad_enabled() and not inputs[1].requires_grad

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if learns:
            seen.append(inputs[0].detach())

    hooks = [network.register_forward_pre_hook(enter), head_of(network).register_forward_pre_hook(keep)]
    try:
        agent.update(batch)
    finally:
        for hook in hooks:
            hook.remove()
    last = seen[-1]
    return last.reshape(-1, *last.shape[-2:])


def head_of(network: nn.Module) -> nn.Module:
    """Return the output layer of one of our networks: `head`, its own or its trunk's, else its last layer."""
    for owner in (network, getattr(network, "trunk", None)):
        head = getattr(owner, "head", None)
        if isinstance(head, nn.Module):
            return head
    return [layer for layer in network.modules() if not list(layer.children())][-1]


def feature_rank(seen: Tensor) -> float:
    """Return how many singular values make up 99 % of their sum, mean over members of `[M, N, F]`."""
    values = torch.linalg.svdvals(seen.double())
    part = values.cumsum(-1) / values.sum(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return ((part < KEPT).sum(-1) + 1).double().mean().item()
