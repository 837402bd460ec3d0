"""The parts of a layer: attention, short convolution, feed-forward, experts; each built from the facts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.train.rotary import rotate
from linnet.types import ModelFacts

Product = Callable[[Tensor, Tensor], Tensor]  # (x [..., inputs], weight [outputs, inputs]) -> x @ weight.T

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class View(NamedTuple):
    """What a layer sees of the positions: its angles [2, length, 1, rotated], and what is added to scores.

    Without angles nothing is rotated; without a mask each row is one document, of which a token sees those
    before it or, where the model is not causal, all.
    """

    rotary: Tensor | None
    mask: Tensor | None
    product: Product


def norm_of(facts: ModelFacts, size: int) -> nn.Module:
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) over ``size`` elements."""
    kind = nn.LayerNorm if facts.norm == "layer" else nn.RMSNorm
    return kind(size, eps=facts.norm_eps)


def joined(x: Tensor, linears: list[nn.Linear], product: Product) -> Tensor:
    """The results of several matrices that read the same input, next to each other: one large product."""
    result = product(x, torch.cat([linear.weight for linear in linears]))
    if linears[0].bias is None:
        return result
    return result + torch.cat([linear.bias for linear in linears])


def applied(x: Tensor, linear: nn.Linear, product: Product) -> Tensor:
    """The result of one matrix."""
    result = product(x, linear.weight)
    return result if linear.bias is None else result + linear.bias


class NormPerHead(nn.Module):
    """A LayerNorm without bias of each head, each with its own weights."""

    def __init__(self, n_heads: int, facts: ModelFacts) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_heads, facts.head_dim))
        self.eps = facts.norm_eps

    def forward(self, heads: Tensor) -> Tensor:
        """``heads`` [rows, length, n_heads, head_dim] -> the same shape."""
        return F.layer_norm(heads, heads.shape[-1:], eps=self.eps) * self.weight


class NormOfAll(nn.RMSNorm):
    """RMSNorm over all heads of a token together."""

    def forward(self, heads: Tensor) -> Tensor:
        """``heads`` [rows, length, n_heads, head_dim] -> the same shape."""
        return super().forward(heads.flatten(2)).view_as(heads)


