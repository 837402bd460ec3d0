"""The same function with more columns: a model whose rows are whole blocks of 256.

Trained models that are small enough to measure in seconds have rows of 64 or 192 columns, which types with
blocks of 256 cannot hold. Filling the rows up with zeros would leave places in every block where no error of
a kernel shows. So units are repeated, as in Net2Net (Chen, Goodfellow & Shlens 2016), and every place carries
a trained weight and a live activation:

    heads and hidden units  c copies of one; the columns that read them are divided by c
    residual channels       c copies of one; the rows that write and the columns that read them by sqrt(c)

Each channel then adds as much to the squared length of the residual stream as before, and the mean of its
squares is ``share`` = old width / new width times what it was. RMS norm, x / sqrt(mean(x^2) + eps) * weight,
gives the same numbers again for ``share`` * eps and sqrt(``share``) * weight.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd, lcm, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linnet.engine.repack import float_rows
from linnet.formats.parts import ModelParts, RawBytes, Tensor
from linnet.types import ModelFacts, TensorType

Values = NDArray[np.float32]


class Axis(NamedTuple):
    """New entry i of an axis is entry ``source[i]`` of the old one, times ``scale[i]``."""

    source: NDArray[np.intp]
    scale: NDArray[np.float64]

    def of(self, values: Values, axis: int) -> Values:
        """``values`` with this axis instead of their own."""
        shape = [1] * values.ndim
        shape[axis] = -1
        return (values.take(self.source, axis) * self.scale.reshape(shape)).astype(np.float32)


def widened(parts: ModelParts, multiple: int = 256) -> ModelParts:
    """The same function in f32, each matrix with a multiple of ``multiple`` columns; of a Llama model."""
    facts = _wider(parts.facts, multiple)
    axes = _axes(parts.facts, facts)

    def wide(tensor: Tensor) -> Tensor:
        values = np.concatenate([rows for _, rows in float_rows(tensor)]).reshape(tensor.shape)
        for number, axis in enumerate(axes[tensor.name.split(".")[-2]]):
            values = axis.of(values, number) if axis else values
        return Tensor(tensor.name, TensorType.F32, values.shape, lambda: _bytes_of(values))

    return replace(parts, facts=facts, tensors=tuple(map(wide, parts.tensors)))


def _wider(facts: ModelFacts, multiple: int) -> ModelFacts:
    whole_heads = lcm(facts.n_kv_heads, multiple // gcd(multiple, facts.head_dim))
    dim = _rounded(facts.dim, multiple)
    return replace(
        facts,
        dim=dim,
        n_heads=_rounded(facts.n_heads, whole_heads),
        ffn_dim=_rounded(facts.ffn_dim, multiple),
        norm_eps=facts.norm_eps * facts.dim / dim,
    )


def _axes(old: ModelFacts, new: ModelFacts) -> dict[str, tuple[Axis | None, ...]]:
    """What becomes of the rows and columns (or of the one axis) of each kind of tensor."""
    source, copies = _spread(old.dim, new.dim)
    channels = Axis(source, 1 / np.sqrt(copies))
    norm = Axis(source, np.full(new.dim, sqrt(old.dim / new.dim)))
    source, copies = _spread(old.ffn_dim, new.ffn_dim)
    units, units_read = Axis(source, np.ones(new.ffn_dim)), Axis(source, 1 / copies)
    source, copies = _head_columns(old, new)
    heads, heads_read = Axis(source, np.ones(len(source))), Axis(source, 1 / copies)
    return {
        "token_embd": (None, channels),
        "attn_norm": (norm,),
        "attn_q": (heads, channels),
        "attn_k": (None, channels),
        "attn_v": (None, channels),
        "attn_output": (channels, heads_read),
        "ffn_norm": (norm,),
        "ffn_gate": (units, channels),
        "ffn_up": (units, channels),
        "ffn_down": (channels, units_read),
        "output_norm": (norm,),
        "output": (None, channels),
    }


def _spread(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The old unit of each new one, and how many copies that one has.

    First come all old units in order, then copies of evenly spaced ones: were they copies of neighbours,
    a kernel could confuse two groups of a block unnoticed.
    """
    repeated = np.linspace(0, old, new - old, endpoint=False).astype(np.intp)
    source = np.concatenate([np.arange(old), repeated])
    return source, np.bincount(source)[source]


def _head_columns(old: ModelFacts, new: ModelFacts) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """As :func:`_spread` for the columns of all heads; copies share the key/value head of the original."""
    n_shared = old.n_heads // old.n_kv_heads
    source, copies = _spread(n_shared, new.n_heads // new.n_kv_heads)
    heads = np.arange(old.n_kv_heads)[:, None] * n_shared + source
    columns = heads.reshape(-1, 1) * old.head_dim + np.arange(old.head_dim)
    return columns.ravel(), np.repeat(np.tile(copies, old.n_kv_heads), old.head_dim)


def _rounded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _bytes_of(values: Values) -> RawBytes:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
