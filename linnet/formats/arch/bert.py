"""BERT: an encoder, with norms of sums and learned positions (Devlin et al. 2018)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from linnet.errors import FormatError
from linnet.formats.arch.family import Family, Rule, linear, norm
from linnet.formats.arch.metadata import ACTIVATION_NAMES, ACTIVATIONS, TOKEN_TYPES_KEY
from linnet.formats.arch.values import choice, count, number, refuse
from linnet.types import ModelFacts

_E = "embeddings."
_L = "encoder.layer.{i}."
_STYLE: dict[str, Any] = {
    "norm": "layer",
    "pre_norm": False,
    "sum_norm": True,
    "embedding_norm": True,
    "activation": "gelu",
    "gated": False,
    "causal": False,
    "learned_positions": True,
}
_BIASES: dict[str, Any] = {"attention_bias": True, "output_bias": True, "ffn_bias": True}
_TABLE = "token_types.weight"


def _typed(facts: ModelFacts, layer: int) -> bool:
    return facts.n_token_types > 0


def _read(config: Mapping[str, Any]) -> ModelFacts:
    refuse(
        config,
        {"is_decoder": (False,), "add_cross_attention": (False,), "position_embedding_type": ("absolute",)},
    )
    dim, n_heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    if dim % n_heads:
        raise FormatError(f"an embedding of {dim} cannot be cut into {n_heads} heads")
    return ModelFacts(
        arch="bert",
        dim=dim,
        n_layers=count(config, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=dim // n_heads,
        ffn_dim=count(config, "intermediate_size"),
        vocab_size=count(config, "vocab_size"),
        max_seq_len=count(config, "max_position_embeddings", 512),
        norm_eps=number(config, "layer_norm_eps", 1e-12),
        n_token_types=count(config, "type_vocab_size", 2),
        **{**_STYLE, "activation": choice(config, "hidden_act", "gelu", ACTIVATIONS)},
        **_BIASES,
    )


def _write(facts: ModelFacts) -> dict[str, Any]:
    return {
        "hidden_act": ACTIVATION_NAMES[facts.activation],
        "hidden_size": facts.dim,
        "intermediate_size": facts.ffn_dim,
        "layer_norm_eps": facts.norm_eps,
        "max_position_embeddings": facts.max_seq_len,
        "num_attention_heads": facts.n_heads,
        "num_hidden_layers": facts.n_layers,
        "position_embedding_type": "absolute",
        "type_vocab_size": facts.n_token_types,
        "vocab_size": facts.vocab_size,
    }


def _complete(facts: ModelFacts, names: Collection[str]) -> ModelFacts:
    if facts.n_token_types == 1 and _TABLE not in names:  # files of encoders without a table say so
        return replace(facts, n_token_types=0)
    if (_TABLE in names) != (facts.n_token_types > 0):
        there = "there" if _TABLE in names else "missing"
        raise FormatError(
            f"'{TOKEN_TYPES_KEY}' is {facts.n_token_types} and the tensor '{_TABLE}' is {there}"
        )
    return facts


BERT = Family(
    arch="bert",
    model_type="bert",
    architecture="BertModel",
    outside=(
        Rule("token_embd.weight", _E + "word_embeddings.weight", ("vocab", "dim")),
        Rule(
            _TABLE, _E + "token_type_embeddings.weight", ("token types", "dim"), when=_typed, by_element=True
        ),
        Rule(
            "position_embd.weight", _E + "position_embeddings.weight", ("positions", "dim"), by_element=True
        ),
        *norm("token_embd_norm", _E + "LayerNorm"),
    ),
    layer=(
        *linear("attn_q", _L + "attention.self.query", ("query", "dim"), bias=True),
        *linear("attn_k", _L + "attention.self.key", ("key", "dim"), bias=True),
        *linear("attn_v", _L + "attention.self.value", ("key", "dim"), bias=True),
        *linear("attn_output", _L + "attention.output.dense", ("dim", "query"), bias=True),
        *norm("attn_output_norm", _L + "attention.output.LayerNorm"),
        *linear("ffn_up", _L + "intermediate.dense", ("ffn", "dim"), bias=True),
        *linear("ffn_down", _L + "output.dense", ("dim", "ffn"), bias=True),
        *norm("layer_output_norm", _L + "output.LayerNorm"),
    ),
    read=_read,
    write=_write,
    style=_STYLE,
    complete=_complete,
    prefix="bert.",
    unused=("pooler.", "cls."),
    older={".gamma": ".weight", ".beta": ".bias"},
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
)
