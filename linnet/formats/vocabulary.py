"""A tokenizer's vocabulary in the terms of GGUF (``tokenizer.ggml.*``).

Five kinds: byte-level BPE, whose tokens are spelt in the printable alphabet of GPT-2
and joined by ranked merges; SentencePiece BPE, whose pieces are plain text with
U+2581 for a space and are joined by score; SentencePiece unigram, the same pieces with
log probabilities; WordPiece, whose pieces within a word begin with ``##``; and whole words,
which GGUF has no way to say: their ``tokenizer.json`` goes along.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from linnet.errors import FormatError

SPACE = "\u2581"  # how SentencePiece writes a space
LONGEST = 256  # of a token of which every way to cut it is tried; published vocabularies have at most 128


class VocabularyKind(StrEnum):
    """How tokens are joined; values are those of ``ln_tokenizer_info.kind``."""

    BPE = "bpe"
    SPM = "spm"
    UNIGRAM = "unigram"
    WORDPIECE = "wordpiece"
    WORDLEVEL = "wordlevel"

    @property
    def is_scored(self) -> bool:
        """Has every piece a score?"""
        return self in (VocabularyKind.SPM, VocabularyKind.UNIGRAM)


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
    before merging) belong to byte-level BPE. ``charsmap`` (SentencePiece's
    precompiled_charsmap) and ``squeezes_spaces`` (one space for several, none at the
    ends) say how SentencePiece normalises text.
    """

    kind: VocabularyKind
    tokens: tuple[str, ...]
    kinds: tuple[TokenKind, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = field(default=(), repr=False)
    pre: str = ""
    unk_id: int | None = None
    add_space_prefix: bool = True
    charsmap: bytes = field(default=b"", repr=False)
    squeezes_spaces: bool = False

    def __len__(self) -> int:
        return len(self.tokens)


def check_size(n_tokens: int, n_known: int) -> None:
    """Raises FormatError where a model has far more embeddings than its tokenizer tokens: they take room."""
    if n_tokens > 65536 + 4 * n_known:
        raise FormatError(
            f"the model has {n_tokens} tokens, its tokenizer {n_known}; pass the right one with --tokenizer"
        )


def byte_piece(value: int) -> str:
    """How SentencePiece spells the token of a single byte: ``<0x0A>``."""
    return f"<0x{value:02X}>"


BYTE_PIECES = frozenset(byte_piece(value) for value in range(256))
