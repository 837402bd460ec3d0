"""The Llama family: RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU.

A checkpoint rotates the two halves of a head against each other, GGUF neighbouring
pairs (as the original Llama code did). The two are the same function once the rows of
the query and key projections are reordered within each head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.parts import RawBytes, Tensor
from linnet.types import ModelFacts

NAME = "llama"

_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_LARGEST = 1 << 31  # the core counts in int32


# ---- config.json ------------------------------------------------------------------


def facts_from_config(config: Mapping[str, Any]) -> ModelFacts:
    """The facts of a Hugging Face ``config.json``.

    Raises FormatError for a missing or impossible value and UnsupportedError for a
    setting that would change the computation in a way the core does not know.
    """
    _refuse_unsupported(config)
    dim = _count(config, "hidden_size")
    n_heads = _count(config, "num_attention_heads")
    facts = ModelFacts(
        arch=NAME,
        dim=dim,
        n_layers=_count(config, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=_count(config, "num_key_value_heads", default=n_heads),
        head_dim=_count(config, "head_dim", default=dim // n_heads),
        ffn_dim=_count(config, "intermediate_size"),
        vocab_size=_count(config, "vocab_size"),
        max_seq_len=_count(config, "max_position_embeddings", default=2048),
        norm_eps=_number(config, "rms_norm_eps", default=1e-6),
        rope_theta=_rope_theta(config),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
    )
    return checked(facts)


def config_from_facts(facts: ModelFacts) -> dict[str, Any]:
    """The ``config.json`` of a model, without token ids and dtype."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": NAME,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": facts.head_dim,
        "hidden_act": "silu",
        "hidden_size": facts.dim,
        "initializer_range": 0.02,
        "intermediate_size": facts.ffn_dim,
        "max_position_embeddings": facts.max_seq_len,
        "mlp_bias": False,
        "num_attention_heads": facts.n_heads,
        "num_hidden_layers": facts.n_layers,
        "num_key_value_heads": facts.n_kv_heads,
        "rms_norm_eps": facts.norm_eps,
        # transformers 4 reads rope_theta, transformers 5 rope_parameters.
        "rope_theta": facts.rope_theta,
        "rope_parameters": {"rope_theta": facts.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": facts.tied_embeddings,
        "use_cache": True,
        "vocab_size": facts.vocab_size,
    }


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise UnsupportedError(f"config.json sets {key}; Llama models with biases are not supported")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UnsupportedError(
            f"config.json sets hidden_act '{config['hidden_act']}'; only silu is supported"
        )
    if config.get("quantization_config"):
        raise UnsupportedError(
            "config.json has a quantization_config; convert the original checkpoint instead"
        )
    if config.get("partial_rotary_factor") not in (None, 1.0):
        raise UnsupportedError("config.json sets partial_rotary_factor; only full rotary is supported")
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.get(key)
        if not isinstance(scaling, Mapping):
            continue
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default":
            raise UnsupportedError(
                f"config.json sets {key} of type '{kind}'; scaled rotary is not supported yet"
            )


def _rope_theta(config: Mapping[str, Any]) -> float:
    parameters = config.get("rope_parameters")
    if isinstance(parameters, Mapping) and "rope_theta" in parameters:
        return _number(parameters, "rope_theta", default=10000.0)
    return _number(config, "rope_theta", default=10000.0)


# ---- GGUF metadata ----------------------------------------------------------------


