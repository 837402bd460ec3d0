"""What decides on the next token: a sampler, and a guide that says which tokens may come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypedDict, TypeVar

from linnet.engine.arguments import int32, texts
from linnet.engine.sampler import Sampler, TokenLogProb, token_log_prob
from linnet.errors import UsageError


class FormOptions(TypedDict, total=False):
    """What a text has to be: one of these.

    ``json_schema`` is a schema as a dictionary, as JSON text, or a pydantic model class, ``regex`` is matched
    from beginning to end, ``choices`` are the texts there are, ``grammar`` is Lark or GBNF.
    """

    json_schema: Any
    regex: str | None
    choices: Sequence[str] | None
    grammar: str | None


class Guide(Protocol):
    """Which tokens may come next in one text; see :mod:`linnet.run.structured`."""

    @property
    def finished(self) -> bool:
        """Nothing can follow: the text ends here."""

    def mask(self) -> int | None:
        """The address of uint32 [(vocab_size + 31) / 32], a bit for each token that may come; None: all may.

        Valid until the next call.
        """

    def forced(self) -> Sequence[int]:
        """The tokens that have to come next; none where there is a choice."""

    def accept(self, token: int) -> None:
        """Tells the guide that ``token`` is now part of the text; not called for what ends it."""


class Chooser:
    """Draws the tokens of one text, each exactly once and in order: a seed gives the same text at any pace.

    :attr:`log_probs` are those of the drawn tokens, with the ``n_top`` most probable ones, where asked for.
    """

    def __init__(self, sampler: Sampler, guide: Guide | None = None, n_top: int | None = None) -> None:
        self.sampler = sampler
        self.n_top = n_top
        self.log_probs: list[TokenLogProb] = []
        self._guide = guide
        self._forced: list[int] = list(guide.forced()) if guide is not None else []

    def draw(self, logits: Any) -> int:
        """The next token, from a pointer to the logits after the last one."""
        if self._forced:
            token = self._forced[0]
        else:
            token = self.sampler.draw(logits, self._guide.mask() if self._guide is not None else None)
        if self.n_top is not None:
            self.log_probs.append(token_log_prob(logits, self.sampler.vocab_size, token, self.n_top))
        return token

    def accept(self, token: int) -> None:
        """Makes ``token`` part of the text."""
        self.sampler.accept(token)
        if self._guide is None:
            return
        self._guide.accept(token)
        if self._forced:
            del self._forced[0]
        if not self._forced:
            self._forced = list(self._guide.forced())

    def certain(self, most: int) -> Sequence[int]:
        """Up to ``most`` of the tokens that have to come next and need not be drawn."""
        return () if self.n_top is not None else self._forced[:most]

    @property
    def finished(self) -> bool:
        """Nothing can follow."""
        return self._guide is not None and self._guide.finished


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
