"""What a GGUF image says beside weights and vocabulary, read without numpy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from linnet.engine.library import Handle, library
from linnet.engine.memory import Image

MOST_BYTES = 1 << 21  # of a text; a tokenizer.json, which the core has read, is larger
MOST_INTEGERS = 256  # of an array; those of the vocabulary are larger


class Metadata:
    """Short texts and integers of a GGUF image, copied, by key. Raises FormatError for a damaged image."""

    def __init__(self, image: Image) -> None:
        handle = Handle("ln_metadata", "ln_metadata_open", image.address, image.size, uses=image)
        self._texts: dict[str, str] = {}
        self._integers: dict[str, list[int]] = {}
        self._keys: list[str] = []
        while (key := _text(handle, "ln_metadata_key", len(self._keys))) is not None:
            self._keys.append(key)
            text = _text(handle, "ln_metadata_text", key.encode())
            if text is not None:
                self._texts[key] = text
            self._integers[key] = _integers(handle, key.encode())

    def __iter__(self) -> Iterator[str]:
        """The keys, in alphabetical order."""
        return iter(self._keys)

    def text(self, key: str) -> str | None:
        """The text under ``key``; None when there is none. What is not UTF-8 becomes U+FFFD."""
        return self._texts.get(key)

    def integers(self, key: str) -> list[int]:
        """The integer or the integers under ``key``; [] when there are none."""
        return self._integers.get(key, [])


def _text(handle: Handle, function: str, which: int | bytes) -> str | None:
    read, n = getattr(library(), function), ctypes.c_int64()
    read(handle, which, None, 0, ctypes.byref(n))
    if not 0 <= n.value <= MOST_BYTES:
        return None
    text = ctypes.create_string_buffer(n.value)
    read(handle, which, text, n.value, ctypes.byref(n))
    return text.raw[: n.value].decode("utf-8", "replace")


def _integers(handle: Handle, key: bytes) -> list[int]:
    n = ctypes.c_int64()
    values = (ctypes.c_int64 * MOST_INTEGERS)()
    library().ln_metadata_integers(handle, key, values, MOST_INTEGERS, ctypes.byref(n))
    return list(values[: n.value]) if n.value <= MOST_INTEGERS else []
