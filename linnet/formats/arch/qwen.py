"""Qwen2 and 2.5 (biases of queries, keys and values), Qwen3 (norms of heads), Qwen3 with experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch.blocks import (
    GATED_FFN,
    attention,
    embeddings,
    experts,
    head_norms,
    pre_norms,
    read_common,
    write_common,
)
from linnet.formats.arch.family import Family
from linnet.formats.arch.values import count, flag, refuse
from linnet.types import ModelFacts

_NEUTRAL: dict[str, tuple[Any, ...]] = {"use_sliding_window": (False,)}


def _read_qwen2(config: Mapping[str, Any]) -> ModelFacts:
    refuse(config, _NEUTRAL)
    return read_common(config, "qwen2", attention_bias=True)


def _read_qwen3(config: Mapping[str, Any]) -> ModelFacts:
    refuse(config, _NEUTRAL)
    return read_common(config, "qwen3", **_qwen3(config))


def _qwen3(config: Mapping[str, Any]) -> dict[str, Any]:
    bias = flag(config, "attention_bias")
    return {
        "head_dim": count(config, "head_dim", 128),
        "qk_norm": "head",
        "attention_bias": bias,
        "output_bias": bias,
    }


def _read_qwen3_moe(config: Mapping[str, Any]) -> ModelFacts:
    refuse(config, {**_NEUTRAL, "mlp_only_layers": ([],), "decoder_sparse_step": (1,)})
    return read_common(
        config,
        "qwen3moe",
        n_experts=count(config, "num_experts", count(config, "num_local_experts", 128)),
        n_experts_used=count(config, "num_experts_per_tok", 8),
        expert_ffn_dim=count(config, "moe_intermediate_size"),
        expert_norm=flag(config, "norm_topk_prob"),
        **_qwen3(config),
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {**write_common(facts), "sliding_window": None, "use_sliding_window": False}


def _write_qwen3(facts: ModelFacts) -> dict[str, Any]:
    return {**_write(facts), "attention_bias": facts.attention_bias}


def _write_qwen3_moe(facts: ModelFacts) -> dict[str, Any]:
    return {
        **_write_qwen3(facts),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": facts.expert_ffn_dim,
        "norm_topk_prob": facts.expert_norm,
        "num_experts": facts.n_experts,
        "num_experts_per_tok": facts.n_experts_used,
    }


QWEN2 = Family(
    arch="qwen2",
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    outside=embeddings(),
    layer=(*pre_norms(), *attention(), *GATED_FFN),
    read=_read_qwen2,
    write=_write,
)

QWEN3 = Family(
    arch="qwen3",
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    outside=embeddings(),
    layer=(*pre_norms(), *attention(), *head_norms(), *GATED_FFN),
    read=_read_qwen3,
    write=_write_qwen3,
    style={"qk_norm": "head"},
)

QWEN3_MOE = Family(
    arch="qwen3moe",
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    outside=embeddings(),
    layer=(
        *pre_norms(),
        *attention(),
        *head_norms(),
        *experts(
            "mlp.gate",
            gate="mlp.experts.{n}.gate_proj",
            up="mlp.experts.{n}.up_proj",
            down="mlp.experts.{n}.down_proj",
        ),
    ),
    read=_read_qwen3_moe,
    write=_write_qwen3_moe,
    style={"qk_norm": "head"},
)
