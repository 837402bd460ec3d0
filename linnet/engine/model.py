"""A model: immutable weights, shared by any number of sessions."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from linnet.engine._bindings import ln_load_step
from linnet.engine.library import Handle, call, describe
from linnet.engine.memory import Image
from linnet.engine.metadata import Metadata
from linnet.engine.processors import available_processors
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import FormatError, UnsupportedError


class _Beside:
    """A call on a thread of its own, beside what the caller does until it asks for the result.

    For calls into the core, which do not hold the interpreter's lock.
    """

    def __init__(self, function: Callable[[Image], Tokenizer], argument: Image) -> None:
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(function, argument))
        self._thread.start()

    def _run(self, function: Callable[[Image], Tokenizer], argument: Image) -> None:
        try:
            self._result = function(argument)
        except Exception as error:  # raised where the result is asked for
            self._error = error

    def result(self) -> Tokenizer:
        """What the call returned. Raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result


class Model:
    """Weights, tokenizer and metadata of one model.

    The attributes ``arch, n_layers, n_heads, n_kv_heads, head_dim, dim, ffn_dim,
    vocab_size, max_seq_len, tied_embeddings, causal, ranks, n_token_types, n_params, weight_bytes,
    bytes_per_token`` are those of ``ln_model_info``.
    """

    arch: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    dim: int
    ffn_dim: int
    vocab_size: int
    max_seq_len: int
    tied_embeddings: bool
    causal: bool
    ranks: bool
    n_token_types: int
    n_params: int
    weight_bytes: int
    bytes_per_token: int

    def __init__(self, image: Image) -> None:
        self.path: Path | None = None  # of the file or folder, if there is one
        tokenizer = _Beside(Tokenizer.from_gguf, image)
        # The core uses float weights where they lie.
        self.handle = Handle("ln_model", "ln_model_open", image.address, image.size, uses=image)
        self.metadata = Metadata(image)
        self._pack(image)
        self.tokenizer = tokenizer.result()
        image.forget_header()
        info = describe("ln_model", self.handle)
        for name, *_ in info._fields_:
            setattr(self, name, getattr(info, name))
        self.arch = info.arch.decode()
        self.tied_embeddings = bool(info.tied_embeddings)
        self.causal, self.ranks = bool(info.causal), bool(info.ranks)

    def check_writes(self) -> None:
        """Raises UnsupportedError for an encoder, which reads texts and writes none."""
        if not self.causal:
            which = f"{self.path}: " if self.path is not None else ""
            use = "rerank scores documents with it" if self.ranks else "linnet embed makes vectors with it"
            raise UnsupportedError(
                f"{which}a {self.arch} model is an encoder: it reads texts and writes none, and has no "
                f"probabilities of tokens; {use}"
            )

    @cached_property
    def digest(self) -> int:
        """64 bits that stand for the facts and all weights, as they are held: made in the time of a token."""
        found = ctypes.c_uint64()
        call("ln_model_digest", self.handle, ctypes.byref(found))
        return found.value

    def _pack(self, image: Image) -> None:
        """Packs the weights for this processor, piece by piece: there are never two copies of them all."""
        n_threads = available_processors()
        for available in image.fill():
            step = ln_load_step(available=available, bytes=1, bytes_left=1)
            while step.bytes and step.bytes_left:
                call("ln_model_load", self.handle, n_threads, ctypes.byref(step))
                image.forget(step.offset, step.bytes)

    @classmethod
    def open(cls, path: Path, type: str | None = None) -> Model:
        """Opens a GGUF file or a checkpoint folder, with its weights stored as ``type`` where one is given.

        Raises SourceError, FormatError (damaged) or UnsupportedError (sound, but not
        for this version).
        """
        image = Image.open(path, type)
        try:
            model = cls(image)
        except (FormatError, UnsupportedError) as error:
            raise error.__class__(f"{path}: {error}") from None
        model.path = path
        return model
