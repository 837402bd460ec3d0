"""Adapters on top of a model: low-rank changes that sessions choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.engine import _bindings
from linnet.engine.library import Handle
from linnet.engine.model import Model
from linnet.engine.quants import unpack
from linnet.errors import FormatError, LinnetError, UnsupportedError, UsageError
from linnet.formats import arch
from linnet.formats.adapter import LowRank, read_adapter
from linnet.formats.arch.family import PlannedTensor
from linnet.formats.arch.layouts import AS_IS, TRANSPOSED
from linnet.formats.arch.text_part import name_alone
from linnet.formats.gguf_adapter import read_gguf_adapter
from linnet.formats.parts import Tensor
from linnet.formats.source import read_model
from linnet.types import ModelFacts, TensorType

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

# The types in which the core keeps adapters: words of numpy, and the bits that all are set in what is not
# finite.
_KEPT = {
    TensorType.F32: ("<u4", 0x7F800000),
    TensorType.F16: ("<u2", 0x7C00),
    TensorType.BF16: ("<u2", 0x7F80),
}


class Adapter:
    """An adapter, a PEFT folder or a GGUF file, for one model, whose weights stay as they are.

    Raises SourceError, FormatError or UnsupportedError, also for one that was made for
    another model: it says what differs.
    """

    def __init__(self, model: Model, path: Path) -> None:
        self.model = model
        adapter = read_gguf_adapter(path) if path.is_file() else read_adapter(path)
        if model.path is None:
            raise UsageError("an adapter needs a model that was opened from a file or folder")
        facts = read_model(model.path).facts
        kept: list[NDArray[Any]] = []  # until the core has copied them
        try:
            matrices = _matrices(facts, adapter.arch)
            parts = [part for low in adapter.modules for part in _parts(low, matrices, facts, kept)]
            packed = (_bindings.ln_adapter_part * len(parts))(*parts)
            self.handle = Handle("ln_adapter", "ln_adapter_open", model.handle, packed, len(parts))
        except LinnetError as error:
            raise type(error)(f"{path}: {error}") from None


def _matrices(facts: ModelFacts, arch_of_gguf: str | None) -> dict[str, PlannedTensor]:
    """The tensors of the model by the names an adapter has for them."""
    family = arch.by_facts(facts)
    planned = list(family.tensors(facts))
    if arch_of_gguf is None:
        named = {
            name.removeprefix(family.prefix).removesuffix(".weight"): tensor
            for tensor in planned
            for name in tensor.sources
        }
        # Of a GGUF file it is not known which of its kin a model was, whose names the adapter has.
        prefixes = {"", *(kin.prefix for kin in arch.FAMILIES if kin.arch == facts.arch)}
        return {prefix + name: tensor for prefix in prefixes for name, tensor in named.items()}
    if arch_of_gguf != facts.arch:
        raise FormatError(
            f"it is for models of the architecture '{arch_of_gguf}' and this is a {facts.arch} model"
        )
    return {tensor.name: replace(tensor, layout=AS_IS) for tensor in planned}


def _parts(
    low: LowRank, matrices: Mapping[str, PlannedTensor], facts: ModelFacts, kept: list[NDArray[Any]]
) -> Iterator[_bindings.ln_adapter_part]:
    """One for each matrix of the core that the module consists of."""
    planned = matrices.get(low.module) or matrices.get(name_alone(low.module) or "")
    if planned is None:
        raise FormatError(
            f"it changes '{low.module}', which a {facts.arch} model of {facts.n_layers} layers does not "
            "have; it was made for another model"
        )
    block, _, matrix = planned.name.removeprefix("blk.").removesuffix(".weight").partition(".")
    if matrix not in _TARGETS:
        raise UnsupportedError(f"it changes '{low.module}', which adapters cannot; merge it into its model")
    (rows, rank), columns = low.b.shape, low.a.shape[1]
    if rank > _bindings.LN_MAX_RANK:
        raise UnsupportedError(
            f"the rank of '{low.module}' is {rank}; adapters of at most {_bindings.LN_MAX_RANK} are used"
        )
    if (rows, columns) != planned.shape:
        raise FormatError(
            f"it changes '{low.module}' as {(rows, columns)} and the model's is {planned.shape}; "
            "it was made for another model"
        )
    type, a, b = _pair(low, planned)
    targets = _TARGETS[matrix]
    if matrix == "ffn_up" and rows == 2 * facts.ffn_dim:
        targets = _GATE_AND_UP
    start = 0
    for target, n_rows in zip(targets, _rows(facts, targets, rows), strict=True):
        part = b[start : start + n_rows]
        kept += [a, part]
        start += n_rows
        yield _bindings.ln_adapter_part(
            a=a.ctypes.data,
            b=part.ctypes.data,
            type=int(type),
            block=int(block),
            target=target,
            rank=rank,
            rows=n_rows,
            cols=columns,
            scale=low.scale,
        )


def _pair(low: LowRank, planned: PlannedTensor) -> tuple[TensorType, NDArray[Any], NDArray[Any]]:
    """a and b as they are stored where the core keeps that, else in f32; rows of b as GGUF has them."""
    alike = low.a.type is low.b.type and low.a.type in _KEPT
    type = low.a.type if alike else TensorType.F32
    layout = AS_IS if planned.layout is TRANSPOSED else planned.layout  # b has a row for each output already
    return type, _words(low.a, type), _words(layout.gather(low.b.name, low.b.shape, [low.b]), type)


def _words(matrix: Tensor, type: TensorType) -> NDArray[Any]:
    """[rows, columns] in words of ``type``. Raises FormatError for values that are not finite."""
    raw = np.ascontiguousarray(matrix.load())
    if matrix.type is not type:
        raw = unpack(matrix.type, raw, matrix.n_elements).view(np.uint8)
    word, exponent = _KEPT[type]
    words = raw.view(word).reshape(matrix.shape)
    if (words & exponent == exponent).any():
        raise FormatError(f"the tensor '{matrix.name}' holds values that are not finite")
    return words


def _rows(facts: ModelFacts, targets: tuple[int, ...], n_rows: int) -> tuple[int, ...]:
    """Rows of each matrix of which a fused one consists."""
    if targets == _QKV:
        return facts.query_dim, facts.kv_dim, facts.kv_dim
    return (n_rows // len(targets),) * len(targets)
