"""LFM2: short gated convolutions in most layers, attention in the others (Liquid AI 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.errors import FormatError
from linnet.formats.arch.blocks import embeddings, read_common, write_common
from linnet.formats.arch.family import Family, Rule, linear, with_attention
from linnet.formats.arch.layouts import ONE_IN_THE_MIDDLE
from linnet.formats.arch.values import count, flag, listed, number, refuse, size
from linnet.types import ModelFacts

_L = "model.layers.{i}."
_MOST_LAYERS = 10_000  # beyond any model


def _with_convolution(facts: ModelFacts, layer: int) -> bool:
    return layer in facts.conv_layers


def _read(config: Mapping[str, Any]) -> ModelFacts:
    refuse(config, {"conv_bias": (False,)})
    return read_common(
        {**config, "intermediate_size": _ffn_dim(config)},
        "lfm2",
        norm_eps=number(config, "norm_eps", 1e-5),
        qk_norm="head",
        tied_embeddings=flag(config, "tie_word_embeddings", flag(config, "tie_embedding", True)),
        conv_len=count(config, "conv_L_cache", 3),
        conv_layers=_conv_layers(config),
    )


def _conv_layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    n_layers, kinds = count(config, "num_hidden_layers"), listed(config, "layer_types")
    if kinds is not None and len(kinds) == n_layers:
        return tuple(i for i, kind in enumerate(kinds) if kind == "conv")
    attending = listed(config, "full_attn_idxs")
    if attending is None or n_layers > _MOST_LAYERS:
        raise FormatError("'layer_types' does not say of every layer whether it attends")
    return tuple(i for i in range(n_layers) if i not in attending)


def _ffn_dim(config: Mapping[str, Any]) -> int:
    """Two thirds of what the config says, times a factor, rounded up: as the model's own code has it."""
    given = count(config, "intermediate_size", count(config, "block_ff_dim", 1))
    if not flag(config, "block_auto_adjust_ff_dim", True):
        return given
    adjusted = int(number(config, "block_ffn_dim_multiplier", 1.0) * int(2 * given / 3))
    multiple = count(config, "block_multiple_of", 256)
    return size("intermediate_size", -(-adjusted // multiple) * multiple)


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {
        **write_common(facts),
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": facts.conv_len,
        "conv_bias": False,
        "layer_types": [
            "conv" if i in facts.conv_layers else "full_attention" for i in range(facts.n_layers)
        ],
        "norm_eps": facts.norm_eps,
    }


FAMILY = Family(
    arch="lfm2",
    model_type="lfm2",
    architecture="Lfm2ForCausalLM",
    outside=(
        *(rule for rule in embeddings() if not rule.name.startswith("output_norm")),
        Rule("token_embd_norm.weight", "model.embedding_norm.weight", ("dim",)),
    ),
    layer=(
        Rule("attn_norm.weight", _L + "operator_norm.weight", ("dim",)),
        *linear("attn_q", _L + "self_attn.q_proj", ("query", "dim"), when=with_attention),
        *linear("attn_k", _L + "self_attn.k_proj", ("key", "dim"), when=with_attention),
        *linear("attn_v", _L + "self_attn.v_proj", ("key", "dim"), when=with_attention),
        *linear("attn_output", _L + "self_attn.out_proj", ("dim", "query"), when=with_attention),
        Rule("attn_q_norm.weight", _L + "self_attn.q_layernorm.weight", ("head",), when=with_attention),
        Rule("attn_k_norm.weight", _L + "self_attn.k_layernorm.weight", ("head",), when=with_attention),
        Rule(
            "shortconv.conv.weight",
            _L + "conv.conv.weight",
            ("dim", "conv"),
            ONE_IN_THE_MIDDLE,
            _with_convolution,
            by_element=True,
        ),
        *linear("shortconv.in_proj", _L + "conv.in_proj", ("3 dim", "dim"), when=_with_convolution),
        *linear("shortconv.out_proj", _L + "conv.out_proj", ("dim", "dim"), when=_with_convolution),
        Rule("ffn_norm.weight", _L + "ffn_norm.weight", ("dim",)),
        *linear("ffn_gate", _L + "feed_forward.w1", ("ffn", "dim")),
        *linear("ffn_up", _L + "feed_forward.w3", ("ffn", "dim")),
        *linear("ffn_down", _L + "feed_forward.w2", ("dim", "ffn")),
    ),
    read=_read,
    write=_write,
    style={"qk_norm": "head"},
)
