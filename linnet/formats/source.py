"""A model or tokenizer in any format, told apart by what is in the file, not by its name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from linnet.errors import FormatError, SourceError, UnsupportedError
from linnet.formats import gguf
from linnet.formats.checkpoint import read_checkpoint, read_config, read_tokenizer
from linnet.formats.gguf_tokenizer import tokenizer_from_metadata
from linnet.formats.inputs import is_checkpoint, map_bytes, read_bytes
from linnet.formats.llama2c import (
    is_llama2c,
    llama2c_vocab_size,
    parse_tokenizer_bin,
    parse_vocab_text,
    read_llama2c,
)
from linnet.formats.parts import ModelParts, TokenizerParts
from linnet.formats.sentencepiece import parse_sentencepiece
from linnet.formats.store import locate
from linnet.formats.tiktoken import is_tiktoken, parse_ranks
from linnet.formats.tokenizer_json import vocabulary_from_json

_HEAD = 256  # bytes that tell the formats apart


def source_kind(path: Path) -> str:
    """``checkpoint``, ``gguf`` or ``llama2.c``. Raises SourceError, FormatError."""
    path = locate(path)
    if is_checkpoint(path):
        return "checkpoint"
    head = map_bytes(path)[:_HEAD].tobytes()
    if not head:
        raise FormatError(f"{path} is empty; download or convert it again")
    if head.startswith(gguf.MAGIC):
        return "gguf"
    if is_llama2c(head):
        return "llama2.c"
    if path.suffix == ".json":
        raise SourceError(f"{path} is part of a checkpoint; name its folder instead: {path.parent}")
    raise FormatError(
        f"{path} is neither a GGUF file, a checkpoint folder nor a llama2.c file (or it is damaged)"
    )


def read_model(path: Path, tokenizer: Path | None = None) -> ModelParts:
    """The model in ``path``, whatever its format; ``tokenizer`` takes the place of its own.

    Raises SourceError, FormatError or UnsupportedError.
    """
    path = locate(path)
    kind = source_kind(path)
    if kind == "llama2.c":
        given = open_tokenizer(tokenizer, llama2c_vocab_size(path)) if tokenizer else None
        return read_llama2c(path, given)
    if kind == "checkpoint":
        folder = path if path.is_dir() else path.parent
        given = open_tokenizer(tokenizer, _config_vocab_size(folder)) if tokenizer else None
        return read_checkpoint(path, given)
    parts = gguf.read_gguf(path)
    if tokenizer is None:
        return parts
    return replace(parts, tokenizer=open_tokenizer(tokenizer, parts.facts.vocab_size))


def open_tokenizer(path: Path, n_tokens: int) -> TokenizerParts:
    """The tokenizer in ``path`` for a model with ``n_tokens`` embeddings.

    Knows ``tokenizer.json``, SentencePiece ``.model`` and ``.vocab``, tiktoken's ranks, the
    tokenizer of llama2.c, GGUF, and folders. Raises SourceError, FormatError or UnsupportedError.
    """
    path = locate(path)
    if os.path.isdir(path):
        return read_tokenizer(path, n_tokens)
    data = read_bytes(path)
    if not data:
        raise FormatError(f"{path} is empty; pass the file of a tokenizer")
    try:
        parts = _parse_tokenizer(data, n_tokens)
    except (FormatError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None
    if len(parts.vocabulary) != n_tokens:
        raise FormatError(
            f"{path} has {len(parts.vocabulary)} tokens, the model {n_tokens}; pass the right one"
        )
    return parts


def _parse_tokenizer(data: bytes, n_tokens: int) -> TokenizerParts:
    if data.startswith(gguf.MAGIC):
        return tokenizer_from_metadata(gguf.parse_gguf(np.frombuffer(data, np.uint8)).metadata)[0]
    if data.lstrip()[:1] == b"{":
        return TokenizerParts(vocabulary_from_json(data, n_tokens), data)
    if is_tiktoken(data):
        return parse_ranks(data, n_tokens, {})
    if data[2:4] == b"\0\0":  # the length of the longest piece is a small int32
        return TokenizerParts(parse_tokenizer_bin(data, n_tokens))
    try:
        lines = data.decode("utf-8")
    except UnicodeDecodeError:
        return TokenizerParts(parse_sentencepiece(data))
    if "\0" in lines or "\t" not in lines.split("\n", 1)[0]:
        return TokenizerParts(parse_sentencepiece(data))
    return TokenizerParts(parse_vocab_text(lines, n_tokens))


def _config_vocab_size(directory: Path) -> int:
    value = read_config(directory).get("vocab_size")
    if not isinstance(value, int) or value <= 0:
        raise FormatError(f"{directory / 'config.json'}: 'vocab_size' is not a possible size")
    return value
