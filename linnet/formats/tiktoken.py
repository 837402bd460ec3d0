"""Rank files of tiktoken: a line per token, its bytes in base64 and its rank.

They say neither how text is split nor which special tokens there are; both follow from the
number of ranks, because few families publish such files.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.tokenizer_json import PRE_TOKENIZERS, byte_level


@dataclass(frozen=True)
class _Family:
    pre: str  # a key of PRE_TOKENIZERS
    special: Sequence[str]
    ignore_merges: bool = False
    nfc: bool = False
    adds_bos: bool = False


def _llama3_special() -> list[str]:
    """Of Llama 3.1 (llama-models, tokenizer.py, and the tokenizer.json of its makers)."""
    named = {4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id"}
    named |= {0: "begin_of_text", 1: "end_of_text", 8: "eom_id", 9: "eot_id", 10: "python_tag"}
    reserved = iter(range(256))
    return [f"<|{named.get(i) or f'reserved_special_token_{next(reserved)}'}|>" for i in range(256)]


_FAMILIES = {  # by the number of ranks
    128000: _Family("llama-bpe", _llama3_special(), ignore_merges=True, adds_bos=True),
    151643: _Family("qwen2", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], nfc=True),
}


def is_tiktoken(data: bytes) -> bool:
    """Is this the beginning of a rank file?"""
    first = data.split(b"\n", 1)[0].split(b" ")
    return len(first) == 2 and first[1].strip().isdigit() and _decoded(first[0]) is not None


def json_from_ranks(data: bytes, added: Mapping[int, Mapping[str, Any]] | None = None) -> bytes:
    """The ``tokenizer.json`` of a rank file; ``added`` are its added tokens by id, where they are known.

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
    document = {
        "version": "1.0",
        "added_tokens": [_added(index, entry) for index, entry in sorted((added or special).items())],
        "normalizer": {"type": "NFC"} if family.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[family.pre]},
        "post_processor": _bos_template(family.special[0], len(ranks)) if family.adds_bos else None,
        "decoder": byte_level(True),
        "model": {
            "type": "BPE",
            "ignore_merges": family.ignore_merges,
            "vocab": {_spelt(token): rank for token, rank in ranks.items()},
            "merges": [[_spelt(left), _spelt(right)] for left, right in _merges(ranks)],
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()


def _ranks(data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()
        token = _decoded(parts[0]) if len(parts) == 2 and parts[1].isdigit() else None
        if token is None or token in ranks:
            raise FormatError(f"line {number} of the tiktoken file is not a new token and its rank")
        ranks[token] = int(parts[1])
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise FormatError("the ranks of the tiktoken file do not count up from 0")
    return ranks


def _decoded(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) or None
    except binascii.Error:
        return None


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every way to join two tokens into a third: tiktoken joins the neighbours whose joint rank is lowest."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in splits if left in ranks and right in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def _alphabet() -> list[str]:
    """The character that stands for each byte (Radford et al. 2019, GPT-2's bytes_to_unicode)."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]


_ALPHABET = _alphabet()


def _spelt(token: bytes) -> str:
    return "".join(_ALPHABET[byte] for byte in token)


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
