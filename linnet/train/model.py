"""The decoder in torch: the same facts, the same arithmetic as the C core.

Parameters carry the Hugging Face names (``model.layers.0.self_attn.q_proj.weight``), so a state
dict is a checkpoint. Matrices that read the same input are joined for the product only, which
keeps the names and still gives the processor one large product instead of three small ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.types import ModelFacts

Product = Callable[[Tensor, Tensor], Tensor]  # (x [..., inputs], weight [outputs, inputs]) -> x @ weight.T


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (Ainslie et al. 2023; Su et al. 2021)."""

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = facts.n_heads, facts.n_kv_heads, facts.head_dim
        query_dim = facts.n_heads * facts.head_dim
        self.q_proj = nn.Linear(facts.dim, query_dim, bias=False)
        self.k_proj = nn.Linear(facts.dim, facts.kv_dim, bias=False)
        self.v_proj = nn.Linear(facts.dim, facts.kv_dim, bias=False)
        self.o_proj = nn.Linear(query_dim, facts.dim, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None, product: Product) -> Tensor:
        """``x`` [rows, length, dim]; ``rotary`` [2, length, 1, head_dim]; returns the shape of ``x``."""
        rows, length, _ = x.shape
        joined = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        heads = product(x, joined).view(rows, length, -1, self.head_dim)
        turned, values = heads.split([self.n_heads + self.n_kv_heads, self.n_kv_heads], dim=2)
        turned = rotate(turned, rotary)
        queries, keys = turned.split([self.n_heads, self.n_kv_heads], dim=2)
        if mask is not None and x.is_cuda:  # the fused CUDA kernels take a mask or grouped heads, not both
            group = self.n_heads // self.n_kv_heads
            keys, values = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2)
        mixed = F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=mask if mask is None else mask.to(queries.dtype),
            is_causal=mask is None,
            enable_gqa=queries.shape[2] != keys.shape[2],
        )
        return product(mixed.transpose(1, 2).reshape(rows, length, -1), self.o_proj.weight)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(facts.dim, facts.ffn_dim, bias=False)
        self.up_proj = nn.Linear(facts.dim, facts.ffn_dim, bias=False)
        self.down_proj = nn.Linear(facts.ffn_dim, facts.dim, bias=False)

    def forward(self, x: Tensor, product: Product) -> Tensor:
        """``x`` [rows, length, dim] -> the same shape."""
        joined = torch.cat([self.gate_proj.weight, self.up_proj.weight])
        gate, up = product(x, joined).chunk(2, dim=-1)
        return product(F.silu(gate) * up, self.down_proj.weight)


class Layer(nn.Module):
    """One pre-norm residual layer."""

    def __init__(self, facts: ModelFacts, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(facts.dim, eps=facts.norm_eps)
        self.self_attn = Attention(facts)
        self.post_attention_layernorm = nn.RMSNorm(facts.dim, eps=facts.norm_eps)
        self.mlp = FeedForward(facts)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None, product: Product) -> Tensor:
        """``x`` [rows, length, dim] -> the same shape."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), rotary, mask, product))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x), product))


class Trunk(nn.Module):
    """Embedding, layers and last norm: everything but the output matrix."""

    def __init__(self, facts: ModelFacts, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(facts.vocab_size, facts.dim)
        self.layers = nn.ModuleList(Layer(facts, dropout) for _ in range(facts.n_layers))
        self.norm = nn.RMSNorm(facts.dim, eps=facts.norm_eps)
        self.dropout = nn.Dropout(dropout)


class Decoder(nn.Module):
    """A Llama decoder built from ``facts``.

    ``dropout`` acts on the embeddings and on what each half-layer adds to the residual stream.
    """

    def __init__(self, facts: ModelFacts, dropout: float = 0.0) -> None:
        super().__init__()
        self.facts, self.dropout = facts, dropout
        self.rounds = False  # True: products of operands rounded to bf16
        self.model = Trunk(facts, dropout)
        if not facts.tied_embeddings:
            self.lm_head = nn.Linear(facts.dim, facts.vocab_size, bias=False)
        self.register_buffer("rotary", rotary_table(facts), persistent=False)
        self.rotary: Tensor

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [vocab_size, dim]."""
        return self.model.embed_tokens.weight if self.facts.tied_embeddings else self.lm_head.weight

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states [rows, length, dim] of ``tokens`` [rows, length], after the last norm.

        ``mask`` is added to the attention scores (see :func:`document_mask`); None means each
        row is one document and attention is causal.
        """
        rotary, product = self.rotary[:, : tokens.shape[1]], rounded_product if self.rounds else F.linear
        x = self.model.dropout(self.model.embed_tokens(tokens))
        for layer in self.model.layers:
            x = layer(x, rotary, mask, product)
        return self.model.norm(x)

    def logits(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [rows, length, vocab_size] of ``tokens`` [rows, length]."""
        return F.linear(self(tokens, mask), self.head_weight)


def rotary_table(facts: ModelFacts) -> Tensor:
    """Cosines, and sines with the sign of the rotation, [2, max_seq_len, 1, head_dim].

    Element i is turned together with element i + head_dim / 2 (the Hugging Face order).
    """
    frequencies = facts.rope_theta ** (
        -torch.arange(0, facts.head_dim, 2, dtype=torch.float64) / facts.head_dim
    )
    angles = torch.outer(torch.arange(facts.max_seq_len, dtype=torch.float64), frequencies)
    cos, sin = angles.cos(), angles.sin()
    table = torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])
    return table.float().unsqueeze(2)


def rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    """Turns ``heads`` [rows, length, n, head_dim] by the angles of their positions."""
    first, second = heads.chunk(2, dim=-1)
    cos, sin = rotary.to(heads.dtype)
    return heads * cos + torch.cat([second, first], dim=-1) * sin


def round_to_bf16(x: Tensor) -> Tensor:
    """The nearest bf16 values, kept in float32."""
    return x.bfloat16().float()


def rounded_product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` of operands rounded to bf16, summed in float32."""
    return F.linear(round_to_bf16(x), round_to_bf16(weight))


def document_mask(tokens: Tensor, bos_id: int) -> Tensor | None:
    """What to add to attention scores so that no token sees another document.

    ``tokens`` [rows, length]. Returns [rows, 1, length, length] with 0 where a token may look and
    -inf where not, or None when no row holds a border, so that plain causal attention is exact.
    """
    starts = tokens == bos_id
    starts[:, 0] = False
    if not starts.any():
        return None
    segment = starts.cumsum(dim=1)
    seen = (segment[:, :, None] == segment[:, None, :]).tril()
    return torch.zeros(seen.shape, device=tokens.device).masked_fill_(~seen, -math.inf).unsqueeze(1)


def initialise(model: Decoder, seed: int) -> None:
    """Draws the weights from ``seed`` alone.

    Hidden matrices: normal, variance 1 / inputs; what writes to the residual stream is divided by
    sqrt(2 n_layers) so that the stream keeps its scale with depth (Radford et al. 2019).
    Embeddings: normal with deviation 0.02.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            nn.init.ones_(weight)
            continue
        deviation = 0.02 if "embed_tokens" in name or "lm_head" in name else weight.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= math.sqrt(2 * model.facts.n_layers)
        values = torch.randn(weight.shape, generator=generator) * deviation
        with torch.no_grad():
            weight.copy_(values)
