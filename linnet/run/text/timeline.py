"""The session of one text, or of texts that begin alike: no token is evaluated twice."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.engine.session import Session
from linnet.errors import UsageError
from linnet.run.text.context import cut_middle
from linnet.run.text.prompt_cache import PromptCache

PREFILL_CHUNK = 256  # tokens per call into the core; an interrupt is noticed between calls


class Timeline:
    """Texts that begin alike, one after the other, on one session. Belongs to one text at a time.

    ``cache`` takes the session over when the first text ends. Where :attr:`n_keep` is set the text slides:
    when the context is full it is cut by :func:`cut_middle`; :attr:`dropped_tokens` were left out.
    """

    def __init__(self, session: Session, cache: PromptCache | None = None) -> None:
        self.session = session
        self.n_keep: int | None = None
        self.dropped_tokens = 0
        self._cache = cache

    @property
    def ids(self) -> list[int]:
        """The tokens the session holds."""
        return self.session.ids

    def go_back(self, prompt: Sequence[int]) -> int:
        """Forgets what ``prompt`` does not begin with, and its last token, whose logits are wanted.

        Returns how many tokens of it are left.
        """
        return cut(self.session, min(self.session.common(prompt), len(prompt) - 1))

    def prefill(self, prompt: Sequence[int]) -> None:
        """Makes the session hold ``prompt``; what it holds already is not evaluated again.

        An interrupt leaves what was evaluated.
        """
        for start in range(self.go_back(prompt), len(prompt), PREFILL_CHUNK):
            self.session.eval(prompt[start : start + PREFILL_CHUNK])
        if self._cache is not None:
            self._cache.mark(self.session)

    def slide(self, last: int) -> None:
        """Makes room: the text, which ends with ``last``, goes on from what is left of it."""
        text = [*self.ids, last]
        rest = cut_middle(text, self.session.n_ctx, self.n_keep or 0)
        self.dropped_tokens += len(text) - len(rest)
        self.prefill(rest)

    def finish(self) -> None:
        """The text has ended: the cache, if there is one, takes the session."""
        if self._cache is not None:
            self._cache.keep(self.session)
            self._cache = None


def cut(session: Session, length: int) -> int:
    """Forgets what comes after ``length`` tokens, or everything where the session cannot go back so far (a
    sliding window). Returns how many are left."""
    try:
        session.truncate(length)
    except UsageError:
        session.truncate(0)
        return 0
    return length
