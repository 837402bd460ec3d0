"""The GGUF format: metadata, an index of tensors, and their bytes.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little
endian. :func:`open_gguf` reads any such file far enough to describe it;
:func:`read_gguf` makes a model of it; :func:`write_gguf` writes version 3.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from linnet.display import shown
from linnet.errors import FormatError, UnsupportedError
from linnet.formats import arch
from linnet.formats.gguf_tokenizer import metadata_from_tokenizer, tokenizer_from_metadata
from linnet.formats.inputs import map_bytes
from linnet.formats.parts import DERIVED, ModelParts, RawBytes, Tensor
from linnet.types import TensorType

MAGIC = b"GGUF"
ALIGNMENT = 32
_VERSION = 3
_MAX_DIMS = 4
_MOST_TEXTS = 1 << 24  # of one array: a file of holes, which takes no room, could claim any number
_LARGEST_F32 = float(np.finfo(np.float32).max)

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64, _I64, _F64 = 4, 5, 6, 7, 8, 9, 10, 11, 12
_SCALARS = {  # GGUF value type: the letter struct and numpy have for it
    0: "<B", 1: "<b", 2: "<H", 3: "<h",
    _U32: "<I", _I32: "<i", _F32: "<f", _U64: "<Q", _I64: "<q", _F64: "<d",
}  # fmt: skip
_PACKINGS = {number: struct.Struct(letter) for number, letter in _SCALARS.items()}
_VALUE_TYPES = {np.dtype(letter): number for number, letter in _SCALARS.items()}

# Tensor types of GGUF: number -> (name, elements of a block, bytes of a block), so that
# files with types this version cannot run can at least be described.
TYPE_TRAITS = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22), 7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36),
    10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110), 12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292), 16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50), 20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136), 24: ("i8", 1, 1), 25: ("i16", 1, 2),
    26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8), 29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66), 39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18),
}  # fmt: skip

# general.file_type: what llama.cpp calls a file whose matrices are mostly of this type. Of the
# names it has for one type with different exceptions ("small", "medium"), the medium one.
_FILE_TYPES = {
    TensorType.F32: 0, TensorType.F16: 1, TensorType.Q4_0: 2, TensorType.Q4_1: 3, TensorType.Q8_0: 7,
    TensorType.Q5_0: 8, TensorType.Q5_1: 9, TensorType.Q2_K: 10, TensorType.Q3_K: 12, TensorType.Q4_K: 15,
    TensorType.Q5_K: 17, TensorType.Q6_K: 18, TensorType.IQ4_NL: 25, TensorType.IQ4_XS: 30,
    TensorType.BF16: 32, TensorType.TQ1_0: 36, TensorType.TQ2_0: 37, TensorType.MXFP4: 38,
}  # fmt: skip


class Writable(Protocol):
    """Anything bytes can be appended to: a file, a BytesIO, an anonymous mmap."""

    def write(self, data: Any, /) -> Any:
        """Appends ``data``."""


@dataclass(frozen=True)
class GgufTensor:
    """One entry of the index. ``shape`` is row-major (GGUF stores it reversed)."""

    name: str
    type_number: int
    shape: tuple[int, ...]
    raw: RawBytes | None  # None where the type is unknown, so that its size is too

    @property
    def type_name(self) -> str:
        """``q4_k``; ``type 77`` for a number GGUF does not define."""
        traits = TYPE_TRAITS.get(self.type_number)
        return traits[0] if traits else f"type {self.type_number}"


@dataclass(frozen=True)
class GgufFile:
    """A file as it is: no architecture or tensor type needs to be supported."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    n_bytes: int


# ---- reading ----------------------------------------------------------------------


