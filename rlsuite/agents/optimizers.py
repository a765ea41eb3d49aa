"""Which optimiser moves an agent's networks: Adam or Kron, by a field that all configurations have."""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from rlsuite.agents.kron import Kron, tensor_axes
from rlsuite.agents.optim import BETAS, EPS, Adam, Group
from rlsuite.bounds import AtLeastOne, Bounds, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """The optimiser's fields; base of the configurations of all agents."""

    optimizer: Literal["adam", "kron"] = "adam"
    """What moves the networks: Adam, or Kron, which whitens gradients by Kronecker-factored matrices."""
    kron_lr: Positive = 1 / 3
    """Of kron: factor of all learning rates, which are Adam's; a third in the authors' code."""
    kron_refresh: Annotated[float, Bounds(0, 1, open_low=True)] = 0.03
    """Of kron: share of steps that refresh the preconditioner after 4,000 of them; it begins at 1."""
    kron_max_size: AtLeastOne = 8192
    """Of kron: longest side of a weight matrix with a full preconditioner; longer ones have a diagonal."""


def make_optimizer(
    agent: nn.Module,
    config: OptimizerConfig,
    *groups: Group,
    eps: float = EPS,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = BETAS,
) -> Adam | Kron:
    """Return the configured optimiser of groups of an agent's parameters.

    Args:
        agent: the networks are its attributes already; their layers say what is a matrix.
        config: says which optimiser.
        groups: parameters and their learning rates.
        eps: Adam's.
        weight_decay: joins the gradients (Adam), or the preconditioned ones (Kron).
        betas: decays of Adam's moments; the first is Kron's momentum, too.
    """
    if config.optimizer == "adam":
        return Adam(*groups, eps=eps, weight_decay=weight_decay, betas=betas)
    return Kron(
        *groups,
        axes=tensor_axes(agent),
        lr_factor=config.kron_lr,
        least_share=config.kron_refresh,
        max_size=config.kron_max_size,
        weight_decay=weight_decay,
        momentum=betas[0],
    )
