"""OLMo 2: norms of what each part adds to the stream, and of all queries and keys together.

OLMo Team 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch.blocks import GATED_FFN, attention, embeddings, read_common, write_common
from linnet.formats.arch.family import Family, Rule, norm
from linnet.formats.arch.values import flag
from linnet.types import ModelFacts

_L = "model.layers.{i}."
_STYLE: dict[str, Any] = {"pre_norm": False, "post_norm": True, "qk_norm": "all"}


def _read(config: Mapping[str, Any]) -> ModelFacts:
    bias = flag(config, "attention_bias")
    return read_common(config, "olmo2", attention_bias=bias, output_bias=bias, **_STYLE)


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {**write_common(facts), "attention_bias": facts.attention_bias}


FAMILY = Family(
    arch="olmo2",
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    outside=embeddings(),
    layer=(
        *attention(),
        Rule("attn_q_norm.weight", _L + "self_attn.q_norm.weight", ("query",)),
        Rule("attn_k_norm.weight", _L + "self_attn.k_norm.weight", ("key",)),
        *norm("post_attention_norm", _L + "post_attention_layernorm"),
        *GATED_FFN,
        *norm("post_ffw_norm", _L + "post_feedforward_layernorm"),
    ),
    read=_read,
    write=_write,
    style=_STYLE,
)
