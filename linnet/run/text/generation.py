"""A text that is being made: the tokens as they are drawn, what they spell, where it ends, what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from linnet.engine.arguments import int32, texts
from linnet.engine.sampler import TokenLogProb
from linnet.errors import UsageError
from linnet.run.text.choosing import Chooser
from linnet.run.text.speculate import Continuation, Drafter
from linnet.run.text.spelling import Spelling
from linnet.run.text.timeline import Timeline


@dataclass
class Generation:
    """A text and what it cost.

    ``finish_reason`` is ``stop`` (end of text, or a stop string, which :attr:`text` leaves out),
    ``length``, ``context`` (full) or ``interrupted`` (so far, or by whoever read the stream). Of the
    ``prompt_tokens`` so many were known from earlier texts (``cached_tokens``) and so many were evaluated
    (``prefilled_tokens``); together they are all, unless it was interrupted before the first token.
    ``dropped_tokens`` of the text are no longer in the context, which slid. ``drafted`` counts the
    guesses that were checked, ``accepted`` those of them that were right. ``log_probs`` belong to
    ``ids``, where they were asked for.
    """

    prompt_tokens: int
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = "interrupted"
    cached_tokens: int = 0
    prefilled_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    drafted: int = 0
    accepted: int = 0
    dropped_tokens: int = 0
    log_probs: list[TokenLogProb] = field(default_factory=list)

    @property
    def mean_log_prob(self) -> float | None:
        """Natural log per token; None where nothing was asked for or made."""
        values = [token.log_prob for token in self.log_probs]
        return sum(values) / len(values) if values else None

    @property
    def prefill_tok_s(self) -> float | None:
        """Evaluated prompt tokens per second; None when nothing was measured."""
        return self.prefilled_tokens / self.prefill_s if self.prefill_s > 0 else None

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens per second after the first, which comes out of prefill; None for fewer than two."""
        steps = len(self.ids) - 1
        return steps / self.decode_s if steps > 0 and self.decode_s > 0 else None


