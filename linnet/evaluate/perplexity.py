"""How well a model predicts a text: nats per token, bits per byte, perplexity.

Every token of a text is scored once, given as much of the text before it as fits.
BOS stands in front and is not predicted. A text of more than ``n_ctx`` tokens is
scored in overlapping windows (as in https://huggingface.co/docs/transformers/perplexity):

    window 1   [BOS t0 t1 ....... ]            scores t0 ... t(n_ctx-2)
    window 2        [....... overlap | new ]   scores ``stride`` new tokens
    window 3             [....... overlap | new ]

so that each token but those of the first window has at least ``n_ctx - stride`` tokens
before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from linnet.errors import UsageError


class Scorer(Protocol):
    """A model that gives the log-probability of each token after those before it."""

    def score(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Natural logarithms, [len(ids)]; the first is NaN."""


class Window(NamedTuple):
    """Tokens ``[start, stop)`` are shown to the model and ``[scored, stop)`` are scored."""

    start: int
    scored: int
    stop: int


@dataclass
class Score:
    """Sums over any number of texts."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    texts: int = 0
    windowed_texts: int = 0  # texts longer than the context

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood of a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of the nats per token; infinite where that overflows."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits to encode a byte of UTF-8 text; comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes


def windows(n_tokens: int, n_ctx: int, stride: int) -> Iterator[Window]:
    """The windows over a sequence of ``n_tokens``; all tokens but the first are scored exactly once.

    Raises UsageError unless ``1 <= stride < n_ctx``.
    """
    if not 1 <= stride < n_ctx:
        raise UsageError(f"a stride of {stride} does not fit a context of {n_ctx}; choose 1 to {n_ctx - 1}")
    scored = 1
    while scored < n_tokens:
        stop = min(n_tokens, n_ctx) if scored == 1 else min(n_tokens, scored + stride)
        yield Window(max(0, stop - n_ctx), scored, stop)
        scored = stop


def score_texts(
    model: Scorer,
    texts: Iterable[tuple[Sequence[int], int]],
    n_ctx: int,
    stride: int,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Score:
    """Scores texts, each given as (ids with BOS in front, UTF-8 bytes).

    ``advance`` is told how many tokens more are done.
    """
    total = Score()
    for ids, n_bytes in texts:
        for window in windows(len(ids), n_ctx, stride):
            log_probs = model.score(ids[window.start : window.stop])[window.scored - window.start :]
            total.nats -= float(np.sum(log_probs, dtype=np.float64))
            total.tokens += window.stop - window.scored
            advance(window.stop - window.scored)
        total.bytes += n_bytes
        total.texts += 1
        total.windowed_texts += len(ids) > n_ctx
    return total
