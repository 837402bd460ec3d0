"""Text to token ids and back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from linnet.engine import _bindings
from linnet.engine.arguments import wrong
from linnet.engine.library import Handle, call, describe, int32_array, library
from linnet.engine.memory import Image


class Tokenizer:
    """An immutable tokenizer; ``bos_id`` and ``eos_id`` are None where it names none."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        info = describe("ln_tokenizer", handle)
        self.vocab_size: int = info.vocab_size
        self.bos_id: int | None = info.bos_id if info.bos_id >= 0 else None
        self.eos_id: int | None = info.eos_id if info.eos_id >= 0 else None
        self.add_bos: bool = bool(info.add_bos)
        self.add_eos: bool = bool(info.add_eos)
        self.kind: str = info.kind.decode()

    @classmethod
    def from_gguf(cls, image: Image) -> Tokenizer:
        """The tokenizer inside a GGUF image. Raises FormatError, UnsupportedError."""
        return cls(Handle("ln_tokenizer", "ln_tokenizer_from_gguf", image.address, image.size))

    @classmethod
    def from_json(cls, text: bytes) -> Tokenizer:
        """The tokenizer a Hugging Face ``tokenizer.json`` describes. Raises FormatError, UnsupportedError."""
        return cls(Handle("ln_tokenizer", "ln_tokenizer_from_json", text, len(text)))

    @classmethod
    def open(cls, path: Path) -> Tokenizer:
        """The tokenizer of a GGUF file or a checkpoint folder.

        Raises SourceError, FormatError or UnsupportedError.
        """
        return cls.from_gguf(Image.open(path))

    @cached_property
    def added_tokens(self) -> dict[str, tuple[int, bool]]:
        """The tokens found in a text before it is split: their texts, ids, and whether they are special."""
        n = ctypes.c_int64()
        library().ln_tokenizer_added(self.handle, None, 0, ctypes.byref(n))
        ids = (ctypes.c_int32 * n.value)()
        library().ln_tokenizer_added(self.handle, ids, n.value, ctypes.byref(n))
        return {
            self.decode([token], special=True, at_start=False).decode("utf-8", "replace"): (
                token,
                not self.decode([token], at_start=False),
            )
            for token in ids
        }

    def encode(
        self, text: str | bytes, *, special: bool = False, at_start: bool = True, framed: bool = False
    ) -> list[int]:
        """Token ids of ``text``; ``framed`` by what its makers put around every text (BOS, CLS, SEP ...).

        With ``special`` the special tokens written out in the text become their ids.
        Unless ``at_start`` the text goes on from another one, so that SentencePiece puts
        no space in front of it. Invalid UTF-8 and lone surrogates count as U+FFFD.
        """
        if not isinstance(text, (str, bytes)):
            raise wrong("text", text, "a text")
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        flags = _bindings.LN_ENCODE_SPECIAL if special else 0
        flags |= 0 if at_start else _bindings.LN_ENCODE_INSIDE
        flags |= _bindings.LN_ENCODE_FRAMED if framed else 0
        n = ctypes.c_int64()
        capacity = len(data) + 16
        while True:
            ids = (ctypes.c_int32 * capacity)()
            call("ln_tokenizer_encode", self.handle, data, len(data), flags, ids, capacity, ctypes.byref(n))
            if n.value <= capacity:
                return ids[: n.value]
            capacity = n.value

    def pair(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """The ids of two texts that a model reads as one, framed as its makers do, and the type of each.

        Both are given as :meth:`encode` has them, not framed.
        """
        n, capacity = ctypes.c_int64(), 0
        while True:
            ids, types = (ctypes.c_int32 * capacity)(), (ctypes.c_int32 * capacity)()
            texts = int32_array(first), len(first), int32_array(second), len(second)
            call("ln_tokenizer_pair", self.handle, *texts, ids, types, capacity, ctypes.byref(n))
            if n.value <= capacity:
                return ids[: n.value], types[: n.value]
            capacity = n.value

    def decode(self, ids: Sequence[int], *, special: bool = False, at_start: bool = True) -> bytes:
        """The bytes of ``ids``; a single id need not be a whole UTF-8 character.

        ``special`` writes special tokens out instead of leaving them out. ``at_start``
        takes off the leading space that SentencePiece puts in front of a text.
        """
        array = int32_array(ids)
        flags = _bindings.LN_DECODE_SPECIAL if special else 0
        n = ctypes.c_int64()
        capacity = 16 * len(ids) + 16
        while True:
            text = ctypes.create_string_buffer(capacity)
            call(
                "ln_tokenizer_decode",
                self.handle,
                array,
                len(ids),
                flags,
                int(at_start),
                text,
                capacity,
                ctypes.byref(n),
            )
            if n.value <= capacity:
                return text.raw[: n.value]
            capacity = n.value

    def spellings(self, ids: Iterable[int]) -> list[bytes]:
        """What each of ``ids`` spells inside a text, nothing for special tokens: :meth:`decode` of each, but
        quick enough for a whole vocabulary."""
        one, text, n = (ctypes.c_int32 * 1)(), ctypes.create_string_buffer(256), ctypes.c_int64()
        decode, view, error = library().ln_tokenizer_decode, memoryview(text), _bindings.ln_error()
        out = (text, len(text), ctypes.byref(n), ctypes.byref(error))
        spelled = []
        for one[0] in ids:
            status = decode(self.handle, one, 1, 0, 0, *out)
            fits = status == _bindings.LN_OK and n.value <= len(text)
            spelled.append(bytes(view[: n.value]) if fits else self.decode([one[0]], at_start=False))
        return spelled
