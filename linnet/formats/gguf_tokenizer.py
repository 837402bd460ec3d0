"""A tokenizer in the metadata of a GGUF file (``tokenizer.*``).

``tokenizer.ggml.*`` is what every reader understands; the whole ``tokenizer.json``
goes along as ``tokenizer.huggingface.json``, because a vocabulary and merges do not
say how text is normalised and split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.arch.values import flag, text
from linnet.formats.parts import TokenizerParts
from linnet.formats.vocabulary import SPACE, TokenKind, Vocabulary, VocabularyKind
from linnet.types import SpecialTokens

_MODELS = {
    VocabularyKind.BPE: "gpt2",
    VocabularyKind.SPM: "llama",
    VocabularyKind.UNIGRAM: "t5",
    VocabularyKind.WORDPIECE: "bert",
    VocabularyKind.WORDLEVEL: "wordlevel",  # our word; needs the tokenizer.json
}
_CHARSMAP = "precompiled_charsmap"
_JSON = "tokenizer.huggingface.json"


def metadata_from_tokenizer(tokenizer: TokenizerParts, special: SpecialTokens) -> dict[str, Any]:
    """The ``tokenizer.*`` keys, in the order of writing."""
    vocabulary = tokenizer.vocabulary
    keys: dict[str, Any] = {"model": _MODELS[vocabulary.kind]}
    if vocabulary.kind is VocabularyKind.BPE:
        keys["pre"] = vocabulary.pre
    keys["tokens"] = _written(vocabulary)
    if vocabulary.kind.is_scored:
        keys["scores"] = np.array(vocabulary.scores, dtype="<f4")
    keys["token_type"] = np.array(vocabulary.kinds, dtype="<i4")
    if vocabulary.kind is VocabularyKind.BPE:
        keys["merges"] = list(vocabulary.merges)
    ids = {"bos": special.bos_id, "eos": special.eos_id, "unknown": vocabulary.unk_id}
    keys |= {f"{name}_token_id": value for name, value in ids.items() if value is not None}
    if (vocabulary.kind is VocabularyKind.WORDPIECE or special.add_sep) and special.eos_id is not None:
        keys["seperator_token_id"] = special.eos_id  # spelled like that
    keys["add_bos_token"] = special.add_bos
    if special.add_eos or vocabulary.kind is VocabularyKind.WORDPIECE:  # of which readers expect it
        keys["add_eos_token"] = special.add_eos
    if special.add_sep:
        keys["add_sep_token"] = True
    if vocabulary.kind.is_scored:
        keys["add_space_prefix"] = vocabulary.add_space_prefix
        keys["remove_extra_whitespaces"] = vocabulary.squeezes_spaces
    if vocabulary.charsmap:
        keys[_CHARSMAP] = np.frombuffer(vocabulary.charsmap, dtype=np.uint8)
    metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    if tokenizer.json is not None:
        metadata[_JSON] = tokenizer.json.decode("utf-8", "surrogateescape")
    return metadata


def tokenizer_from_metadata(metadata: Mapping[str, Any]) -> tuple[TokenizerParts, SpecialTokens]:
    """Undoes :func:`metadata_from_tokenizer`. Raises FormatError, UnsupportedError."""
    keys = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    model = text(keys, "model", "")
    kind = next((kind for kind, name in _MODELS.items() if name == model), None)
    if kind is None:
        raise UnsupportedError(
            f"tokenizer model {model!r} is not supported; known: {', '.join(_MODELS.values())}"
        )
    tokens = _strings(keys, "tokens")
    n = len(tokens)
    kinds = _kinds(keys, n)
    charsmap = keys.get(_CHARSMAP)
    vocabulary = Vocabulary(
        kind=kind,
        tokens=_as_bert_writes(tokens, kinds) if kind is VocabularyKind.WORDPIECE else tokens,
        kinds=kinds,
        scores=_scores(keys, n) if kind.is_scored else (),
        merges=_strings(keys, "merges") if kind is VocabularyKind.BPE else (),
        pre=text(keys, "pre", "default") if kind is VocabularyKind.BPE else "",
        unk_id=_token_id(keys, "unknown", n),
        add_space_prefix=kind.is_scored and flag(keys, "add_space_prefix", True),
        charsmap=charsmap.tobytes() if isinstance(charsmap, np.ndarray) and charsmap.itemsize == 1 else b"",
        squeezes_spaces=flag(keys, "remove_extra_whitespaces", kind is VocabularyKind.UNIGRAM),
    )
    bos_id, eos_id = _token_id(keys, "bos", n), _token_id(keys, "eos", n)
    framed = kind is VocabularyKind.WORDPIECE
    if framed:  # files of others may name what is around a text by these words alone
        bos_id = bos_id if bos_id is not None else _token_id(keys, "cls", n)
        eos_id = eos_id if eos_id is not None else _token_id(keys, "seperator", n)
    add_eos = flag(keys, "add_eos_token", framed)
    # A separator that is named, and is what ends a text, stands between two texts besides; not BERT's.
    doubled = add_eos and not framed and eos_id is not None and _token_id(keys, "seperator", n) == eos_id
    special = SpecialTokens(
        bos_id=bos_id,
        eos_id=eos_id,
        add_bos=flag(keys, "add_bos_token", framed or kind is VocabularyKind.SPM),
        add_eos=add_eos,
        add_sep=doubled and flag(keys, "add_sep_token", True),
    )
    json = metadata.get(_JSON)
    return TokenizerParts(
        vocabulary, json.encode("utf-8", "surrogateescape") if isinstance(json, str) else None
    ), special


def _written(vocabulary: Vocabulary) -> list[str]:
    """The tokens as GGUF has them: it marks the WordPiece pieces that begin a word, BERT the others."""
    if vocabulary.kind is not VocabularyKind.WORDPIECE:
        return list(vocabulary.tokens)
    return [
        token if kind is not TokenKind.NORMAL else token[2:] if token.startswith("##") else SPACE + token
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    ]


def _as_bert_writes(tokens: tuple[str, ...], kinds: tuple[TokenKind, ...]) -> tuple[str, ...]:
    return tuple(
        token if kind is not TokenKind.NORMAL else token[1:] if token.startswith(SPACE) else "##" + token
        for token, kind in zip(tokens, kinds, strict=True)
    )


def _strings(keys: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = keys.get(key)
    if not isinstance(value, list):
        raise FormatError(f"tokenizer.ggml.{key} is missing or not a list of texts")
    return tuple(value)


def _kinds(keys: Mapping[str, Any], n: int) -> tuple[TokenKind, ...]:
    values = keys.get("token_type")
    if values is None:
        return (TokenKind.NORMAL,) * n
    if not isinstance(values, np.ndarray) or len(values) != n:
        raise FormatError("tokenizer.ggml.token_type does not have one entry per token")
    try:
        return tuple(TokenKind(int(value)) for value in values)
    except ValueError as error:
        raise FormatError(f"tokenizer.ggml.token_type: {error}") from None


def _scores(keys: Mapping[str, Any], n: int) -> tuple[float, ...]:
    values = keys.get("scores")
    if not isinstance(values, np.ndarray) or len(values) != n or values.dtype.kind != "f":
        raise FormatError("tokenizer.ggml.scores does not have one number per token")
    return tuple(values.tolist())


def _token_id(keys: Mapping[str, Any], name: str, n: int) -> int | None:
    value = keys.get(f"{name}_token_id")
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < n:
        raise FormatError(f"tokenizer.ggml.{name}_token_id is {value}, outside the {n} tokens")
    return value
