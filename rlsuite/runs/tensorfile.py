"""Named tensors as safetensors bytes, and whether they fit what a run expects."""

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from rlsuite.errors import DataError

SHOWN_NAMES = 3  # of those that do not fit; more would bury the message


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return `tensors` as a safetensors file.

    Tensors may lie on any device; views, also of one another, are written out in full.
    """
    seen: set[int] = set()
    ready: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        ready[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return safetensors.torch.save(ready)


def check_like(part: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise DataError unless `found` has the names, shapes and dtypes of `expected`; both values are named.

    To be called before a state is loaded, so that a checkpoint of another network or environment is
    refused with a clear message and with nothing half loaded.
    """
    missing, extra = expected.keys() - given.keys(), given.keys() - expected.keys()
    if missing or extra:
        raise DataError(
            f'checkpoint part "{part}" does not fit this run: '
            f"missing {sorted(missing)[:SHOWN_NAMES]}, unknown {sorted(extra)[:SHOWN_NAMES]}"
        )
    for name, tensor in expected.items():
        other = given[name]
        if tuple(other.shape) != tuple(tensor.shape) or other.dtype != tensor.dtype:
            raise DataError(
                f'checkpoint part "{part}": {name} is {tuple(other.shape)} {other.dtype}, '
                f"this run needs {tuple(tensor.shape)} {tensor.dtype}"
            )
