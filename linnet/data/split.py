"""Which documents are kept, and which of them are kept out of training.

A document goes to validation when a hash of the seed and its content is small, so the
choice depends neither on the order of the documents nor on the rest of them. With few
documents the end of the text is kept out instead.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linnet.data.sources import Piece, border
from linnet.errors import SourceError

FEW_DOCUMENTS = 20  # with fewer, whole documents are too coarse to keep out
_DROPPED, _TRAIN, _VALIDATION = 0, 1, 2
_SPLIT_NAMES = {_TRAIN: "train", _VALIDATION: "validation"}
_HASH_RANGE = 1 << 64


@dataclass(frozen=True)
class DocumentIndex:
    """Content hash [n] (64 bits) and UTF-8 bytes [n] of every document in reading order; 0 bytes if blank."""

    digests: NDArray[np.uint64]
    sizes: NDArray[np.uint64]

    @property
    def blank(self) -> int:
        """Documents with nothing but white space."""
        return int(np.count_nonzero(self.sizes == 0))

    def kept(self) -> NDArray[np.bool_]:
        """True [n] for the first of every group of equal documents, blank ones left out."""
        first = np.zeros(len(self.digests), bool)
        first[np.unique(self.digests, return_index=True)[1]] = True
        return first & (self.sizes > 0)


class Segment(NamedTuple):
    """Text of one document on its way into one split."""

    split: str
    text: str
    begins: bool
    ends: bool


def index_documents(pieces: Iterable[Piece]) -> DocumentIndex:
    """Reads everything once and remembers 16 bytes per document."""
    digests, sizes = array("Q"), array("Q")
    state, size, blank = hashlib.blake2b(digest_size=8), 0, True
    for piece in pieces:
        data = piece.text.encode("utf-8")
        state.update(data)
        size += len(data)
        blank = blank and not piece.text.strip()
        if piece.last:
            digests.append(int.from_bytes(state.digest(), "little"))
            sizes.append(0 if blank else size)
            state, size, blank = hashlib.blake2b(digest_size=8), 0, True
    return DocumentIndex(np.frombuffer(digests, np.uint64), np.frombuffer(sizes, np.uint64))


class SplitPlan:
    """What happens to every document of an index: dropped, train or validation."""

    def __init__(self, index: DocumentIndex, share: float, seed: int) -> None:
        """``share`` of the documents is kept out, 0 <= share < 1; at least one document unless it is 0."""
        kept = index.kept()
        self.documents = int(np.count_nonzero(kept))
        self.duplicates = len(kept) - self.documents - index.blank
        self.text_bytes = int(index.sizes[kept].sum())
        self.read_bytes = int(index.sizes.sum())
        self._fates = np.where(kept, _TRAIN, _DROPPED).astype(np.uint8)
        self._tail = 0
        if share > 0 and self.documents < FEW_DOCUMENTS:
            self._tail = max(1, round(share * self.text_bytes))
        elif share > 0:
            self._keep_out(index.digests, np.flatnonzero(kept), share, seed)

    @property
    def method(self) -> str:
        """How validation was chosen, in words, for the manifest."""
        if self._tail:
            return f"the end of the text, which has fewer than {FEW_DOCUMENTS} documents"
        return "documents, by a hash of the seed and their content"

    def _keep_out(self, digests: NDArray[np.uint64], kept: NDArray[np.intp], share: float, seed: int) -> None:
        key = (seed % _HASH_RANGE).to_bytes(8, "little")
        draws = np.fromiter((_draw(int(digest), key) for digest in digests[kept]), np.uint64, len(kept))
        out = draws < np.uint64(int(share * _HASH_RANGE))
        out[draws.argmin()] = True
        out[draws.argmax()] = False
        self._fates[kept[out]] = _VALIDATION

    def segments(self, pieces: Iterable[Piece]) -> Iterator[Segment]:
        """The kept text of a second reading, each part with its split.

        Raises SourceError when the documents are not as many as before.
        """
        number, begins, position, before = 0, True, 0, "train"
        for text, last in pieces:
            if number == len(self._fates):
                number += 1
                break
            fate = self._fates[number]
            if fate != _DROPPED and not self._tail:
                yield Segment(_SPLIT_NAMES[fate], text, begins, last)
            elif fate != _DROPPED:
                for split, part, ends in self._around_tail(text, last, position):
                    yield Segment(split, part, begins or split != before, ends)
                    before = split
                position += len(text.encode("utf-8"))
            begins, number = last, number + last
        if number != len(self._fates):
            raise SourceError("a source changed while it was read; start again when nothing writes to it")

    def _around_tail(self, text: str, last: bool, position: int) -> Iterator[tuple[str, str, bool]]:
        """Split, text and whether the document ends, for what is before the tail and what is in it.

        ``text`` begins at byte ``position`` of all text.
        """
        limit = self.text_bytes - self._tail - position
        data = text.encode("utf-8")
        if limit <= 0:
            yield "validation", text, last
        elif limit >= len(data):
            yield "train", text, last or limit == len(data)
        else:
            near = max(1, len(data[:limit].decode("utf-8", "ignore")))
            end = border(text, near, back=min(near - 1, self._tail))
            yield "train", text[:end], True
            if text[end:]:
                yield "validation", text[end:], last


def _draw(digest: int, key: bytes) -> int:
    """An even draw from [0, 2^64) that belongs to a document and a seed."""
    hashed = hashlib.blake2b(digest.to_bytes(8, "little"), digest_size=8, key=key)
    return int.from_bytes(hashed.digest(), "little")