def _head_norm(n_heads: int, facts: ModelFacts) -> nn.Module:
    if facts.qk_norm == "heads":
        return NormPerHead(n_heads, facts)
    if facts.qk_norm == "all":
        return NormOfAll(n_heads * facts.head_dim, eps=facts.norm_eps)
    return nn.RMSNorm(facts.head_dim, eps=facts.norm_eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (Ainslie et al. 2023; Su et al. 2021)."""

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = facts.n_heads, facts.n_kv_heads, facts.head_dim
        self.scale, self.cap = facts.attention_scale or None, facts.attention_cap
        self.causal = facts.causal
        query_dim, bias = facts.query_dim, facts.attention_bias
        self.q_proj = nn.Linear(facts.dim, query_dim, bias=bias)
        self.k_proj = nn.Linear(facts.dim, facts.kv_dim, bias=bias)
        self.v_proj = nn.Linear(facts.dim, facts.kv_dim, bias=bias)
        self.o_proj = nn.Linear(query_dim, facts.dim, bias=facts.output_bias)
        self.normed = bool(facts.qk_norm)
        if facts.qk_norm:
            self.q_norm = _head_norm(facts.n_heads, facts)
            self.k_norm = _head_norm(facts.n_kv_heads, facts)
        self.sub_norm = norm_of(facts, query_dim) if facts.sub_norm else None

    def forward(self, x: Tensor, view: View) -> Tensor:
        """``x`` [rows, length, dim] -> the same shape."""
        rows, length, _ = x.shape
        product = view.product
        heads = joined(x, [self.q_proj, self.k_proj, self.v_proj], product)
        heads = heads.view(rows, length, -1, self.head_dim)
        turned, values = heads.split([self.n_heads + self.n_kv_heads, self.n_kv_heads], dim=2)
        if self.normed:
            queries, keys = turned.split([self.n_heads, self.n_kv_heads], dim=2)
            turned = torch.cat([self.q_norm(queries), self.k_norm(keys)], dim=2)
        if view.rotary is not None:
            turned = rotate(turned, view.rotary)
        queries, keys = turned.split([self.n_heads, self.n_kv_heads], dim=2)
        mixed = self._mixed(queries, keys, values, view.mask).transpose(1, 2).reshape(rows, length, -1)
        mixed = mixed if self.sub_norm is None else self.sub_norm(mixed)
        return applied(mixed, self.o_proj, product)

    def _mixed(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """[rows, length, n, head_dim] each -> values mixed by scores, [rows, n_heads, length, head_dim]."""
        if self.cap or (mask is not None and queries.is_cuda):
            # The fused CUDA kernels take a mask or grouped heads, not both.
            group = self.n_heads // self.n_kv_heads
            keys, values = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2)
        if self.cap:
            return self._capped(queries, keys, values, mask)
        return F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=mask if mask is None else mask.to(queries.dtype),
            is_causal=mask is None and self.causal,
            scale=self.scale,
            enable_gqa=queries.shape[2] != keys.shape[2],
        )

    def _capped(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention whose scores pass through cap * tanh(score / cap) (Gemma Team 2024, Gemma 2)."""
        scale = self.scale or self.head_dim**-0.5
        scores = queries.transpose(1, 2) @ keys.permute(0, 2, 3, 1) * scale
        scores = self.cap * torch.tanh(scores / self.cap)
        if mask is not None:
            scores = scores + mask.to(scores.dtype)
        elif self.causal:
            scores = scores + window_mask(scores, 0)
        return scores.softmax(dim=-1) @ values.transpose(1, 2)


def window_mask(like: Tensor, window: int) -> Tensor:
    """What to add to scores [..., length, length] so that a token sees the ``window`` last ones, itself
    among them; 0 = all before it. [1, 1, length, length]"""
    length = like.shape[-2]
    seen = torch.ones(length, length, dtype=torch.bool, device=like.device).tril()
    seen = seen.triu(1 - window) if window else seen
    return torch.zeros(seen.shape, device=like.device).masked_fill_(~seen, -math.inf)[None, None]


class ShortConvolution(nn.Module):
    """A gated convolution over the last few tokens, of each channel alone (LFM2)."""

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__()
        self.in_proj = nn.Linear(facts.dim, 3 * facts.dim, bias=False)
        self.conv = nn.Conv1d(facts.dim, facts.dim, facts.conv_len, groups=facts.dim, bias=False)
        self.out_proj = nn.Linear(facts.dim, facts.dim, bias=False)

    def forward(self, x: Tensor, view: View) -> Tensor:
        """``x`` [rows, length, dim] -> the same shape."""
        before, after, values = view.product(x, self.in_proj.weight).chunk(3, dim=-1)
        gated = F.pad((before * values).transpose(1, 2), (self.conv.kernel_size[0] - 1, 0))
        mixed = self.conv(gated).transpose(1, 2)
        return view.product(after * mixed, self.out_proj.weight)


class FeedForward(nn.Module):
    """SwiGLU and its kin (Shazeer 2020), or two matrices without a gate."""

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(facts.dim, facts.ffn_dim, bias=facts.ffn_bias) if facts.gated else None
        self.up_proj = nn.Linear(facts.dim, facts.ffn_dim, bias=facts.ffn_bias)
        self.down_proj = nn.Linear(facts.ffn_dim, facts.dim, bias=facts.ffn_bias)
        self.sub_norm = norm_of(facts, facts.ffn_dim) if facts.sub_norm else None
        self.activation = _ACTIVATIONS[facts.activation]

    def forward(self, x: Tensor, view: View) -> Tensor:
        """``x`` [rows, length, dim] -> the same shape."""
        if self.gate_proj is None:
            hidden = self.activation(applied(x, self.up_proj, view.product))
        else:
            gate, up = joined(x, [self.gate_proj, self.up_proj], view.product).chunk(2, dim=-1)
            hidden = self.activation(gate) * up
        hidden = hidden if self.sub_norm is None else self.sub_norm(hidden)
        return applied(hidden, self.down_proj, view.product)


class Experts(nn.Module):
    """Gated feed-forward parts of which each token uses a few (Shazeer et al. 2017; Fedus et al. 2021)."""

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__()
        n, ffn = facts.n_experts, facts.expert_ffn_dim
        self.n_used, self.norm = facts.n_experts_used, facts.expert_norm
        self.router = nn.Linear(facts.dim, n, bias=False)
        self.gate_proj = nn.Parameter(torch.empty(n, ffn, facts.dim))
        self.up_proj = nn.Parameter(torch.empty(n, ffn, facts.dim))
        self.down_proj = nn.Parameter(torch.empty(n, facts.dim, ffn))
        self.activation = _ACTIVATIONS[facts.activation]

    def forward(self, x: Tensor, view: View) -> Tensor:
        """``x`` [rows, length, dim] -> the same shape."""
        tokens = x.flatten(0, 1)
        shares, chosen = F.linear(tokens, self.router.weight).float().softmax(-1).topk(self.n_used, dim=-1)
        if self.norm:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        result = torch.zeros_like(tokens)
        for index in range(len(self.gate_proj)):
            which, place = (chosen == index).nonzero(as_tuple=True)
            given = tokens[which]
            hidden = self.activation(view.product(given, self.gate_proj[index]))
            hidden = hidden * view.product(given, self.up_proj[index])
            answer = view.product(hidden, self.down_proj[index])
            result = result.index_add(0, which, answer * shares[which, place, None].to(answer.dtype))
        return result.view_as(x)
