"""The states of a timeline in a file: its tokens, and the keys and values that were computed of them.

A file is, little endian, ``LNSTATES``, the version of the format and the length of a header (4 bytes
each), a digest of all from there to the first page (8), the header in JSON, the tokens (4 bytes each),
a digest of each page (8), and the pages as the core lays them out. What the header says under ``made``
has to hold for whoever goes on from the file: the bits of keys and values depend on it. The model is
there as a digest of all its weights as they are in memory, of which the core makes one in the time in
which it makes a token: so it knows nothing of files, takes in quantizing at load, and no weight is left
out. Digests find accidents. Whoever forges a file can have the model say what he likes, no more.
"""

from __future__ import annotations

import ctypes
import json
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from linnet.engine.library import digest, library
from linnet.engine.session import PAGE_TOKENS, Session, pages_of
from linnet.errors import ContextFullError, FormatError, SourceError, UsageError
from linnet.formats.atomic import atomic_file
from linnet.formats.inputs import check_regular

_MAGIC = b"LNSTATES"
_VERSION = 1
_FRONT = 24  # bytes before the header
_MOST_HEADER_BYTES = 1 << 9
_ADVICE = "delete it, or name another file"

# Why a file does not fit, by what differs.
_DIFFERENCES = {
    "core": "was made by version {found} of the core, and this is {wanted}",
    "model": "was made with another model, or with its weights held as another type",
    "kv_type": "was made with keys and values in {found}, and here they are in {wanted}",
    "isa": "was made with the kernels for {found}, and here those for {wanted} compute",
    "adapters": "was made with other adapters, or other scales of them",
    "stretched": "was made for a context on the other side of the length that the model was trained for",
}


@dataclass(frozen=True)
class _Header:
    made: dict[str, Any]
    n_tokens: int
    first_page: int
    page_bytes: int

    @property
    def n_pages(self) -> int:
        """Pages in the file."""
        return pages_of(self.n_tokens) - self.first_page

    @property
    def index_bytes(self) -> int:
        """Of tokens and digests."""
        return 4 * self.n_tokens + 8 * self.n_pages


def file_bytes(session: Session, n_tokens: int) -> int:
    """At most so many bytes :func:`save_states` writes for the first ``n_tokens``."""
    per_page = session.workspace.page_bytes + 8
    n_pages = max(pages_of(n_tokens) - session.info.first_page, 0)
    return int(_FRONT + _MOST_HEADER_BYTES + 4 * n_tokens + per_page * n_pages)


def save_states(session: Session, path: Path) -> None:
    """Writes the tokens of a session, one at least, and their states. Raises TargetError."""
    ids = session.ids
    info = session.info
    page_bytes = session.workspace.page_bytes
    made = {"made": _made(session), "n_tokens": len(ids), "first_page": info.first_page}
    header = json.dumps({**made, "page_bytes": page_bytes}).encode()
    page = ctypes.create_string_buffer(page_bytes)
    digests = array("Q")
    with atomic_file(path) as file:
        file.seek(_FRONT + len(header) + 4 * len(ids) + 8 * (info.n_pages - info.first_page))
        for i in range(info.first_page, info.n_pages):
            session.save_page(i, page)
            digests.append(digest(page))
            file.write(page)
        index = header + array("i", ids).tobytes() + digests.tobytes()
        file.seek(0)
        file.write(_MAGIC + array("I", [_VERSION, len(header)]).tobytes())
        file.write(array("Q", [digest(index)]).tobytes() + index)


def load_states(session: Session, path: Path, max_pages: int) -> list[int]:
    """Fills an empty session with what a file holds, as far as it fits into it and into so many pages.

    Returns the tokens of the file. Raises SourceError for one that cannot be read or was made with
    something else, FormatError for one that is damaged; nothing it says is believed before.
    """
    with _opened(path) as file:
        header, index = _read_front(file)
        _check_made(header, session)
        ids = array("i", index[: 4 * header.n_tokens])
        digests = array("Q", index[4 * header.n_tokens :])
        n = min(header.n_tokens, session.n_ctx, (header.first_page + max_pages) * PAGE_TOKENS)
        try:
            _load_pages(session, file, header, ids[:n], digests)
        except UsageError as error:  # a token that is none, a window that cannot be
            raise FormatError(f"is damaged: {error}; {_ADVICE}") from None
    return ids.tolist()


