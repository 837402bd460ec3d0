"""StableLM 2: layer norms, partial rotary; in the 12B size norms of heads, and both parts side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from linnet.formats.arch.blocks import GATED_FFN, attention, embeddings, read_common, write_common
from linnet.formats.arch.family import Family, Rule, norm
from linnet.formats.arch.layouts import STACKED
from linnet.formats.arch.rope import read_rope
from linnet.formats.arch.values import count, flag, number
from linnet.types import ModelFacts

_L = "model.layers.{i}."


def _norms_heads(facts: ModelFacts, layer: int) -> bool:
    return facts.qk_norm == "heads"


def _in_turn(facts: ModelFacts, layer: int) -> bool:
    return not facts.parallel_residual


def _read(config: Mapping[str, Any]) -> ModelFacts:
    head_dim = count(config, "hidden_size") // count(config, "num_attention_heads")
    return read_common(
        config,
        "stablelm",
        norm="layer",
        norm_eps=number(config, "layer_norm_eps", 1e-5),
        qk_norm="heads" if flag(config, "qk_layernorm") else "",
        parallel_residual=flag(config, "use_parallel_residual"),
        one_norm=flag(config, "use_parallel_residual"),
        attention_bias=flag(config, "use_qkv_bias"),
        **read_rope({"partial_rotary_factor": 0.25, **config}, head_dim),
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {
        **write_common(facts),
        "layer_norm_eps": facts.norm_eps,
        "partial_rotary_factor": facts.rotated / facts.head_dim,
        "qk_layernorm": facts.qk_norm == "heads",
        "use_parallel_residual": facts.parallel_residual,
        "use_qkv_bias": facts.attention_bias,
    }


def _complete(facts: ModelFacts, names: Collection[str]) -> ModelFacts:
    return replace(
        facts,
        parallel_residual="blk.0.ffn_norm.weight" not in names,
        one_norm="blk.0.ffn_norm.weight" not in names,
        qk_norm="heads" if "blk.0.attn_q_norm.weight" in names else "",
    )


def _norms_of(which: str, heads: str) -> Rule:
    source = _L + f"self_attn.{which}_layernorm.norms.{{n}}.weight"
    return Rule(f"attn_{which}_norm.weight", source, (heads, "head"), STACKED, _norms_heads, by_element=True)


FAMILY = Family(
    arch="stablelm",
    model_type="stablelm",
    architecture="StableLmForCausalLM",
    outside=embeddings(),
    layer=(
        *norm("attn_norm", _L + "input_layernorm"),
        *attention(),
        _norms_of("q", "heads"),
        _norms_of("k", "kv heads"),
        *norm("ffn_norm", _L + "post_attention_layernorm", when=_in_turn),
        *GATED_FFN,
    ),
    read=_read,
    write=_write,
    style={"norm": "layer"},
    implied=("parallel_residual",),
    complete=_complete,
)
