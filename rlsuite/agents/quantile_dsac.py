"""Quantile DSAC: soft actor-critic with two quantile critics (Ma et al. 2020, arXiv 2004.14547).

It is TQC with another pessimism: of the two critics' k-th quantiles the smaller one counts. The form here, at
fixed levels, is the baseline of the STAC paper (arXiv 2601.00737), whose runs are published; Ma et al. draw
the levels anew in every pass.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from rlsuite.agents.tqc import TQC, QuantileConfig, TQCLoss
from rlsuite.bounds import AtLeastOne, Positive, Widths


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileDSACConfig(QuantileConfig):
    """Hyper-parameters of quantile DSAC; the defaults are those of the STAC paper's baseline."""

    hidden: Widths = (256, 256)
    """Widths of the critics' hidden layers."""
    layer_norm: bool = True
    """Normalise the hidden layers of actor and critics."""
    actor_std: Literal["exp", "softplus"] = "softplus"
    """The actor's std: exp of a clamped output, or softplus of one with a floor (STAC's paper)."""
    critics: AtLeastOne = 2
    """Critics, M."""
    alpha_step: Literal["adam", "sgd", "fixed"] = "sgd"
    """How log alpha descends, or that it does not (Ma et al.)."""
    alpha_init: Positive = 0.2
    """First temperature."""
    evaluation: Literal["mode", "mean"] = "mean"
    """Evaluation action: tanh of the Gaussian's mean, or the squashed Gaussian's mean."""


def smaller_quantiles(theta: Tensor, config: QuantileDSACConfig) -> Tensor:
    """Return the smallest of the members' k-th outputs, `[N, K]`, of `[M, N, K]`; they are not sorted before.

    Its mean is at or below the smallest member's mean.
    """
    return theta.amin(-3)


def smaller_mean(theta: Tensor) -> Tensor:
    """Return the value `[N]` that the actor follows: the smallest member's mean of `[M, N, K]`."""
    return theta.mean(-1).amin(-2)


class QuantileDSAC(TQC):
    """TQC with the elementwise minimum of its critics' quantiles in the target."""

    Config: ClassVar[type] = QuantileDSACConfig
    pool: ClassVar[Any] = staticmethod(smaller_quantiles)
    value: ClassVar[Any] = staticmethod(smaller_mean)


class QuantileDSACLoss(TQCLoss):
    """Quantile DSAC's losses as a TorchRL LossModule; see `TQCLoss`."""

    algorithm: ClassVar[type[TQC]] = QuantileDSAC
