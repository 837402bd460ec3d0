"""GPT-NeoX and Pythia: attention and feed-forward side by side, partial rotary.

Black et al. 2022; Biderman et al. 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch.blocks import biased_inputs, biased_output, embeddings, read_common, write_common
from linnet.formats.arch.family import Family, linear, norm
from linnet.formats.arch.layouts import Interleaved
from linnet.formats.arch.metadata import ACTIVATIONS
from linnet.formats.arch.rope import read_rope
from linnet.formats.arch.values import choice, count, flag, number
from linnet.types import ModelFacts

_L = "gpt_neox.layers.{i}."
_STYLE: dict[str, Any] = {"norm": "layer", "activation": "gelu", "gated": False}


def _read(config: Mapping[str, Any]) -> ModelFacts:
    head_dim = count(config, "hidden_size") // count(config, "num_attention_heads")
    bias = flag(config, "attention_bias", True)
    return read_common(
        config,
        "gptneox",
        **{**_STYLE, "activation": choice(config, "hidden_act", "gelu", ACTIVATIONS)},
        norm_eps=number(config, "layer_norm_eps", 1e-5),
        parallel_residual=flag(config, "use_parallel_residual", True),
        attention_bias=bias,
        output_bias=bias,
        ffn_bias=True,
        **read_rope({"rotary_pct": 0.25, **config}, head_dim),
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {
        **write_common(facts),
        "attention_bias": facts.attention_bias,
        "layer_norm_eps": facts.norm_eps,
        "rotary_emb_base": facts.rope_theta,
        "rotary_pct": facts.rotated / facts.head_dim,
        "use_parallel_residual": facts.parallel_residual,
    }


def _interleaved(facts: ModelFacts) -> Interleaved:
    return Interleaved(facts.n_heads)


FAMILY = Family(
    arch="gptneox",
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    outside=embeddings("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out"),
    layer=(
        *norm("attn_norm", _L + "input_layernorm"),
        *linear(
            "attn_qkv",
            _L + "attention.query_key_value",
            ("qkv", "dim"),
            bias=biased_inputs,
            layout=_interleaved,
        ),
        *linear("attn_output", _L + "attention.dense", ("dim", "query"), bias=biased_output),
        *norm("ffn_norm", _L + "post_attention_layernorm"),
        *linear("ffn_up", _L + "mlp.dense_h_to_4h", ("ffn", "dim"), bias=True),
        *linear("ffn_down", _L + "mlp.dense_4h_to_h", ("dim", "ffn"), bias=True),
    ),
    read=_read,
    write=_write,
    style=_STYLE,
    prefix="gpt_neox.",
    buffers=(".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"),
)
