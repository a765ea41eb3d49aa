"""Replay of pictures: a frame is stored once, as bytes; what an observation stacks is joined when sampling.

Four bytes lie in one float32 of the packed matrix, as they are: nothing computes with them before they are
viewed as bytes again. So ring, samples, chunks and checkpoints are those of numbers.

Legend: B envs, N batch, K frames of an observation, P bytes of a frame, Q = ceil(P / 4) columns of one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.replay.batch import Batch, columns_of
from rlsuite.replay.packed import as_array, layout_of, read_columns
from rlsuite.replay.uniform import UniformReplay

BYTES = 4  # of a column
OBSERVATIONS = (0, 2)  # places of observation and next observation among the columns of a transition


class PixelReplay(UniformReplay):
    """Ring of transitions whose observations are K frames of bytes, the oldest first; see `UniformReplay`.

    Of each observation `[R, K P]` only the newest frame is stored. The others are those of the transitions
    before it in its env; before the first of an episode, or of what the ring still holds, the first one is
    repeated, as the environment does.

    Args:
        capacity: transitions of all seeds.
        frame: P, bytes of a frame.
        frames: K.
        ring: arguments of `UniformReplay`.
    """

    def __init__(self, capacity: int, *, frame: int, frames: int, **ring: Any) -> None:
        super().__init__(capacity, **ring)
        self.frame, self.frames = frame, frames
        device = self.device
        self._back = torch.arange(self.frames - 1, device=device) * self.num_envs  # rows, 0 .. K - 2

    def bytes_needed(self, step: TensorDictBase) -> int:
        """Bytes of the full ring for transitions like those of `step` (`[B]`, with its "next")."""
        return self.capacity * layout_of(self._narrowed(read_columns(step))).width * torch.float32.itemsize

    def no_rows(self, step: TensorDictBase) -> dict[str, Tensor]:
        """Return empty columns, as `chunk_columns` names them, of transitions like those of `step`, `[B]`."""
        layout = layout_of(self._narrowed(read_columns(step)))
        return layout.columns(torch.empty(0, layout.width))

    def extend(self, step: TensorDictBase) -> None:
        """Append the transitions of `step`, with TorchRL's keys: see `extend_arrays`."""
        self._extend(self._narrowed(read_columns(step)))

    def extend_arrays(
        self,
        observation: Tensor | np.ndarray,
        action: Tensor | np.ndarray,
        reward: Tensor | np.ndarray,
        next_observation: Tensor | np.ndarray,
        terminated: Tensor | np.ndarray,
        truncated: Tensor | np.ndarray,
        done: Tensor | np.ndarray,
        valid: Tensor | np.ndarray | None = None,
    ) -> None:
        """Append one vector step of all envs, or several, time-major; see `UniformReplay.extend_arrays`.

        Observations are `[R, K P]`, bytes or their values in any type.
        """
        flags = (terminated, truncated, done, valid)
        self._extend(self._narrowed((observation, action, next_observation, reward, *flags)))

    def preload(self, rows: TensorDictBase) -> None:
        """Refuse: recorded transitions do not say which frames came before them."""
        raise ValueError("recorded transitions of pictures cannot be put before those of a run")

    def sample(self) -> TensorDict:
        """Draw `[N]` transitions (`[S, N]`) with TorchRL's keys and "discount"; observations are uint8."""
        batch = self.batch()
        discount = torch.as_tensor(batch.discount, device=self.device).expand(batch.reward.shape)
        columns = columns_of(batch._replace(discount=discount))
        shape = batch.reward.shape
        table = TensorDict({}, shape)
        for name, column in columns.items():
            table.set(tuple(name.split(".")), column)
        return table

    def _narrowed(self, columns: Sequence[Any]) -> list[Any]:
        """Return columns with the newest frames as the matrix holds them, `[R, Q]` float32."""
        stored = list(columns)
        for place in OBSERVATIONS:
            if (whole := stored[place]) is not None:
                if whole.shape[1:] != (self.frame * self.frames,):
                    raise ValueError(
                        f"an observation has shape {list(whole.shape)}; {self.frames} frames of {self.frame} "
                        f"bytes were expected, [transitions, {self.frame * self.frames}]"
                    )
                stored[place] = self._packed_frame(whole)
        return stored

    def _packed_frame(self, observation: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Return the newest frame of observations `[R, K P]` as `[R, Q]` float32 of four bytes each."""
        columns = -(-self.frame // BYTES)
        if self._counts:  # on the host
            packed = np.zeros((len(observation), columns * BYTES), np.uint8)
            packed[:, : self.frame] = as_array(observation)[:, -self.frame :]
            return packed.view(np.float32)
        newest = torch.as_tensor(observation, device=self.device)[:, -self.frame :].to(torch.uint8)
        padded = torch.nn.functional.pad(newest, (0, columns * BYTES - self.frame))
        return padded.contiguous().view(torch.float32)

    def _gather(self, index: Tensor) -> Batch:
        assert self.layout is not None
        discount: Tensor | float = self.gamma
        packed = self._rows(index)
        columns, last = self.layout.batch(packed, self.gamma), index
        if self.n_step > 1:
            reward, discount, last = self._sum(index)
            columns = self.layout.batch(torch.embedding(self._packed, last), self.gamma)
            observation, action, *_ = self.layout.split(packed)
            columns = columns._replace(observation=observation, action=action, reward=reward)
        before = self._before(index)  # frames [*index, K - 1, P] before that of `index`
        observation = torch.cat((before, self._bytes(columns.observation).unsqueeze(-2)), -2)
        if last is index:
            recent = observation[..., 1:, :]
        else:
            newest = self._bytes(self.layout.split(torch.embedding(self._packed, last))[0])
            recent = torch.cat((self._before(last), newest.unsqueeze(-2)), -2)[..., 1:, :]
        next_observation = torch.cat((recent, self._bytes(columns.next_observation).unsqueeze(-2)), -2)
        return columns._replace(
            observation=observation.flatten(-2),
            next_observation=next_observation.flatten(-2),
            discount=discount,
        )

    def _before(self, index: Tensor) -> Tensor:
        """Return the K - 1 frames before that of each place, the oldest first, `[*index, K - 1, P]` bytes."""
        assert self.layout is not None
        if self.frames == 1:
            return torch.empty(*index.shape, 0, self.frame, dtype=torch.uint8, device=self.device)
        # Going back ends where the transition before ended an episode, or is not in the ring any more.
        back = self._back + self.num_envs  # 1 .. K - 1 vector steps
        places = (index.unsqueeze(-1) - back).remainder(self.capacity)
        newest = self.total - 1 if self._counts else self._newest
        stored = len(self) if self._counts else self._stored_rows()
        age = (newest - index).remainder(self.capacity).unsqueeze(-1) + back
        goes_on = (self._packed[:, self.layout.done][places] == 0) & (age < stored)
        steps = goes_on.cumprod(-1).cumsum(-1)  # how far back each of them may go
        places = (index.unsqueeze(-1) - steps * self.num_envs).remainder(self.capacity).flip(-1)
        frames = self._packed[:, : self.layout.observation][places]
        return self._bytes(frames)

    def _stored_rows(self) -> Tensor:
        """Rows of all seeds, on the device."""
        return self._stored * self.seeds

    def _bytes(self, columns: Tensor) -> Tensor:
        """View frames `[..., Q]` of the matrix as bytes `[..., P]`."""
        return columns.contiguous().view(torch.uint8)[..., : self.frame]
