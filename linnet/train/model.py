"""The decoder in torch: the same facts, the same arithmetic as the C core.

Parameters carry the Hugging Face names of Llama (``model.layers.0.self_attn.q_proj.weight``), so the
state dict of a Llama is a checkpoint; ``weights.py`` fills the decoder of any family. Matrices that
read the same input are joined for the product only, which keeps the names and still gives the
processor one large product instead of three small ones.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnet.errors import UnsupportedError
from linnet.train.blocks import (
    Attention,
    Experts,
    FeedForward,
    ShortConvolution,
    View,
    norm_of,
    window_mask,
)
from linnet.train.rotary import rotary_table
from linnet.types import ModelFacts

_RANKS = {"tanh": torch.tanh, "relu": torch.relu}


class Layer(nn.Module):
    """One residual layer: attention (or a short convolution) and a feed-forward part (or experts)."""

    def __init__(self, facts: ModelFacts, index: int, dropout: float) -> None:
        super().__init__()
        attends = index not in facts.conv_layers
        self.parallel, self.scale = facts.parallel_residual, facts.residual_scale
        self.input_layernorm = norm_of(facts, facts.dim) if facts.pre_norm else nn.Identity()
        if attends:
            self.self_attn = Attention(facts)
        else:
            self.conv = ShortConvolution(facts)
        own_norm = facts.pre_norm and not facts.one_norm
        self.post_attention_layernorm = norm_of(facts, facts.dim) if own_norm else nn.Identity()
        self.mlp = Experts(facts) if facts.n_experts else FeedForward(facts)
        self.attention_post_norm = norm_of(facts, facts.dim) if facts.post_norm else nn.Identity()
        self.mlp_post_norm = norm_of(facts, facts.dim) if facts.post_norm else nn.Identity()
        self.attention_sum_norm = norm_of(facts, facts.dim) if facts.sum_norm else nn.Identity()
        self.mlp_sum_norm = norm_of(facts, facts.dim) if facts.sum_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.mixes = "self_attn" if attends else "conv"
        self.one_norm = facts.one_norm

    def forward(self, x: Tensor, view: View) -> Tensor:
        """``x`` [rows, length, dim] -> the same shape."""
        first = self.input_layernorm(x)
        added = self._added(self.attention_post_norm(getattr(self, self.mixes)(first, view)))
        read = x if self.parallel else self.attention_sum_norm(x + added)
        second = first if self.one_norm else self.post_attention_layernorm(read)
        x = x + added if self.parallel else read
        return self.mlp_sum_norm(x + self._added(self.mlp_post_norm(self.mlp(second, view))))

    def _added(self, part: Tensor) -> Tensor:
        part = self.dropout(part)
        return part if self.scale == 1 else part * self.scale


class Trunk(nn.Module):
    """Embedding, layers and last norm: everything but the output matrix."""

    def __init__(self, facts: ModelFacts, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(facts.vocab_size, facts.dim)
        if facts.learned_positions:
            self.embed_positions = nn.Embedding(facts.max_seq_len, facts.dim)
        if facts.n_token_types:
            self.embed_token_types = nn.Embedding(facts.n_token_types, facts.dim)
        self.embed_norm = norm_of(facts, facts.dim) if facts.embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(Layer(facts, index, dropout) for index in range(facts.n_layers))
        self.norm = nn.Identity() if facts.sum_norm else norm_of(facts, facts.dim)
        self.dropout = nn.Dropout(dropout)


class Decoder(nn.Module):
    """A decoder built from ``facts``.

    ``dropout`` acts on the embeddings and on what each half-layer adds to the residual stream.
    """

    def __init__(self, facts: ModelFacts, dropout: float = 0.0) -> None:
        super().__init__()
        self.facts, self.dropout = facts, dropout
        self.rounds = False  # True: products of operands rounded to bf16
        self.model = Trunk(facts, dropout)
        if not facts.tied_embeddings:
            self.lm_head = nn.Linear(facts.dim, facts.vocab_size, bias=facts.head_bias)
        if facts.rank_head:
            self.rank_inner, self.rank_score = nn.Linear(facts.dim, facts.dim), nn.Linear(facts.dim, 1)
        scaling = facts.rope_scaling
        tables = {
            "rotary": rotary_table(facts) if facts.rotated else None,
            "rotary_local": rotary_table(facts, local=True) if facts.rope_theta_local else None,
            "rotary_long": rotary_table(facts, long=True) if scaling and scaling.kind == "longrope" else None,
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.rotary: Tensor | None
        self.rotary_local: Tensor | None
        self.rotary_long: Tensor | None

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [vocab_size, dim]."""
        return self.model.embed_tokens.weight if self.facts.tied_embeddings else self.lm_head.weight

    def forward(self, tokens: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """Hidden states [rows, length, dim] of ``tokens`` [rows, length], after the last norm.

        ``types`` [rows, length] are kinds of text (None: all the first). ``mask`` is added to the attention
        scores (see :func:`document_mask`); None means each row is one document.
        """
        facts = self.facts
        x = self.model.embed_tokens(tokens)
        if facts.embedding_scale != 1:
            x = x * facts.embedding_scale
        if facts.n_token_types:
            x = x + self.model.embed_token_types(torch.zeros_like(tokens) if types is None else types)
        if facts.learned_positions:
            x = x + self.model.embed_positions.weight[: tokens.shape[1]]
        x = self.model.dropout(self.model.embed_norm(x))
        everywhere, nearby = self._views(tokens, mask)
        plain = everywhere._replace(rotary=None)
        repeat = facts.block_repeat
        for index, layer in enumerate(self.model.layers):
            for place in range(index * repeat, (index + 1) * repeat):
                view = nearby if _is_local(facts, place) else everywhere
                x = layer(x, view if _rotates(facts, place) else plain._replace(mask=view.mask))
        return self.model.norm(x)

    def _views(self, tokens: Tensor, mask: Tensor | None) -> tuple[View, View]:
        """What layers that see all before a token see, and those with a window."""
        facts, length = self.facts, tokens.shape[1]
        product = rounded_product if self.rounds else F.linear
        rotary, local = self.rotary, self.rotary_local
        if self.rotary_long is not None and facts.rope_scaling and length > facts.rope_scaling.original_len:
            rotary = self.rotary_long
        rotary = rotary if rotary is None else rotary[:, :length]
        everywhere = View(rotary, mask, product)
        if not facts.sliding_window:
            return everywhere, everywhere
        local = rotary if local is None else local[:, :length]
        if length <= facts.sliding_window:
            return everywhere, View(local, mask, product)
        near = window_mask(tokens[:, :, None].expand(-1, -1, length), facts.sliding_window)
        return everywhere, View(local, near if mask is None else near + mask, product)

    def logits(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [rows, length, vocab_size] of ``tokens`` [rows, length]; of an encoder there are none."""
        facts = self.facts
        if not facts.causal:
            raise UnsupportedError(f"a {facts.arch} model is an encoder and makes hidden states, no logits")
        scores = F.linear(self(tokens, mask), self.head_weight)
        if facts.head_bias:
            scores = scores + self.lm_head.bias
        if facts.logit_divisor != 1:
            scores = scores / facts.logit_divisor
        return facts.logit_cap * torch.tanh(scores / facts.logit_cap) if facts.logit_cap else scores

    def rank(self, tokens: Tensor, types: Tensor | None = None) -> Tensor:
        """What the head of a model that has one makes of each row of ``tokens``, [rows]."""
        first = self.rank_inner(self(tokens, types=types)[:, 0])
        return self.rank_score(_RANKS[self.facts.rank_head](first))[:, 0]


def _is_local(facts: ModelFacts, layer: int) -> bool:
    """Has layer ``layer`` a window?"""
    every = facts.global_interval
    return bool(facts.sliding_window) and not (every and (layer + 1) % every == 0)


def _rotates(facts: ModelFacts, layer: int) -> bool:
    return not (facts.rope_interval and (layer + 1) % facts.rope_interval == 0)


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
    Embeddings: normal with deviation 0.02. Norms: 1. Biases: 0.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or "norm" in name:
            nn.init.constant_(weight, 0.0 if name.endswith(".bias") else 1.0)
            continue
        deviation = 0.02 if "model.embed_" in name or "lm_head" in name else weight.shape[-1] ** -0.5
        if "o_proj" in name or "out_proj" in name or "down_proj" in name:
            deviation /= math.sqrt(2 * model.facts.n_layers)
        values = torch.randn(weight.shape, generator=generator) * deviation
        with torch.no_grad():
            weight.copy_(values)
