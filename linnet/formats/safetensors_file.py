"""The safetensors format: one JSON header, then the bytes of all tensors.

https://github.com/huggingface/safetensors#format: a little-endian u64 (length of the
header), the header (name -> dtype, shape, data_offsets relative to its end), the data
without holes. Only what model weights need is kept: no tensor is copied on reading,
and bf16, which numpy lacks, stays raw bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from linnet.errors import FormatError
from linnet.formats.inputs import map_bytes
from linnet.formats.parts import RawBytes, Tensor
from linnet.types import TensorType

_MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
_ALIGNMENT = 8
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
NAMES = {TensorType.F32: "F32", TensorType.F16: "F16", TensorType.BF16: "BF16"}


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a file: ``dtype`` as the file spells it, ``raw`` mapped, flat."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: RawBytes


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, their bytes mapped into memory, not read.

    Raises SourceError when the file cannot be read and FormatError when it is
    truncated or contradicts itself.
    """
    data = map_bytes(path)
    size = len(data)
    if size < 8:
        raise FormatError(f"{path} is not a safetensors file: {size} bytes are too few")
    header_bytes = int(data[:8].view("<u8")[0])
    if header_bytes > min(size - 8, _MAX_HEADER):
        raise FormatError(f"{path} is damaged or truncated: its header claims {header_bytes} bytes")
    header = _parse_header(data[8 : 8 + header_bytes].tobytes(), path)
    header.pop("__metadata__", None)
    body = data[8 + header_bytes :]
    spans = {name: _span(name, entry, len(body), path) for name, entry in header.items()}
    end = 0
    for begin, stop in sorted(spans.values()):
        if begin != end:
            raise FormatError(f"{path} is damaged: its tensors overlap or leave a hole at byte {end}")
        end = stop
    if end != len(body):
        raise FormatError(f"{path} is damaged: {len(body) - end} bytes belong to no tensor")
    return {
        name: StoredTensor(name, entry["dtype"], tuple(entry["shape"]), body[slice(*spans[name])])
        for name, entry in header.items()
    }


def write_safetensors(tensors: Sequence[Tensor], file: BinaryIO) -> None:
    """Writes plain tensors (f32, f16, bf16), one at a time in memory, in the given order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": NAMES[tensor.type],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.n_bytes],
        }
        end += tensor.n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        file.write(np.ascontiguousarray(tensor.load()).data)


def _parse_header(text: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name occurs twice")
        return table

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{path} is not a safetensors file: its header is not valid JSON ({error})"
        ) from None
    if not isinstance(header, dict):
        raise FormatError(f"{path} is not a safetensors file: its header is not an object")
    return header


def _span(name: str, entry: Any, available: int, path: Path) -> tuple[int, int]:
    """Checks one header entry; returns its (begin, end) in the data."""

    def is_count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 1 << 63

    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        well_formed = isinstance(shape, list) and all(map(is_count, (*shape, begin, end)))
        if not well_formed:
            raise TypeError
        expected = prod(shape) * _ITEM_BYTES[dtype]
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"{path} is damaged: the entry of tensor '{name}' makes no sense") from None
    if not begin <= end <= available:
        raise FormatError(f"{path} is truncated or damaged: tensor '{name}' ends outside the file")
    if end - begin != expected:
        raise FormatError(
            f"{path} is damaged: tensor '{name}' has {end - begin} bytes, not those of its shape"
        )
    return begin, end
