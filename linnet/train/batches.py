"""Rows of packed documents, in an order that is a function of seed and step alone.

The stream is cut into rows of equal length. In each epoch the cuts move and the rows are shuffled
anew, both from (seed, epoch), so the cursor of a run is one number: the step. Documents that share
a row do not see each other (see :func:`linnet.train.model.document_mask`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linnet.errors import SourceError
from linnet.train.loss import IGNORE
from linnet.train.model import document_mask
from linnet.train.shape import BatchShape


class Stream(Protocol):
    """Token ids in order; a split of a corpus."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]: ...


@dataclass(frozen=True)
class Batch:
    """One micro-batch."""

    tokens: Tensor  # [rows, length] int64
    targets: Tensor  # [rows, length] int64, IGNORE where a position carries no loss
    mask: Tensor | None  # [rows, 1, length, length], added to attention scores
    number: int  # unique over the run and its processes; seeds dropout

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        tokens, targets = (
            self.tokens.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
        )
        return Batch(tokens, targets, mask, self.number)


def packed(windows: NDArray[np.int64], bos_id: int, eos_id: int, number: int = 0) -> Batch:
    """A batch from ``windows`` [rows, length + 1] of consecutive ids.

    With a BOS of its own, the BOS after an EOS is not predicted: which document follows is chance.
    Where one token is both, it is predicted: it ends the document before.
    """
    ids = torch.from_numpy(windows)
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].clone()
    if bos_id != eos_id:
        targets[targets == bos_id] = IGNORE
    return Batch(tokens, targets, document_mask(tokens, bos_id), number)


class PackedBatches:
    """The training batches of process ``rank`` of ``world``."""

    def __init__(
        self,
        stream: Stream,
        special: tuple[int, int],
        shape: BatchShape,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        length = shape.length
        if len(stream) < length + 1:
            raise SourceError(
                f"the corpus has {len(stream)} training tokens, fewer than one row of {length + 1}; "
                f"add text, or choose a shorter row with --batch length={max(2, len(stream) // 4)}"
            )
        self._stream, self._special, self._shape = stream, special, shape
        self._seed, self._rank, self._world = seed, rank, world
        self.micro_steps = shape.micro_steps(world)
        self.rows_per_step = shape.tokens // length
        # One row fewer than fit, so that the cuts have room to move between epochs.
        self.rows_per_epoch = max(1, len(stream) // length - 1)
        self._order: tuple[int, int, NDArray[np.int64]] | None = None

    def read(self, step: int, micro_step: int) -> Batch:
        """Micro-batch ``micro_step`` of ``step`` for this process."""
        size = self._shape.sequences
        first = (micro_step * self._world + self._rank) * size
        number = (step * self.micro_steps + micro_step) * self._world + self._rank
        return packed(self._windows(step, first, first + size), *self._special, number)

    def supervised(self, step: int) -> int:
        """Positions of ``step`` that carry loss, over all processes."""
        bos_id, eos_id = self._special
        if bos_id == eos_id:
            return self._shape.tokens
        windows = self._windows(step, 0, self.rows_per_step)
        return int((windows[:, 1:] != bos_id).sum())

    def _windows(self, step: int, first: int, last: int) -> NDArray[np.int64]:
        length = self._shape.length
        starts = [self._start(step * self.rows_per_step + row) for row in range(first, last)]
        return np.stack([self._stream.read(s, s + length + 1).astype(np.int64) for s in starts])

    def _start(self, row: int) -> int:
        """Where row number ``row`` of the run begins in the stream."""
        epoch, position = divmod(row, self.rows_per_epoch)
        if self._order is None or self._order[0] != epoch:
            chance = np.random.default_rng([self._seed, epoch])
            spare = len(self._stream) - 1 - self.rows_per_epoch * self._shape.length
            self._order = (epoch, int(chance.integers(spare + 1)), chance.permutation(self.rows_per_epoch))
        _, offset, order = self._order
        return offset + int(order[position]) * self._shape.length


def validation_windows(stream: Stream, length: int, limit: int) -> NDArray[np.int64]:
    """At most ``limit`` rows of ``length`` + 1 ids, spread evenly over ``stream``; the same every time.

    Empty [0, length + 1] when the stream is shorter than one row.
    """
    fitting = (len(stream) - 1) // length
    if fitting < 1:
        return np.empty((0, length + 1), np.int64)
    starts = np.unique(np.linspace(0, fitting - 1, min(fitting, limit)).astype(np.int64)) * length
    return np.stack([stream.read(int(s), int(s) + length + 1).astype(np.int64) for s in starts])
