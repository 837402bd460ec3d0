"""Unigram and WordPiece in a ``tokenizer.json``: from it to a vocabulary, and back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from linnet.errors import FormatError
from linnet.formats.vocabulary import SPACE, Vocabulary, VocabularyKind

SQUEEZE: list[dict[str, Any]] = [  # SentencePiece's remove_extra_whitespaces
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
]


def scored_pieces(model: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The pieces of a Unigram model and their log probabilities, by id. Raises FormatError."""
    pieces = model.get("vocab")
    if not isinstance(pieces, list) or not pieces:
        raise FormatError("tokenizer.json: 'vocab' is not a list of tokens and their scores")
    for piece in pieces:
        well_formed = isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str)
        if not well_formed or not isinstance(piece[1], int | float) or not abs(piece[1]) < 1e300:
            raise FormatError(f"tokenizer.json: the piece {piece!r} is not a token and its score")
    return [(text, float(score)) for text, score in pieces]


def charsmap_of(normalizers: list[dict[str, Any]]) -> bytes:
    """The table of the normalizer ``Precompiled``; empty where there is none. Raises FormatError."""
    for step in normalizers:
        table = step.get("precompiled_charsmap") if step.get("type") == "Precompiled" else None
        if isinstance(table, str):
            try:
                return base64.b64decode(table, validate=True)
            except binascii.Error:
                raise FormatError("tokenizer.json: the precompiled_charsmap is not base64") from None
    return b""


def squeezes(normalizers: list[dict[str, Any]]) -> bool:
    """Do the normalizers leave one space of several?"""
    patterns = [step.get("pattern") for step in normalizers if step.get("type") == "Replace"]
    return {"Regex": " {2,}"} in patterns


def unigram_parts(vocabulary: Vocabulary) -> dict[str, Any]:
    """Normalizer, pre-tokenizer, decoder and model of a SentencePiece unigram vocabulary."""
    steps: list[dict[str, Any]] = []
    if vocabulary.charsmap:
        table = base64.b64encode(vocabulary.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": table})
    if vocabulary.squeezes_spaces:
        steps += SQUEEZE
    scheme = "always" if vocabulary.add_space_prefix else "never"
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": metaspace,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]},
        "model": {
            "type": "Unigram",
            "unk_id": vocabulary.unk_id,
            "vocab": [list(pair) for pair in zip(vocabulary.tokens, vocabulary.scores, strict=True)],
            "byte_fallback": "<0x00>" in vocabulary.tokens,
        },
    }


def wordpiece_parts(vocabulary: Vocabulary) -> dict[str, Any]:
    """The same of a WordPiece vocabulary; one without capital letters is taken for one without case."""
    pieces = [token.removeprefix("##") for token in vocabulary.tokens]
    has_case = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": not has_case,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": vocabulary.tokens[vocabulary.unk_id] if vocabulary.unk_id is not None else "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
        },
    }


KINDS = {  # by the type of a model
    "Unigram": VocabularyKind.UNIGRAM,
    "WordPiece": VocabularyKind.WORDPIECE,
    "WordLevel": VocabularyKind.WORDLEVEL,
}
