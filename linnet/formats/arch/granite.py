"""Granite 3: Llama with factors on the embedding, the residual stream, the scores and the logits.

GGUF keeps the number that logits are divided by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch import llama
from linnet.formats.arch.blocks import read_common, write_common
from linnet.formats.arch.family import Family
from linnet.formats.arch.values import flag, number
from linnet.types import ModelFacts


def _read(config: Mapping[str, Any]) -> ModelFacts:
    bias = flag(config, "attention_bias")
    return read_common(
        config,
        "granite",
        attention_scale=number(config, "attention_multiplier", 1.0),
        embedding_scale=number(config, "embedding_multiplier", 1.0),
        residual_scale=number(config, "residual_multiplier", 1.0),
        logit_divisor=number(config, "logits_scaling", 1.0),
        attention_bias=bias,
        output_bias=bias,
        ffn_bias=flag(config, "mlp_bias"),
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {
        **write_common(facts),
        "attention_bias": facts.attention_bias,
        "attention_multiplier": facts.attention_scale or facts.head_dim**-0.5,
        "embedding_multiplier": facts.embedding_scale,
        "logits_scaling": facts.logit_divisor,
        "mlp_bias": facts.ffn_bias,
        "residual_multiplier": facts.residual_scale,
    }


FAMILY = Family(
    arch="granite",
    model_type="granite",
    architecture="GraniteForCausalLM",
    outside=llama.FAMILY.outside,
    layer=llama.FAMILY.layer,
    read=_read,
    write=_write,
)