def open_gguf(path: Path, header_bytes: int | None = None) -> GgufFile:
    """Maps a file and reads its header, of at most ``header_bytes``; every count and offset is checked.

    Raises SourceError when it cannot be read, FormatError when it is damaged.
    """
    data = map_bytes(path)
    try:
        return parse_gguf(data, header_bytes)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def parse_gguf(data: RawBytes, header_bytes: int | None = None) -> GgufFile:
    """Reads a file in memory, its header within ``header_bytes``. Raises FormatError, UnsupportedError."""
    if not len(data):
        raise FormatError("the file is empty; download or convert it again")
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise FormatError("not a GGUF file; linnet convert makes one of a checkpoint or a llama2.c file")
    cursor = _Cursor(data[:header_bytes])
    cursor.take(len(MAGIC))
    version = cursor.scalar(_U32)
    if version not in (2, 3):
        raise UnsupportedError(f"GGUF version {version} is not supported; convert the model again")
    n_tensors, n_pairs = cursor.scalar(_U64), cursor.scalar(_U64)
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count(n_pairs, at_least=13)):
        key = cursor.string()
        if key in metadata:
            raise FormatError(f"damaged: the key {shown(key)} occurs twice")
        metadata[key] = cursor.value(cursor.scalar(_U32))
    entries = [_read_entry(cursor) for _ in range(cursor.count(n_tensors, at_least=24))]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise FormatError(f"damaged: general.alignment is {shown(alignment)}, not a power of two")
    body = data[min(-(-cursor.position // alignment) * alignment, len(data)) :]
    tensors = tuple(_place(entry, body, alignment) for entry in entries)
    _check_index(entries, tensors)
    return GgufFile(version, metadata, tensors, len(data))


def read_gguf(path: Path) -> ModelParts:
    """The model in a GGUF file; weights are mapped, not read.

    Raises SourceError, FormatError (damaged) or UnsupportedError (an architecture or
    tensor type this version does not know).
    """
    return model_in(open_gguf(path), path)


def model_in(file: GgufFile, path: Path) -> ModelParts:
    """The model in a file that is open already; raises as :func:`read_gguf`, naming ``path``."""
    try:
        return _model_parts(file)
    except (FormatError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None


def _model_parts(file: GgufFile) -> ModelParts:
    metadata = file.metadata
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise FormatError("general.architecture is missing; is this a model?")
    if _text(metadata, "general.type") == "adapter":  # it names the architecture of the models it is for
        raise UnsupportedError("it is an adapter, not a model; use it on top of its model, with --adapter")
    family = arch.by_arch(name)
    if not file.tensors:
        raise UnsupportedError("the file holds a vocabulary but no weights")
    by_name = {tensor.name: tensor for tensor in file.tensors}
    divisors = {key: _floats(by_name[key]) for key in DERIVED if key in by_name}
    facts = family.facts_from_metadata(metadata, by_name, divisors)
    family = arch.by_facts(facts)
    tensors = []
    for planned in family.tensors(facts):
        entry = by_name.pop(planned.name, None)
        if entry is None:
            raise FormatError(f"the tensor '{planned.name}' is missing")
        tensors.append(replace(_tensor(entry, planned.shape), by_element=planned.by_element))
    if by_name:
        raise UnsupportedError(
            f"the tensor {shown(next(iter(by_name)))} is not part of a {name} model as known here"
        )
    tokenizer, special = tokenizer_from_metadata(metadata)
    own = {*family.metadata_from_facts(facts), *metadata_from_tokenizer(tokenizer, special), *_GENERATED}
    return ModelParts(
        facts=facts,
        special=special,
        tokenizer=tokenizer,
        tensors=tuple(tensors),
        name=_text(metadata, "general.name") or "",
        chat_template=_text(metadata, "tokenizer.chat_template"),
        extra={key: value for key, value in metadata.items() if key not in own},
    )


def _floats(entry: GgufTensor) -> NDArray[np.float32]:
    if entry.raw is None or entry.type_number != TensorType.F32 or len(entry.shape) != 1:
        raise FormatError(f"the tensor '{entry.name}' is not a vector of f32")
    return np.asarray(entry.raw).view("<f4").astype(np.float32)


def _text(metadata: dict[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise FormatError(f"'{key}' is not text")
    return value


def _tensor(entry: GgufTensor, shape: tuple[int, ...]) -> Tensor:
    if entry.shape not in (shape, shape[1:] if shape[0] == 1 else shape):  # one row may be told as a vector
        raise FormatError(f"the tensor '{entry.name}' is {entry.shape}, expected {shape}")
    return replace(tensor_of(entry), shape=shape)


def tensor_of(entry: GgufTensor) -> Tensor:
    """The tensor of an entry of the index. Raises UnsupportedError for a type this version does not know."""
    if entry.type_number not in TensorType._value2member_map_ or entry.raw is None:
        known = ", ".join(t.label for t in TensorType)
        raise UnsupportedError(
            f"the tensor '{entry.name}' is stored as {entry.type_name}; supported: {known}"
        )
    raw = entry.raw
    return Tensor(entry.name, TensorType(entry.type_number), entry.shape, lambda: raw)


class _Cursor:
    """Reads forward through untrusted bytes; never past their end."""

    def __init__(self, data: RawBytes) -> None:
        self._data = memoryview(data.data)
        self.position = 0

    def take(self, n: int) -> memoryview:
        """The next ``n`` bytes."""
        if n > len(self._data) - self.position:
            raise FormatError("truncated or damaged: the header ends outside the file")
        self.position += n
        return self._data[self.position - n : self.position]

    def count(self, n: int, at_least: int) -> int:
        """``n``, if that many items of ``at_least`` bytes can still follow."""
        if n * at_least > len(self._data) - self.position:
            raise FormatError(f"truncated or damaged: the file is too short for {n} items")
        return n

    def scalar(self, value_type: int) -> Any:
        """One number."""
        (value,) = (packing := _PACKINGS[value_type]).unpack(self.take(packing.size))
        # The shortest decimal of the same f32, so that 1e-05 is not 9.999999747378752e-06.
        return float(str(np.float32(value))) if value_type == _F32 else value

    def string(self) -> str:
        """A length and that many bytes; what is not UTF-8 survives as surrogates."""
        return str(self.take(self.scalar(_U64)), "utf-8", "surrogateescape")

    def value(self, value_type: int) -> Any:
        """A metadata value of any type."""
        if value_type == _STRING:
            return self.string()
        if value_type == _BOOL:
            return self.scalar(0) != 0
        if value_type == _ARRAY:
            return self._array(self.scalar(_U32), self.scalar(_U64))
        if value_type in _SCALARS:
            return self.scalar(value_type)
        raise FormatError(f"damaged: metadata of type {value_type}, which GGUF does not define")

    def _array(self, element_type: int, n: int) -> list[str] | NDArray[Any]:
        if element_type == _STRING:
            if self.count(n, at_least=8) > _MOST_TEXTS:
                raise FormatError(f"damaged: an array of {n} texts")
            return [self.string() for _ in range(n)]
        if element_type == _BOOL:
            return np.frombuffer(self.take(self.count(n, at_least=1)), np.uint8) != 0
        if element_type in _SCALARS:
            dtype = np.dtype(_SCALARS[element_type])
            return np.frombuffer(self.take(self.count(n, dtype.itemsize) * dtype.itemsize), dtype)
        raise FormatError(f"damaged: a metadata array of type {element_type}")


@dataclass(frozen=True)
class _Entry:
    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


def _read_entry(cursor: _Cursor) -> _Entry:
    name = cursor.string()
    n_dims = cursor.scalar(_U32)
    if not 1 <= n_dims <= _MAX_DIMS:
        raise FormatError(f"damaged: the tensor {shown(name)} has {n_dims} dimensions")
    shape = tuple(cursor.scalar(_U64) for _ in range(n_dims))[::-1]
    if prod(shape) >= 1 << 63:
        raise FormatError(f"damaged: the tensor {shown(name)} has an impossible shape {shape}")
    return _Entry(name, shape, cursor.scalar(_U32), cursor.scalar(_U64))


def _place(entry: _Entry, body: RawBytes, alignment: int) -> GgufTensor:
    """Finds the bytes of a tensor, or says why they cannot be where the index says."""
    name = shown(entry.name)
    if entry.offset % alignment:
        raise FormatError(f"damaged: the tensor {name} is not aligned to {alignment} bytes")
    traits = TYPE_TRAITS.get(entry.type_number)
    size = 0
    if traits:
        _, block_elements, block_bytes = traits
        if entry.shape[-1] % block_elements:
            raise FormatError(
                f"damaged: a row of the tensor {name} is not a whole number of {traits[0]} blocks"
            )
        size = prod(entry.shape) // block_elements * block_bytes
    if entry.offset + size > len(body):
        raise FormatError(
            f"truncated: the tensor {name} ends {entry.offset + size - len(body)} bytes after the file"
        )
    raw = body[entry.offset : entry.offset + size] if traits else None
    return GgufTensor(entry.name, entry.type_number, entry.shape, raw)


def _check_index(entries: list[_Entry], tensors: tuple[GgufTensor, ...]) -> None:
    names = set()
    spans = []
    for entry, tensor in zip(entries, tensors, strict=True):
        if entry.name in names:
            raise FormatError(f"damaged: the tensor {shown(entry.name)} occurs twice")
        names.add(entry.name)
        if tensor.raw is not None and len(tensor.raw):
            spans.append((entry.offset, entry.offset + len(tensor.raw), entry.name))
    spans.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
        if begin < end:
            raise FormatError(f"damaged: the tensors {shown(first)} and {shown(second)} overlap")


# ---- writing ----------------------------------------------------------------------

# Keys write_gguf makes itself, apart from those of the architecture and the tokenizer.
_GENERATED = (
    "general.architecture", "general.name", "general.file_type", "general.quantization_version",
    "general.alignment", "tokenizer.chat_template",
)  # fmt: skip


def write_gguf(parts: ModelParts, file: Writable) -> None:
    """Writes a model as GGUF version 3, one tensor at a time in memory."""
    file.write(_header(parts))
    for tensor in map(as_written, parts.tensors):
        written = 0
        for raw in tensor.pieces():
            file.write(np.ascontiguousarray(raw).data)
            written += len(raw)
        assert written == tensor.n_bytes, tensor.name
        file.write(bytes(-tensor.n_bytes % ALIGNMENT))


def gguf_metadata(parts: ModelParts) -> dict[str, Any]:
    """The metadata :func:`write_gguf` writes, in order."""
    metadata: dict[str, Any] = {"general.architecture": parts.facts.arch}
    if parts.name:
        metadata["general.name"] = parts.name
    metadata["general.file_type"] = _file_type(parts)
    metadata["general.quantization_version"] = 2
    metadata.update(arch.by_facts(parts.facts).metadata_from_facts(parts.facts))
    metadata.update(metadata_from_tokenizer(parts.tokenizer, parts.special))
    if parts.chat_template is not None:
        metadata["tokenizer.chat_template"] = parts.chat_template
    metadata.update(parts.extra)
    return metadata


def as_written(tensor: Tensor) -> Tensor:
    """What is no matrix becomes f32, which loses nothing: other readers have no kernels for anything else."""
    if tensor.is_matrix or tensor.type is TensorType.F32:
        return tensor
    return replace(tensor, type=TensorType.F32, load=lambda: _widened(tensor).view(np.uint8), stream=None)


def _widened(tensor: Tensor) -> NDArray[np.float32]:
    raw = np.ascontiguousarray(tensor.load())
    if tensor.type is TensorType.BF16:
        return (raw.view("<u2").astype("<u4") << 16).view("<f4")
    if tensor.type is TensorType.F16:
        return raw.view("<f2").astype("<f4")
    raise UnsupportedError(
        f"the vector '{tensor.name}' is stored as {tensor.type.label}; vectors must be plain"
    )


def _header(parts: ModelParts) -> bytes:
    ends = itertools.accumulate((_padded(as_written(tensor).n_bytes) for tensor in parts.tensors), initial=0)
    header = gguf_head(parts) + gguf_index(parts, list(ends)[:-1])
    return header + bytes(-len(header) % ALIGNMENT)


def gguf_head(parts: ModelParts, alignment: int = ALIGNMENT) -> bytes:
    """The counts and the metadata, which a file begins with."""
    metadata = gguf_metadata(parts)
    if alignment != ALIGNMENT:
        metadata["general.alignment"] = alignment
    chunks = [MAGIC, struct.pack("<IQQ", _VERSION, len(parts.tensors), len(metadata))]
    for key, value in metadata.items():
        chunks += [_packed_string(key), *_packed_value(value)]
    return b"".join(chunks)


def gguf_index(parts: ModelParts, offsets: Sequence[int]) -> bytes:
    """The names, shapes, types and offsets of all tensors, as written, which follow the metadata."""
    chunks = []
    for tensor, offset in zip(map(as_written, parts.tensors), offsets, strict=True):
        dims = tensor.shape[::-1]
        chunks.append(_packed_string(tensor.name))
        chunks.append(struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, int(tensor.type), offset))
    return b"".join(chunks)


def _packed_value(value: Any) -> Iterator[bytes]:
    """The type number of a metadata value and its bytes."""
    if isinstance(value, bool):
        yield struct.pack("<I?", _BOOL, value)
    elif isinstance(value, int):
        number = _I64 if value < 0 else _U32 if value < 1 << 32 else _U64
        yield struct.pack("<I", number) + _PACKINGS[number].pack(value)
    elif isinstance(value, float):
        number = _F64 if _LARGEST_F32 < abs(value) < math.inf else _F32
        yield struct.pack("<I", number) + _PACKINGS[number].pack(value)
    elif isinstance(value, str):
        yield struct.pack("<I", _STRING) + _packed_string(value)
    elif isinstance(value, np.ndarray):
        number = _BOOL if value.dtype == bool else _VALUE_TYPES[value.dtype.newbyteorder("<")]
        yield struct.pack("<IIQ", _ARRAY, number, len(value)) + value.tobytes()
    else:
        yield struct.pack("<IIQ", _ARRAY, _STRING, len(value))
        yield from map(_packed_string, value)


def _packed_string(text: str) -> bytes:
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # JSON can write what no UTF-8 can
        raise FormatError(f"the text {shown(text)} holds half a character; correct it") from None
    return struct.pack("<Q", len(data)) + data


def _file_type(parts: ModelParts) -> int:
    """The type of most weights, as llama.cpp numbers it."""
    elements: dict[TensorType, int] = {}
    for tensor in parts.tensors:
        elements[tensor.type] = elements.get(tensor.type, 0) + tensor.n_elements
    return _FILE_TYPES[max(elements, key=lambda kind: elements[kind])]


def _padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
