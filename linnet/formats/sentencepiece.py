"""The SentencePiece model file: a protocol buffer with pieces, scores and a few settings.

https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto; the
wire format is https://protobuf.dev/programming-guides/encoding/. Only the fields that
a vocabulary needs are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.vocabulary import TokenKind, Vocabulary, VocabularyKind

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_PIECE, _SCORE, _KIND = 1, 2, 3  # of ModelProto.SentencePiece
_MODEL_TYPE = 3  # of TrainerSpec
_KINDS = {1: VocabularyKind.UNIGRAM, 2: VocabularyKind.SPM}  # its values
_CHARSMAP, _ADD_DUMMY_PREFIX, _REMOVE_EXTRA_WHITESPACES = 2, 3, 4  # of NormalizerSpec


def parse_sentencepiece(data: bytes) -> Vocabulary:
    """The vocabulary in the bytes of a ``.model`` file. Raises FormatError, UnsupportedError."""
    tokens, scores, kinds = [], [], []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == _PIECES and isinstance(value, bytes):
            piece = dict(_fields(value))
            tokens.append(_text(piece.get(_PIECE)))
            scores.append(_float(piece.get(_SCORE, b"\0\0\0\0")))
            kinds.append(_token_kind(piece.get(_KIND, TokenKind.NORMAL)))
        elif number == _TRAINER and isinstance(value, bytes):
            trainer |= dict(_fields(value))
        elif number == _NORMALIZER and isinstance(value, bytes):
            normalizer |= dict(_fields(value))
    if not tokens:
        raise FormatError("not a SentencePiece model: it holds no pieces")
    model_type = trainer.get(_MODEL_TYPE, 1)
    kind = (
        _KINDS.get(model_type) if isinstance(model_type, int) else None
    )  # the defaults are those of the specification
    if kind is None:
        raise UnsupportedError("the SentencePiece model is neither BPE nor unigram")
    charsmap = normalizer.get(_CHARSMAP, b"")
    unk = kinds.index(TokenKind.UNKNOWN) if TokenKind.UNKNOWN in kinds else None
    return Vocabulary(
        kind=kind,
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        scores=tuple(scores),
        unk_id=unk,
        add_space_prefix=bool(normalizer.get(_ADD_DUMMY_PREFIX, True)),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        squeezes_spaces=bool(normalizer.get(_REMOVE_EXTRA_WHITESPACES, True)),
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one message: (number, value); fixed-size values stay bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(data, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise FormatError("not a SentencePiece model, or damaged")
        if length > len(data) - position:
            raise FormatError("not a SentencePiece model, or truncated")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise FormatError("not a SentencePiece model, or truncated")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise FormatError("not a SentencePiece model, or damaged")


def _text(value: int | bytes | None) -> str:
    if not isinstance(value, bytes):
        raise FormatError("not a SentencePiece model: a piece without text")
    return value.decode("utf-8", "surrogateescape")


def _float(value: int | bytes) -> float:
    if not isinstance(value, bytes) or len(value) != 4:
        raise FormatError("not a SentencePiece model: a score that is not a number")
    return float(struct.unpack("<f", value)[0])


def _token_kind(value: int | bytes) -> TokenKind:
    try:
        return TokenKind(value)  # type: ignore[arg-type]
    except ValueError:
        raise FormatError("not a SentencePiece model: a piece of an unknown kind") from None