def _made(session: Session) -> dict[str, Any]:
    """What the bits of a session's keys and values depend on, beside its tokens."""
    info = session.info
    return {
        "core": library().ln_version().decode(),
        "model": f"{session.model.digest:016x}",
        "kv_type": session.workspace.kv_type.name.lower(),
        "isa": session.workspace.isa,
        "adapters": f"{info.adapters:016x}",
        "stretched": bool(info.is_stretched),
    }


def _check_made(header: _Header, session: Session) -> None:
    wanted = _made(session)
    for name, reason in _DIFFERENCES.items():
        found = header.made.get(name)
        if found != wanted[name]:
            shown = found if isinstance(found, str) and found.isprintable() else "?"
            raise SourceError(f"{reason.format(found=shown[:20], wanted=wanted[name])}; {_ADVICE}")
    if header.page_bytes != session.workspace.page_bytes:
        raise FormatError(f"is damaged: its pages have another size; {_ADVICE}")


# ---- reading --------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file; what is wrong with it is said with its name."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            yield file
    except SourceError as error:
        raise type(error)(f"{path} {error}") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None


def _read(file: BinaryIO, n: int) -> bytes:
    found = file.read(n)
    if len(found) != n:
        raise FormatError(f"ends too early; {_ADVICE}")
    return found


def _read_front(file: BinaryIO) -> tuple[_Header, bytes]:
    """The header, and tokens and digests as they lie in the file, checked against its size."""
    front = _read(file, _FRONT)
    if front[:8] != _MAGIC:
        raise FormatError("is no prompt cache of Linnet; name another file")
    version, header_bytes = array("I", front[8:16])
    if version != _VERSION:
        raise SourceError(f"has version {version} of its format, and this Linnet reads {_VERSION}; {_ADVICE}")
    if header_bytes > _MOST_HEADER_BYTES:
        raise FormatError(f"is damaged: its header would have {header_bytes} bytes; {_ADVICE}")
    text = _read(file, header_bytes)
    header = _parse(text)
    size = _FRONT + header_bytes + header.index_bytes + header.n_pages * header.page_bytes
    found = os.fstat(file.fileno()).st_size
    if found != size:
        raise FormatError(f"has {found} bytes and should have {size}; {_ADVICE}")
    index = _read(file, header.index_bytes)
    if digest(text + index) != array("Q", front[16:])[0]:
        raise FormatError(f"is damaged: its bytes are not those that were written; {_ADVICE}")
    return header, index


def _parse(text: bytes) -> _Header:
    try:
        header = _Header(**json.loads(text))
        numbers = header.n_tokens, header.first_page, header.page_bytes
        if not isinstance(header.made, dict) or not all(type(number) is int for number in numbers):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise FormatError(f"is damaged: its header cannot be read; {_ADVICE}") from None
    is_possible = 0 < header.n_tokens < 1 << 31 and 0 <= header.first_page < pages_of(header.n_tokens)
    if not is_possible or header.page_bytes < 1:
        raise FormatError(f"is damaged: its header has impossible numbers; {_ADVICE}")
    return header


def _load_pages(
    session: Session, file: BinaryIO, header: _Header, ids: array[int], digests: array[int]
) -> None:
    """The states of ``ids``, the first of the file; none where a part of their window is not there."""
    page = ctypes.create_string_buffer(header.page_bytes)
    for i in range(pages_of(len(ids))):
        some = ids[i * PAGE_TOKENS : (i + 1) * PAGE_TOKENS]
        if i < header.first_page:
            if len(some) == PAGE_TOKENS:
                session.load_page(some, None)
            continue
        if file.readinto(page) != len(page):  # type: ignore[attr-defined]
            raise FormatError(f"ends too early; {_ADVICE}")
        if digest(page) != digests[i - header.first_page]:
            raise FormatError(f"is damaged: the bytes of a page are not those that were written; {_ADVICE}")
        try:
            session.load_page(some, page)
        except ContextFullError:  # others need the memory
            break
    if header.first_page > 0 and len(session) < header.n_tokens:
        session.truncate(0)
    session.truncate(len(session))  # refused where pages of the window are missing
