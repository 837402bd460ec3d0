"""BERT and its kin: encoders with norms of sums and learned positions.

Devlin et al. 2018; RoBERTa (Liu et al. 2019), XLM-RoBERTa (Conneau et al. 2019) and CamemBERT (Martin et
al. 2019), which differ in their tokenizers and in rows in front of the positions; DistilBERT (Sanh et al.
2019), which has other names and no types of tokens. GGUF has one name for all. Each is a reranker too,
with a head that scores a query and a document that are read as one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.arch.family import Family, Rule, linear, norm
from linnet.formats.arch.layouts import AS_IS, Layout, Tail
from linnet.formats.arch.metadata import ACTIVATION_NAMES, ACTIVATIONS, TOKEN_TYPES_KEY
from linnet.formats.arch.values import choice, count, number, refuse
from linnet.types import ModelFacts

_E = "embeddings."
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
_HEAD = ("cls.weight", "cls.output.weight")
_OFFSET = 2  # of RoBERTa: its positions begin after that of the filler
_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "activation": "hidden_act",
}
_DISTILBERT_NAMES = {
    "dim": "dim",
    "n_layers": "n_layers",
    "n_heads": "n_heads",
    "ffn_dim": "hidden_dim",
    "activation": "activation",
}


def _typed(facts: ModelFacts, layer: int) -> bool:
    return facts.n_token_types > 0


def _facts(
    config: Mapping[str, Any], names: Mapping[str, str], positions: int, types: int, eps: float
) -> ModelFacts:
    """``names``: what a config of the family calls things that others call otherwise."""
    refuse(
        config,
        {"is_decoder": (False,), "add_cross_attention": (False,), "position_embedding_type": ("absolute",)},
    )
    dim, n_heads = count(config, names["dim"]), count(config, names["n_heads"])
    if dim % n_heads:
        raise FormatError(f"an embedding of {dim} cannot be cut into {n_heads} heads")
    return ModelFacts(
        arch="bert",
        dim=dim,
        n_layers=count(config, names["n_layers"]),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=dim // n_heads,
        ffn_dim=count(config, names["ffn_dim"]),
        vocab_size=count(config, "vocab_size"),
        max_seq_len=positions,
        norm_eps=eps,
        n_token_types=types,
        **{**_STYLE, "activation": choice(config, names["activation"], "gelu", ACTIVATIONS)},
        **_BIASES,
    )


def _read(config: Mapping[str, Any], offset: int = 0) -> ModelFacts:
    """``offset``: rows in front of the positions that no token looks up."""
    positions = count(config, "max_position_embeddings", 512, least=offset + 1)
    types, eps = count(config, "type_vocab_size", 2), number(config, "layer_norm_eps", 1e-12)
    return _facts(config, _NAMES, positions - offset, types, eps)


def _read_roberta(config: Mapping[str, Any]) -> ModelFacts:
    refuse(config, {"pad_token_id": (_OFFSET - 1,)})
    return _read(config, _OFFSET)


def _read_distilbert(config: Mapping[str, Any]) -> ModelFacts:
    return _facts(config, _DISTILBERT_NAMES, count(config, "max_position_embeddings", 512), 0, 1e-12)


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
    ranks = facts.rank_head or any(name in names for name in _HEAD)  # not all files of rerankers say it
    if facts.n_token_types == 1 and _TABLE not in names:  # files of encoders without a table say so
        return replace(facts, n_token_types=0, rank_head="relu" if ranks else "")
    facts = replace(facts, rank_head="tanh" if ranks else "")
    if (_TABLE in names) != (facts.n_token_types > 0):
        there = "there" if _TABLE in names else "missing"
        raise FormatError(
            f"'{TOKEN_TYPES_KEY}' is {facts.n_token_types} and the tensor '{_TABLE}' is {there}"
        )
    return facts


def _write_distilbert(facts: ModelFacts) -> dict[str, Any]:
    return {
        **{name: getattr(facts, fact) for fact, name in _DISTILBERT_NAMES.items()},
        "activation": ACTIVATION_NAMES[facts.activation],
        "max_position_embeddings": facts.max_seq_len,
        "sinusoidal_pos_embds": False,
        "vocab_size": facts.vocab_size,
    }


def _input(positions: Layout = AS_IS) -> tuple[Rule, ...]:
    """Tables that are not multiplied with, but for that of tokens, are small and stay plain."""
    shape = ("positions", "dim")
    return (
        Rule("token_embd.weight", _E + "word_embeddings.weight", ("vocab", "dim")),
        Rule(
            _TABLE, _E + "token_type_embeddings.weight", ("token types", "dim"), when=_typed, by_element=True
        ),
        Rule("position_embd.weight", _E + "position_embeddings.weight", shape, positions, by_element=True),
        *norm("token_embd_norm", _E + "LayerNorm"),
    )


def _layer(
    query: str, key: str, value: str, out: str, sum_norm: str, up: str, down: str, last_norm: str
) -> tuple[Rule, ...]:
    """The tensors of a layer, by their names in a checkpoint."""
    return (
        *linear("attn_q", query, ("query", "dim"), bias=True),
        *linear("attn_k", key, ("key", "dim"), bias=True),
        *linear("attn_v", value, ("key", "dim"), bias=True),
        *linear("attn_output", out, ("dim", "query"), bias=True),
        *norm("attn_output_norm", sum_norm),
        *linear("ffn_up", up, ("ffn", "dim"), bias=True),
        *linear("ffn_down", down, ("dim", "ffn"), bias=True),
        *norm("layer_output_norm", last_norm),
    )


def _named_as(layers: str, *names: str) -> tuple[Rule, ...]:
    return _layer(*(f"{layers}.{{i}}.{name}" for name in names))


BERT = Family(
    arch="bert",
    model_type="bert",
    architecture="BertModel",
    outside=_input(),
    layer=_named_as(
        "encoder.layer", "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
        "output.LayerNorm",
    ),
    read=_read,
    write=_write,
    style=_STYLE,
    complete=_complete,
    fits=lambda facts: facts.n_token_types > 0 and not facts.rank_head,
    prefix="bert.",
    unused=("pooler.", "cls."),
    older={".gamma": ".weight", ".beta": ".bias"},
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
)  # fmt: skip


def _roberta(model_type: str, architecture: str) -> Family:
    return replace(
        BERT,
        model_type=model_type,
        architecture=architecture,
        outside=_input(Tail(_OFFSET)),
        read=_read_roberta,
        prefix="roberta.",
        unused=("pooler.", "lm_head."),
    )


# Nothing tells a GGUF file of these from one of BERT, as which it is written: the same function.
ROBERTA = _roberta("roberta", "RobertaModel")
XLM_ROBERTA = _roberta("xlm-roberta", "XLMRobertaModel")
CAMEMBERT = _roberta("camembert", "CamembertModel")
DISTILBERT = replace(
    BERT,
    model_type="distilbert",
    architecture="DistilBertModel",
    layer=_named_as(
        "transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
        "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
    ),
    read=_read_distilbert,
    write=_write_distilbert,
    fits=lambda facts: facts.n_token_types == 0 and not facts.rank_head,
    prefix="distilbert.",
    unused=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
)  # fmt: skip


def _reranker(encoder: Family, architecture: str, inner: str, score: str, activation: str) -> Family:
    """``encoder`` with the head of ``architecture`` in transformers: its two linear maps by their names."""

    def read(config: Mapping[str, Any]) -> ModelFacts:
        labels = config.get("id2label")
        n_labels = len(labels) if isinstance(labels, dict) else count(config, "num_labels", 2)
        if n_labels != 1:
            raise UnsupportedError(
                f"{architecture} with {n_labels} labels is not supported; with one, which is a score, it is"
            )
        return replace(encoder.read(config), rank_head=activation)

    def write(facts: ModelFacts) -> dict[str, Any]:
        return {**encoder.write(facts), "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}

    def inside(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        """Beside a head an encoder's tensors have names that begin with its prefix."""
        return tuple(replace(rule, source=encoder.prefix + rule.source) for rule in rules)

    return replace(
        encoder,
        architecture=architecture,
        outside=(
            *inside(encoder.outside),
            *linear("cls", inner, ("dim", "dim"), bias=True),
            Rule("cls.output.weight", f"{score}.weight", ("one", "dim"), by_element=True),
            Rule("cls.output.bias", f"{score}.bias", ("one",)),
        ),
        layer=inside(encoder.layer),
        read=read,
        write=write,
        fits=lambda facts: facts.rank_head == activation,
        unused=tuple(
            name for name in encoder.unused if not inner.removeprefix(encoder.prefix).startswith(name)
        ),
    )


_ROBERTA_HEAD = ("classifier.dense", "classifier.out_proj", "tanh")
RERANKERS = (
    _reranker(BERT, "BertForSequenceClassification", "bert.pooler.dense", "classifier", "tanh"),
    _reranker(ROBERTA, "RobertaForSequenceClassification", *_ROBERTA_HEAD),
    _reranker(XLM_ROBERTA, "XLMRobertaForSequenceClassification", *_ROBERTA_HEAD),
    _reranker(CAMEMBERT, "CamembertForSequenceClassification", *_ROBERTA_HEAD),
    _reranker(DISTILBERT, "DistilBertForSequenceClassification", "pre_classifier", "classifier", "relu"),
)
