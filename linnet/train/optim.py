"""Muon for the hidden matrices and AdamW for everything else, or AdamW for everything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Quintic whose iteration drives singular values to about 1 in five steps (Jordan et al. 2024).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is made orthogonal (Jordan et al. 2024, "Muon").

    The update of an A x B matrix is scaled by 0.2 sqrt(max(A, B)), which gives it the root mean
    square that AdamW's updates have, so that both share one learning rate (Liu et al. 2025, "Muon
    is scalable for LLM training"). Weight decay is decoupled. Matrices of one shape are
    orthogonalised together as a batch.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for weights in by_shape.values():
                self._update(weights, group)

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])  # Nesterov
        updates = orthogonal(torch.stack(ahead))
        scale = 0.2 * max(updates.shape[-2:]) ** 0.5
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, list(updates.unbind()), alpha=-group["lr"] * scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearly orthogonal matrices next to ``matrices`` [n, rows, columns], by Newton-Schulz.

    On CUDA the products are in bf16, which the iteration tolerates.
    """
    dtype = torch.bfloat16 if matrices.is_cuda else torch.float32
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Optimizer:
    """The update rules of one model behind one step. ``kind`` is ``muon`` or ``adamw``."""

    def __init__(self, model: nn.Module, kind: str, learning_rate: float, weight_decay: float) -> None:
        self.learning_rate = learning_rate
        named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        hidden = [w for name, w in named if kind == "muon" and w.dim() == 2 and ".layers." in name]
        taken = {id(weight) for weight in hidden}
        rest = [weight for _, weight in named if id(weight) not in taken]
        groups = [
            {"params": [w for w in rest if w.dim() >= 2], "weight_decay": weight_decay},
            {"params": [w for w in rest if w.dim() < 2], "weight_decay": 0.0},
        ]
        # beta2 0.95 instead of 0.999, as for most language models since GPT-3: runs are short.
        self._rules: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=1e-10, fused=True)
        ]
        if hidden:
            self._rules.append(Muon(hidden, learning_rate, weight_decay))

    def step(self, factor: float) -> None:
        """One update at ``factor`` times the peak learning rate."""
        for rule in self._rules:
            for group in rule.param_groups:
                group["lr"] = self.learning_rate * factor
            rule.step()

    def zero_grad(self) -> None:
        """Drops the gradients."""
        for rule in self._rules:
            rule.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Tensors and plain values only, so that it can be loaded without running code."""
        return [rule.state_dict() for rule in self._rules]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Takes over what :meth:`state_dict` of an optimizer of the same model gave."""
        for rule, state in zip(self._rules, states, strict=True):
            rule.load_state_dict(state)
