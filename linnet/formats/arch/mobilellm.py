"""MobileLLM: deep and thin Llama, whose layers may be used twice in succession (Liu et al. 2024).

Sizes without shared layers call themselves llama. llama.cpp knows no shared layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch import llama
from linnet.formats.arch.blocks import read_common, write_common
from linnet.formats.arch.family import Family
from linnet.formats.arch.values import flag
from linnet.types import ModelFacts


def _read(config: Mapping[str, Any]) -> ModelFacts:
    return read_common(
        config,
        "mobilellm",
        block_repeat=2 if flag(config, "layer_sharing") else 1,
        tied_embeddings=flag(config, "share_embedding", flag(config, "tie_word_embeddings")),
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {
        **write_common(facts),
        "layer_sharing": facts.block_repeat > 1,
        "share_embedding": facts.tied_embeddings,
    }


FAMILY = Family(
    arch="mobilellm",
    model_type="mobilellm",
    architecture="MobileLLMForCausalLM",
    outside=llama.FAMILY.outside,
    layer=llama.FAMILY.layer,
    read=_read,
    write=_write,
)
