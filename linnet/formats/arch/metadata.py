"""The facts of a model as GGUF metadata tells them; the same keys for every architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.arch.rope import rope_from_metadata, rope_metadata
from linnet.formats.arch.values import Table, choice, count, flag, listed, number, refuse
from linnet.formats.gguf_keys import POOLING_KEY, POOLING_RANK
from linnet.types import ModelFacts

# Activations by their names in config.json, and by their own.
ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "relu": "relu", "relu2": "relu2",
}  # fmt: skip
ACTIVATION_NAMES = {
    "silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "relu2": "relu2",
}  # fmt: skip


class _Key(NamedTuple):
    fact: str
    key: str  # after the architecture's name


# Facts that are written where they are not what the architecture's name says.
_TOLD = (
    _Key("parallel_residual", "use_parallel_residual"),
    _Key("attention_scale", "attention.scale"),
    _Key("attention_cap", "attn_logit_softcapping"),
    _Key("logit_cap", "final_logit_softcapping"),
    _Key("embedding_scale", "embedding_scale"),
    _Key("residual_scale", "residual_scale"),
    _Key("logit_divisor", "logit_scale"),
    _Key("sliding_window", "attention.sliding_window"),
    _Key("global_interval", "attention.sliding_window_pattern"),
    _Key("rope_theta_local", "rope.freq_base_swa"),
    _Key("rope_interval", "rope.no_rope_interval"),
    _Key("n_experts", "expert_count"),
    _Key("n_experts_used", "expert_used_count"),
    _Key("expert_ffn_dim", "expert_feed_forward_length"),
    _Key("expert_norm", "expert_weights_norm"),
    _Key("block_repeat", "block_repeat"),
    _Key("conv_len", "shortconv.l_cache"),
)

# Keys that would change the arithmetic, and the values at which they do not; core/facts.c has the same.
NEUTRAL: dict[str, tuple[float, ...]] = {
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0,),
    "expert_shared_count": (0,),
    "expert_group_count": (0,),
    "expert_gating_func": (0, 1),  # 1 = softmax over all experts
    "expert_weights_scale": (0, 1),
    "leading_dense_block_count": (0,),
    "rescale_every_n_layers": (0,),
    "router_logit_softcapping": (0,),
}

# Not after the architecture's name. Files of encoders without a table say 1, which llama.cpp asks for.
TOKEN_TYPES_KEY = "tokenizer.ggml.token_type_count"

_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(ModelFacts)
    if field.default is not dataclasses.MISSING
}


def base_metadata(facts: ModelFacts) -> dict[str, Any]:
    """The keys that every model has."""
    kind = "attention.layer_norm_epsilon" if facts.norm == "layer" else "attention.layer_norm_rms_epsilon"
    kv_heads: Any = facts.n_kv_heads
    if facts.conv_layers:
        listed = [0 if i in facts.conv_layers else facts.n_kv_heads for i in range(facts.n_layers)]
        kv_heads = np.array(listed, dtype="<i4")
    return {
        "context_length": facts.max_seq_len,
        "embedding_length": facts.dim,
        "block_count": facts.n_layers,
        "feed_forward_length": facts.ffn_dim,
        "attention.head_count": facts.n_heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": facts.head_dim,
        "attention.value_length": facts.head_dim,
        **({} if facts.causal else {"attention.causal": False}),
        kind: float(facts.norm_eps),
        **rope_metadata(facts),
        "vocab_size": facts.vocab_size,
    }


def told_metadata(facts: ModelFacts, style: Table, implied: Collection[str]) -> dict[str, Any]:
    """The keys of facts that the architecture's name does not say."""
    usual = {**_DEFAULTS, **style}
    keys = {
        key: getattr(facts, fact)
        for fact, key in _TOLD
        if fact not in implied and getattr(facts, fact) != usual[fact]
    }
    if facts.activation != usual["activation"]:
        keys["hidden_act"] = ACTIVATION_NAMES[facts.activation]
    return keys


def facts_in(
    arch: str, keys: Table, style: Table, n_tokens: int, divisors: Mapping[str, NDArray[np.float32]]
) -> ModelFacts:
    """The facts that metadata ``keys`` (no prefix) tell. Raises FormatError, UnsupportedError."""
    usual = {**_DEFAULTS, **style}
    refuse(keys, {**NEUTRAL, "attention.causal": (int(usual["causal"]),)})
    dim, n_heads = count(keys, "embedding_length"), count(keys, "attention.head_count")
    n_layers = count(keys, "block_count")
    head_dim = count(keys, "attention.key_length", dim // n_heads)
    if count(keys, "attention.value_length", head_dim) != head_dim:
        raise UnsupportedError(f"keys and values of different sizes ({arch}) are not supported")
    n_kv_heads, conv_layers = _kv_heads(keys, n_layers, n_heads)
    layer_norm = usual["norm"] == "layer"
    told = {fact: _read(keys, key, usual[fact]) for fact, key in _TOLD}
    if told["n_experts"] and not told["expert_ffn_dim"]:
        told["expert_ffn_dim"] = count(keys, "feed_forward_length")
    rope = {} if usual["learned_positions"] else rope_from_metadata(keys, head_dim, divisors)
    types = 0 if usual["causal"] else count(keys, TOKEN_TYPES_KEY, 0, least=0)
    pooling = keys.get(POOLING_KEY)  # whatever else it may be is not for here
    ranks = not usual["causal"] and isinstance(pooling, (int, np.integer)) and pooling == POOLING_RANK
    activation = choice(keys, "hidden_act", ACTIVATION_NAMES[usual["activation"]], ACTIVATIONS)
    return ModelFacts(
        arch=arch,
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_dim=count(keys, "feed_forward_length"),
        vocab_size=count(keys, "vocab_size", n_tokens),
        max_seq_len=count(keys, "context_length"),
        norm_eps=number(keys, f"attention.layer_norm_{'' if layer_norm else 'rms_'}epsilon", 1e-5),
        n_token_types=types,
        rank_head="tanh" if ranks else "",
        **{**style, **told, **rope, "activation": activation, "conv_layers": conv_layers},
    )


def _kv_heads(keys: Table, n_layers: int, n_heads: int) -> tuple[int, tuple[int, ...]]:
    """How many there are, and the layers that have none."""
    key = "attention.head_count_kv"
    if not isinstance(keys.get(key), (np.ndarray, list)):
        return count(keys, key, n_heads), ()
    each = [count({key: n}, key, least=0) for n in listed(keys, key) or ()]
    if len(each) != n_layers:
        raise FormatError(f"'{key}' does not list the heads of {n_layers} layers")
    some = sorted(set(each) - {0})
    if len(some) > 1:
        raise UnsupportedError(f"'{key}' differs from layer to layer; not supported")
    return some[0] if some else n_heads, tuple(i for i, n in enumerate(each) if n == 0)


def _read(keys: Table, key: str, usual: Any) -> Any:
    if isinstance(usual, bool):
        return flag(keys, key, usual)
    if isinstance(usual, int):
        return count(keys, key, usual, least=0)
    return number(keys, key, usual, zero=True) or usual  # 0 = as usual
