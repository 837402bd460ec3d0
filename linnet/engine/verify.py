"""Is an artifact, reloaded, the model it was made from?

Facts, special tokens and template have to be equal; every weight has to be within
what its type can hold; the tokenizer has to give the same ids; the logits, or the hidden
states of an encoder, have to be finite, and their distance from those of the source is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnet.engine.memory import Image
from linnet.engine.model import Model
from linnet.engine.repack import float_rows
from linnet.engine.session import Session, Workspace
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import VerificationError
from linnet.formats import arch
from linnet.formats.parts import ModelParts, Tensor
from linnet.formats.source import read_model
from linnet.types import ModelFacts, TensorType

# Words, digits, code, accents, another script, an emoji, runs of spaces and line feeds.
PROBE_TEXT = (
    "Once upon a time, there was a little girl named Lily. She had 42 red balls!\n\n"
    'def f(x):\n    return {"caf\u00e9": x[1:-1]}  # na\u00efve \u00fcber\n'
    "\u4f60\u597d\uff0c\u4e16\u754c \U0001f426 it's   DONE\t~"
)
_MAX_PROBE_TOKENS = 96
_F16_STEP, _F16_SMALLEST = 2.0**-11, 2.0**-25  # half a unit in the last place: relative, and of subnormals
_BF16_STEP, _BF16_SMALLEST = 2.0**-8, 2.0**-133

# How far a value of a block may be off, as a share of the block's largest magnitude. Where packing
# follows a recipe it is one step or half of one; where scales are searched for, which may cut an
# outlier, half as much again as was ever seen, hostile blocks included.
_BLOCK_ERROR = {
    TensorType.Q8_0: 0.5 / 127, TensorType.Q5_0: 1 / 16, TensorType.Q5_1: 1 / 31,
    TensorType.Q4_0: 1 / 8, TensorType.Q4_1: 1 / 15, TensorType.MXFP4: 1 / 4,
    TensorType.TQ1_0: 1 / 2, TensorType.TQ2_0: 1 / 2,
    TensorType.Q6_K: 0.06, TensorType.Q5_K: 0.16, TensorType.Q4_K: 0.27, TensorType.Q3_K: 0.45,
    TensorType.Q2_K: 0.85, TensorType.IQ4_NL: 0.22, TensorType.IQ4_XS: 0.22,
}  # fmt: skip
_BLOCK_SMALLEST = 127 * _F16_SMALLEST  # of a scale among the subnormals, times the largest level


@dataclass(frozen=True)
class Comparison:
    """What a successful verification measured.

    ``max_weight_error`` over all weights, ``max_logit_delta`` over all logits of the
    ``n_tokens`` probe tokens, ``kl_divergence`` from the source in nats, their mean. An encoder
    has ``least_cosine`` instead, of the hidden states of a token and those of the source.
    """

    n_tensors: int
    n_tokens: int
    max_weight_error: float
    max_logit_delta: float | None = None
    kl_divergence: float | None = None
    least_cosine: float | None = None


def verify(source: ModelParts, target: Path) -> Comparison:
    """Reloads ``target`` and compares it with the model it was made from.

    Raises VerificationError with the first difference found.
    """
    reloaded = read_model(target)
    _same("facts", _as_stored(source.facts), _as_stored(reloaded.facts))
    _same("special tokens", source.special, reloaded.special)
    _same("chat template", source.chat_template, reloaded.chat_template)
    error = _compare_tensors(source, reloaded)
    model = Model(Image.of_parts(source))
    ids = _compare_token_ids(model.tokenizer, Tokenizer.open(target))
    if source.special.bos_id is not None:
        ids = [source.special.bos_id, *ids]
    ids = ids[: min(_MAX_PROBE_TOKENS, source.facts.max_seq_len)]
    causal = model.causal
    expected = _outputs(model, ids)
    del model
    found = _outputs(Model.open(target), ids)
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        raise VerificationError(f"the {'logits' if causal else 'hidden states'} are not finite")
    measured = Comparison(n_tensors=len(reloaded.tensors), n_tokens=len(ids), max_weight_error=error)
    if not causal:
        return replace(measured, least_cosine=_least_cosine(expected, found))
    delta = float(np.abs(found - expected).max())
    return replace(measured, max_logit_delta=delta, kl_divergence=_mean_kl(expected, found))


def _as_stored(facts: ModelFacts) -> dict[str, str]:
    """What GGUF says of them, in numbers of 32 bits, of which a conversion may cost the last."""
    keys = arch.by_facts(facts).metadata_from_facts(facts)
    return {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in keys.items()}


def _same(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise VerificationError(f"the {what} changed: {expected!r} became {found!r}"[:400])


def _compare_tensors(source: ModelParts, target: ModelParts) -> float:
    """The largest difference of any weight."""
    found = {tensor.name: tensor for tensor in target.tensors}
    _same("set of tensors", {tensor.name for tensor in source.tensors}, set(found))
    with np.errstate(all="ignore"):  # what is not finite fails the comparison
        return max(_compare_tensor(tensor, found[tensor.name]) for tensor in source.tensors)


def _compare_tensor(source: Tensor, target: Tensor) -> float:
    _same(f"shape of '{source.name}'", source.shape, target.shape)
    largest = 0.0
    for (_, expected), (_, found) in zip(float_rows(source), float_rows(target), strict=True):
        error = np.abs(expected - found)
        bound = _error_bound(target.type, expected)
        if not np.isfinite(error).all():
            raise VerificationError(f"the tensor '{source.name}' holds values that are not finite")
        if not np.all(error <= bound):
            worst = float(error.max(initial=0.0))
            raise VerificationError(
                f"the tensor '{source.name}' differs by {worst:g}, more than {target.type.label} explains"
            )
        largest = max(largest, float(error.max(initial=0.0)))
    return largest


def _error_bound(type: TensorType, expected: NDArray[np.float32]) -> NDArray[np.floating]:
    """How far each value may be from ``expected`` [rows, columns] when stored as ``type``."""
    if type is TensorType.F32:
        return np.zeros_like(expected)
    if type is TensorType.F16:
        return np.abs(expected) * _F16_STEP + _F16_SMALLEST
    if type is TensorType.BF16:
        return np.abs(expected) * _BF16_STEP + _BF16_SMALLEST
    largest = np.abs(expected).reshape(-1, type.block_elements).max(axis=1)
    rounding = 2 * _F16_STEP  # of a scale and of a minimum
    bound = largest * (_BLOCK_ERROR[type] * 1.01 + rounding) + _BLOCK_SMALLEST
    return np.repeat(bound, type.block_elements).reshape(expected.shape)


def _compare_token_ids(source: Tokenizer, target: Tokenizer) -> list[int]:
    expected, found = source.encode(PROBE_TEXT), target.encode(PROBE_TEXT)
    if expected != found:
        where = next(
            (i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]),
            min(len(expected), len(found)),
        )
        raise VerificationError(
            f"the tokenizer splits text differently, from token {where} of the probe text on"
        )
    return expected


def _outputs(model: Model, ids: list[int]) -> NDArray[np.float32]:
    """Logits after each of ``ids``, [n, vocab_size]; of an encoder the hidden states, [n, dim]."""
    workspace = Workspace(model, kv_tokens=len(ids), kv_type=TensorType.F32)
    if not model.causal:
        return workspace.eval_hidden([(Session(workspace), ids)])[0]
    return Session(workspace).eval_all(ids)


def _least_cosine(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """The least over rows of the cosine between both."""
    a, b = expected.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((np.sum(a * b, axis=1) / np.where(lengths > 0, lengths, 1)).min())


def _mean_kl(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Mean over rows of KL(softmax(expected) || softmax(found)), in nats."""
    p, q = _log_softmax(expected), _log_softmax(found)
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
