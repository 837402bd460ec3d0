"""The SentencePiece model file: a protocol buffer with pieces, scores and a few settings.

https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto; the
wire format is https://protobuf.dev/programming-guides/encoding/. Only the fields that
a BPE vocabulary needs are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.inputs import read_bytes
from linnet.formats.vocabulary import TokenKind, Vocabulary, VocabularyKind

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_PIECE, _SCORE, _KIND = 1, 2, 3  # of ModelProto.SentencePiece
_MODEL_TYPE, _BPE = 3, 2  # of TrainerSpec, and its value for BPE
_ADD_DUMMY_PREFIX = 3  # of NormalizerSpec


def read_sentencepiece(path: Path, n_tokens: int) -> Vocabulary:
    """The vocabulary of a ``.model`` file, for a model with ``n_tokens`` embeddings.

    Raises SourceError, FormatError, or UnsupportedError when it is not BPE.
    """
    data = read_bytes(path)
    try:
        vocabulary = parse_sentencepiece(data)
    except (FormatError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None
    if len(vocabulary) != n_tokens:
        raise FormatError(
            f"{path} has {len(vocabulary)} tokens, the model {n_tokens}; pass the right --tokenizer"
        )
    return vocabulary


def parse_sentencepiece(data: bytes) -> Vocabulary:
    """The vocabulary in the bytes of a ``.model`` file. Raises FormatError, UnsupportedError."""
    tokens, scores, kinds = [], [], []
    model_type, add_space_prefix = 1, True  # the defaults of the specification
    for number, value in _fields(data):
        if number == _PIECES and isinstance(value, bytes):
            piece = dict(_fields(value))
            tokens.append(_text(piece.get(_PIECE)))
            scores.append(_float(piece.get(_SCORE, b"\0\0\0\0")))
            kinds.append(_token_kind(piece.get(_KIND, TokenKind.NORMAL)))
        elif number == _TRAINER and isinstance(value, bytes):
            model_type = dict(_fields(value)).get(_MODEL_TYPE, model_type)  # type: ignore[assignment]
        elif number == _NORMALIZER and isinstance(value, bytes):
            add_space_prefix = bool(dict(_fields(value)).get(_ADD_DUMMY_PREFIX, add_space_prefix))
    if not tokens:
        raise FormatError("not a SentencePiece model: it holds no pieces")
    if model_type != _BPE:
        raise UnsupportedError("the SentencePiece model is not BPE; only BPE is supported")
    unk = kinds.index(TokenKind.UNKNOWN) if TokenKind.UNKNOWN in kinds else None
    return Vocabulary(
        kind=VocabularyKind.SPM,
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        scores=tuple(scores),
        unk_id=unk,
        add_space_prefix=add_space_prefix,
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
