"""From a size to a shape, and from a shape to the settings of a run.

Only the number of parameters has to be chosen; everything else follows here, and each choice
says why. Derived values can be overridden one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from linnet.errors import UsageError
from linnet.types import ModelFacts

_UNIT = 32  # widths are multiples of the 32 elements of a quantised block
_HEAD_DIMS = (64, 48, 32)
_MIN_HEADS = 6
_WIDTH_PER_LAYER = 24.0
_MIN_WIDTH_PER_LAYER = 4
_GROUPS = (2, 3, 4)  # query heads that share one key head
_LIMITS = {  # by name of the part; well above what one machine trains
    "dim": 1 << 14,
    "n_layers": 1 << 10,
    "n_heads": 1 << 10,
    "n_kv_heads": 1 << 10,
    "ffn_dim": 1 << 16,
    "max_seq_len": 1 << 17,
}
_MAX_PARAMS = 10_000_000_000  # every process holds the whole model and its optimizer
_MAX_RATE = 10.0


def derive_shape(params: int, vocab_size: int, given: dict[str, int] | None = None) -> ModelFacts:
    """The shape of a Llama of about ``params`` weights, deep and thin.

    Below a billion weights, depth is worth more than width (Liu et al. 2024, "MobileLLM", whose
    125M has 19 columns per layer and 350M has 30; wider models of the same size have 50 and
    more). So of all widths, the one whose depth comes nearest to 24 columns per layer is taken.
    ``given`` fixes values by the names of _LIMITS. Raises UsageError.
    """
    given = dict(given or {})
    limits = {"params": _MAX_PARAMS, **_LIMITS}
    for key, value in {"params": params, **given}.items():
        if key not in limits:
            raise UsageError(f"unknown part of the shape '{key}'; choose from {', '.join(_LIMITS)}")
        if value < 1:
            raise UsageError(f"{key} must be at least 1")
        if value > limits[key]:
            raise UsageError(f"{key} must be at most {limits[key]:,}, not {value:,}")
    facts = _nearest(params, vocab_size, given)
    if facts is None:
        raise _no_shape(params, vocab_size, given)
    _check(facts)
    return facts


def _nearest(params: int, vocab_size: int, given: dict[str, int]) -> ModelFacts | None:
    widths = [given["dim"]] if "dim" in given else range(_UNIT, 8192 + 1, _UNIT)
    best: tuple[float, ModelFacts] | None = None
    for dim in widths:
        facts = _with_depth(_one_layer(dim, vocab_size, params, given), params, given)
        if facts is None:
            continue
        # How far from the wanted form, and twice as heavily from the wanted size.
        form = abs(math.log(facts.dim / facts.n_layers / _WIDTH_PER_LAYER))
        distance = form + 2 * abs(math.log(facts.n_params / params))
        if best is None or distance < best[0]:
            best = (distance, facts)
    return best[1] if best else None


def _no_shape(params: int, vocab_size: int, given: dict[str, int]) -> UsageError:
    if given and _nearest(params, vocab_size, {}) is not None:
        parts = ",".join(f"{key}={value}" for key, value in given.items())
        return UsageError(
            f"no width gives a model of about {params:,} parameters with --shape {parts}: "
            "leave a part away, or change --params"
        )
    needed = replace(_one_layer(2 * _UNIT, vocab_size, params, {}), n_layers=2).n_params
    return UsageError(
        f"{params:,} parameters are too few for a vocabulary of {vocab_size:,}: "
        f"use a smaller vocabulary, or --params {needed} and more"
    )


def _one_layer(dim: int, vocab_size: int, params: int, given: dict[str, int]) -> ModelFacts:
    # The widest of the usual head widths that still leaves six heads to attend in different ways.
    fitting = [h for h in _HEAD_DIMS if dim % h == 0]
    head_dim = next((h for h in fitting if dim // h >= _MIN_HEADS), _UNIT)
    n_heads = given.get("n_heads", max(1, dim // head_dim))
    if "n_heads" in given:
        head_dim = dim // n_heads
    # Three query heads per key head: a third of the cache at little loss (Ainslie et al. 2023).
    divisors = [n for n in range(1, n_heads + 1) if n_heads % n == 0]
    n_kv_heads = min(divisors, key=lambda n: abs(math.log(3 * n / n_heads)))
    # 8/3 of the width gives the gated feed-forward the size of a plain one of 4 (Touvron et al. 2023).
    ffn_dim = max(_UNIT, round(dim * 8 / 3 / _UNIT) * _UNIT)
    context = 512 if params < 30_000_000 else 1024 if params < 200_000_000 else 2048
    return ModelFacts(
        arch="llama",
        dim=dim,
        n_layers=1,
        n_heads=n_heads,
        n_kv_heads=given.get("n_kv_heads", n_kv_heads),
        head_dim=head_dim,
        ffn_dim=given.get("ffn_dim", ffn_dim),
        vocab_size=vocab_size,
        max_seq_len=given.get("max_seq_len", context),
    )


def _with_depth(one: ModelFacts, params: int, given: dict[str, int]) -> ModelFacts | None:
    layer = replace(one, n_layers=2).n_params - one.n_params
    n_layers = given.get("n_layers", round((params - one.n_params) / layer) + 1)
    if n_layers < 1:  # the embedding alone is larger than the model may be
        return None
    # Left out: head counts that do not group well, and towers that would not train.
    fits = n_layers <= one.dim // _MIN_WIDTH_PER_LAYER
    asked = "n_heads" in given or "n_kv_heads" in given
    groups = one.n_heads % one.n_kv_heads == 0 and (
        asked or one.n_heads == 1 or one.n_heads // one.n_kv_heads in _GROUPS
    )
    whole = one.n_heads * one.head_dim == one.dim and one.head_dim % 2 == 0
    return replace(one, n_layers=n_layers) if "dim" in given or (fits and groups and whole) else None


def _check(facts: ModelFacts) -> None:
    if facts.n_params > _MAX_PARAMS:
        raise UsageError(
            f"this shape has {facts.n_params:,} parameters, more than {_MAX_PARAMS:,}: choose a smaller one"
        )
    if facts.n_heads * facts.head_dim != facts.dim:
        raise UsageError(f"dim {facts.dim} is not a multiple of n_heads {facts.n_heads}")
    if facts.n_heads % facts.n_kv_heads:
        raise UsageError(f"n_heads {facts.n_heads} is not a multiple of n_kv_heads {facts.n_kv_heads}")
    if facts.head_dim % 2:
        raise UsageError(
            f"head_dim {facts.head_dim} is odd; rotary positions turn pairs: choose another n_heads"
        )


@dataclass(frozen=True)
class Hyper:
    """Settings of the update rule and the schedule; ``learning_rate`` 0 means: derive it."""

    learning_rate: float = 0.0
    schedule: str = "wsd"
    warmup: float = 0.02  # share of the run
    decay: float = 0.25  # share of the run (wsd)
    weight_decay: float = 0.1
    dropout: float = 0.0
    clip: float = 1.0  # largest norm of the gradient


def derive_hyper(facts: ModelFacts, given: dict[str, Any]) -> Hyper:
    """The settings for a model of this shape. ``given`` wins. Raises UsageError.

    Peak rate: 4e-3 at 3M weights, falling with the fourth root of the size; between the rates
    published for models of 1M to 1B. Muon is scaled to share AdamW's rate (see optim.py).
    """
    hyper = Hyper(**given)
    if hyper.learning_rate == 0.0:
        rate = 4e-3 * (3e6 / facts.n_params) ** 0.25
        hyper = replace(hyper, learning_rate=float(f"{min(rate, 1e-2):.2g}"))
    shares = {"warmup": hyper.warmup, "decay": hyper.decay, "dropout": hyper.dropout}
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise UsageError(f"{name} is a share in [0, 1), not {value:g}")
    if hyper.warmup + hyper.decay > 1:
        raise UsageError("warmup and decay together are more than the whole run")
    if hyper.learning_rate <= 0 or hyper.clip <= 0 or hyper.weight_decay < 0:
        raise UsageError("learning_rate and clip must be above 0 and weight_decay not below")
    if hyper.learning_rate > _MAX_RATE:
        raise UsageError(
            f"learning_rate {hyper.learning_rate:g} is above {_MAX_RATE:g}: choose a smaller one"
        )
    if hyper.learning_rate * hyper.weight_decay >= 1:
        raise UsageError(
            f"learning_rate {hyper.learning_rate:g} times weight_decay {hyper.weight_decay:g} "
            "is not below 1: a step would erase the weights; choose smaller ones"
        )
    return hyper


@dataclass(frozen=True)
class BatchShape:
    """How one step is cut: ``tokens`` per step over all processes, in micro-batches of
    ``sequences`` rows of ``length`` tokens on each."""

    tokens: int
    sequences: int
    length: int

    def micro_steps(self, world: int) -> int:
        """Micro-batches that every one of ``world`` processes computes per step."""
        return self.tokens // (self.sequences * self.length * world)


_MICRO_TOKENS = {"cpu": 8192, "cuda": 65536}


def derive_batch(facts: ModelFacts, given: dict[str, int], device: str, world: int) -> BatchShape:
    """Tokens per step and how they are cut. ``given`` wins. Raises UsageError.

    8,192 tokens at 3M weights, growing with the square root of the size: the batch at which
    more tokens per step stop to help grows as the loss falls (McCandlish et al. 2018). A micro-batch
    is what keeps the activations of a step small; gradients add up over several.
    """
    for key in given:
        if key not in ("tokens", "sequences", "length"):
            raise UsageError(f"unknown part of the batch '{key}'; choose from tokens, sequences, length")
    length = given.get("length", facts.max_seq_len)
    if not 2 <= length <= facts.max_seq_len:
        raise UsageError(f"length {length} is not within 2 and max_seq_len {facts.max_seq_len}")
    wanted = 2 ** round(math.log2(8192 * (facts.n_params / 3e6) ** 0.5))
    tokens = given.get("tokens", max(min(max(wanted, 1024), 1 << 19), length * world))
    largest = max(1, min(tokens, _MICRO_TOKENS[device] * world) // (length * world))
    sequences = given.get("sequences", largest)
    unit = max(1, sequences) * length * world
    if sequences < 1 or tokens < unit:
        raise UsageError(
            f"{tokens} tokens per step are fewer than one micro-batch: "
            f"{sequences} x {length} on {world} processes"
        )
    return BatchShape(tokens // unit * unit, sequences, length)
