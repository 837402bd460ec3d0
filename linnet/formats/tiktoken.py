"""Rank files of tiktoken: a line per token, its bytes in base64 and its rank.

They say neither how text is split nor which special tokens there are; both follow from the
number of ranks, because few families publish such files.
"""

from __future__ import annotations

import binascii
import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.parts import TokenizerParts
from linnet.formats.pre_tokenizers import BY_NAME, PreTokenizer
from linnet.formats.tokenizer_json import vocabulary_of
from linnet.formats.vocabulary import LONGEST

_Ids = NDArray[np.int64]


@dataclass(frozen=True)
class _Family:
    how: PreTokenizer
    special: Sequence[str]


def _llama3_special() -> list[str]:
    """Of Llama 3.1 (llama-models, tokenizer.py, and the tokenizer.json of its makers)."""
    named = {4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id"}
    named |= {0: "begin_of_text", 1: "end_of_text", 8: "eom_id", 9: "eot_id", 10: "python_tag"}
    reserved = iter(range(256))
    return [f"<|{named.get(i) or f'reserved_special_token_{next(reserved)}'}|>" for i in range(256)]


_FAMILIES = {  # by the number of ranks
    128000: _Family(BY_NAME["llama-bpe"], _llama3_special()),
    151643: _Family(BY_NAME["qwen2"], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
}


def is_tiktoken(data: bytes) -> bool:
    """Is this the beginning of a rank file?"""
    first = data.split(b"\n", 1)[0].split(b" ")
    return len(first) == 2 and first[1].strip().isdigit() and _decoded(first[0]) is not None


def parse_ranks(data: bytes, n_tokens: int, added: Mapping[int, Mapping[str, Any]]) -> TokenizerParts:
    """The tokenizer in a rank file, for a model with ``n_tokens`` embeddings; ``added`` as below."""
    document = document_from_ranks(data, added)
    text = json.dumps(document, ensure_ascii=False).encode()
    return TokenizerParts(vocabulary_of(document, n_tokens), text)


def document_from_ranks(data: bytes, added: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """What a ``tokenizer.json`` of the ranks holds; ``added`` are its added tokens by id, where known.

    Raises FormatError, and UnsupportedError for a file of an unknown number of ranks.
    """
    ranks = _ranks(data)
    family = _FAMILIES.get(len(ranks))
    if family is None:
        raise UnsupportedError(
            f"a tiktoken file of {len(ranks)} ranks: it does not say how its tokenizer splits text; "
            "add the tokenizer.json of the model"
        )
    special = {len(ranks) + i: {"content": text, "special": True} for i, text in enumerate(family.special)}
    return {
        "version": "1.0",
        "added_tokens": [_added(index, entry) for index, entry in sorted((added or special).items())],
        **family.how.parts(),
        "post_processor": _bos_template(family.special[0], len(ranks)) if family.how.add_bos else None,
        "model": {
            "type": "BPE",
            "ignore_merges": family.how.ignore_merges,
            "vocab": ranks,
            "merges": _merges(ranks),
        },
    }


def _ranks(data: bytes) -> dict[str, int]:
    """The ranks by token, spelt as byte-level BPE spells it."""
    ranks: dict[str, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        well_formed = len(parts) == 2 and parts[1].isdigit() and len(parts[1]) < 10
        token = _decoded(parts[0]) if well_formed else None
        if token is None or len(token) > LONGEST:
            raise FormatError(f"line {number} of the tiktoken file is not a token and its rank")
        spelt = codecs.charmap_decode(token, "strict", _ALPHABET)[0]
        if spelt in ranks:
            raise FormatError(f"line {number} of the tiktoken file repeats a token")
        ranks[spelt] = int(parts[1])
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise FormatError("the ranks of the tiktoken file do not count up from 0")
    return ranks


def _decoded(text: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(text, strict_mode=True) or None
    except binascii.Error:
        return None


def _merges(ranks: Mapping[str, int]) -> list[str]:
    """Every way to join two tokens into a third: tiktoken joins the neighbours whose joint rank is lowest."""
    tokens = sorted(ranks, key=ranks.__getitem__)
    lengths = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    parts = _PartHashes("".join(tokens))
    hashes = parts.of(starts, ends)
    by_hash = np.argsort(hashes)
    table = hashes[by_hash]
    if np.any(table[1:] == table[:-1]):
        raise FormatError("the tokens of the tiktoken file are made to collide in a table")

    def find(begin: _Ids, end: _Ids) -> _Ids:
        """The ranks of the tokens that lie there; -1 where none does."""
        wanted = parts.of(begin, end)
        places = np.minimum(np.searchsorted(table, wanted), len(tokens) - 1)
        return np.where(table[places] == wanted, by_hash[places], -1)

    joint = np.repeat(np.arange(len(tokens)), lengths - 1)
    cuts = np.delete(np.arange(ends[-1]), starts)
    left = find(starts[joint], cuts)
    found = left >= 0
    left, joint, cuts = left[found], joint[found], cuts[found]
    right = find(cuts, ends[joint])
    found = right >= 0
    left, joint, right = left[found], joint[found], right[found]
    best_first = np.lexsort((left, joint))
    return [
        f"{tokens[a]} {tokens[b]}"
        for a, b in zip(left[best_first].tolist(), right[best_first].tolist(), strict=True)
    ]


class _PartHashes:
    """Hashes of parts of a text, each from two sums over what is in front (Karp and Rabin 1987)."""

    _BASE = 0x9E3779B97F4A7C15

    def __init__(self, text: str) -> None:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
        powers = np.cumprod(np.full(len(codes), self._BASE, dtype=np.uint64))
        self._sums = np.concatenate(([np.uint64(0)], np.cumsum(codes * powers)))
        inverse = np.full(len(codes), pow(self._BASE, -1, 1 << 64), dtype=np.uint64)
        self._inverse_powers = np.cumprod(inverse)

    def of(self, begin: _Ids, end: _Ids) -> NDArray[np.uint64]:
        return (self._sums[end] - self._sums[begin]) * self._inverse_powers[begin]


def _alphabet() -> str:
    """The character that stands for each byte (Radford et al. 2019, GPT-2's bytes_to_unicode)."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in visible else next(others)) for byte in range(256))


_ALPHABET = _alphabet()


def _added(index: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": index, **{key: bool(entry.get(key, missing)) for key, missing in flags.items()},
            "content": entry["content"]}  # fmt: skip


def _bos_template(bos: str, index: int) -> dict[str, Any]:
    begin = {"SpecialToken": {"id": bos, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokens = {bos: {"id": bos, "ids": [index], "tokens": [bos]}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text],
        "special_tokens": tokens,
    }
