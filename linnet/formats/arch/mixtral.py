"""Mixtral: experts in the place of each feed-forward part (Jiang et al. 2024). GGUF calls it llama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch.blocks import (
    attention,
    embeddings,
    experts,
    pre_norms,
    read_common,
    window_of,
    write_common,
)
from linnet.formats.arch.family import Family
from linnet.formats.arch.values import count
from linnet.types import ModelFacts


def _read(config: Mapping[str, Any]) -> ModelFacts:
    return read_common(
        config,
        "llama",
        sliding_window=window_of(config),
        n_experts=count(config, "num_local_experts"),
        n_experts_used=count(config, "num_experts_per_tok", 2),
        expert_ffn_dim=count(config, "intermediate_size"),
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {
        **write_common(facts),
        "num_experts_per_tok": facts.n_experts_used,
        "num_local_experts": facts.n_experts,
        "sliding_window": facts.sliding_window or None,
    }


FAMILY = Family(
    arch="llama",
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    outside=embeddings(),
    layer=(
        *pre_norms(),
        *attention(pairs=True),
        *experts(
            "block_sparse_moe.gate",
            gate="block_sparse_moe.experts.{n}.w1",
            up="block_sparse_moe.experts.{n}.w3",
            down="block_sparse_moe.experts.{n}.w2",
        ),
    ),
    read=_read,
    write=_write,
    implied=("expert_ffn_dim",),
    fits=lambda facts: facts.n_experts > 0,
)
