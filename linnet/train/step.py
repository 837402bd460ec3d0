"""The loss of pretraining in the precision that was asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from linnet.errors import UnsupportedError
from linnet.train.batches import Batch
from linnet.train.loop import LossFunction
from linnet.train.loss import linear_cross_entropy
from linnet.train.model import Decoder, round_to_bf16


def has_bf16_units(device: str) -> bool:
    """True where bf16 products run in hardware: most CUDA devices, processors with AMX or AVX-512 BF16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    queries = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # not public in torch 2.6 to 2.13
    return any(getattr(torch.cpu, name, lambda: False)() for name in queries)


def fastest_dtype(device: str) -> str:
    """bf16 where there are units for it, else f32."""
    return "bf16" if has_bf16_units(device) else "f32"


def _compiled(model: Decoder) -> Callable[..., Tensor]:
    from torch._dynamo.exc import TorchDynamoException  # base of every failure of torch.compile

    forward = torch.compile(model, dynamic=False)

    def run(*inputs: Tensor | None) -> Tensor:
        try:
            return forward(*inputs)
        except TorchDynamoException as error:
            reason = str(error).partition("\n")[0]
            raise UnsupportedError(f"torch.compile fails here ({reason}); train without --compile") from None

    return run


def pretraining_loss(model: Decoder, dtype: str, compiled: bool = False, seed: int = 0) -> LossFunction:
    """Cross-entropy of the next token, in nats summed over a batch, as a function of the batch.

    With ``dtype`` bf16, products run under autocast. A processor without bf16 units would emulate each
    bf16 product, many times slower than f32; there the operands are rounded to bf16 and multiplied
    in f32, which is what a unit that sums in f32 computes.

    Dropout is seeded by ``seed`` and the number of the batch, so that the random state of a run is
    its counters and nothing else has to be saved. The function raises UnsupportedError when
    ``compiled`` and torch.compile fails.
    """
    device = model.head_weight.device
    units = has_bf16_units(device.type)
    model.rounds = dtype == "bf16" and not units
    forward: Callable[..., Tensor] = _compiled(model) if compiled else model

    def loss_of(batch: Batch) -> Tensor:
        if model.dropout and model.training:
            torch.manual_seed(int(np.random.SeedSequence([seed, batch.number]).generate_state(1)[0]))
        batch = batch.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bf16" and units):
            hidden, weight = forward(batch.tokens, batch.mask).flatten(0, 1), model.head_weight
            if model.rounds:
                hidden, weight = round_to_bf16(hidden), round_to_bf16(weight)
            return linear_cross_entropy(hidden, weight, batch.targets.flatten())

    return loss_of
