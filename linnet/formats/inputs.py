"""Input files, read whole or mapped; what the system refuses becomes a SourceError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from linnet.errors import SourceError
from linnet.formats.parts import RawBytes


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises SourceError."""
    with _reported(path):
        return path.read_bytes()


def map_bytes(path: Path) -> RawBytes:
    """The content of a file, mapped into memory, not read; [0] for an empty one. Raises SourceError."""
    with _reported(path):
        if not path.stat().st_size:  # nothing can be mapped
            return np.frombuffer(path.read_bytes(), np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r")


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist; check the spelling") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
