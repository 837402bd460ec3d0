"""Adapters on top of a model: low-rank changes that sessions choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnet.engine import _bindings
from linnet.engine.library import Handle
from linnet.engine.model import Model
from linnet.errors import FormatError, LinnetError, UnsupportedError, UsageError
from linnet.formats import arch
from linnet.formats.adapter import LowRank, plain_tensor, read_adapter
from linnet.formats.arch.family import PlannedTensor
from linnet.formats.source import read_model
from linnet.types import ModelFacts

_QKV = (_bindings.LN_TARGET_Q, _bindings.LN_TARGET_K, _bindings.LN_TARGET_V)
_GATE_AND_UP = (_bindings.LN_TARGET_GATE, _bindings.LN_TARGET_UP)

# The matrices of a layer by their GGUF names. A fused one is several, one below the other.
_TARGETS: dict[str, tuple[int, ...]] = {
    "attn_q": (_bindings.LN_TARGET_Q,),
    "attn_k": (_bindings.LN_TARGET_K,),
    "attn_v": (_bindings.LN_TARGET_V,),
    "attn_qkv": _QKV,
    "attn_output": (_bindings.LN_TARGET_O,),
    "ffn_gate": (_bindings.LN_TARGET_GATE,),
    "ffn_up": (_bindings.LN_TARGET_UP,),
    "ffn_down": (_bindings.LN_TARGET_DOWN,),
}


class Adapter:
    """The adapter of a PEFT folder, for one model, whose weights stay as they are.

    Raises SourceError, FormatError or UnsupportedError, also for one that was made for
    another model: it says what differs.
    """

    def __init__(self, model: Model, directory: Path) -> None:
        self.model = model
        low_ranks = read_adapter(directory).modules
        if model.path is None:
            raise UsageError("an adapter needs a model that was opened from a file or folder")
        facts = read_model(model.path).facts
        matrices = _matrices(facts)
        kept: list[NDArray[np.float32]] = []  # until the core has copied them
        try:
            parts = [part for low in low_ranks for part in _parts(low, matrices, facts, kept)]
            packed = (_bindings.ln_adapter_part * len(parts))(*parts)
            self.handle = Handle("ln_adapter", "ln_adapter_open", model.handle, packed, len(parts))
        except LinnetError as error:
            raise type(error)(f"{directory}: {error}") from None


def _matrices(facts: ModelFacts) -> dict[str, PlannedTensor]:
    """The modules of a checkpoint that are a matrix of the model."""
    return {
        planned.sources[0].removesuffix(".weight"): planned
        for planned in arch.by_facts(facts).tensors(facts)
        if len(planned.sources) == 1 and len(planned.shape) == 2 and not planned.by_element
    }


def _parts(
    low: LowRank, matrices: Mapping[str, PlannedTensor], facts: ModelFacts, kept: list[NDArray[np.float32]]
) -> Iterator[_bindings.ln_adapter_part]:
    """One for each matrix of the core that the module consists of."""
    planned = matrices.get(low.module)
    if planned is None:
        raise FormatError(
            f"it changes '{low.module}', which a {facts.arch} model of {facts.n_layers} layers does not "
            "have; it was made for another model"
        )
    block, _, matrix = planned.name.removeprefix("blk.").removesuffix(".weight").partition(".")
    if matrix not in _TARGETS or planned.source_shape != planned.shape:
        raise UnsupportedError(f"it changes '{low.module}', which adapters cannot; merge it with peft")
    targets = _TARGETS[matrix]
    if matrix == "ffn_up" and planned.shape[0] == 2 * facts.ffn_dim:
        targets = _GATE_AND_UP
    if low.b.shape[0] != planned.shape[0]:
        raise FormatError(
            f"it changes '{low.module}' in {low.b.shape[0]} rows and the model's has {planned.shape[0]}; "
            "it was made for another model"
        )
    # GGUF may order the rows of a head in another way than a checkpoint.
    laid_out = planned.layout.gather(planned.name, low.b.shape, [plain_tensor(planned.name, low.b)])
    b = np.asarray(laid_out.load()).view("<f4").reshape(low.b.shape)
    rows = _rows(facts, targets, low.b.shape[0])
    start = 0
    for target, n_rows in zip(targets, rows, strict=True):
        arrays = [np.ascontiguousarray(low.a), np.ascontiguousarray(b[start : start + n_rows])]
        kept += arrays
        start += n_rows
        yield _bindings.ln_adapter_part(
            a=arrays[0].ctypes.data,
            b=arrays[1].ctypes.data,
            block=int(block),
            target=target,
            rank=low.a.shape[0],
            rows=n_rows,
            cols=low.a.shape[1],
            scale=low.scale,
        )


def _rows(facts: ModelFacts, targets: tuple[int, ...], n_rows: int) -> tuple[int, ...]:
    """Rows of each matrix of which a fused one consists."""
    if targets == _QKV:
        return facts.query_dim, facts.kv_dim, facts.kv_dim
    return (n_rows // len(targets),) * len(targets)
