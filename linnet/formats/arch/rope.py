"""Rotary positions: what ``config.json`` and GGUF metadata say of them, and the factors of each pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.arch.values import Table, count, nested, number, numbers, refuse, text
from linnet.formats.parts import LLAMA3_DIVISORS, LONG_DIVISORS, SHORT_DIVISORS
from linnet.types import ModelFacts, RopeScaling

_DEFAULT_THETA = 10000.0


# ---- config.json ------------------------------------------------------------------


def parameters_of(config: Table, layers: str = "") -> dict[str, Any]:
    """The table of rotary settings: ``rope_parameters`` or the older ``rope_scaling``, the one that scales.

    ``layers`` names the kind of layers whose settings are wanted, where each kind has its own.
    """
    tables = [nested(config, key) for key in ("rope_parameters", "rope_scaling") if config.get(key)]
    own = [nested(table, layers) if layers and layers in table else table for table in tables]
    scaling = [table for table in own if _kind(table) != "default"]
    return dict(next(iter(scaling + own), {}))


def _kind(table: Table) -> str:
    return text(table, "rope_type", text(table, "type", "default"))


def read_rope(
    config: Table, head_dim: int, theta: float = _DEFAULT_THETA, layers: str = ""
) -> dict[str, Any]:
    """The facts ``rope_theta``, ``rope_dims`` and ``rope_scaling``. Raises FormatError, UnsupportedError."""
    table = parameters_of(config, layers)
    every = {**config, **table}
    share = number(every, "partial_rotary_factor", number(config, "rotary_pct", 1.0))
    dims = int(head_dim * min(share, 2.0))
    if share > 1 or dims < 2 or dims % 2:
        raise FormatError(f"{share:g} of a head of {head_dim} elements cannot be rotated in pairs")
    return {
        "rope_theta": _falling(number(every, "rope_theta", number(config, "rotary_emb_base", theta))),
        "rope_dims": 0 if dims == head_dim else dims,
        "rope_scaling": _scaling(table, config, dims),
    }


def _falling(theta: float) -> float:
    """``theta``, if each pair turns more slowly than the one before it. Raises FormatError."""
    if theta <= 1:
        raise FormatError(f"the base of rotary positions is {theta:g}; it must be above 1")
    return theta


def _scaling(table: Table, config: Table, dims: int) -> RopeScaling | None:
    kind = _kind(table)
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", factor=number(table, "factor", 1.0))
    trained = count({**config, **table}, "max_position_embeddings")
    original = count({**config, **table}, "original_max_position_embeddings", trained)
    if kind == "llama3":
        low, high = number(table, "low_freq_factor", 1.0), number(table, "high_freq_factor", 4.0)
        if high <= low:
            raise FormatError(f"'high_freq_factor' is {high:g}; it must be above 'low_freq_factor', {low:g}")
        return RopeScaling(
            "llama3",
            factor=number(table, "factor", 1.0),
            original_len=original,
            low_freq_factor=low,
            high_freq_factor=high,
        )
    if kind == "yarn":
        refuse(table, {"mscale": (), "mscale_all_dim": (), "truncate": (True,)})
        return RopeScaling(
            "yarn",
            factor=number(table, "factor", trained / original),
            original_len=original,
            beta_fast=number(table, "beta_fast", 32.0),
            beta_slow=number(table, "beta_slow", 1.0),
            attention_factor=_attention_factor(table),
        )
    if kind in ("longrope", "su"):
        factor = number(table, "factor", trained / original)
        usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
        given = _attention_factor(table)
        return RopeScaling(
            "longrope",
            factor=factor,
            original_len=original,
            attention_factor=usual if given is None else given,
            short_factors=numbers(table, "short_factor", dims // 2),
            long_factors=numbers(table, "long_factor", dims // 2),
        )
    raise UnsupportedError(
        f"rotary positions scaled by '{kind}' are not supported; known: linear, llama3, yarn, longrope"
    )


def _attention_factor(table: Table) -> float | None:
    return None if table.get("attention_factor") is None else number(table, "attention_factor", 1.0)


def rope_config(facts: ModelFacts) -> dict[str, Any]:
    """The keys of ``config.json``. transformers 4 reads the first and the last, 5 ``rope_parameters``."""
    table: dict[str, Any] = {"rope_theta": facts.rope_theta, "rope_type": "default"}
    if facts.rope_dims:
        table["partial_rotary_factor"] = facts.rope_dims / facts.head_dim
    scaling = facts.rope_scaling
    if scaling is not None and scaling.kind == "llama3" and scaling.short_factors:
        raise UnsupportedError("the divisors of 'rope_freqs.weight' are none that config.json can describe")
    if scaling is not None:
        table |= {"rope_type": scaling.kind, "factor": scaling.factor, **_SCALED[scaling.kind](scaling)}
    older = {"rope_scaling": {"type": scaling.kind, **table}} if scaling is not None else {}
    return {"rope_theta": facts.rope_theta, "rope_parameters": table, **older}


def _llama3_config(scaling: RopeScaling) -> dict[str, Any]:
    return {
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_len,
    }


def _yarn_config(scaling: RopeScaling) -> dict[str, Any]:
    return {
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "original_max_position_embeddings": scaling.original_len,
        **({} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}),
    }


def _longrope_config(scaling: RopeScaling) -> dict[str, Any]:
    return {
        "short_factor": list(scaling.short_factors),
        "long_factor": list(scaling.long_factors),
        "attention_factor": scaling.attention_factor,
        "original_max_position_embeddings": scaling.original_len,
    }


_SCALED = {
    "linear": lambda scaling: {},
    "llama3": _llama3_config,
    "yarn": _yarn_config,
    "longrope": _longrope_config,
}


# ---- GGUF ---------------------------------------------------------------------------


def rope_metadata(facts: ModelFacts) -> dict[str, Any]:
    """The keys of GGUF, without the architecture's prefix."""
    if not facts.rotated:
        return {}
    keys: dict[str, Any] = {
        "rope.dimension_count": facts.rotated,
        "rope.freq_base": float(facts.rope_theta),
    }
    scaling = facts.rope_scaling
    if scaling is None or scaling.kind == "llama3":  # whose divisors are a tensor
        return keys
    keys["rope.scaling.type"] = scaling.kind
    if scaling.kind != "longrope":  # whose divisors are tensors
        keys["rope.scaling.factor"] = float(scaling.factor)
    if scaling.original_len:
        keys["rope.scaling.original_context_length"] = scaling.original_len
    if scaling.kind == "yarn":
        keys["rope.scaling.yarn_beta_fast"] = float(scaling.beta_fast)
        keys["rope.scaling.yarn_beta_slow"] = float(scaling.beta_slow)
    if scaling.attention_factor is not None:
        keys["rope.scaling.attn_factor"] = scaling.attention_factor / _implied_magnitude(scaling)
    return keys


