"""A tokenizer's vocabulary in the terms of GGUF (``tokenizer.ggml.*``).

Two kinds: byte-level BPE, whose tokens are spelt in the printable alphabet of GPT-2
and joined by ranked merges, and SentencePiece BPE, whose pieces are plain text with
U+2581 for a space and are joined by score.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

SPACE = "\u2581"  # how SentencePiece writes a space


class VocabularyKind(StrEnum):
    """How tokens are joined; values are those of ``ln_tokenizer_info.kind``."""

    BPE = "bpe"
    SPM = "spm"


class TokenKind(IntEnum):
    """What a token is for. Values are those of GGUF and of SentencePiece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and what is needed to join them.

    ``kinds`` has one entry per token, as has ``scores`` for SentencePiece. ``merges``
    ("left right", best first) and ``pre`` (llama.cpp's name of the way text is split
    before merging) belong to byte-level BPE.
    """

    kind: VocabularyKind
    tokens: tuple[str, ...]
    kinds: tuple[TokenKind, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = field(default=(), repr=False)
    pre: str = ""
    unk_id: int | None = None
    add_space_prefix: bool = True

    def __len__(self) -> int:
        return len(self.tokens)


def byte_piece(value: int) -> str:
    """How SentencePiece spells the token of a single byte: ``<0x0A>``."""
    return f"<0x{value:02X}>"


BYTE_PIECES = frozenset(byte_piece(value) for value in range(256))
