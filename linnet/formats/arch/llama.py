"""Llama 1 to 3.2, SmolLM and SmolLM2: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Touvron et al. 2023; Dubey et al. 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch.blocks import GATED_FFN, attention, embeddings, pre_norms, read_common, write_common
from linnet.formats.arch.family import Family
from linnet.formats.arch.values import flag
from linnet.types import ModelFacts


def _read(config: Mapping[str, Any]) -> ModelFacts:
    bias = flag(config, "attention_bias")
    return read_common(
        config, "llama", attention_bias=bias, output_bias=bias, ffn_bias=flag(config, "mlp_bias")
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {**write_common(facts), "attention_bias": facts.attention_bias, "mlp_bias": facts.ffn_bias}


FAMILY = Family(
    arch="llama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    outside=embeddings(),
    layer=(*pre_norms(), *attention(pairs=True), *GATED_FFN),
    read=_read,
    write=_write,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    fits=lambda facts: not facts.sliding_window and not facts.n_experts,
)
