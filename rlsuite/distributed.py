"""Processes that train one agent together (torchrun): what they average, count and agree on.

Every process is a rank, with envs and replayed transitions of its own and the same weights. Alone, every
function here gives back what it got. The group is joined by `joined` and never guessed from
`torch.distributed`: who embeds our agents may have a group for purposes of their own.
"""

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

PATIENCE = datetime.timedelta(hours=1)  # others wait while rank 0 evaluates or saves
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # that torchrun sets


@dataclass(frozen=True, slots=True)
class Place:
    """Which process this is: rank of size, and among how many on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


ALONE = Place()
_place = ALONE


def announced() -> Place:
    """Return the place that torchrun gave this process; `ALONE` without it."""
    if not all(os.environ.get(name, "").isdecimal() for name in VARIABLES):
        return ALONE
    return Place(*(int(os.environ[name]) for name in VARIABLES))


@contextmanager
def joined(device: str = "auto") -> Iterator[Place]:
    """Join the group that torchrun announced, for the duration; without torchrun this does nothing.

    Gradients on CUDA travel by NCCL, where every process has a GPU of its own, and else by Gloo.

    Args:
        device: "auto", "cpu" or "cuda"; every process takes the GPU of its local rank.
    """
    global _place
    place = announced()
    if place.size == 1:
        yield ALONE
        return
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        if place.local_size <= torch.cuda.device_count():
            backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=PATIENCE)
    _place = place
    try:
        yield place
    finally:
        _place = ALONE
        distributed.destroy_process_group()


def rank() -> int:
    """Return which process this is; 0 is the one that writes and evaluates."""
    return _place.rank


def size() -> int:
    """Return how many processes train together."""
    return _place.size


def mean(tensor: Tensor) -> Tensor:
    """Return the mean of all ranks' tensors, which have one shape; the same bits on every rank."""
    return total(tensor) / _place.size if _place.size > 1 else tensor


def total(tensor: Tensor) -> Tensor:
    """Return the sum of all ranks' tensors, which have one shape."""
    if _place.size == 1:
        return tensor
    summed = tensor.detach().clone()
    distributed.all_reduce(summed)
    return summed


def most(tensor: Tensor) -> Tensor:
    """Return the greatest of all ranks' numbers, each for itself."""
    greatest = tensor.detach().clone()
    if _place.size > 1:
        distributed.all_reduce(greatest, distributed.ReduceOp.MAX)
    return greatest


@torch.no_grad()
def average_(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one type by their means over all ranks, in one message."""
    if _place.size == 1:
        return
    flat = mean(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    for tensor, piece in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))


def count(number: int) -> int:
    """Return the sum of all ranks' numbers."""
    return int(total(torch.tensor(number))) if _place.size > 1 else number


def any_of(flag: bool) -> bool:
    """Return whether some rank's flag is set: all of them get the same answer."""
    return count(int(flag)) > 0


def agreed(text: str) -> str:
    """Return rank 0's text."""
    if _place.size == 1:
        return text
    encoded = text.encode() if _place.rank == 0 else b""
    padded = encoded.ljust(count(len(encoded)), b"\0")
    return bytes(total(torch.tensor(list(padded), dtype=torch.int32)).tolist()).decode()


def alike(tensor: Tensor) -> bool:
    """Return whether all ranks have the same numbers, to the last bit."""
    if _place.size == 1:
        return True
    least, most = tensor.detach().clone(), tensor.detach().clone()
    distributed.all_reduce(least, distributed.ReduceOp.MIN)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return bool(torch.equal(least, most))


def wait() -> None:
    """Wait until every rank is here."""
    count(0)
