"""A GGUF image in memory, put together from a model that was taken apart, without a second copy of it.

The image is address space first. Weights that lie in a file as the core wants them are
mapped from there into their place; all others are computed while the core loads the
model, a few rows at a time, and given back as soon as it has packed them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from linnet.errors import SourceError
from linnet.formats.gguf import ALIGNMENT, as_written, gguf_head, gguf_index
from linnet.formats.inputs import mapping_of, release
from linnet.formats.parts import ModelParts, RawBytes, Tensor

if TYPE_CHECKING:
    _Mapping = np.memmap[Any, Any]

_PAGE = mmap.ALLOCATIONGRANULARITY
_SMALL = 1 << 16  # bytes
_NARROW = 32  # columns
_ANY_ALIGNMENT = 2  # of mapped tensors, which lie where their file has them


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the image: from byte ``begin`` on, mapped if ``source`` says from where."""

    tensor: Tensor
    begin: int
    source: tuple[_Mapping, int] | None = None

    @property
    def end(self) -> int:
        return self.begin + self.tensor.n_bytes


class Assembly:
    """The image of ``parts``: ``pages`` hold its header and its small tensors, :meth:`fill` writes the rest.

    The order in ``pages`` is header, small tensors, mapped ones, computed ones. Raises
    as the loading of tensors does, SourceError when a file changes meanwhile.
    """

    def __init__(self, parts: ModelParts) -> None:
        tensors = [as_written(tensor) for tensor in parts.tensors]
        head = gguf_head(parts, _ANY_ALIGNMENT)
        index_end = len(head) + len(gguf_index(parts, [0] * len(tensors)))
        self.header_bytes = _aligned(index_end, _ANY_ALIGNMENT)
        places, size = _lay_out(tensors, self.header_bytes)
        offsets = [places[tensor.name].begin - self.header_bytes for tensor in tensors]
        self.pages = _address_space(size)
        self.pages[:index_end] = head + gguf_index(parts, offsets)
        self._computed = []
        self._sources: dict[int, _Mapping] = {}
        for place in places.values():
            if place.source is not None:
                self._sources[id(place.source[0])] = place.source[0]
                _map(self.pages, place)
            elif _is_read_at_once(place.tensor):
                self._write(place)
            else:
                self._computed.append(place)

    def fill(self) -> Iterator[int]:
        """Computes the tensors that are left; yields how many bytes of the image are there."""
        for place in self._computed:
            at = place.begin
            for raw in place.tensor.pieces():
                self._put(at, raw)
                at += len(raw)
                yield at
            for mapping in self._sources.values():  # what a family read of them to reorder rows
                release(mapping)
        yield len(self.pages)

    def _write(self, place: _Place) -> None:
        at = place.begin
        for raw in place.tensor.pieces():
            self._put(at, raw)
            at += len(raw)

    def _put(self, at: int, raw: RawBytes) -> None:
        self.pages[at : at + len(raw)] = np.ascontiguousarray(raw).data


def _lay_out(tensors: Sequence[Tensor], begin: int) -> tuple[dict[str, _Place], int]:
    """The place of every tensor by name, and the size of the image, whose header takes ``begin`` bytes."""
    places = {}
    sources = {tensor.name: _source(tensor) for tensor in tensors}
    small = [tensor for tensor in tensors if sources[tensor.name] is None and _is_read_at_once(tensor)]
    mapped = [tensor for tensor in tensors if sources[tensor.name] is not None]
    large = [tensor for tensor in tensors if sources[tensor.name] is None and not _is_read_at_once(tensor)]
    for tensor in small:
        places[tensor.name] = _Place(tensor, _aligned(begin, ALIGNMENT))
        begin = places[tensor.name].end
    for tensor in mapped:
        source = sources[tensor.name]
        assert source is not None
        places[tensor.name] = _Place(tensor, _aligned(begin, _PAGE) + source[1] % _PAGE, source)
        begin = _aligned(places[tensor.name].end, _PAGE)
    for tensor in large:
        places[tensor.name] = _Place(tensor, _aligned(begin, ALIGNMENT))
        begin = places[tensor.name].end
    return places, begin


def _is_read_at_once(tensor: Tensor) -> bool:
    """Whether the core may read a tensor when it opens the model: what is no matrix, and what is small."""
    return not tensor.is_matrix or tensor.n_columns < _NARROW or tensor.n_bytes <= _SMALL


def _source(tensor: Tensor) -> tuple[_Mapping, int] | None:
    """The file a tensor can be mapped from, and where it lies there."""
    if tensor.stream is not None or _is_read_at_once(tensor) or not _can_map():
        return None
    found = mapping_of(tensor.load())
    # numpy looks at elements, the core's kernels too: they have to lie on multiples of their size.
    return found if found is not None and found[1] % min(tensor.type.block_bytes, 4) == 0 else None


def _aligned(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


# ---- the system's mmap --------------------------------------------------------------


def _can_map() -> bool:
    return os.name == "posix" and ctypes.sizeof(ctypes.c_void_p) == 8


def _address_space(size: int) -> mmap.mmap:
    """Writable memory of zeros, of which the machine gives what is touched."""
    if os.name != "posix":
        return mmap.mmap(-1, size)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(-1, size, flags=flags)


def _map(pages: mmap.mmap, place: _Place) -> None:
    """Maps the file's pages of a tensor over their place; the rest of its first and last page comes along."""
    assert place.source is not None
    mapping, offset = place.source
    within = offset % _PAGE
    base = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + place.begin - within
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_longlong)
    with open(mapping.filename or "", "rb") as file:
        if os.fstat(file.fileno()).st_size != len(mapping):
            raise SourceError(f"{mapping.filename} changed while it was read; try again")
        found = libc.mmap(
            base,
            place.tensor.n_bytes + within,
            mmap.PROT_READ,
            mmap.MAP_PRIVATE | _MAP_FIXED,
            file.fileno(),
            offset - within,
        )
    if found != base:
        raise SourceError(f"cannot map {mapping.filename}: {os.strerror(ctypes.get_errno())}")


_MAP_FIXED = 0x10  # on Linux, macOS and the BSDs
