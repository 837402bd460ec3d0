"""Folders without a ``tokenizer.json``: the older files of Hugging Face tokenizers made into one.

``vocab.json`` and ``merges.txt`` (byte-level BPE), or ``vocab.txt`` (WordPiece); beside them
``added_tokens.json`` and ``tokenizer_config.json``, whose ``tokenizer_class`` says how text is split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnet.errors import FormatError
from linnet.formats.inputs import read_bytes, read_json
from linnet.formats.pre_tokenizers import BY_NAME
from linnet.formats.tokenizer_json import framing

# tokenizer_class without "Tokenizer" and "Fast": how text is split before merging
_CLASSES = {"Qwen2": "qwen2"}
_OTHER = "gpt-2"  # GPT2, CodeGen, Roberta, Bart, OPT, ...: all split as GPT-2 does
_FRAMED = ("Roberta", "Bart", "Longformer")  # put CLS in front of a text and SEP behind it
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def added_tokens(directory: Path) -> dict[int, dict[str, Any]]:
    """The added tokens that a folder names, by id: content and flags. Raises FormatError."""
    named = read_json(directory / "added_tokens.json", optional=True)
    found: dict[int, dict[str, Any]] = {}
    for text, index in named.items():
        if not isinstance(index, int):
            raise FormatError(f"{directory / 'added_tokens.json'}: {text!r} has no id")
        found[index] = {"content": text, "special": text.startswith("<|") and text.endswith("|>")}
    decoder = read_json(directory / "tokenizer_config.json", optional=True).get("added_tokens_decoder")
    for key, entry in decoder.items() if isinstance(decoder, dict) else ():
        is_id = key.isascii() and key.isdigit() and len(key) < 10
        if not is_id or not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise FormatError(
                f"{directory / 'tokenizer_config.json'}: the added token {key[:60]!r} makes no sense"
            )
        found[int(key)] = entry
    return found


def json_from_vocab_files(directory: Path) -> bytes | None:
    """The ``tokenizer.json`` of a folder that has only its older files; None where it has none of them.

    Raises SourceError, FormatError.
    """
    settings = read_json(directory / "tokenizer_config.json", optional=True)
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    if (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
        parts = _byte_level(directory, name, settings)
    elif (directory / "vocab.txt").exists():
        parts = _wordpiece(directory, settings)
    else:
        return None
    vocab = parts["model"]["vocab"]
    added = added_tokens(directory)
    for key, value in settings.items():  # special tokens that are named and not listed
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str) and text in vocab:
            added.setdefault(vocab[text], {"content": text, "special": True})
    document = {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": entry["content"], **{flag: bool(entry.get(flag)) for flag in _FLAGS}}
            for index, entry in sorted(added.items())
        ],
        **parts,
    }
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _byte_level(directory: Path, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    vocab = read_json(directory / "vocab.json", optional=True)
    lines = _lines(directory / "merges.txt")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if not all(len(pair) == 2 for pair in merges):
        raise FormatError(f"{directory / 'merges.txt'}: a line is not a pair of tokens")
    how = BY_NAME[_CLASSES.get(name, _OTHER)]
    return {
        **how.parts(add_prefix_space=bool(settings.get("add_prefix_space"))),
        "post_processor": _frame(vocab, "<s>", "</s>", doubled=True) if name in _FRAMED else None,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def _wordpiece(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    vocab: dict[str, int] = {}
    for index, line in enumerate(_lines(directory / "vocab.txt")):
        if line:
            vocab[line] = index
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _frame(vocab, "[CLS]", "[SEP]"),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def _frame(
    vocab: Mapping[str, Any], first: str, last: str, *, doubled: bool = False
) -> dict[str, Any] | None:
    if first not in vocab or last not in vocab:
        return None
    return framing((first, vocab[first]), (last, vocab[last]), doubled=doubled)


def _lines(path: Path) -> list[str]:
    try:
        return [line.removesuffix("\r") for line in read_bytes(path).decode("utf-8").split("\n")]
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not UTF-8") from None
