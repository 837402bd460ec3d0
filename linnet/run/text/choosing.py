"""What decides on the next token: a sampler, and a guide that says which tokens may come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypedDict

from linnet.engine.sampler import Sampler, TokenLogProb, token_log_prob


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
    """Which tokens may come next in one text; see :mod:`linnet.run.text.structured`."""

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