class TextStream:
    """Iterates over the pieces of a text as they are made; never splits a character.

    :attr:`generation` is complete when the iteration has ended, and true up to now
    before that. A stream has a timeline of its own, so several may run at once.
    """

    def __init__(
        self,
        timeline: Timeline,
        prompt: Sequence[int],
        chooser: Chooser,
        max_tokens: int,
        drafter: Drafter | None = None,
        ends: Collection[int] | None = None,
        stop: str | Sequence[str] = (),
    ) -> None:
        self.generation = made = Generation(prompt_tokens=len(prompt), dropped_tokens=timeline.dropped_tokens)
        self.seed = chooser.sampler.seed
        tokenizer = timeline.session.model.tokenizer
        last = (tokenizer.eos_id,) if ends is None else ends
        # Read these or the text.
        self.tokens = _drawn(made, timeline, prompt, chooser, max_tokens, drafter, last)
        spelling = Spelling(tokenizer, at_start=list(prompt) == [tokenizer.bos_id])
        pieces = _spelled(self.tokens, spelling)
        self._pieces = _cut(pieces, self.tokens, made, StopStrings(stop))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends the text early. What was evaluated is left to later calls."""
        self._pieces.close()
        self.tokens.close()

    @property
    def mean_log_prob(self) -> float | None:
        """That of :attr:`generation`."""
        return self.generation.mean_log_prob

    def finish(self) -> Generation:
        """The whole text."""
        for _ in self:
            pass
        return self.generation


# Generators that do not know the stream they belong to: one that nobody holds any more ends at once.


def _cut(
    pieces: Iterator[str], tokens: Generator[int], made: Generation, stop: StopStrings
) -> Generator[str]:
    """What of ``pieces`` is shown, up to a stop string, which ends ``tokens``."""
    for piece in pieces:
        shown = stop.push(piece)
        made.text += shown
        if shown:
            yield shown
        if stop.found:
            tokens.close()
            made.finish_reason = "stop"
            return
    rest = stop.rest()
    made.text += rest
    if rest:
        yield rest


def _spelled(tokens: Iterator[int], spelling: Spelling) -> Generator[str]:
    for token in tokens:
        yield spelling.feed(token)
    yield spelling.finish()


def _drawn(
    made: Generation,
    timeline: Timeline,
    prompt: Sequence[int],
    chooser: Chooser,
    max_tokens: int,
    drafter: Drafter | None,
    ends: Collection[int | None],
) -> Generator[int]:
    """The tokens of a text, each evaluated only when the one after it is wanted."""
    started = time.perf_counter()
    made.cached_tokens = timeline.go_back(prompt)
    try:
        timeline.prefill(prompt)
        for token in prompt:
            chooser.sampler.accept(token)
    finally:
        made.prefilled_tokens = len(timeline.session) - made.cached_tokens
        made.prefill_s = time.perf_counter() - started
    slide = timeline.slide if timeline.n_keep is not None else None
    continuation = Continuation(timeline.session, chooser, drafter, slide)
    try:
        for token in continuation.tokens(max_tokens):
            if made.ids:
                made.decode_s += time.perf_counter() - started
            made.drafted, made.accepted = continuation.drafted, continuation.accepted
            made.dropped_tokens = timeline.dropped_tokens
            if token in ends:
                made.finish_reason = "stop"
                return
            made.ids.append(token)
            made.log_probs = chooser.log_probs[: len(made.ids)]
            yield token
            started = time.perf_counter()
    finally:
        timeline.finish()
    if chooser.finished:
        made.finish_reason = "stop"
    else:
        made.finish_reason = "context" if len(made.ids) < max_tokens else "length"


# ---- where a text ends -----------------------------------------------------------------------


def stop_texts(stop: str | Sequence[str]) -> tuple[str, ...]:
    """The texts that end a text. Raises UsageError."""
    strings = texts("stop", stop)
    if not all(strings):
        raise UsageError("a stop string is empty; leave it out")
    return strings


class StopStrings:
    """Cuts a text that comes in pieces before the first of ``strings``; :attr:`found` says that it did."""

    def __init__(self, strings: str | Sequence[str]) -> None:
        self._strings = stop_texts(strings)
        self._longest = max(map(len, self._strings), default=0)
        self._held = ""  # the end of the text, which may become one of the strings
        self.found = False

    def push(self, piece: str) -> str:
        """The next part of the text that cannot belong to a stop string any more."""
        if not self._strings or not piece:
            return piece
        text = self._held + piece
        places = [at for at in (text.find(string) for string in self._strings) if at >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        n = next((n for n in range(min(self._longest - 1, len(text)), 0, -1) if self._begins(text[-n:])), 0)
        self._held = text[len(text) - n :]
        return text[: len(text) - n]

    def rest(self) -> str:
        """What was held back of a text that has ended."""
        held, self._held = self._held, ""
        return held

    def _begins(self, end: str) -> bool:
        return any(string.startswith(end) for string in self._strings)


# ---- the best of several ---------------------------------------------------------------------


class Drawn(Protocol):
    """A text that was drawn with ``seed``."""

    seed: int

    @property
    def mean_log_prob(self) -> float | None:
        """Natural log per token; None where nothing was asked for or made."""


AnyDrawn = TypeVar("AnyDrawn", bound=Drawn)


def best_of(
    n: int,
    options: Mapping[str, Any],
    begin: Callable[..., AnyDrawn],
    read: Callable[[AnyDrawn], object],
) -> AnyDrawn:
    """Of ``n`` texts, drawn with successive seeds, the one of the highest mean log-probability of a token.

    ``begin(**options)`` is called for each of them, ``read`` reads it to its end. Raises UsageError.
    """
    asked = dict(options)
    if int32("best_of", n, least=1) > 1:
        if asked.get("guide") is not None:
            raise UsageError("a guide is for one text; give best_of a schema or grammar instead")
        asked["logprobs"] = asked.get("logprobs") or 0
    made: list[AnyDrawn] = []
    while len(made) < n:
        made.append(begin(**asked))
        read(made[-1])
        asked["seed"] = (made[0].seed + len(made)) % (1 << 64)
    return max(made, key=lambda one: float("-inf") if one.mean_log_prob is None else one.mean_log_prob)
