"""GPT-2: layer norms, learned positions, one matrix for queries, keys and values (Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.formats.arch.blocks import embeddings
from linnet.formats.arch.family import Family, Rule, linear, norm
from linnet.formats.arch.layouts import AS_IS, TRANSPOSED
from linnet.formats.arch.metadata import ACTIVATION_NAMES, ACTIVATIONS
from linnet.formats.arch.values import choice, count, flag, number, refuse
from linnet.types import ModelFacts

_L = "transformer.h.{i}."
_STYLE: dict[str, Any] = {
    "norm": "layer",
    "activation": "gelu_tanh",
    "gated": False,
    "learned_positions": True,
}
_BIASES: dict[str, Any] = {"attention_bias": True, "output_bias": True, "ffn_bias": True}


def _read(config: Mapping[str, Any]) -> ModelFacts:
    refuse(
        config,
        {
            "add_cross_attention": (False,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "scale_attn_weights": (True,),
        },
    )
    dim, n_heads = count(config, "n_embd"), count(config, "n_head")
    return ModelFacts(
        arch="gpt2",
        dim=dim,
        n_layers=count(config, "n_layer"),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=dim // n_heads,
        ffn_dim=count(config, "n_inner", 4 * dim),
        vocab_size=count(config, "vocab_size"),
        max_seq_len=count(config, "n_positions", 1024),
        norm_eps=number(config, "layer_norm_epsilon", 1e-5),
        tied_embeddings=flag(config, "tie_word_embeddings", True),
        **{**_STYLE, "activation": choice(config, "activation_function", "gelu_new", ACTIVATIONS)},
        **_BIASES,
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    name = ACTIVATION_NAMES[facts.activation]
    return {
        "activation_function": name,
        "layer_norm_epsilon": facts.norm_eps,
        "n_embd": facts.dim,
        "n_head": facts.n_heads,
        "n_inner": facts.ffn_dim,
        "n_layer": facts.n_layers,
        "n_positions": facts.max_seq_len,
        "tie_word_embeddings": facts.tied_embeddings,
        "vocab_size": facts.vocab_size,
    }


def _matrix(name: str, source: str, shape: tuple[str, str]) -> tuple[Rule, ...]:
    return linear(name, _L + source, shape, bias=True, layout=TRANSPOSED, bias_layout=AS_IS)


FAMILY = Family(
    arch="gpt2",
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    outside=(
        *embeddings("transformer.wte", "transformer.ln_f"),
        Rule("position_embd.weight", "transformer.wpe.weight", ("positions", "dim")),
    ),
    layer=(
        *norm("attn_norm", _L + "ln_1"),
        *_matrix("attn_qkv", "attn.c_attn", ("qkv", "dim")),
        *_matrix("attn_output", "attn.c_proj", ("dim", "query")),
        *norm("ffn_norm", _L + "ln_2"),
        *_matrix("ffn_up", "mlp.c_fc", ("ffn", "dim")),
        *_matrix("ffn_down", "mlp.c_proj", ("dim", "ffn")),
    ),
    read=_read,
    write=_write,
    style=_STYLE,
    prefix="transformer.",
    buffers=(".attn.bias", ".attn.masked_bias"),
)
