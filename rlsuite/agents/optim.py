"""The guarded step of our optimisers, Adam, and Polyak averaging; kron.py has the other optimiser.

Everything here runs eagerly and, with the same results to rounding, inside a compiled update: state is
plain tensors, nothing is read back to the host, and a step that would not be finite is no step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsuite import distributed as ranks

BETAS = (0.9, 0.999)
EPS = 1e-8

Group = tuple[Sequence[Tensor], float | Tensor]


class _Slots(NamedTuple):
    """Parameters of one learning rate and their moments, in one order."""

    parameters: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]


class GuardedOptimizer(Optimizer):
    """Base of our optimisers: `descend` differentiates a loss, guards and steps.

    The state exists from the beginning and is changed in place only, so that compiled functions and CUDA
    graphs, which keep addresses, follow whoever writes to it. `state[parameter]["step"]` is one float32 count
    of steps taken, which all parameters share. Subclasses fill `state` and define `_move`.

    Args:
        groups: parameters and their learning rate, a number or a tensor of one; what the maths lets step
            together shares one optimiser, as the cost of a small step is that of calling it.
        defaults: of all groups, by name.
    """

    def __init__(self, groups: Sequence[Group], defaults: dict[str, Any]) -> None:
        super().__init__([{"params": list(parameters), "lr": rate} for parameters, rate in groups], defaults)
        self.count = torch.zeros((), dtype=torch.float32, device=groups[0][0][0].device)

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, group after group."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def descend(self, loss: Tensor, max_norm: float | None = None) -> Tensor:
        """Differentiate `loss` by all parameters and step, unless a gradient is not finite.

        One seed's bad gradient skips the step of all seeds of a batch, and the run is stopped for it.

        Args:
            loss: `[*lead]`, one number per seed; the parameters have the same leading axes.
            max_norm: gradients of a greater norm are scaled down to it, for each entry of `loss` by itself.

        Returns:
            the norm of all gradients of each seed before that, `[*lead]`; not finite exactly when the step
            was skipped.

        Raises:
            ValueError: the loss has more axes than a parameter: networks of one seed got several.
        """
        lead, parameters = loss.dim(), self.parameters
        if any(p.shape[:lead] != loss.shape for p in parameters):
            raise ValueError(
                f"a loss of shape {list(loss.shape)} has one number per seed, and not all parameters have "
                "these leading axes: this agent cannot train several seeds in one process; use --processes"
            )
        if torch.compiler.is_dynamo_compiling():
            gradients = list(torch.autograd.grad(loss.sum(), parameters))
        else:
            for parameter in parameters:
                parameter.grad = None
            # Not autograd.grad: its results may be transposed, and the fused kernel reads memory in order;
            # backward lays a gradient out like its parameter.
            loss.sum().backward(inputs=parameters)
            gradients = [p.grad for p in parameters]  # type: ignore[misc]
            ranks.average_(gradients)  # so that a norm, or a number that is not finite, is every rank's
        with torch.no_grad():
            norm = _norm(gradients, lead)
            if max_norm is not None:
                scale = (max_norm / norm).clamp(max=1)
                for gradient in gradients:
                    gradient.mul_(scale.view(*norm.shape, *(1,) * (gradient.dim() - lead)))
            # x - x is 0 for a number and nan for inf and nan: fewer kernels than isfinite.
            total = norm.sum() if lead else norm
            self._move(gradients, (total - total).ne(0).float())
        return norm

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step on the gradients that the parameters hold, as torch's do; zero where there is none."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self._move(gradients, torch.zeros_like(self.count))
        return loss

    def _move(self, gradients: list[Tensor], bad: Tensor) -> None:
        """Take a step of all groups, or none where `bad`, a float32 scalar, is 1."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy the state of another such optimiser over the same parameters, in place."""
        for number, parameter in enumerate(self.parameters):
            for key, value in self.state[parameter].items():
                value.copy_(state_dict["state"][number][key])

    def __getstate__(self) -> dict[str, Any]:
        """Return everything that a copy needs; torch's own leaves attributes of subclasses out."""
        return {**super().__getstate__(), "count": self.count}

    def by_group(self, gradients: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return gradients of all parameters in lists as their groups are."""
        left = iter(gradients)
        return [[next(left) for _ in group["params"]] for group in self.param_groups]


class Adam(GuardedOptimizer):
    """Adam (Kingma and Ba 2015): `state[parameter]` holds `exp_avg`, `exp_avg_sq` and `step`.

    Args:
        groups: see `GuardedOptimizer`.
        eps: added to the root of the second moment.
        weight_decay: times the parameters, is added to their gradients after the norm is taken
            (`torch.optim.Adam`'s; it is not AdamW's).
        betas: decays of the first and the second moment.
    """

    def __init__(
        self,
        *groups: Group,
        eps: float = EPS,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = BETAS,
    ) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.slots = [self._slots(group["params"]) for group in self.param_groups]

    def _slots(self, parameters: list[Tensor]) -> _Slots:
        for parameter in parameters:
            exp_avg, exp_avg_sq = torch.zeros_like(parameter), torch.zeros_like(parameter)
            self.state[parameter] = {"step": self.count, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        moments = [self.state[parameter] for parameter in parameters]
        return _Slots(parameters, [m["exp_avg"] for m in moments], [m["exp_avg_sq"] for m in moments])

    def _move(self, gradients: list[Tensor], bad: Tensor) -> None:
        """Take a step of all groups, or none where `bad`, a float32 scalar, is 1."""
        by_group = self.by_group(gradients)
        if not torch.compiler.is_dynamo_compiling():
            self.count += 1
            for group, slots, grads in zip(self.param_groups, self.slots, by_group, strict=True):
                _fused(group, slots, grads, self.count, bad)
            self.count -= bad
            return
        good, count = bad == 0, self.count + 1
        for group, slots, grads in zip(self.param_groups, self.slots, by_group, strict=True):
            _traced(group, slots, grads, count, good)
        self.count.copy_(torch.where(good, count, self.count))

    def __getstate__(self) -> dict[str, Any]:
        """Return everything that a copy needs."""
        return {**super().__getstate__(), "slots": self.slots}


def _norm(gradients: Sequence[Tensor], lead: int) -> Tensor:
    """Norm of all gradients of each seed, `[*lead]`."""
    if lead or torch.compiler.is_dynamo_compiling():  # by axes: flattened, they would be read in index order
        squares = [
            g.square().sum(tuple(range(lead, g.dim()))) if g.dim() > lead else g.square() for g in gradients
        ]
        return torch.stack(squares).sum(0).sqrt()
    return torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(list(gradients)))))


def _fused(group: dict[str, Any], slots: _Slots, grads: list[Tensor], count: Tensor, bad: Tensor) -> None:
    """Call torch's fused kernel once, which leaves everything as it is where `bad` is 1."""
    beta1, beta2 = group["betas"]
    torch._fused_adam_(
        slots.parameters,
        grads,
        slots.exp_avgs,
        slots.exp_avg_sqs,
        [],
        [count] * len(grads),
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
        found_inf=bad,
    )


def _traced(group: dict[str, Any], slots: _Slots, grads: list[Tensor], count: Tensor, good: Tensor) -> None:
    """Do the same step written out, for a compiler to fuse with what stands around it."""
    beta1, beta2 = group["betas"]
    exact = count.double()  # as the fused kernel has it: 1 - 0.999^t cancels in single precision
    rate, root = stored(group["lr"] / (1 - beta1**exact)), stored((1 - beta2**exact).sqrt())
    decay = group["weight_decay"]
    for p, gradient, m, v in zip(slots.parameters, grads, slots.exp_avgs, slots.exp_avg_sqs, strict=True):
        g = gradient + decay * p if decay else gradient
        new_m = m.lerp(g, 1 - beta1)
        new_v = v * beta2 + (1 - beta2) * g * g
        new_p = p - rate.to(p.dtype) * new_m / (new_v.sqrt() / root.to(p.dtype) + group["eps"])
        for old, new in ((m, new_m), (v, new_v), (p, new_p)):
            old.copy_(torch.where(good, new, old))


def stored(x: Tensor) -> Tensor:
    """Return `x` unchanged, and have a compiler write it to memory.

    It works numbers out anew wherever they are read: both powers once for every sixteen weights.
    """
    return x.as_strided(x.shape, x.stride())


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


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move the parameters of `target` to (1 - tau) target + tau online, in place."""
    old: list[Tensor] = list(target.parameters())
    new: list[Tensor] = list(online.parameters())
    if not torch.compiler.is_dynamo_compiling():
        torch._foreach_lerp_(old, new, tau)
        return
    for ours, theirs in zip(old, new, strict=True):
        ours.copy_(ours.lerp(theirs, tau))
