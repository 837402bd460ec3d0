"""Cross-entropy that never holds the logits of a whole batch.

The logits of 16 x 256 tokens over 4,096 words take 64 MB, more than any cache, and are written
and read several times by the plain loss. Here a block of tokens is projected, its loss and its
gradient are taken at once while the logits are in cache, and the logits are dropped (the idea
of Liger Kernel, Hsu et al. 2024, and of cut cross-entropy, Wijmans et al. 2024).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORE = -100  # the target of a position that carries no loss
_CHUNK_ELEMENTS = 1 << 20  # logits held at once: 4 MB in f32


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        dtype = _product_dtype(hidden)
        states, matrix = hidden.to(dtype), weight.to(dtype)
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_hidden = torch.empty_like(states) if needs_grad else None
        d_weight = torch.zeros_like(weight) if needs_grad else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, _CHUNK_ELEMENTS // weight.shape[0])
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits = (states[part] @ matrix.t()).float()
            total += _loss_and_gradient(logits, targets[part])
            if d_hidden is not None and d_weight is not None:
                slope = logits.to(dtype)
                torch.mm(slope, matrix, out=d_hidden[part])
                _add_product(d_weight, slope, states[part])
        if d_hidden is not None:
            ctx.save_for_backward(d_hidden.to(hidden.dtype), d_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grad[0], d_weight * grad[0], None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log softmax(hidden @ weight.T)[target] in nats over the positions that carry loss.

    ``hidden`` [n, dim], ``weight`` [vocab_size, dim], ``targets`` [n] int64, IGNORE where a
    position carries no loss. The gradient is computed in the forward pass. Under autocast the
    products are taken in its type; softmax and the sum are always float32.
    """
    total: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return total


def _product_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _loss_and_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the summed loss of ``logits`` [n, vocab_size] and turns them into its gradient, in place."""
    carries = targets != IGNORE
    index = targets.clamp(min=0).unsqueeze(1)
    chosen = logits.gather(1, index).squeeze(1)
    largest = logits.amax(dim=1, keepdim=True)
    total = logits.sub_(largest).exp_().sum(dim=1)
    weight = carries.to(logits.dtype)
    logits.mul_((weight / total).unsqueeze(1)).scatter_add_(1, index, -weight.unsqueeze(1))
    return (weight * (total.log() + largest.squeeze(1) - chosen)).sum()


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total`` += ``left``.T @ ``right``."""
    if left.dtype == total.dtype:
        total.addmm_(left.t(), right)
    else:
        total += left.t() @ right
