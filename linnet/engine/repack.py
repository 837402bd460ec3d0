"""Tensors stored in another type, by the core's packers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from linnet.engine.processors import available_processors
from linnet.engine.quants import pack, unpack
from linnet.errors import FormatError, UnsupportedError
from linnet.formats.inputs import release
from linnet.formats.parts import ModelParts, RawBytes, Tensor
from linnet.types import TensorType

_CHUNK = 1 << 18  # elements a thread converts at a time, so that memory does not grow with the tensor
_LARGEST_F16 = 65504.0

# What a matrix becomes whose rows are no whole number of super-blocks of 256: the type of blocks of 32
# that comes nearest in bits. There is none of 2 or 3 bits, and none that would keep ternary weights small.
_NARROW = {
    TensorType.Q2_K: TensorType.Q4_0,
    TensorType.Q3_K: TensorType.Q4_0,
    TensorType.Q4_K: TensorType.Q4_1,
    TensorType.Q5_K: TensorType.Q5_1,
    TensorType.Q6_K: TensorType.Q8_0,
    TensorType.IQ4_XS: TensorType.IQ4_NL,
}
TERNARY = (TensorType.TQ1_0, TensorType.TQ2_0)  # for weights trained to be -d, 0 or d


@dataclass(frozen=True)
class Fallback:
    """A tensor that could not take the wanted type, the type it took, and why."""

    tensor: str
    type: str
    reason: str


def with_types(
    parts: ModelParts, wanted: Callable[[Tensor], TensorType]
) -> tuple[ModelParts, list[Fallback]]:
    """The model with each matrix stored as ``wanted`` says, and the exceptions.

    What is no matrix stays plain: it is small, and every step of the computation goes
    through it. A matrix whose rows are not a whole number of blocks takes a type of
    smaller blocks, in the end f16. Raises UnsupportedError where that would undo a
    ternary type; loading a tensor raises FormatError for weights that are not finite.
    """
    tensors, fallbacks = [], []
    for tensor in parts.tensors:
        type = wanted(tensor)
        if not tensor.is_matrix:
            is_plain = tensor.type.block_elements == 1
            tensors.append(_checked(tensor) if is_plain else repacked(tensor, TensorType.F32))
            continue
        if tensor.n_columns % type.block_elements:
            reason = f"{tensor.n_columns} columns are not a whole number of blocks of {type.block_elements}"
            type = _fitting(tensor, type)
            fallbacks.append(Fallback(tensor.name, type.label, reason))
        tensors.append(_checked(tensor) if type is tensor.type else repacked(tensor, type))
    return replace(parts, tensors=tuple(tensors)), fallbacks


def _fitting(tensor: Tensor, wanted: TensorType) -> TensorType:
    """The type a matrix takes instead of one whose blocks do not fit its rows."""
    if wanted in TERNARY:
        raise UnsupportedError(
            f"the tensor '{tensor.name}' has {tensor.n_columns} columns, and {wanted.label} stores whole "
            f"blocks of {wanted.block_elements}; choose a type of smaller blocks, such as q4_0"
        )
    narrow = _NARROW.get(wanted, TensorType.F16)
    return TensorType.F16 if tensor.n_columns % narrow.block_elements else narrow


def float_rows(tensor: Tensor) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The tensor as f32, a few rows at a time: (which rows, [rows, columns])."""
    raw = tensor.load()
    for rows in _row_slices(tensor):
        yield rows, _floats(tensor, raw, rows)


def _row_slices(tensor: Tensor) -> Iterator[slice]:
    n_rows = tensor.n_elements // tensor.n_columns
    step = max(1, _CHUNK // tensor.n_columns)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _raw_rows(tensor: Tensor, raw: RawBytes, rows: slice) -> RawBytes:
    row_bytes = tensor.type.bytes_for(tensor.n_columns)
    return raw[rows.start * row_bytes : rows.stop * row_bytes]


def _floats(tensor: Tensor, raw: RawBytes, rows: slice) -> NDArray[np.float32]:
    values = unpack(tensor.type, _raw_rows(tensor, raw, rows), (rows.stop - rows.start) * tensor.n_columns)
    return values.reshape(-1, tensor.n_columns)


def repacked(tensor: Tensor, type: TensorType) -> Tensor:
    """The same tensor stored as ``type``; nothing is computed before its bytes are asked for.

    Its rows must be a whole number of blocks. All processors work on it, each on a few
    rows, and what was read of a mapped file is given back. Loading raises FormatError for weights
    that are no numbers and UnsupportedError for weights ``type`` cannot hold.
    """
    if type is tensor.type:
        return tensor
    row_bytes = type.bytes_for(tensor.n_columns)

    def stream() -> Iterator[RawBytes]:
        raw = tensor.load()

        def packed_rows(rows: slice) -> RawBytes:
            values = _floats(tensor, raw, rows)
            _check(tensor.name, type, values)
            release(_raw_rows(tensor, raw, rows))
            return pack(type, values)

        return in_order(packed_rows, _row_slices(tensor))

    def load() -> RawBytes:
        packed = np.empty(tensor.n_elements // tensor.n_columns * row_bytes, dtype=np.uint8)
        done = 0
        for piece in stream():
            packed[done : done + len(piece)] = piece
            done += len(piece)
        return packed

    return replace(tensor, type=type, load=load, stream=stream)


def in_order(function: Callable[[slice], RawBytes], items: Iterator[slice]) -> Iterator[RawBytes]:
    """``map(function, items)`` on all processors, never many results ahead of whoever takes them.

    For functions that spend their time in the core or in numpy, which let other threads run.
    """
    n_threads = available_processors()
    if n_threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque[Future[RawBytes]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _checked(tensor: Tensor) -> Tensor:
    """The same tensor, whose weights are looked at when its bytes are asked for."""

    def load() -> RawBytes:
        for _, values in float_rows(tensor):
            _check(tensor.name, tensor.type, values)
        return tensor.load()

    return replace(tensor, load=load, stream=None)


def _check(name: str, type: TensorType, values: NDArray[np.float32]) -> None:
    largest = float(np.max(np.abs(values), initial=0.0))
    if not np.isfinite(largest):
        raise FormatError(f"the tensor '{name}' holds values that are not finite; the file is damaged")
    if type is TensorType.F16 and largest > _LARGEST_F16:
        raise UnsupportedError(
            f"the tensor '{name}' holds {largest:g}, too large for f16; choose bf16 or f32"
        )
