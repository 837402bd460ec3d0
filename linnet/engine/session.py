"""Timelines of tokens over a shared model, and the workspace that evaluates them together."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from linnet.engine import _bindings
from linnet.engine.arguments import int32
from linnet.engine.library import Handle, call, describe, int32_array, library
from linnet.engine.model import Model
from linnet.engine.processors import available_processors
from linnet.engine.sampler import Draws
from linnet.errors import ContextFullError, LinnetError, UnsupportedError, UsageError
from linnet.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from linnet.engine.adapter import Adapter

    Adapters = tuple[tuple[Adapter, float], ...]

PAGE_TOKENS = _bindings.LN_PAGE  # sessions take memory for keys and values in steps of this many tokens


def check_finite(values: NDArray[np.floating] | float, what: str) -> None:
    """Raises LinnetError for what damaged weights make of numbers that were computed."""
    import numpy as np

    if not np.isfinite(values).all():
        raise LinnetError(f"the model computed no finite {what}; its weights are damaged")


def pages_of(n_tokens: int) -> int:
    """Pages that hold the keys and values of ``n_tokens``."""
    return -(-n_tokens // PAGE_TOKENS)


class Workspace:
    """What the sessions of one model share: threads, memory for tokens in flight, pages of keys and values.

    All sessions together hold at most ``kv_tokens``, in whole pages of PAGE_TOKENS
    (default: one session of the model's whole context); a page costs memory from its
    first use on. ``n_threads`` defaults to the processors this process may use, ``isa``
    to the environment variable ``LINNET_ISA`` and then to the best this processor has,
    ``n_batch`` (tokens per pass over the weights) to the core's choice. Sessions may be
    used from several threads: they take turns. Raises UnsupportedError for an unknown
    instruction set, UsageError for an impossible size.
    """

    def __init__(
        self,
        model: Model,
        *,
        kv_tokens: int = 0,
        n_threads: int | None = None,
        n_batch: int = 0,
        kv_type: TensorType = TensorType.F16,
        isa: str | None = None,
    ) -> None:
        self.model = model
        self.kv_type = kv_type
        # Taken again by a session that is collected while its own thread is about to call the core.
        self.turn = threading.RLock()
        self.give_up: Callable[[], bool] | None = None  # closes a session nobody needs; False: there is none
        wanted = isa if isa is not None else os.environ.get("LINNET_ISA", "")
        known = library().ln_isa_list().decode().split()
        if wanted and wanted not in known:
            raise UnsupportedError(f"LINNET_ISA={wanted} cannot run here; choose from {', '.join(known)}")
        threads = n_threads if n_threads is not None else available_processors()
        chosen = _bindings.ln_workspace_options(
            n_threads=int32("threads", threads, least=1),
            n_batch=int32("n_batch", n_batch),
            kv_tokens=int32("kv_tokens", kv_tokens),
            kv_type=int(kv_type),
            isa=wanted.encode(),
        )
        self.handle = Handle(
            "ln_workspace", "ln_workspace_open", model.handle, ctypes.byref(chosen), uses=model.handle
        )
        info = self._describe()
        self.isa: str = info.isa.decode()
        self.n_threads: int = info.n_threads
        self.n_batch: int = info.n_batch
        self.n_pages: int = info.n_pages
        self.page_bytes: int = info.page_bytes
        self.bytes: int = info.bytes

    def eval(self, spans: Sequence[tuple[Session, Sequence[int]]]) -> None:
        """Appends ids to each session, in one pass over the weights for all of them.

        The logits of each session's last token are then available. Raises
        ContextFullError when a timeline or the pages are full and UsageError for an id
        outside the vocabulary; every timeline is then as before.
        """
        self._eval(spans)

    def eval_hidden(self, spans: Sequence[tuple[Session, Sequence[int]]]) -> list[NDArray[np.float32]]:
        """As :meth:`eval`, but returns of each span the hidden states after the last norm, [len(ids), dim],
        which the head would turn into logits; no logits are computed."""
        import numpy as np

        hidden = [np.empty((len(ids), self.model.dim), dtype=np.float32) for _, ids in spans]
        self._eval(spans, hidden=[array.ctypes.data for array in hidden])
        return hidden

    def eval_scores(
        self,
        spans: Sequence[tuple[Session, Sequence[int]]],
        types: Sequence[Sequence[int]] | None = None,
    ) -> list[float]:
        """As :meth:`eval`, but returns of each span, a whole text, the number that a head makes of it.

        ``types`` has the kind of text of each token of each span (default: the first). Raises
        UnsupportedError for a model without such a head, UsageError for types that do not fit the spans.
        """
        scores = (ctypes.c_float * len(spans))()
        first, size = ctypes.addressof(scores), ctypes.sizeof(ctypes.c_float)
        kinds = None if types is None else [int32_array(each) for each in types]
        if kinds is not None and list(map(len, kinds)) != [len(ids) for _, ids in spans]:
            raise UsageError("types do not fit the spans; give one for each token of each span")
        self._eval(
            spans,
            score=[first + i * size for i in range(len(spans))],
            types=[None] * len(spans) if kinds is None else [ctypes.addressof(each) for each in kinds],
        )
        return list(scores)

    def _eval(
        self, spans: Sequence[tuple[Session, Sequence[int]]], **addresses: Sequence[int | None]
    ) -> None:
        """``addresses``: of each span, for fields of ``ln_span``."""
        arrays = [int32_array(ids) for _, ids in spans]
        packed = (_bindings.ln_span * len(spans))()
        for i, (span, (session, _), ids) in enumerate(zip(packed, spans, arrays, strict=True)):
            span.session = session.handle._as_parameter_
            span.ids = ctypes.addressof(ids)
            span.n = len(ids)
            for field, each in addresses.items():
                setattr(span, field, each[i])
        fits = all(session.has_room(len(ids)) for session, ids in spans)
        self.call(fits, "ln_workspace_eval", self.handle, packed, len(spans))

    def call(self, fits: bool, function: str, *arguments: object) -> None:
        """Calls ``function`` of the core when it is this caller's turn.

        Where pages are missing, and the tokens would otherwise fit (``fits``), sessions
        nobody needs are given up, one after the other.
        """
        with self.turn:
            try:
                return call(function, *arguments)
            except ContextFullError:
                if not fits or self.give_up is None or not self.give_up():
                    raise
            return self.call(fits, function, *arguments)

    @property
    def n_free_pages(self) -> int:
        """Pages no session holds."""
        return int(self._describe().n_free_pages)

    @property
    def n_sessions(self) -> int:
        """Sessions that are open."""
        return int(self._describe().n_sessions)

    def _describe(self) -> _bindings.ln_workspace_info:
        with self.turn:
            return describe("ln_workspace", self.handle)


class _SessionHandle(Handle):
    """A session of the core, closed when it is its workspace's turn."""

    def __init__(self, workspace: Workspace, function: str, *arguments: object) -> None:
        self._turn = workspace.turn
        with self._turn:
            super().__init__("ln_session", function, *arguments, uses=workspace.handle)

    def __del__(self) -> None:
        with self._turn:
            super().__del__()


class Session:
    """One timeline of at most ``n_ctx`` tokens; belongs to one thread at a time.

    ``n_ctx`` defaults to what the model was made for, as far as the workspace can hold
    it. Its tokens, and those of its forks, are evaluated with ``adapters``, each times its
    scale. A session gives its pages back when it is collected or, as a context manager,
    left.
    """

    def __init__(self, workspace: Workspace, n_ctx: int | None = None, adapters: Adapters = ()) -> None:
        room = 0 if n_ctx is None else int32("n_ctx", n_ctx, least=1)
        self._open(workspace, "ln_session_open", workspace.handle, room)
        self.adapters = adapters
        if adapters:
            pointers = (ctypes.POINTER(_bindings.ln_adapter) * len(adapters))(
                *(adapter.handle._as_parameter_ for adapter, _ in adapters)
            )
            scales = (ctypes.c_float * len(adapters))(*(scale for _, scale in adapters))
            with workspace.turn:
                call("ln_session_adapt", self.handle, pointers, scales, len(adapters))

    def fork(self, length: int | None = None) -> Session:
        """A new timeline that begins with the first ``length`` tokens of this one (default: all).

        They are held once: what either session appends later is its own.
        """
        twin = Session.__new__(Session)
        cut = int32("length", length if length is not None else len(self))
        twin._open(self.workspace, "ln_session_fork", self.handle, cut)
        twin.adapters = self.adapters
        return twin

    adapters: Adapters

    def _open(self, workspace: Workspace, function: str, *arguments: object) -> None:
        self.workspace = workspace
        self.model = workspace.model
        self._handle: Handle | None = _SessionHandle(workspace, function, *arguments)

    @property
    def handle(self) -> Handle:
        """The object of the core. Raises UsageError when the session is closed."""
        if self._handle is None or self._handle.ended:
            raise UsageError("this session is closed; open another one")
        return self._handle

    @property
    def is_open(self) -> bool:
        """Whether it can be used: neither closed nor ended by the garbage collector, which ends a cycle's
        objects before those that use them."""
        return self._handle is not None and not self._handle.ended

    def close(self) -> None:
        """Gives the pages back; the session cannot be used any more."""
        self._handle = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Tokens on the timeline."""
        return int(library().ln_session_length(self.handle))

    @property
    def n_ctx(self) -> int:
        """Tokens the timeline can hold."""
        return int(library().ln_session_capacity(self.handle))

    @property
    def ids(self) -> list[int]:
        """The tokens of the timeline."""
        return list(library().ln_session_ids(self.handle)[: len(self)])

    @property
    def info(self) -> _bindings.ln_session_info:
        """Its pages, its memory in bytes, and what its keys and values depend on beside the model."""
        with self.workspace.turn:
            return describe("ln_session", self.handle)

    @property
    def n_bytes(self) -> int:
        """Memory: its pages, those it shares included, and what is its own."""
        return int(self.info.bytes)

    def has_room(self, n: int) -> bool:
        """Whether ``n`` more tokens fit the timeline; the pages are another matter."""
        return n <= self.n_ctx - len(self)

    def common(self, ids: Sequence[int]) -> int:
        """How many of the first of ``ids`` are the first tokens of the timeline, too."""
        return int(library().ln_session_common(self.handle, int32_array(ids), len(ids)))

    def eval(self, ids: Sequence[int], all_logits: int | None = None) -> None:
        """Appends ``ids`` to the timeline; the logits of the last are then available.

        ``all_logits`` is the address of float32 [len(ids), vocab_size], to which the
        logits of every token are written. Raises ContextFullError when the ids do not
        fit and UsageError for one outside the vocabulary; the timeline is then as before.
        """
        arguments = self.handle, int32_array(ids), len(ids), all_logits
        self.workspace.call(self.has_room(len(ids)), "ln_session_eval", *arguments)

    def eval_all(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """As :meth:`eval`, and returns the logits of every token, [len(ids), vocab_size]."""
        import numpy as np

        logits = np.empty((len(ids), self.model.vocab_size), dtype=np.float32)
        self.eval(ids, logits.ctypes.data)
        return logits

    def score(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Appends ``ids`` and returns the natural-log probability of each given all before it, [len(ids)].

        The first is NaN when the timeline was empty: nothing came before it.
        """
        import numpy as np

        log_probs = np.empty(len(ids), dtype=np.float32)
        arguments = self.handle, int32_array(ids), len(ids), log_probs.ctypes.data
        self.workspace.call(self.has_room(len(ids)), "ln_session_score", *arguments)
        return log_probs

    @property
    def logits(self) -> NDArray[np.float32]:
        """A copy of the logits after the last token, [vocab_size]."""
        import numpy as np

        return np.ctypeslib.as_array(self._logits(), shape=(self.model.vocab_size,)).copy()

    def draw(self, sampler: Draws) -> int:
        """Draws the next token from the logits after the last one; does not append it."""
        return sampler.draw(self._logits())

    def truncate(self, length: int) -> None:
        """Forgets everything after the first ``length`` tokens."""
        with self.workspace.turn:
            call("ln_session_truncate", self.handle, int32("length", length))

    def save_page(self, index: int, page: ctypes.Array[ctypes.c_char]) -> None:
        """Writes a page that is held to ``page``, ``page_bytes`` of the workspace."""
        with self.workspace.turn:
            call("ln_session_save", self.handle, index, page, len(page))

    def load_page(self, ids: Sequence[int], page: ctypes.Array[ctypes.c_char] | None) -> None:
        """Appends ``ids``, those of one page, of which :meth:`save_page` wrote what is known.

        None stands for a page that had left a sliding window. Raises UsageError, ContextFullError.
        """
        size = len(page) if page is not None else 0
        arguments = self.handle, int32_array(ids), len(ids), page, size
        self.workspace.call(self.has_room(len(ids)), "ln_session_load", *arguments)

    def _logits(self) -> ctypes._Pointer[ctypes.c_float]:
        logits: ctypes._Pointer[ctypes.c_float] = library().ln_session_logits(self.handle)
        if not logits:
            raise UsageError("there are no logits yet; evaluate at least one token first")
        return logits
