"""Tiny models with random weights, of the architectures the core runs, laid out as llama.cpp has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

VOCAB, CONTEXT = 96, 256
DIM, FFN, LAYERS = 64, 96, 4
HEADS, KV_HEADS, HEAD = 4, 2, 16
QUERY, KEY = HEADS * HEAD, KV_HEADS * HEAD
EXPERTS, USED, EXPERT_FFN = 8, 3, 32

Shapes = dict[str, tuple[int, ...]]

RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
EMBEDDING: Shapes = {
    "token_embd.weight": (VOCAB, DIM),
    "output_norm.weight": (DIM,),
    "output.weight": (VOCAB, DIM),
}
TIED: Shapes = {"token_embd.weight": (VOCAB, DIM), "output_norm.weight": (DIM,)}
PRE_NORMS: Shapes = {"attn_norm.weight": (DIM,), "ffn_norm.weight": (DIM,)}
POST_NORMS: Shapes = {"post_attention_norm.weight": (DIM,), "post_ffw_norm.weight": (DIM,)}
HEAD_NORMS: Shapes = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
OUT: Shapes = {"attn_output.weight": (DIM, QUERY)}
ATTENTION: Shapes = {
    "attn_q.weight": (QUERY, DIM), "attn_k.weight": (KEY, DIM), "attn_v.weight": (KEY, DIM), **OUT,
}  # fmt: skip
FUSED_ATTENTION: Shapes = {"attn_qkv.weight": (QUERY + 2 * KEY, DIM), **OUT}
GATED: Shapes = {"ffn_gate.weight": (FFN, DIM), "ffn_up.weight": (FFN, DIM), "ffn_down.weight": (DIM, FFN)}


@dataclass(frozen=True)
class Family:
    """What a file of it holds: keys after ``arch.``, tensors outside the layers, tensors of layer i."""

    arch: str
    keys: dict[str, Any]
    layer: Callable[[int], Shapes]
    outside: Shapes = field(default_factory=lambda: EMBEDDING)
    type: str = "F32"  # of matrices
    llama_cpp: bool = True  # can llama.cpp run the same file?
    whole_keys: dict[str, Any] = field(default_factory=dict)  # not after ``arch.``


def _biased(shapes: Shapes, *names: str) -> Shapes:
    biases = {f"{name}.bias": shapes[f"{name}.weight"][:1] for name in names}
    return {**shapes, **biases}


def _all_biased(shapes: Shapes) -> Shapes:
    return _biased(shapes, *(name.removesuffix(".weight") for name in shapes))


LLAMA: Shapes = {**PRE_NORMS, **ATTENTION, **GATED}
PLAIN: Shapes = {"ffn_up.weight": (FFN, DIM), "ffn_down.weight": (DIM, FFN)}
LAYER_NORMED: Shapes = {**EMBEDDING, "output_norm.bias": (DIM,)}
POSITIONS: Shapes = {**TIED, "output_norm.bias": (DIM,), "position_embd.weight": (CONTEXT, DIM)}
GPT2: Shapes = _all_biased({**PRE_NORMS, "attn_qkv.weight": (3 * QUERY, DIM), **OUT, **PLAIN})
OPT: Shapes = _all_biased({**PRE_NORMS, **ATTENTION, **PLAIN})
EACH_HEAD: Shapes = {"attn_q_norm.weight": (HEADS, HEAD), "attn_k_norm.weight": (KV_HEADS, HEAD)}
NEOX: Shapes = _all_biased({**PRE_NORMS, **FUSED_ATTENTION, **PLAIN})
PHI2: Shapes = _all_biased({"attn_norm.weight": (DIM,), **ATTENTION, **PLAIN})
BITNET: Shapes = {**LLAMA, "attn_sub_norm.weight": (QUERY,), "ffn_sub_norm.weight": (FFN,)}
PHI3: Shapes = {
    **PRE_NORMS,
    **FUSED_ATTENTION,
    "ffn_up.weight": (2 * FFN, DIM),
    "ffn_down.weight": (DIM, FFN),
}
CONVOLUTION: Shapes = {
    "shortconv.in_proj.weight": (3 * DIM, DIM),
    "shortconv.out_proj.weight": (DIM, DIM),
    "shortconv.conv.weight": (DIM, 3),
}
MOE: Shapes = {
    **PRE_NORMS,
    **ATTENTION,
    "ffn_gate_inp.weight": (EXPERTS, DIM),
    "ffn_gate_exps.weight": (EXPERTS, EXPERT_FFN, DIM),
    "ffn_up_exps.weight": (EXPERTS, EXPERT_FFN, DIM),
    "ffn_down_exps.weight": (EXPERTS, DIM, EXPERT_FFN),
}
GEMMA2: Shapes = {**LLAMA, **POST_NORMS}
ENCODER_INPUT: Shapes = {
    "token_embd.weight": (VOCAB, DIM),
    "token_types.weight": (2, DIM),
    "position_embd.weight": (CONTEXT, DIM),
    "token_embd_norm.weight": (DIM,),
    "token_embd_norm.bias": (DIM,),
}
RANK_HEAD: Shapes = _all_biased({"cls.weight": (DIM, DIM), "cls.output.weight": (1, DIM)})
BERT: Shapes = _all_biased(
    {
        **{f"attn_{name}.weight": (QUERY, DIM) for name in "qkv"},
        **OUT,
        "attn_output_norm.weight": (DIM,),
        **PLAIN,
        "layer_output_norm.weight": (DIM,),
    }
)
ENCODER_KEYS: dict[str, Any] = {
    **LAYER_NORM, "attention.causal": False, "attention.head_count_kv": HEADS, "pooling_type": 1,
}  # fmt: skip
TYPED: dict[str, Any] = {"tokenizer.ggml.token_type_count": 2}

FAMILIES: dict[str, Family] = {
    "llama": Family("llama", RMS, lambda _: LLAMA),
    "llama3": Family(
        "llama",
        {**RMS, "rope.freq_base": 5e5},
        lambda _: LLAMA,
        {**EMBEDDING, "rope_freqs.weight": (HEAD // 2,)},
    ),
    "llama_yarn": Family(
        "llama",
        {
            **RMS,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
        lambda _: LLAMA,
    ),
    # llama.cpp knows no window of this architecture.
    "mistral": Family("llama", {**RMS, "attention.sliding_window": 24}, lambda _: LLAMA, llama_cpp=False),
    "qwen2": Family("qwen2", RMS, lambda _: _biased(LLAMA, "attn_q", "attn_k", "attn_v"), TIED),
    "qwen3": Family("qwen3", RMS, lambda _: {**LLAMA, **HEAD_NORMS}),
    "phi3": Family(
        "phi3",
        {**RMS, "rope.dimension_count": 12},
        lambda _: PHI3,
    ),
    "phi3_longrope": Family(
        "phi3",
        {
            **RMS,
            "rope.scaling.type": "longrope",
            "rope.scaling.attn_factor": 1.19,
            "rope.scaling.original_context_length": 64,
        },
        lambda _: PHI3,
        {**EMBEDDING, "rope_factors_long.weight": (HEAD // 2,), "rope_factors_short.weight": (HEAD // 2,)},
    ),
    "gemma": Family("gemma", RMS, lambda _: LLAMA, TIED),
    "gemma2": Family(
        "gemma2",
        {
            **RMS,
            "attention.sliding_window": 24,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
        lambda _: GEMMA2,
        TIED,
    ),
    "gemma3": Family(
        "gemma3",
        {**RMS, "attention.sliding_window": 24, "rope.freq_base": 1e6, "block_count": 7},
        lambda _: {**GEMMA2, **HEAD_NORMS},
        TIED,
    ),
    "olmo2": Family(
        "olmo2",
        RMS,
        lambda _: {
            **ATTENTION,
            **POST_NORMS,
            "attn_q_norm.weight": (QUERY,),
            "attn_k_norm.weight": (KEY,),
            **GATED,
        },
    ),
    "granite": Family(
        "granite",
        {**RMS, "embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.3, "logit_scale": 8.0},
        lambda _: LLAMA,
        TIED,
    ),
    "smollm3": Family("smollm3", RMS, lambda _: LLAMA, TIED),
    "mobilellm": Family("mobilellm", {**RMS, "block_repeat": 2}, lambda _: LLAMA, TIED, llama_cpp=False),
    "bitnet": Family("bitnet", RMS, lambda _: BITNET, TIED),
    # Only the newest llama.cpp reads the activation.
    "bitnet_relu2": Family("bitnet", {**RMS, "hidden_act": "relu2"}, lambda _: BITNET, TIED, llama_cpp=False),
    "bitnet_scaled": Family(
        "bitnet",
        RMS,
        lambda _: {**BITNET, "attn_q.scale": (1,), "ffn_down.scale": (1,), "ffn_up.scale": (1,)},
        TIED,
    ),
    "mixtral": Family(
        "llama",
        {**RMS, "expert_count": EXPERTS, "expert_used_count": USED, "feed_forward_length": EXPERT_FFN},
        lambda _: MOE,
    ),
    "qwen3moe": Family(
        "qwen3moe",
        {**RMS, "expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": EXPERT_FFN},
        lambda _: {**MOE, **HEAD_NORMS},
    ),
    "mixtral_q8_0": Family(
        "llama",
        {**RMS, "expert_count": EXPERTS, "expert_used_count": USED, "feed_forward_length": EXPERT_FFN},
        lambda _: MOE,
        type="Q8_0",
    ),
    "llama_q8_0": Family("llama", RMS, lambda _: LLAMA, type="Q8_0"),
    "phi3_q4_0": Family("phi3", RMS, lambda _: PHI3, type="Q4_0"),
    "lfm2": Family(
        "lfm2",
        {**RMS, "attention.head_count_kv": [0, 0, KV_HEADS, 0], "shortconv.l_cache": 3},
        lambda i: {**PRE_NORMS, **GATED, **({**ATTENTION, **HEAD_NORMS} if i == 2 else CONVOLUTION)},
        {"token_embd.weight": (VOCAB, DIM), "token_embd_norm.weight": (DIM,)},
    ),
    "lfm2_q8_0": Family(
        "lfm2",
        {**RMS, "attention.head_count_kv": [0, 0, KV_HEADS, 0], "shortconv.l_cache": 3},
        lambda i: {**PRE_NORMS, **GATED, **({**ATTENTION, **HEAD_NORMS} if i == 2 else CONVOLUTION)},
        {"token_embd.weight": (VOCAB, DIM), "token_embd_norm.weight": (DIM,)},
        type="Q8_0",
    ),
    "gpt2": Family("gpt2", {**LAYER_NORM, "attention.head_count_kv": HEADS}, lambda _: GPT2, POSITIONS),
    # llama.cpp knows no such architecture.
    "opt": Family("opt", LAYER_NORM, lambda _: OPT, POSITIONS, llama_cpp=False),
    "gptneox": Family(
        "gptneox",
        {**LAYER_NORM, "use_parallel_residual": True, "rope.dimension_count": 4},
        lambda _: NEOX,
        LAYER_NORMED,
    ),
    "gptneox_sequential": Family(
        "gptneox", {**LAYER_NORM, "use_parallel_residual": False}, lambda _: NEOX, LAYER_NORMED
    ),
    "phi2": Family(
        "phi2",
        {**LAYER_NORM, "rope.dimension_count": 8},
        lambda _: PHI2,
        {**LAYER_NORMED, "output.bias": (VOCAB,)},
    ),
    "stablelm": Family(
        "stablelm",
        {**LAYER_NORM, "use_parallel_residual": False, "rope.dimension_count": 4},
        lambda _: _biased(LLAMA, "attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v"),
        LAYER_NORMED,
    ),
    "stablelm_parallel": Family(
        "stablelm",
        {**LAYER_NORM, "use_parallel_residual": True},
        lambda _: _biased({"attn_norm.weight": (DIM,), **ATTENTION, **EACH_HEAD, **GATED}, "attn_norm"),
        LAYER_NORMED,
    ),
    "bert_rank": Family(
        "bert",
        {**ENCODER_KEYS, "pooling_type": 4},
        lambda _: BERT,
        {**ENCODER_INPUT, **RANK_HEAD},
        whole_keys=TYPED,
        llama_cpp=False,  # it knows one type of tokens
    ),
    **{
        name: Family("bert", ENCODER_KEYS, lambda _: BERT, ENCODER_INPUT, type=type, whole_keys=TYPED)
        for name, type in (("bert", "F32"), ("bert_q8_0", "Q8_0"))
    },
}
ENCODERS = [name for name, family in FAMILIES.items() if family.arch == "bert"]
DECODERS = [name for name in FAMILIES if name not in ENCODERS]


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.startswith("rope_"):
        return (1 + np.arange(shape[0]) * rng.uniform(0.1, 1)).astype(np.float32)
    if len(shape) == 1 or "norm" in name:
        centre = 0.0 if name.endswith(".bias") else 1.0
        return (centre + 0.3 * rng.standard_normal(shape)).astype(np.float32)
    return (rng.standard_normal(shape) * 1.2 / np.sqrt(shape[-1])).astype(np.float32)


def _vocabulary(writer: Any) -> None:
    special = ["<unk>", "<s>", "</s>"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(special + [f"t{i}" for i in range(len(special), VOCAB)])
    writer.add_token_scores([0.0] * VOCAB)
    writer.add_token_types([2, 3, 3] + [1] * (VOCAB - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _pair(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
        return
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds[type(value)](key, value)


def write_family(family: Family, path: Path, *, widened: bool = False) -> Path:
    """Writes a model of ``family``, always the same; ``widened`` holds its packed weights as floats."""
    import gguf

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, family.arch)
    keys: dict[str, Any] = {
        "context_length": CONTEXT, "embedding_length": DIM, "feed_forward_length": FFN, "block_count": LAYERS,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD, "attention.value_length": HEAD, "rope.dimension_count": HEAD,
        "vocab_size": VOCAB,
        **family.keys,
    }  # fmt: skip
    for key, value in keys.items():
        _pair(writer, f"{family.arch}.{key}", value)
    for key, value in family.whole_keys.items():
        _pair(writer, key, value)
    _vocabulary(writer)
    shapes = dict(family.outside)
    for i in range(keys["block_count"]):
        shapes.update({f"blk.{i}.{name}": shape for name, shape in family.layer(i).items()})
    type = gguf.GGMLQuantizationType[family.type]
    for name, shape in shapes.items():
        values = _values(name, shape, rng)
        if family.type != "F32" and values.shape[-1] % 32 == 0 and values.ndim > 1:
            packed = gguf.quants.quantize(values, type)
            if widened:
                writer.add_tensor(name, gguf.quants.dequantize(packed, type))
            else:
                writer.add_tensor(name, packed, raw_dtype=type)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
