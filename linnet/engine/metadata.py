"""What a GGUF image says beside weights and vocabulary, read without numpy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from linnet.engine.library import Handle, library
from linnet.engine.memory import Image


class Metadata:
    """Keys and values of a GGUF image. Raises FormatError for a damaged one."""

    def __init__(self, image: Image) -> None:
        self._handle = Handle("ln_metadata", "ln_metadata_open", image.address, image.size, uses=image)

    def __iter__(self) -> Iterator[str]:
        """The keys, in alphabetical order."""
        index = 0
        while (key := self._read("ln_metadata_key", index)) is not None:
            yield key
            index += 1

    def text(self, key: str) -> str | None:
        """The text under ``key``; None when there is none. What is not UTF-8 becomes U+FFFD."""
        return self._read("ln_metadata_text", key.encode())

    def integers(self, key: str) -> list[int]:
        """The integer or the integers under ``key``; [] when there are none."""
        n = ctypes.c_int64()
        library().ln_metadata_integers(self._handle, key.encode(), None, 0, ctypes.byref(n))
        values = (ctypes.c_int64 * n.value)()
        library().ln_metadata_integers(self._handle, key.encode(), values, n.value, ctypes.byref(n))
        return list(values)

    def _read(self, function: str, which: int | bytes) -> str | None:
        read, n = getattr(library(), function), ctypes.c_int64()
        read(self._handle, which, None, 0, ctypes.byref(n))
        if n.value < 0:
            return None
        text = ctypes.create_string_buffer(n.value)
        read(self._handle, which, text, n.value, ctypes.byref(n))
        return text.raw[: n.value].decode("utf-8", "replace")
