"""Choosing the next token from its logits."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from linnet.engine import _bindings
from linnet.engine.library import Handle, int32, library
from linnet.errors import LinnetError, UsageError

REPETITION_WINDOW = 64  # tokens of recent text that the repetition penalty looks at


class Sampler:
    """Draws tokens; the filters and their order are those of ``ln_sampler_options``.

    The same ``seed`` and logits give the same tokens; without one a seed is taken from
    the operating system and kept in :attr:`seed`. Raises UsageError for an impossible option.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ) -> None:
        self.seed = int.from_bytes(os.urandom(4)) if seed is None else seed
        if not 0 <= self.seed < 1 << 64:
            raise UsageError(f"seed is {self.seed}; it must be from 0 to 2^64 - 1")
        chosen = _bindings.ln_sampler_options(
            temperature=temperature,
            top_k=int32("top_k", top_k),
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            repetition_window=REPETITION_WINDOW,
            seed=self.seed,
        )
        self._handle = Handle("ln_sampler", "ln_sampler_open", ctypes.byref(chosen), vocab_size)

    def draw(self, logits: Any) -> int:
        """One token from a pointer to ``vocab_size`` floats. Raises LinnetError when none is finite."""
        token = int(library().ln_sampler_draw(self._handle, logits))
        if token < 0:
            raise LinnetError("the model computed no finite logit; its weights are damaged")
        return token

    def accept(self, token: int) -> None:
        """Tells the sampler that ``token`` is now part of the text (prompt or drawn)."""
        library().ln_sampler_accept(self._handle, token)