def _implied_magnitude(scaling: RopeScaling) -> float:
    """What readers of GGUF multiply the cosines and sines by without being told."""
    return 1 + 0.1 * math.log(max(scaling.factor, 1.0)) if scaling.kind == "yarn" else 1.0


def rope_from_metadata(
    keys: Table, head_dim: int, divisors: Mapping[str, NDArray[np.float32]]
) -> dict[str, Any]:
    """The facts in GGUF metadata ``keys`` (no prefix) and tensors. Raises FormatError, UnsupportedError."""
    dims = count(keys, "rope.dimension_count", head_dim)
    if dims > head_dim or dims % 2:
        raise FormatError(f"{dims} rotated elements do not go into a head of {head_dim}")
    theta = _falling(number(keys, "rope.freq_base", _DEFAULT_THETA))
    factor = number(keys, "rope.scaling.factor", number(keys, "rope.scale_linear", 1.0))  # its older name
    kind = text(keys, "rope.scaling.type", "none" if factor == 1 else "linear")
    original = count(keys, "rope.scaling.original_context_length", 0, least=int(kind in ("yarn", "longrope")))
    scaling: RopeScaling | None = None
    if LLAMA3_DIVISORS in divisors:
        scaling = _llama3_from(_divisors(divisors, LLAMA3_DIVISORS), theta)
    elif kind in ("linear", "yarn", "longrope"):
        scaling = RopeScaling(kind, factor=factor, original_len=original)
        scaling = replace(
            scaling,
            beta_fast=number(keys, "rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=number(keys, "rope.scaling.yarn_beta_slow", 1.0),
        )
        if kind == "longrope":
            scaling = replace(
                scaling,
                factor=count(keys, "context_length") / max(original, 1),
                short_factors=tuple(_divisors(divisors, SHORT_DIVISORS).tolist()),
                long_factors=tuple(_divisors(divisors, LONG_DIVISORS).tolist()),
            )
        if "rope.scaling.attn_factor" in keys:
            magnitude = number(keys, "rope.scaling.attn_factor", 1.0)
            scaling = replace(scaling, attention_factor=magnitude * _implied_magnitude(scaling))
    elif kind != "none":
        raise UnsupportedError(f"rope scaling of type '{kind}' is unknown; known: linear, yarn, longrope")
    return {"rope_theta": theta, "rope_dims": 0 if dims == head_dim else dims, "rope_scaling": scaling}


def _divisors(divisors: Mapping[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    if name not in divisors:
        raise FormatError(f"the tensor '{name}' is missing")
    values = divisors[name]
    if not (np.isfinite(values) & (values > 0)).all():
        raise FormatError(f"the tensor '{name}' holds values that frequencies cannot be divided by")
    return values


def _llama3_from(divisors: NDArray[np.float32], theta: float) -> RopeScaling:
    """The scaling that has these divisors: a file holds them, and not what they were computed from."""
    factor = float(divisors.max(initial=1.0))
    usual = RopeScaling("llama3", factor=factor)
    # Between the pairs that are not divided and those that are divided by the whole factor, the share says
    # how often a pair turns in the length the model was first trained with.
    share = (1 / divisors.astype(np.float64) - 1 / factor) / max(1 - 1 / factor, 1e-9)
    between = (share > 1e-3) & (share < 1 - 1e-3)
    turns = share * (usual.high_freq_factor - usual.low_freq_factor) + usual.low_freq_factor
    frequencies = theta ** (-np.arange(len(divisors)) / len(divisors))
    if between.any():
        original = max(1, round(float(np.median((2 * math.pi * turns / frequencies)[between]))))
        found = replace(usual, original_len=original)
        if np.allclose(llama3_divisors(found, 2 * len(divisors), theta), divisors, rtol=1e-4):
            return found
    return replace(usual, short_factors=tuple(divisors.tolist()))  # kept as they are; no config.json says so


def derived_divisors(facts: ModelFacts) -> dict[str, NDArray[np.float32]]:
    """The tensors of GGUF that hold divisors, [rotated / 2], by name."""
    scaling = facts.rope_scaling
    if scaling is None:
        return {}
    if scaling.kind == "llama3":
        kept = np.array(scaling.short_factors, dtype=np.float32)
        made = kept if len(kept) else llama3_divisors(scaling, facts.rotated, facts.rope_theta)
        return {LLAMA3_DIVISORS: made}
    if scaling.kind == "longrope":
        return {
            LONG_DIVISORS: np.array(scaling.long_factors, dtype=np.float32),
            SHORT_DIVISORS: np.array(scaling.short_factors, dtype=np.float32),
        }
    return {}


def llama3_divisors(scaling: RopeScaling, dims: int, theta: float) -> NDArray[np.float32]:
    """What the frequency of each pair is divided by: 1 for the high ones, ``factor`` for the low ones."""
    frequencies = theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    turns = scaling.original_len * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / scaling.factor + smooth)).astype(np.float32)
