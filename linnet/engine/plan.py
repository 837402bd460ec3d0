"""How much memory a model will take, by the core's own arithmetic, before any of its weights is read."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from linnet.engine._bindings import ln_workspace_options, ln_workspace_plan
from linnet.engine.arguments import int32
from linnet.engine.library import Handle, call, describe
from linnet.engine.memory import Image
from linnet.engine.processors import available_processors
from linnet.engine.session import pages_of
from linnet.errors import UsageError
from linnet.formats.parts import ModelParts, RawBytes, Tensor
from linnet.formats.sentence_transformers import longest_text
from linnet.types import TensorType

# What was measured of a process beside the core's own memory (Python 3.11, x86-64 Linux, benchmarks/fit.py):
# the interpreter with `linnet run`, and per token the tokenizer; where a model is taken apart before it is
# loaded, which is so of all but GGUF files as they are, numpy and the readers as well.
_BASE, _BASE_OF_PARTS = 20.4e6, 31e6
_TOKEN, _TOKEN_OF_PARTS = 80, 900
_STEP = 16 << 20  # bytes of a file that are in memory while they are packed; STEP_BYTES of core/model.c
_CONVERSION = 31e6  # rows that two threads of engine/repack.py work on, and what their heaps keep of it
_ONES = {TensorType.F32: b"\0\0\x80\x3f", TensorType.F16: b"\0\x3c", TensorType.BF16: b"\x80\x3f"}


@dataclass(frozen=True)
class Plan:
    """Bytes at the time when the process holds most, with a full context.

    ``weights`` are those packed and those used in place, ``kv`` the keys and values of
    ``n_ctx`` tokens, ``scratch`` what evaluating touches and ``loading`` what only loading does, ``base`` the
    interpreter, the tokenizer and the file's header.
    """

    n_ctx: int
    kv_type: str
    weights: int
    kv: int
    scratch: int
    loading: int
    base: int

    @property
    def total(self) -> int:
        """The peak: loading has ended when evaluating begins."""
        return self.base + self.weights + max(self.loading, self.kv + self.scratch)


class Outline:
    """A model of which only the header is there. Raises what opening it would.

    ``as_it_is`` says that it is a GGUF file that is mapped and not taken apart,
    ``header_bytes`` how much of it comes before the weights. ``longest_text`` is in tokens.
    """

    def __init__(self, parts: ModelParts, *, as_it_is: bool, header_bytes: int = 0) -> None:
        self._converts = any(tensor.stream is not None for tensor in parts.tensors)
        image = Image.of_parts(replace(parts, tensors=tuple(map(_blank, parts.tensors))))
        self._model = Handle("ln_model", "ln_model_open", image.address, image.size, uses=image)
        self.info = describe("ln_model", self._model)
        self.longest_text = longest_text(parts.extra, int(self.info.max_seq_len))
        self._positions = self.info.max_seq_len if parts.facts.learned_positions else None
        self._as_it_is = as_it_is
        self._header_bytes = header_bytes
        self._n_tokens = len(parts.tokenizer.vocabulary)
        embedding = next(tensor for tensor in parts.tensors if tensor.name == "token_embd.weight")
        is_head = self.info.tied_embeddings and self.info.causal
        looked_up = embedding.type in _ONES and not is_head
        self._untouched = embedding.n_bytes if looked_up else 0  # rows of it are read, not all
        self._is_packed = any(tensor.type not in _ONES for tensor in parts.tensors)

    def plan(self, n_ctx: int, kv_type: str, threads: int | None = None) -> Plan:
        """What the model takes with a context of ``n_ctx`` tokens. Raises UsageError, UnsupportedError."""
        if self._positions is not None and n_ctx > self._positions:
            raise UsageError(
                f"n_ctx is {n_ctx} and the model has learned only {self._positions} positions; "
                f"give {self._positions} or less"
            )
        n_threads = threads if threads is not None else available_processors()
        options = ln_workspace_options(
            n_threads=int32("threads", n_threads, least=1),
            kv_tokens=int32("n_ctx", n_ctx, least=1),
            kv_type=int(TensorType.parse(kv_type)),
        )
        found = ln_workspace_plan()
        call("ln_workspace_foresee", self._model, ctypes.byref(options), ctypes.byref(found))
        per_token = _TOKEN if self._as_it_is else _TOKEN_OF_PARTS
        base = _BASE if self._as_it_is and self.info.causal else _BASE_OF_PARTS  # vectors are made with numpy
        return Plan(
            n_ctx=n_ctx,
            kv_type=kv_type,
            weights=self.info.packed_bytes + self.info.in_place_bytes - self._untouched,
            kv=pages_of(n_ctx) * found.page_bytes,
            scratch=found.scratch_bytes + 4 * (self.info.vocab_size + n_ctx),  # and a session
            loading=self._loading(),
            base=int(base + per_token * self._n_tokens + self._header_bytes),
        )

    def _loading(self) -> int:
        step = min(_STEP, self.info.weight_bytes) if self._is_packed else 0
        return int(step + (_CONVERSION if self._converts else 0))


def _blank(tensor: Tensor) -> Tensor:
    """The same tensor with ones for weights, which are computed only where the core reads them at once."""

    def ones() -> RawBytes:
        one = _ONES.get(tensor.type)
        if one is None:
            return np.zeros(tensor.n_bytes, np.uint8)
        return np.frombuffer(one * tensor.n_elements, np.uint8)

    def stream() -> Iterator[RawBytes]:
        yield ones()

    return replace(tensor, load=ones, stream=stream)
