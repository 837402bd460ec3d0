"""How a tensor of GGUF is made of those of a checkpoint, and back.

A layout has three methods: ``source_shape`` of each tensor of the checkpoint, ``gather`` from
them, and ``scatter`` to them. Bytes are fetched only when the result's are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from linnet.errors import UnsupportedError
from linnet.formats.parts import RawBytes, Tensor
from linnet.types import TensorType

Shape = tuple[int, ...]

_WORDS = {TensorType.F32: np.uint32, TensorType.F16: np.uint16, TensorType.BF16: np.uint16}


class Layout(Protocol):
    """One way of laying out."""

    def source_shape(self, shape: Shape) -> Shape:
        """The shape of each tensor of the checkpoint, given that of GGUF."""

    def gather(self, name: str, shape: Shape, sources: Sequence[Tensor]) -> Tensor:
        """The tensor of GGUF."""

    def scatter(self, tensor: Tensor, names: Sequence[str]) -> list[Tensor]:
        """The tensors of the checkpoint."""


class _OneToOne:
    """The rows of one tensor, moved; or its shape alone, changed."""

    def source_shape(self, shape: Shape) -> Shape:
        return shape

    def gather(self, name: str, shape: Shape, sources: Sequence[Tensor]) -> Tensor:
        (source,) = sources
        return _moved(source, name, shape, self.forward)

    def scatter(self, tensor: Tensor, names: Sequence[str]) -> list[Tensor]:
        (name,) = names
        return [_moved(tensor, name, self.source_shape(tensor.shape), self.backward)]

    def forward(self, rows: RawBytes, source: Tensor) -> RawBytes:
        """``rows`` [rows, bytes] of the checkpoint as GGUF has them."""
        return rows

    def backward(self, rows: RawBytes, source: Tensor) -> RawBytes:
        """The other way round."""
        return rows


def _rows_of(tensor: Tensor) -> RawBytes:
    """[rows, bytes]; the elements of a vector count as rows."""
    n_rows = tensor.n_elements if len(tensor.shape) == 1 else tensor.n_elements // tensor.n_columns
    return np.asarray(tensor.load()).reshape(n_rows, -1)


def _moved(tensor: Tensor, name: str, shape: Shape, move: Callable[[RawBytes, Tensor], RawBytes]) -> Tensor:
    def load() -> RawBytes:
        return np.ascontiguousarray(move(_rows_of(tensor), tensor)).reshape(-1).view(np.uint8)

    return Tensor(name, tensor.type, shape, load)


class AsIs(_OneToOne):
    """The same bytes."""

    def gather(self, name: str, shape: Shape, sources: Sequence[Tensor]) -> Tensor:
        return replace(sources[0], name=name, shape=shape)

    def scatter(self, tensor: Tensor, names: Sequence[str]) -> list[Tensor]:
        return [replace(tensor, name=names[0], shape=self.source_shape(tensor.shape))]


class OneInTheMiddle(AsIs):
    """[rows, 1, columns] in the checkpoint: the filters of a convolution of each channel."""

    def source_shape(self, shape: Shape) -> Shape:
        return (shape[0], 1, shape[1])


@dataclass(frozen=True)
class PairRows(_OneToOne):
    """Rows of queries or keys for rotary positions.

    A checkpoint rotates the two halves of a head against each other, GGUF neighbouring
    pairs (as the original Llama code did). The two are the same function once the rows of
    a head are reordered: row 2i + j in GGUF is row j * head_dim / 2 + i in a checkpoint.
    """

    n_heads: int
    head_dim: int

    def forward(self, rows: RawBytes, source: Tensor) -> RawBytes:
        return self._swapped(rows, 2, self.head_dim // 2)

    def backward(self, rows: RawBytes, source: Tensor) -> RawBytes:
        return self._swapped(rows, self.head_dim // 2, 2)

    def _swapped(self, rows: RawBytes, first: int, second: int) -> RawBytes:
        return rows.reshape(self.n_heads, first, second, -1).swapaxes(1, 2)


@dataclass(frozen=True)
class Interleaved(_OneToOne):
    """Queries, keys and values of each head one after the other, in GGUF all queries first (GPT-NeoX)."""

    n_heads: int

    def forward(self, rows: RawBytes, source: Tensor) -> RawBytes:
        return rows.reshape(self.n_heads, 3, len(rows) // (3 * self.n_heads), -1).swapaxes(0, 1)

    def backward(self, rows: RawBytes, source: Tensor) -> RawBytes:
        return rows.reshape(3, self.n_heads, len(rows) // (3 * self.n_heads), -1).swapaxes(0, 1)


class Transposed(_OneToOne):
    """[inputs, outputs] in the checkpoint (Conv1D of GPT-2)."""

    def source_shape(self, shape: Shape) -> Shape:
        return shape[::-1]

    def forward(self, rows: RawBytes, source: Tensor) -> RawBytes:
        if source.type not in _WORDS:
            raise UnsupportedError(
                f"the tensor '{source.name}' is {source.type.label}, and cannot be transposed"
            )
        return rows.reshape(-1).view(_WORDS[source.type]).reshape(source.shape).T

    backward = forward


@dataclass(frozen=True)
class Tail(_OneToOne):
    """The checkpoint has ``n`` more rows in front, which no token looks up (positions of OPT)."""

    n: int

    def source_shape(self, shape: Shape) -> Shape:
        return (shape[0] + self.n, *shape[1:])

    def forward(self, rows: RawBytes, source: Tensor) -> RawBytes:
        return rows[self.n :]

    def backward(self, rows: RawBytes, source: Tensor) -> RawBytes:
        return np.concatenate([np.zeros_like(rows[: self.n]), rows])


class PlusOne:
    """Norm weights that a checkpoint stores less one (Gemma). f32 in both once computed with."""

    def source_shape(self, shape: Shape) -> Shape:
        return shape

    def gather(self, name: str, shape: Shape, sources: Sequence[Tensor]) -> Tensor:
        return _added(sources[0], name, 1.0)

    def scatter(self, tensor: Tensor, names: Sequence[str]) -> list[Tensor]:
        return [_added(tensor, names[0], -1.0)]


def _added(tensor: Tensor, name: str, amount: float) -> Tensor:
    def load() -> RawBytes:
        return (floats(tensor) + np.float32(amount)).view(np.uint8)

    return Tensor(name, TensorType.F32, tensor.shape, load)


def floats(tensor: Tensor) -> NDArray[np.float32]:
    """The values of a plain tensor, flat."""
    raw = np.asarray(tensor.load()).reshape(-1)
    if tensor.type is TensorType.BF16:
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw.view(np.float16 if tensor.type is TensorType.F16 else np.float32).astype(np.float32)


class Stacked:
    """[n, ...] in GGUF, n tensors in the checkpoint (experts; norms of single heads)."""

    def source_shape(self, shape: Shape) -> Shape:
        return shape[1:]

    def gather(self, name: str, shape: Shape, sources: Sequence[Tensor]) -> Tensor:
        def load() -> RawBytes:
            return np.concatenate([np.asarray(source.load()).reshape(-1) for source in sources])

        return Tensor(name, sources[0].type, shape, load)

    def scatter(self, tensor: Tensor, names: Sequence[str]) -> list[Tensor]:
        def part(index: int) -> Callable[[], RawBytes]:
            return lambda: np.asarray(tensor.load()).reshape(len(names), -1)[index]

        return [Tensor(name, tensor.type, tensor.shape[1:], part(i)) for i, name in enumerate(names)]


AS_IS = AsIs()
ONE_IN_THE_MIDDLE = OneInTheMiddle()
TRANSPOSED = Transposed()
PLUS_ONE = PlusOne()
STACKED = Stacked()
