"""OPT: layer norms, learned positions, ReLU (Zhang et al. 2022). llama.cpp does not know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.errors import UnsupportedError
from linnet.formats.arch.blocks import embeddings
from linnet.formats.arch.family import Family, Rule, linear, norm
from linnet.formats.arch.layouts import Tail
from linnet.formats.arch.metadata import ACTIVATION_NAMES, ACTIVATIONS
from linnet.formats.arch.values import choice, count, flag, refuse
from linnet.types import ModelFacts

_D = "model.decoder."
_L = _D + "layers.{i}."
_STYLE: dict[str, Any] = {"norm": "layer", "activation": "relu", "gated": False, "learned_positions": True}
_BIASES: dict[str, Any] = {"attention_bias": True, "output_bias": True, "ffn_bias": True}
_OFFSET = 2  # rows in front of the positions that no token looks up


def _read(config: Mapping[str, Any]) -> ModelFacts:
    refuse(
        config,
        {
            "_remove_final_layer_norm": (False,),
            "do_layer_norm_before": (True,),
            "enable_bias": (True,),
            "layer_norm_elementwise_affine": (True,),
        },
    )
    dim, n_heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    if count(config, "word_embed_proj_dim", dim) != dim:
        raise UnsupportedError("'word_embed_proj_dim' differs from 'hidden_size', which is not supported")
    return ModelFacts(
        arch="opt",
        dim=dim,
        n_layers=count(config, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=dim // n_heads,
        ffn_dim=count(config, "ffn_dim"),
        vocab_size=count(config, "vocab_size"),
        max_seq_len=count(config, "max_position_embeddings", 2048),
        tied_embeddings=flag(config, "tie_word_embeddings", True),
        **{**_STYLE, "activation": choice(config, "activation_function", "relu", ACTIVATIONS)},
        **_BIASES,
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {
        "activation_function": ACTIVATION_NAMES[facts.activation],
        "do_layer_norm_before": True,
        "ffn_dim": facts.ffn_dim,
        "hidden_size": facts.dim,
        "max_position_embeddings": facts.max_seq_len,
        "num_attention_heads": facts.n_heads,
        "num_hidden_layers": facts.n_layers,
        "tie_word_embeddings": facts.tied_embeddings,
        "vocab_size": facts.vocab_size,
        "word_embed_proj_dim": facts.dim,
    }


FAMILY = Family(
    arch="opt",
    model_type="opt",
    architecture="OPTForCausalLM",
    outside=(
        *embeddings(_D + "embed_tokens", _D + "final_layer_norm"),
        Rule("position_embd.weight", _D + "embed_positions.weight", ("positions", "dim"), Tail(_OFFSET)),
    ),
    layer=(
        *norm("attn_norm", _L + "self_attn_layer_norm"),
        *linear("attn_q", _L + "self_attn.q_proj", ("query", "dim"), bias=True),
        *linear("attn_k", _L + "self_attn.k_proj", ("key", "dim"), bias=True),
        *linear("attn_v", _L + "self_attn.v_proj", ("key", "dim"), bias=True),
        *linear("attn_output", _L + "self_attn.out_proj", ("dim", "query"), bias=True),
        *norm("ffn_norm", _L + "final_layer_norm"),
        *linear("ffn_up", _L + "fc1", ("ffn", "dim"), bias=True),
        *linear("ffn_down", _L + "fc2", ("dim", "ffn"), bias=True),
    ),
    read=_read,
    write=_write,
    style=_STYLE,
    prefix="model.",
)
