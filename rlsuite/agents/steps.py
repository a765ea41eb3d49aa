"""What moves parameters: the optimiser of all agents, its guarded step, Polyak averaging."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from rlsuite import distributed as ranks


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


def polyak(target: Sequence[Tensor], online: Sequence[Tensor], tau: float) -> None:
    """Move `target` to (1 - tau) target + tau online, in place."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target), list(online), tau)
