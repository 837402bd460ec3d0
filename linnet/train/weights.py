"""The decoder of a model in any format: its weights, moved from GGUF's names to those of the decoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from linnet.engine.repack import float_rows
from linnet.errors import UnsupportedError
from linnet.formats import arch, parts
from linnet.formats.arch.layouts import PairRows
from linnet.formats.parts import DERIVED, ModelParts
from linnet.train.model import Decoder
from linnet.types import ModelFacts

_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "position_embd": "model.embed_positions",
    "token_types": "model.embed_token_types",
    "output_norm": "model.norm",
    "output": "lm_head",
    "cls": "rank_inner",
    "cls.output": "rank_score",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_sub_norm": "self_attn.sub_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "attention_post_norm",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.conv": "conv.conv",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_sub_norm": "mlp.sub_norm",
    "ffn_gate_inp": "mlp.router",
    "post_ffw_norm": "mlp_post_norm",
    "attn_output_norm": "attention_sum_norm",
    "layer_output_norm": "mlp_sum_norm",
}
_EXPERTS = {
    "ffn_gate_exps.weight": "mlp.gate_proj",
    "ffn_up_exps.weight": "mlp.up_proj",
    "ffn_down_exps.weight": "mlp.down_proj",
}


def decoder_of(model: ModelParts) -> Decoder:
    """The decoder of ``model`` in float32, set to evaluate.

    Raises UnsupportedError when the decoder built from its facts has other tensors than the model.
    """
    decoder = Decoder(model.facts)
    wanted = decoder.state_dict()
    given = dict(_placed(model))
    if given.keys() != wanted.keys():
        odd = sorted(given.keys() ^ wanted.keys())[0]
        raise UnsupportedError(f"the decoder in torch and the {model.facts.arch} model differ in '{odd}'")
    decoder.load_state_dict({name: value.reshape(wanted[name].shape) for name, value in given.items()})
    return decoder.eval()


def _placed(model: ModelParts) -> Iterator[tuple[str, Tensor]]:
    """The weights by the names the decoder has for them."""
    planned = {plan.name: plan for plan in arch.by_facts(model.facts).tensors(model.facts)}
    for tensor in model.tensors:
        if tensor.name in DERIVED:
            continue
        layout = planned[tensor.name].layout
        if isinstance(layout, PairRows):  # the decoder rotates the halves of a head
            (tensor,) = layout.scatter(tensor, [tensor.name])
        yield from _split(tensor.name, _values(tensor), model.facts)


def _values(tensor: parts.Tensor) -> Tensor:
    rows = np.concatenate([part for _, part in float_rows(tensor)])
    return torch.from_numpy(rows.reshape(tensor.shape))


def _split(name: str, values: Tensor, facts: ModelFacts) -> Iterator[tuple[str, Tensor]]:
    stem, _, kind = name.rpartition(".")
    if stem == "token_embd_norm":  # which is what LFM2's files call the last norm
        yield f"model.{'embed_norm' if facts.embedding_norm else 'norm'}.{kind}", values
        return
    if not name.startswith("blk."):
        yield f"{_OUTSIDE[stem]}.{kind}", values
        return
    _, index, rest = name.split(".", 2)
    prefix, part = f"model.layers.{index}.", rest.rpartition(".")[0]
    if rest in _EXPERTS:
        yield prefix + _EXPERTS[rest], values
    elif part == "attn_qkv":
        pieces = values.split([facts.query_dim, facts.kv_dim, facts.kv_dim])
        for letter, piece in zip("qkv", pieces, strict=True):
            yield f"{prefix}self_attn.{letter}_proj.{kind}", piece
    elif part == "ffn_up" and facts.gated and len(values) == 2 * facts.ffn_dim:
        gate, up = values.chunk(2)
        yield f"{prefix}mlp.gate_proj.{kind}", gate
        yield f"{prefix}mlp.up_proj.{kind}", up
    else:
        yield f"{prefix}{_LAYER[part]}.{kind}", values
