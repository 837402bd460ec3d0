"""The text of tokens, one after the other as they are drawn."""

from __future__ import annotations

import codecs
from collections.abc import Mapping

from linnet.engine.tokenizer import Tokenizer


class Spelling:
    """What tokens say as they come; the bytes of a character wait for its last one.

    The first token begins a text where it is ``at_start``. Those in ``special`` say what stands there.
    """

    def __init__(
        self, tokenizer: Tokenizer, special: Mapping[int, str] | None = None, *, at_start: bool = False
    ) -> None:
        self._tokenizer, self._special, self._at_start = tokenizer, special or {}, at_start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """What is certain after ``token``."""
        if token in self._special:
            return self.finish() + self._special[token]
        said = self._tokenizer.decode([token], at_start=self._at_start)
        self._at_start = False
        return self._decoder.decode(said)

    def finish(self) -> str:
        """What is left of a character that did not come."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