def facts_from_metadata(metadata: Mapping[str, Any], tied_embeddings: bool) -> ModelFacts:
    """The facts in the metadata of a GGUF file. Raises FormatError, UnsupportedError."""
    keys = {key.removeprefix(f"{NAME}."): value for key, value in metadata.items()}
    if keys.get("expert_count"):
        raise UnsupportedError("mixture-of-experts models are not supported yet")
    if keys.get("rope.scaling.type", "none") != "none":
        raise UnsupportedError(f"rope scaling of type '{keys['rope.scaling.type']}' is not supported yet")
    dim, n_heads = _count(keys, "embedding_length"), _count(keys, "attention.head_count")
    head_dim = _count(keys, "attention.key_length", default=dim // n_heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if _count(keys, key, default=head_dim) != head_dim:
            raise UnsupportedError(f"llama.{key} differs from the size of a head ({head_dim}); not supported")
    facts = ModelFacts(
        arch=NAME,
        dim=dim,
        n_layers=_count(keys, "block_count"),
        n_heads=n_heads,
        n_kv_heads=_count(keys, "attention.head_count_kv", default=n_heads),
        head_dim=head_dim,
        ffn_dim=_count(keys, "feed_forward_length"),
        vocab_size=_count(keys, "vocab_size", default=len(metadata.get("tokenizer.ggml.tokens", ()))),
        max_seq_len=_count(keys, "context_length"),
        norm_eps=_number(keys, "attention.layer_norm_rms_epsilon", default=1e-5),
        rope_theta=_number(keys, "rope.freq_base", default=10000.0),
        tied_embeddings=tied_embeddings,
    )
    return checked(facts)


def metadata_from_facts(facts: ModelFacts) -> dict[str, Any]:
    """The GGUF metadata of a model's shape."""
    keys: dict[str, Any] = {
        "context_length": facts.max_seq_len,
        "embedding_length": facts.dim,
        "block_count": facts.n_layers,
        "feed_forward_length": facts.ffn_dim,
        "attention.head_count": facts.n_heads,
        "attention.head_count_kv": facts.n_kv_heads,
        "attention.key_length": facts.head_dim,
        "attention.value_length": facts.head_dim,
        "attention.layer_norm_rms_epsilon": float(facts.norm_eps),
        "rope.dimension_count": facts.head_dim,
        "rope.freq_base": float(facts.rope_theta),
        "vocab_size": facts.vocab_size,
    }
    return {f"{NAME}.{key}": value for key, value in keys.items()}


# ---- tensors ----------------------------------------------------------------------


def tensor_shapes(facts: ModelFacts) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a model: GGUF name and row-major shape, in the order of writing."""
    attention_dim = facts.n_heads * facts.head_dim
    layer = {
        "attn_norm.weight": (facts.dim,),
        "attn_q.weight": (attention_dim, facts.dim),
        "attn_k.weight": (facts.kv_dim, facts.dim),
        "attn_v.weight": (facts.kv_dim, facts.dim),
        "attn_output.weight": (facts.dim, attention_dim),
        "ffn_norm.weight": (facts.dim,),
        "ffn_gate.weight": (facts.ffn_dim, facts.dim),
        "ffn_up.weight": (facts.ffn_dim, facts.dim),
        "ffn_down.weight": (facts.dim, facts.ffn_dim),
    }
    yield "token_embd.weight", (facts.vocab_size, facts.dim)
    for index in range(facts.n_layers):
        for name, shape in layer.items():
            yield f"blk.{index}.{name}", shape
    yield "output_norm.weight", (facts.dim,)
    if not facts.tied_embeddings:
        yield "output.weight", (facts.vocab_size, facts.dim)


def checkpoint_name(name: str) -> str:
    """The Hugging Face name of the tensor GGUF calls ``name``."""
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    _, index, rest = name.split(".", 2)
    return f"model.layers.{index}.{_LAYER_NAMES[rest]}"


def is_derived(name: str, facts: ModelFacts) -> bool:
    """Is the checkpoint tensor ``name`` computed from others, so that it need not be kept?"""
    return name.endswith(".rotary_emb.inv_freq") or (facts.tied_embeddings and name == "lm_head.weight")


def from_checkpoint(tensor: Tensor, facts: ModelFacts) -> Tensor:
    """The same tensor (with its GGUF name) laid out for GGUF; f32, f16 or any other row type."""
    return _reordered(tensor, facts, to_pairs=True)


def to_checkpoint(tensor: Tensor, facts: ModelFacts) -> Tensor:
    """The same tensor (with its GGUF name) laid out for a checkpoint; undoes from_checkpoint."""
    return _reordered(tensor, facts, to_pairs=False)


def _reordered(tensor: Tensor, facts: ModelFacts, to_pairs: bool) -> Tensor:
    heads = {"attn_q.weight": facts.n_heads, "attn_k.weight": facts.n_kv_heads}
    n_heads = next((n for suffix, n in heads.items() if tensor.name.endswith(suffix)), None)
    if n_heads is None:
        return tensor
    # Row 2i + j of a head in GGUF is row j * head_dim / 2 + i in a checkpoint.
    order = (2, facts.head_dim // 2) if to_pairs else (facts.head_dim // 2, 2)

    def load() -> RawBytes:
        rows = np.asarray(tensor.load()).reshape(n_heads, *order, -1)
        return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)

    return replace(tensor, load=load)


# ---- checks -----------------------------------------------------------------------


def checked(facts: ModelFacts) -> ModelFacts:
    """``facts``, if a model of that shape can exist. Raises FormatError."""
    if facts.n_heads % facts.n_kv_heads:
        raise FormatError(f"{facts.n_heads} heads cannot share {facts.n_kv_heads} key/value heads evenly")
    if facts.head_dim % 2:
        raise FormatError(f"the size of a head ({facts.head_dim}) is odd; rotary positions need pairs")
    return facts


def _count(table: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = table.get(key)
    value = default if value is None else value
    if value is None:
        raise FormatError(f"'{key}' is missing from the description of the model")
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 < value < _LARGEST:
        raise FormatError(f"'{key}' is {_shown(value)}, which is not a possible size")
    return int(value)


def _number(table: Mapping[str, Any], key: str, default: float) -> float:
    value = table.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise FormatError(f"'{key}' is {_shown(value)}, which is not a number")
    if not (math.isfinite(value) and value > 0):
        raise FormatError(f"'{key}' is {value}, which is not a possible value")
    return float(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
