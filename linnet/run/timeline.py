"""A session together with the token ids it holds, so that no token is evaluated twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from linnet.engine.session import Session
from linnet.errors import LinnetError

PREFILL_CHUNK = 256  # tokens per call into the core; an interrupt is noticed between calls


class Timeline:
    """Texts that begin alike, one after the other, on one session.

    :attr:`ids` are the tokens the session holds. Belongs to one text at a time.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.ids: list[int] = []

    def prefill(self, prompt: Sequence[int]) -> int:
        """Makes the session hold ``prompt``; returns how many tokens had to be evaluated.

        What it holds already is kept, apart from the last token, which is evaluated
        for its logits. An interrupt leaves what was evaluated.
        """
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, prompt, strict=False))
        kept = self._cut(min(sum(1 for _ in same), len(prompt) - 1))
        for start in range(kept, len(prompt), PREFILL_CHUNK):
            chunk = prompt[start : start + PREFILL_CHUNK]
            self.session.eval(chunk)
            self.ids += chunk
        return len(prompt) - kept

    @contextmanager
    def following(self, prompt: Sequence[int], made: Sequence[int]) -> Iterator[None]:
        """Around drawing tokens onto the session.

        Afterwards it holds :attr:`ids`, those of ``prompt`` and ``made`` that were
        evaluated, and nothing else, such as guesses.
        """
        try:
            yield
        finally:
            self.ids = [*prompt, *made][: len(self.session)]
            if len(self.session) > len(self.ids):
                self._cut(len(self.ids))

    def _cut(self, length: int) -> int:
        """Forgets what comes after; everything where the session cannot go back so far (a sliding window)."""
        if length < len(self.session):
            try:
                self.session.truncate(length)
            except LinnetError:
                self.session.truncate(0)
                length = 0
        self.ids = self.ids[:length]
        return length
