"""Input files, read whole or mapped; what the system refuses becomes a SourceError."""

from __future__ import annotations

import mmap
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnet.errors import FormatError, SourceError

if TYPE_CHECKING:
    import numpy as np

    from linnet.formats.parts import RawBytes


_MOST_INPUT = 32 << 20  # bytes; no context holds as much, and its tokens take up to 30 times as much memory


def check_regular(path: Path, advice: str = "save what it gives to a file and name that") -> None:
    """Raises SourceError unless ``path`` is a regular file, or a link to one.

    A pipe would block when it is opened, and a device such as /dev/zero never ends.
    """
    with _reported(path):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise SourceError(f"{path} is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise SourceError(f"{path} is not a regular file; {advice}")


def is_checkpoint(path: Path) -> bool:
    """Is ``path`` a checkpoint folder, or the weights in one?"""
    return path.is_dir() or path.suffix == ".safetensors"


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises SourceError."""
    check_regular(path)
    with _reported(path):
        return path.read_bytes()


def read_standard_input() -> str:
    """The text that is piped in; ill-formed UTF-8 counts as U+FFFD. Raises SourceError.

    That of ``yes`` or /dev/zero never ends, and would be held in memory until there is none.
    """
    data = sys.stdin.buffer.read(_MOST_INPUT + 1)  # once: a terminal goes on after the end of a file
    if len(data) > _MOST_INPUT:
        raise SourceError(f"standard input holds more than {_MOST_INPUT >> 20} MB; pipe in less")
    return data.decode("utf-8", "replace")


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file; {} for a missing ``optional`` one. Raises SourceError, FormatError."""
    if optional and not path.exists():
        return {}
    document = _parsed(path)
    if not isinstance(document, dict):
        raise FormatError(f"{path} does not hold a JSON object")
    return document


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """The objects that a JSON file lists; [] where there is no such file. Raises SourceError, FormatError."""
    document = _parsed(path) if path.exists() else []
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        raise FormatError(f"{path} does not hold a list of JSON objects")
    return document


def _parsed(path: Path) -> Any:
    import json  # here: the loader of GGUF files does without

    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from None


def map_bytes(path: Path) -> RawBytes:
    """The content of a regular file, mapped into memory, not read; [0] for an empty one.

    Raises SourceError.
    """
    import numpy as np  # here: the loader of GGUF files calls check_regular and does without numpy

    check_regular(path)
    with _reported(path):
        if not path.stat().st_size:  # nothing can be mapped
            return np.frombuffer(path.read_bytes(), np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r")


def mapping_of(raw: RawBytes) -> tuple[np.memmap[Any, Any], int] | None:
    """The mapped file that ``raw`` is a part of, and where in the file it begins; None for other memory."""
    import numpy as np

    owner: Any = raw
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not isinstance(owner, np.memmap) or not raw.flags.c_contiguous:
        return None
    return owner, raw.ctypes.data - owner.ctypes.data


def release(raw: RawBytes) -> None:
    """Gives the memory of mapped bytes back; whoever reads them again gets them from the file once more."""
    found = mapping_of(raw)
    pages: Any = found[0]._mmap if found is not None else None  # type: ignore[attr-defined]
    if found is None or not hasattr(pages, "madvise"):  # not on Windows
        return
    first = -(-found[1] // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (found[1] + raw.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        pages.madvise(mmap.MADV_DONTNEED, first, last - first)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        if path.is_symlink():
            raise SourceError(f"{path} is a link to {path.resolve()}, which does not exist") from None
        raise SourceError(f"{path} does not exist; check the spelling") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:  # the character zero
        raise SourceError(f"{path} cannot be a path; check the spelling") from None
