"""What families with the names of Llama's checkpoints share: rules of tensors, and the common settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linnet.errors import UnsupportedError
from linnet.formats.arch.family import Condition, Rule, linear, norm
from linnet.formats.arch.layouts import AS_IS, STACKED, Layout, PairRows
from linnet.formats.arch.metadata import ACTIVATION_NAMES, ACTIVATIONS
from linnet.formats.arch.rope import read_rope, rope_config
from linnet.formats.arch.values import choice, count, flag, listed, number
from linnet.types import ModelFacts

_L = "model.layers.{i}."


def biased_inputs(facts: ModelFacts, layer: int) -> bool:
    """Queries, keys and values have biases."""
    return facts.attention_bias


def biased_output(facts: ModelFacts, layer: int) -> bool:
    """What attention adds to the stream has a bias."""
    return facts.output_bias


def biased_ffn(facts: ModelFacts, layer: int) -> bool:
    """The matrices of the feed-forward part have biases."""
    return facts.ffn_bias


def _own_head(facts: ModelFacts, layer: int) -> bool:
    return not facts.tied_embeddings


def query_pairs(facts: ModelFacts) -> Layout:
    """The rows of queries, as GGUF has them for architectures that rotate neighbouring pairs."""
    return PairRows(facts.n_heads, facts.head_dim)


def key_pairs(facts: ModelFacts) -> Layout:
    """The same of keys."""
    return PairRows(facts.n_kv_heads, facts.head_dim)


def embeddings(
    embedding: str = "model.embed_tokens", last_norm: str = "model.norm", head: str = "lm_head",
    norm_layout: Layout = AS_IS,
) -> tuple[Rule, ...]:  # fmt: skip
    """Embedding, last norm and head."""

    def head_bias(facts: ModelFacts, layer: int) -> bool:
        return facts.head_bias

    return (
        Rule("token_embd.weight", f"{embedding}.weight", ("vocab", "dim")),
        *norm("output_norm", last_norm, layout=norm_layout),
        *linear("output", head, ("vocab", "dim"), bias=head_bias, when=_own_head),
    )


def attention(*, pairs: bool = False, out: str = "o_proj", when: Condition | None = None) -> tuple[Rule, ...]:
    """Queries, keys, values and output; ``pairs``: GGUF rotates neighbouring pairs."""
    more: dict[str, Any] = {} if when is None else {"when": when}
    q: Any = query_pairs if pairs else AS_IS
    k: Any = key_pairs if pairs else AS_IS
    return (
        *linear("attn_q", _L + "self_attn.q_proj", ("query", "dim"), bias=biased_inputs, layout=q, **more),
        *linear("attn_k", _L + "self_attn.k_proj", ("key", "dim"), bias=biased_inputs, layout=k, **more),
        *linear("attn_v", _L + "self_attn.v_proj", ("key", "dim"), bias=biased_inputs, **more),
        *linear("attn_output", _L + f"self_attn.{out}", ("dim", "query"), bias=biased_output, **more),
    )


def pre_norms(*, layout: Layout = AS_IS, second: str = "post_attention_layernorm") -> tuple[Rule, ...]:
    """The norms before attention and before the feed-forward part: with biases for layer norms."""
    first = norm("attn_norm", _L + "input_layernorm", layout=layout)
    return (*first, *norm("ffn_norm", _L + second, layout=layout))


def head_norms(layout: Layout = AS_IS) -> tuple[Rule, ...]:
    """RMS norms of each head of queries and keys."""
    return (
        Rule("attn_q_norm.weight", _L + "self_attn.q_norm.weight", ("head",), layout),
        Rule("attn_k_norm.weight", _L + "self_attn.k_norm.weight", ("head",), layout),
    )


GATED_FFN = (
    *linear("ffn_gate", _L + "mlp.gate_proj", ("ffn", "dim"), bias=biased_ffn),
    *linear("ffn_up", _L + "mlp.up_proj", ("ffn", "dim"), bias=biased_ffn),
    *linear("ffn_down", _L + "mlp.down_proj", ("dim", "ffn"), bias=biased_ffn),
)


def experts(router: str, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    """A router and its experts; names after those of the layer, with ``{n}`` for the expert."""
    return (
        Rule("ffn_gate_inp.weight", f"{_L}{router}.weight", ("experts", "dim")),
        Rule("ffn_gate_exps.weight", f"{_L}{gate}.weight", ("experts", "expert ffn", "dim"), STACKED),
        Rule("ffn_up_exps.weight", f"{_L}{up}.weight", ("experts", "expert ffn", "dim"), STACKED),
        Rule("ffn_down_exps.weight", f"{_L}{down}.weight", ("experts", "dim", "expert ffn"), STACKED),
    )


def read_common(config: Mapping[str, Any], arch: str, **more: Any) -> ModelFacts:
    """The facts every config of this kind tells; ``more`` goes before them. Raises FormatError."""
    dim = count(config, "hidden_size")
    n_heads = count(config, "num_attention_heads")
    head_dim = more.pop("head_dim", None) or count(config, "head_dim", dim // n_heads)
    facts: dict[str, Any] = {
        "dim": dim,
        "n_layers": count(config, "num_hidden_layers"),
        "n_heads": n_heads,
        "n_kv_heads": count(config, "num_key_value_heads", n_heads),
        "ffn_dim": count(config, "intermediate_size"),
        "vocab_size": count(config, "vocab_size"),
        "max_seq_len": count(config, "max_position_embeddings", 2048),
        "tied_embeddings": flag(config, "tie_word_embeddings"),
        **({} if "norm_eps" in more else {"norm_eps": number(config, "rms_norm_eps", 1e-6)}),
        **({} if "activation" in more else {"activation": choice(config, "hidden_act", "silu", ACTIVATIONS)}),
        **({} if "rope_theta" in more else read_rope(config, head_dim)),
    }
    return ModelFacts(arch=arch, head_dim=head_dim, **{**facts, **more})


def write_common(facts: ModelFacts) -> dict[str, Any]:
    """The keys of ``config.json`` that :func:`read_common` reads."""
    return {
        "attention_dropout": 0.0,
        "head_dim": facts.head_dim,
        "hidden_act": ACTIVATION_NAMES[facts.activation],
        "hidden_size": facts.dim,
        "initializer_range": 0.02,
        "intermediate_size": facts.ffn_dim,
        "max_position_embeddings": facts.max_seq_len,
        "num_attention_heads": facts.n_heads,
        "num_hidden_layers": facts.n_layers,
        "num_key_value_heads": facts.n_kv_heads,
        "rms_norm_eps": facts.norm_eps,
        **rope_config(facts),
        "tie_word_embeddings": facts.tied_embeddings,
        "use_cache": True,
        "vocab_size": facts.vocab_size,
    }


def window_of(config: Mapping[str, Any]) -> int:
    """``sliding_window``, 0 where there is none."""
    if not flag(config, "use_sliding_window", True) or config.get("sliding_window") is None:
        return 0
    return count(config, "sliding_window")


def global_interval_of(config: Mapping[str, Any], usual: int) -> int:
    """Every how many layers one has no window. Raises UnsupportedError for another pattern."""
    interval = count(config, "sliding_window_pattern", count(config, "_sliding_window_pattern", usual))
    kinds = listed(config, "layer_types")
    if kinds is not None and kinds != layer_types(len(kinds), interval):
        raise UnsupportedError(f"'layer_types' is not one full layer in {interval}; not supported")
    return interval


def layer_types(n_layers: int, interval: int) -> list[str]:
    """``layer_types`` of a model of which every ``interval``-th layer has no window."""
    return ["full_attention" if (i + 1) % interval == 0 else "sliding_attention" for i in range(n_layers)]
