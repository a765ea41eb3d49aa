"""Whether an optimiser's state of a parameter can be reset for single units."""

from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from rlsuite.errors import ConfigError

UNSPLIT = (
    "Adafactor",
    "LBFGS",
    "Kron",
)  # their sums over rows or parameters belong to no unit; empty at first


def check_splittable(optimizer: Optimizer, parameter: Tensor, *, held: bool) -> None:
    """Raise ConfigError where an optimiser's state of a parameter has entries of no single unit."""
    name = type(optimizer).__name__
    if held and any(base.__name__ in UNSPLIT for base in type(optimizer).mro()):
        raise ConfigError(
            f"{name} keeps sums over several units: which belong to a single one cannot be told; use "
            "reset_moments=False or another optimiser"
        )
    for key, entry in optimizer.state.get(parameter, {}).items():
        for part in tree_leaves(entry):
            if isinstance(part, Tensor) and part.numel() > 1 and part.shape != parameter.shape:
                raise ConfigError(
                    f'{name} keeps "{key}" of shape {list(part.shape)} for a parameter of shape '
                    f"{list(parameter.shape)}: which entries belong to a unit cannot be told; use "
                    "reset_moments=False"
                )
