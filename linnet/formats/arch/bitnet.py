"""BitNet b1.58: norms inside each part, squared ReLU, weights of three values (Ma et al. 2024, 2025).

How checkpoints hold the weights is up to ``ternary.py``; plain ones are read as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch.blocks import GATED_FFN, attention, embeddings, pre_norms, read_common, write_common
from linnet.formats.arch.family import Family, Rule
from linnet.formats.arch.metadata import ACTIVATIONS
from linnet.formats.arch.values import choice, flag
from linnet.types import ModelFacts

_L = "model.layers.{i}."


def _read(config: Mapping[str, Any]) -> ModelFacts:
    bias = flag(config, "attention_bias")
    return read_common(
        config,
        "bitnet",
        activation=choice(config, "hidden_act", "relu2", ACTIVATIONS),
        sub_norm=True,
        attention_bias=bias,
        output_bias=bias,
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {**write_common(facts), "attention_bias": facts.attention_bias}


FAMILY = Family(
    arch="bitnet",
    model_type="bitnet",
    architecture="BitNetForCausalLM",
    outside=embeddings(),
    layer=(
        *pre_norms(),
        *attention(),
        Rule("attn_sub_norm.weight", _L + "self_attn.attn_sub_norm.weight", ("query",)),
        *GATED_FFN,
        Rule("ffn_sub_norm.weight", _L + "mlp.ffn_sub_norm.weight", ("ffn",)),
    ),
    read=_read,
    write=_write,
    style={"sub_norm": True},
)
