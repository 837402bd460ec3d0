"""Mistral: Llama whose tokens attend to a window (Jiang et al. 2023). GGUF calls it llama too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch import llama
from linnet.formats.arch.blocks import read_common, window_of, write_common
from linnet.formats.arch.family import Family
from linnet.types import ModelFacts


def _read(config: Mapping[str, Any]) -> ModelFacts:
    return read_common(config, "llama", sliding_window=window_of(config))


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {**write_common(facts), "sliding_window": facts.sliding_window or None}


FAMILY = Family(
    arch="llama",
    model_type="mistral",
    architecture="MistralForCausalLM",
    outside=llama.FAMILY.outside,
    layer=llama.FAMILY.layer,
    read=_read,
    write=_write,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    fits=lambda facts: facts.sliding_window > 0 and not facts.n_experts,
)
