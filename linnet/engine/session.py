"""A session: one mutable timeline of tokens over a shared model."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from linnet.engine import _bindings
from linnet.engine.library import Handle, call, int32, int32_array, library
from linnet.engine.model import Model
from linnet.engine.processors import available_processors
from linnet.engine.sampler import Sampler
from linnet.errors import UnsupportedError, UsageError
from linnet.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Session:
    """One timeline of at most ``n_ctx`` tokens; belongs to one thread at a time.

    ``n_threads`` defaults to the processors this process may use, ``isa`` to the
    environment variable ``LINNET_ISA`` and then to the best this processor has,
    ``n_batch`` (tokens per pass over the weights) to the core's choice. Raises
    UnsupportedError for an unknown instruction set, UsageError for an impossible size.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_threads: int | None = None,
        n_batch: int = 0,
        kv_type: TensorType = TensorType.F16,
        isa: str | None = None,
    ) -> None:
        self.model = model
        wanted = isa if isa is not None else os.environ.get("LINNET_ISA", "")
        known = library().ln_isa_list().decode().split()
        if wanted and wanted not in known:
            raise UnsupportedError(f"LINNET_ISA={wanted} cannot run here; choose from {', '.join(known)}")
        chosen = _bindings.ln_session_options(
            n_ctx=int32("n_ctx", n_ctx),
            n_threads=int32("threads", n_threads if n_threads is not None else available_processors()),
            n_batch=int32("n_batch", n_batch),
            kv_type=int(kv_type),
            isa=wanted.encode(),
        )
        self._handle = Handle(
            "ln_session", "ln_session_open", model.handle, ctypes.byref(chosen), uses=model.handle
        )
        self.kv_type = kv_type

    def __len__(self) -> int:
        """Tokens on the timeline."""
        return int(library().ln_session_length(self._handle))

    @property
    def n_ctx(self) -> int:
        """Tokens the timeline can hold."""
        return int(library().ln_session_capacity(self._handle))

    @property
    def n_threads(self) -> int:
        """Threads this session computes with."""
        return int(library().ln_session_threads(self._handle))

    @property
    def isa(self) -> str:
        """The instruction set whose kernels run."""
        return str(library().ln_session_isa(self._handle).decode())

    @property
    def bytes(self) -> int:
        """Bytes held for the key/value cache and scratch."""
        return int(library().ln_session_bytes(self._handle))

    def eval(self, ids: Sequence[int]) -> None:
        """Appends ``ids`` to the timeline; the logits of the last are then available.

        Raises ContextFullError when they do not fit and UsageError for an id outside
        the vocabulary; the timeline is then as before.
        """
        self._eval(ids, None)

    def eval_all(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """As :meth:`eval`, and returns the logits of every token, [len(ids), vocab_size]."""
        import numpy as np

        logits = np.empty((len(ids), self.model.vocab_size), dtype=np.float32)
        self._eval(ids, logits.ctypes.data)
        return logits

    def score(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Appends ``ids`` and returns the natural-log probability of each given all before it, [len(ids)].

        The first is NaN when the timeline was empty: nothing came before it.
        """
        import numpy as np

        log_probs = np.empty(len(ids), dtype=np.float32)
        call("ln_session_score", self._handle, int32_array(ids), len(ids), log_probs.ctypes.data)
        return log_probs

    @property
    def logits(self) -> NDArray[np.float32]:
        """A copy of the logits after the last token, [vocab_size]."""
        import numpy as np

        return np.ctypeslib.as_array(self._logits(), shape=(self.model.vocab_size,)).copy()

    def draw(self, sampler: Sampler) -> int:
        """Draws the next token from the logits after the last one; does not append it."""
        return sampler.draw(self._logits())

    def truncate(self, length: int) -> None:
        """Forgets everything after the first ``length`` tokens."""
        call("ln_session_truncate", self._handle, length)

    def _eval(self, ids: Sequence[int], all_logits: int | None) -> None:
        call("ln_session_eval", self._handle, int32_array(ids), len(ids), all_logits)

    def _logits(self) -> ctypes._Pointer[ctypes.c_float]:
        logits: ctypes._Pointer[ctypes.c_float] = library().ln_session_logits(self._handle)
        if not logits:
            raise UsageError("there are no logits yet; evaluate at least one token first")
        return logits
