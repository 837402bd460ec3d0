"""Gemma 1 to 3: scaled embeddings, norms that store their weight less one; then norms around each part,
soft caps, and layers with a window between those without (Gemma Team 2024, 2025).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

from linnet.formats.arch.blocks import (
    GATED_FFN,
    attention,
    embeddings,
    global_interval_of,
    head_norms,
    layer_types,
    pre_norms,
    read_common,
    window_of,
    write_common,
)
from linnet.formats.arch.family import Family, norm
from linnet.formats.arch.layouts import PLUS_ONE
from linnet.formats.arch.metadata import ACTIVATION_NAMES, ACTIVATIONS
from linnet.formats.arch.rope import parameters_of, read_rope, rope_config
from linnet.formats.arch.values import choice, count, flag, nested, number, refuse
from linnet.types import ModelFacts

_SECOND = "pre_feedforward_layernorm"
_POST_NORMS = (
    *norm("post_attention_norm", "model.layers.{i}.post_attention_layernorm", layout=PLUS_ONE),
    *norm("post_ffw_norm", "model.layers.{i}.post_feedforward_layernorm", layout=PLUS_ONE),
)
_LOCAL_THETA = 10000.0


def _gemma(config: Mapping[str, Any]) -> dict[str, Any]:
    """What all of them have."""
    refuse(config, {"attention_bias": (False,), "use_bidirectional_attention": (False,)})
    return {
        "activation": choice(config, "hidden_activation", "gelu_pytorch_tanh", ACTIVATIONS),
        "head_dim": count(config, "head_dim", 256),
        "embedding_scale": sqrt(count(config, "hidden_size")),
        "tied_embeddings": flag(config, "tie_word_embeddings", True),
    }


def _scored(config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """What the second and the third have: scale and caps."""
    scalar = number(config, "query_pre_attn_scalar", 256.0)
    return {
        "attention_scale": 0.0 if scalar == head_dim else scalar**-0.5,
        "attention_cap": number(config, "attn_logit_softcapping", 0.0, zero=True),
        "logit_cap": number(config, "final_logit_softcapping", 0.0, zero=True),
        "sliding_window": window_of(config),
        "post_norm": True,
    }


def _read_gemma(config: Mapping[str, Any]) -> ModelFacts:
    return read_common(config, "gemma", **_gemma(config))


def _read_gemma2(config: Mapping[str, Any]) -> ModelFacts:
    common = _gemma(config)
    return read_common(
        config,
        "gemma2",
        global_interval=global_interval_of(config, 2),
        **_scored(config, common["head_dim"]),
        **common,
    )


def _read_gemma3(config: Mapping[str, Any]) -> ModelFacts:
    common = _gemma(config)
    local = {**config, **parameters_of(config, "sliding_attention")}
    by_kind = "sliding_attention" in nested(config, "rope_parameters")
    key = "rope_theta" if by_kind else "rope_local_base_freq"
    return read_common(
        config,
        "gemma3",
        qk_norm="head",
        global_interval=global_interval_of(config, 6),
        rope_theta_local=number(local, key, _LOCAL_THETA),
        **read_rope(config, common["head_dim"], 1e6, "full_attention"),
        **_scored(config, common["head_dim"]),
        **common,
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {**write_common(facts), "hidden_activation": ACTIVATION_NAMES[facts.activation]}


def _write_gemma2(facts: ModelFacts) -> dict[str, Any]:
    interval = facts.global_interval
    return {
        **_write(facts),
        "attn_logit_softcapping": facts.attention_cap or None,
        "final_logit_softcapping": facts.logit_cap or None,
        "layer_types": layer_types(facts.n_layers, interval),
        "query_pre_attn_scalar": round(facts.attention_scale**-2)
        if facts.attention_scale
        else facts.head_dim,
        "sliding_window": facts.sliding_window,
        "sliding_window_pattern": interval,
    }


def _write_gemma3(facts: ModelFacts) -> dict[str, Any]:
    config = _write_gemma2(facts)
    whole = rope_config(facts)
    config["rope_parameters"] = {
        "full_attention": whole["rope_parameters"],
        "sliding_attention": {"rope_theta": facts.rope_theta_local, "rope_type": "default"},
    }
    return {**config, "rope_local_base_freq": facts.rope_theta_local}


def _scale_embedding(facts: ModelFacts, names: Collection[str]) -> ModelFacts:
    return replace(facts, embedding_scale=sqrt(facts.dim))


def _scale_by_width(n_layers: int) -> Any:
    """Models of so many layers, the largest of their kind, scale scores by dim / n_heads; no file says so."""

    def complete(facts: ModelFacts, names: Collection[str]) -> ModelFacts:
        wide = facts.n_layers == n_layers and not facts.attention_scale
        scale = (facts.dim / facts.n_heads) ** -0.5 if wide else facts.attention_scale
        return replace(_scale_embedding(facts, names), attention_scale=scale)

    return complete


GEMMA = Family(
    arch="gemma",
    model_type="gemma",
    architecture="GemmaForCausalLM",
    outside=embeddings(norm_layout=PLUS_ONE),
    layer=(*pre_norms(layout=PLUS_ONE), *attention(), *GATED_FFN),
    read=_read_gemma,
    write=_write,
    style={"activation": "gelu_tanh"},
    implied=("embedding_scale",),
    complete=_scale_embedding,
)

GEMMA2 = Family(
    arch="gemma2",
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    outside=embeddings(norm_layout=PLUS_ONE),
    layer=(*pre_norms(layout=PLUS_ONE, second=_SECOND), *attention(), *_POST_NORMS, *GATED_FFN),
    read=_read_gemma2,
    write=_write_gemma2,
    style={"activation": "gelu_tanh", "global_interval": 2, "post_norm": True},
    implied=("embedding_scale",),
    complete=_scale_by_width(46),
)

GEMMA3 = Family(
    arch="gemma3",
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    outside=embeddings(norm_layout=PLUS_ONE),
    layer=(
        *pre_norms(layout=PLUS_ONE, second=_SECOND),
        *attention(),
        *head_norms(PLUS_ONE),
        *_POST_NORMS,
        *GATED_FFN,
    ),
    read=_read_gemma3,
    write=_write_gemma3,
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    style={
        "activation": "gelu_tanh",
        "global_interval": 6,
        "rope_theta_local": _LOCAL_THETA,
        "post_norm": True,
        "qk_norm": "head",
    },
    implied=("embedding_scale",),
    complete=_scale_by_width(62),
)
