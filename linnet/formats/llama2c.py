"""The files of llama2.c: weights (legacy, version 1, version 2) and tokenizers.

Layouts as written by https://github.com/karpathy/llama2.c/blob/master/export.py:

legacy     7 int32 (dim, ffn_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len;
           a negative vocab_size: the output has its own matrix), then f32: embedding,
           attention norms, q, k, v, o, ffn norms, gate, down, up, final norm, two tables
           of rotary positions that nobody needs, output
version 1  256-byte header ("ak42", 1, the 7 int32, a byte: tied), then f32: attention
           norms, ffn norms, final norm, embedding, q, k, v, o, gate, down, up, output
version 2  the same header and an int32 group size; the norms in f32, then each matrix
           as int8 values followed by one f32 scale per group of its flattened values

A kind of matrix is stored for all layers together. Rotary positions turn neighbouring
pairs, as in GGUF, so no row moves.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from linnet.errors import FormatError, SourceError
from linnet.formats.arch import llama
from linnet.formats.arch.family import checked
from linnet.formats.inputs import map_bytes
from linnet.formats.parts import ModelParts, RawBytes, Tensor, TokenizerParts
from linnet.formats.vocabulary import BYTE_PIECES, SPACE, TokenKind, Vocabulary, VocabularyKind
from linnet.types import ModelFacts, SpecialTokens, TensorType

_MAGIC = b"24ka"  # 0x616b3432, "ak42" on paper
_HEADER_BYTES = 256  # of version 1 and 2
_LEGACY_HEADER_BYTES = 28
_NORM_EPS = 1e-5  # fixed in run.c, as is the base of the rotary positions
_ROPE_THETA = 10000.0
_UNK, _BOS, _EOS = 0, 1, 2
_IMPLAUSIBLE = 1 << 24  # four bytes of text read as a number are larger

_ORDER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up")
_LEGACY_ORDER = (
    "token_embd", "attn_norm", *_ORDER[:4], "ffn_norm", *_ORDER[4:], "output_norm", "rotary", "output",
)  # fmt: skip
_VERSION_1_ORDER = ("attn_norm", "ffn_norm", "output_norm", "token_embd", *_ORDER, "output")


@dataclass(frozen=True)
class _Header:
    version: int  # 0 = legacy
    facts: ModelFacts
    group: int  # values that share a scale (version 2)
    n_bytes: int


# ---- weights ----------------------------------------------------------------------


def is_llama2c(head: bytes) -> bool:
    """Do these first 256 bytes of a file look like llama2.c weights?

    The legacy format has no magic; its seven numbers have to be plausible sizes.
    """
    if head.startswith(_MAGIC):
        return True
    try:
        facts = _parse_header(head).facts
    except FormatError:
        return False
    sizes = (facts.dim, facts.ffn_dim, facts.n_layers, facts.n_heads, facts.vocab_size, facts.max_seq_len)
    return max(sizes) < _IMPLAUSIBLE


def read_llama2c(path: Path, tokenizer: TokenizerParts | None) -> ModelParts:
    """The model in a llama2.c file; f32 weights are mapped, int8 ones become f32 when loaded.

    ``tokenizer`` has to be given, as the file holds none. Raises SourceError, FormatError.
    """
    data = map_bytes(path)
    try:
        header = _parse_header(data[:_HEADER_BYTES].tobytes())
        expected = _file_bytes(header)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    if len(data) != expected:
        problem = "truncated" if len(data) < expected else "damaged"
        raise FormatError(f"{path} is {problem}: it has {len(data)} bytes, its header asks for {expected}")
    if tokenizer is None:
        raise SourceError(
            f"{path} holds no tokenizer; pass its llama2.c tokenizer .bin (or .model) with --tokenizer"
        )
    if len(tokenizer.vocabulary) != header.facts.vocab_size:
        raise FormatError(
            f"the tokenizer has {len(tokenizer.vocabulary)} tokens, {path} {header.facts.vocab_size}; "
            "pass the tokenizer the model was trained with"
        )
    sections = dict(_sections(header, data))
    tensors = tuple(
        Tensor(name, TensorType.F32, shape, sections[name])
        for name, shape in llama.FAMILY.tensor_shapes(header.facts)
    )
    return ModelParts(
        facts=header.facts,
        special=SpecialTokens(bos_id=_BOS, eos_id=_EOS, add_bos=True),
        tokenizer=tokenizer,
        tensors=tensors,
        name=path.stem,
    )


def llama2c_vocab_size(path: Path) -> int:
    """The number of tokens of the model in a llama2.c file. Raises SourceError, FormatError."""
    return _parse_header(map_bytes(path)[:_HEADER_BYTES].tobytes()).facts.vocab_size


def _parse_header(head: bytes) -> _Header:
    modern = head.startswith(_MAGIC)
    start = 8 if modern else 0
    n_bytes = _HEADER_BYTES if modern else _LEGACY_HEADER_BYTES
    if len(head) < n_bytes:
        raise FormatError(f"truncated: {len(head)} bytes are too few for the header of a llama2.c file")
    version = struct.unpack_from("<i", head, 4)[0] if modern else 0
    if version not in (0, 1, 2):
        raise FormatError(f"llama2.c version {version} does not exist")
    dim, ffn_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len = struct.unpack_from(
        "<7i", head, start
    )
    tied = head[start + 28] != 0 if modern else vocab_size > 0
    group = struct.unpack_from("<i", head, start + 29)[0] if version == 2 else 1
    sizes = (dim, ffn_dim, n_layers, n_heads, n_kv_heads, abs(vocab_size), max_seq_len, group)
    if min(sizes) <= 0 or dim % n_heads:
        raise FormatError("not a llama2.c file: its header describes no possible model")
    facts = ModelFacts(
        arch=llama.FAMILY.arch,
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=dim // n_heads,
        ffn_dim=ffn_dim,
        vocab_size=abs(vocab_size),
        max_seq_len=max_seq_len,
        norm_eps=_NORM_EPS,
        rope_theta=_ROPE_THETA,
        tied_embeddings=tied,
    )
    return _Header(version, checked(facts), group, n_bytes)


@dataclass(frozen=True)
class _Section:
    """All tensors of one kind: ``n`` of ``shape``, one after the other, ``n_bytes`` each."""

    name: str  # of GGUF, with {} for the layer
    shape: tuple[int, ...]
    n: int
    quantized: bool
    n_bytes: int


def _plan(header: _Header) -> Iterator[_Section]:
    """The sections of a file in their order."""
    facts = header.facts
    one_layer = ModelFacts(**{**vars(facts), "n_layers": 1})
    shapes = {name.removesuffix(".weight"): shape for name, shape in llama.FAMILY.tensor_shapes(one_layer)}
    shapes["rotary"] = (2, facts.max_seq_len, facts.head_dim // 2)
    for kind in _VERSION_1_ORDER if header.version else _LEGACY_ORDER:
        per_layer = f"blk.0.{kind}" in shapes
        shape = shapes.get(f"blk.0.{kind}" if per_layer else kind)
        name = f"blk.{{}}.{kind}.weight" if per_layer else f"{kind}.weight"
        if shape is None:  # the output of a model that shares it with the embedding
            continue
        quantized = header.version == 2 and len(shape) == 2
        elements = prod(shape)
        if quantized and elements % header.group:
            raise FormatError(f"damaged: {kind} is not a whole number of groups of {header.group}")
        n_bytes = elements + elements // header.group * 4 if quantized else elements * 4
        yield _Section(name, shape, facts.n_layers if per_layer else 1, quantized, n_bytes)


def _file_bytes(header: _Header) -> int:
    return header.n_bytes + sum(section.n * section.n_bytes for section in _plan(header))


def _sections(header: _Header, data: RawBytes) -> Iterator[tuple[str, Callable[[], RawBytes]]]:
    """GGUF name and loader of every tensor in the file."""
    position = header.n_bytes
    for section in _plan(header):
        for index in range(section.n):
            raw = data[position : position + section.n_bytes]
            position += section.n_bytes
            yield (
                section.name.format(index),
                _loader(raw, prod(section.shape), header.group if section.quantized else None),
            )


def _loader(raw: RawBytes, n_elements: int, group: int | None) -> Callable[[], RawBytes]:
    if group is None:
        return lambda: raw

    def dequantized() -> RawBytes:
        values = raw[:n_elements].view(np.int8).astype(np.float32).reshape(-1, group)
        scales = np.frombuffer(raw[n_elements:].tobytes(), "<f4").reshape(-1, 1)
        return (values * scales).reshape(-1).view(np.uint8)

    return dequantized


# ---- tokenizers -------------------------------------------------------------------


def parse_tokenizer_bin(data: bytes, n_tokens: int) -> Vocabulary:
    """The vocabulary of a llama2.c ``tokenizer.bin`` with ``n_tokens`` tokens.

    The file: an int32 (length of the longest piece), then per token a f32 score, an
    int32 length and the piece, with spaces where SentencePiece has U+2581 and line
    feeds around "<s>" and "</s>". Raises FormatError.
    """
    position = 4
    pieces: list[str] = []
    scores: list[float] = []
    for _ in range(n_tokens):
        if position + 8 > len(data):
            raise FormatError(f"the tokenizer ends after {len(pieces)} of the model's {n_tokens} tokens")
        score, length = struct.unpack_from("<fi", data, position)
        position += 8
        if not 0 <= length <= len(data) - position:
            raise FormatError(f"not a llama2.c tokenizer, or damaged: token {len(pieces)} has {length} bytes")
        pieces.append(data[position : position + length].decode("utf-8", "surrogateescape"))
        scores.append(score)
        position += length
    if position != len(data):
        raise FormatError(
            f"the tokenizer has more than the model's {n_tokens} tokens; pass the one that belongs to it"
        )
    return _vocabulary([_sentencepiece_spelling(index, piece) for index, piece in enumerate(pieces)], scores)


def parse_vocab_text(text: str, n_tokens: int) -> Vocabulary:
    """The vocabulary of a SentencePiece ``.vocab`` text: per line a piece, a tab and a score."""
    pieces, scores = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        piece, tab, score = line.rpartition("\t")
        try:
            scores.append(float(score))
        except ValueError:
            tab = ""
        if not tab:
            raise FormatError(f"line {number} of the vocabulary is not a piece, a tab and a score")
        pieces.append(piece)
    if len(pieces) != n_tokens:
        raise FormatError(f"the vocabulary has {len(pieces)} tokens, the model {n_tokens}")
    return _vocabulary(pieces, scores)


def _sentencepiece_spelling(index: int, piece: str) -> str:
    if index in (_BOS, _EOS):
        return piece.strip("\n")
    return piece.replace(" ", SPACE)


def _vocabulary(pieces: list[str], scores: list[float]) -> Vocabulary:
    return Vocabulary(
        kind=VocabularyKind.SPM,
        tokens=tuple(pieces),
        kinds=tuple(_kind(index, piece) for index, piece in enumerate(pieces)),
        scores=tuple(scores),
        unk_id=_UNK,
    )


def _kind(index: int, piece: str) -> TokenKind:
    fixed: dict[int, Any] = {_UNK: TokenKind.UNKNOWN, _BOS: TokenKind.CONTROL, _EOS: TokenKind.CONTROL}
    return fixed.get(index) or (TokenKind.BYTE if piece in BYTE_PIECES else TokenKind.NORMAL)
