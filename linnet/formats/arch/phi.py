"""Phi-2 (attention and feed-forward side by side, biases, partial rotary) and Phi-3 and 3.5 (fused matrices,
factors of each rotated pair for long texts: Ding et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch.blocks import (
    attention,
    biased_ffn,
    embeddings,
    pre_norms,
    read_common,
    window_of,
    write_common,
)
from linnet.formats.arch.family import Family, Rule, linear, norm
from linnet.formats.arch.metadata import ACTIVATIONS
from linnet.formats.arch.rope import read_rope
from linnet.formats.arch.values import choice, count, number, refuse
from linnet.types import ModelFacts

_L = "model.layers.{i}."
_PHI2: dict[str, Any] = {
    "norm": "layer",
    "activation": "gelu_tanh",
    "gated": False,
    "parallel_residual": True,
    "one_norm": True,
}
_BIASES: dict[str, Any] = {"attention_bias": True, "output_bias": True, "ffn_bias": True, "head_bias": True}


def _read_phi2(config: Mapping[str, Any]) -> ModelFacts:
    refuse(config, {"qk_layernorm": (False,)})
    head_dim = count(config, "hidden_size") // count(config, "num_attention_heads")
    return read_common(
        config,
        "phi2",
        **{**_PHI2, "activation": choice(config, "hidden_act", "gelu_new", ACTIVATIONS)},
        **_BIASES,
        norm_eps=number(config, "layer_norm_eps", 1e-5),
        **read_rope({"partial_rotary_factor": 0.5, **config}, head_dim),
    )


def _write_phi2(facts: ModelFacts) -> dict[str, Any]:
    return {
        **write_common(facts),
        "layer_norm_eps": facts.norm_eps,
        "partial_rotary_factor": facts.rotated / facts.head_dim,
        "qk_layernorm": False,
    }


def _read_phi3(config: Mapping[str, Any]) -> ModelFacts:
    return read_common(config, "phi3", sliding_window=window_of(config))


def _write_phi3(facts: ModelFacts) -> dict[str, Any]:
    scaling = facts.rope_scaling
    return {
        **write_common(facts),
        "original_max_position_embeddings": scaling.original_len if scaling else facts.max_seq_len,
        "sliding_window": facts.sliding_window or None,
    }


PHI2 = Family(
    arch="phi2",
    model_type="phi",
    architecture="PhiForCausalLM",
    outside=embeddings(last_norm="model.final_layernorm"),
    layer=(
        *norm("attn_norm", _L + "input_layernorm"),
        *attention(out="dense"),
        *linear("ffn_up", _L + "mlp.fc1", ("ffn", "dim"), bias=biased_ffn),
        *linear("ffn_down", _L + "mlp.fc2", ("dim", "ffn"), bias=biased_ffn),
    ),
    read=_read_phi2,
    write=_write_phi2,
    style=_PHI2,
)

PHI3 = Family(
    arch="phi3",
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    outside=embeddings(),
    layer=(
        *pre_norms(),
        Rule("attn_qkv.weight", _L + "self_attn.qkv_proj.weight", ("qkv", "dim")),
        Rule("attn_output.weight", _L + "self_attn.o_proj.weight", ("dim", "query")),
        Rule("ffn_up.weight", _L + "mlp.gate_up_proj.weight", ("2 ffn", "dim")),
        Rule("ffn_down.weight", _L + "mlp.down_proj.weight", ("dim", "ffn")),
    ),
    read=_read_phi3,
    write=_write_phi3,
)
