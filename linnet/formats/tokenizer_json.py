"""The Hugging Face ``tokenizer.json``: from it to a vocabulary, and back."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.pre_tokenizers import BY_NAME, name_of
from linnet.formats.unigram_json import (
    KINDS,
    SQUEEZE,
    charsmap_of,
    scored_pieces,
    squeezes,
    unigram_parts,
    wordpiece_parts,
)
from linnet.formats.vocabulary import (
    BYTE_PIECES,
    LONGEST,
    SPACE,
    TokenKind,
    Vocabulary,
    VocabularyKind,
    check_size,
)
from linnet.types import SpecialTokens

# ---- from tokenizer.json ----------------------------------------------------------


def vocabulary_from_json(text: bytes, n_tokens: int) -> Vocabulary:
    """The vocabulary in a ``tokenizer.json``, for a model with ``n_tokens`` embeddings.

    Raises FormatError, UnsupportedError.
    """
    return vocabulary_of(parse_tokenizer_json(text), n_tokens)


def vocabulary_of(document: Mapping[str, Any], n_tokens: int) -> Vocabulary:
    """The same of a parsed ``tokenizer.json``.

    Ids the file does not name become unused tokens, as in other converters; ids the
    model has no embedding for are left out. Raises FormatError when the file is
    damaged, UnsupportedError when it is neither BPE (byte-level or SentencePiece),
    Unigram, WordPiece nor WordLevel.
    """
    model = document["model"]
    kind = _vocabulary_kind(document, model)
    unigram = kind is VocabularyKind.UNIGRAM
    pieces = scored_pieces(model) if unigram else []
    vocab = {text: index for index, (text, _) in enumerate(pieces)} if unigram else model.get("vocab")
    if not isinstance(vocab, dict):
        raise FormatError("tokenizer.json: 'vocab' is not a JSON object of tokens and their ids")
    added = {entry["id"]: entry for entry in _added_tokens(document)}
    check_size(n_tokens, len(vocab) + len(added))
    tokens = [f"[PAD{index}]" for index in range(n_tokens)]
    kinds = [TokenKind.UNUSED] * n_tokens
    ids = {**vocab, **{entry["content"]: index for index, entry in added.items()}}
    unknown = _unknown_piece(model, pieces) if kind.is_scored else None
    byte_pieces = BYTE_PIECES if kind.is_scored else frozenset()
    for token, index in ids.items():
        if not isinstance(index, int) or index < 0:
            raise FormatError(f"tokenizer.json gives the token {token!r} the impossible id {index!r}")
        if index < n_tokens:
            tokens[index] = token
            kinds[index] = _kind_of(token, added.get(index), unknown, byte_pieces)
    merges = _merges(model)
    unk_id = model.get("unk_id") if unigram else _unknown_id(model, ids)
    bpe, spm = kind is VocabularyKind.BPE, kind is VocabularyKind.SPM
    normalizers = _steps(document.get("normalizer"), "normalizers")
    scores = _scores(tokens, merges) if spm else ()
    if unigram:
        scores = tuple(pieces[index][1] if index < len(pieces) else 0.0 for index in range(n_tokens))
    return Vocabulary(
        kind=kind,
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        scores=scores,
        merges=tuple(m if isinstance(m, str) else " ".join(m) for m in merges) if bpe else (),
        pre=_pre_name(document) if bpe else "",
        unk_id=unk_id if isinstance(unk_id, int) and 0 <= unk_id < n_tokens else None,
        add_space_prefix=kind.is_scored and _adds_space_prefix(document),
        charsmap=charsmap_of(normalizers) if unigram else b"",
        squeezes_spaces=unigram and squeezes(normalizers),
    )


def _unknown_id(model: Mapping[str, Any], ids: Mapping[str, int]) -> int | None:
    text = model.get("unk_token")
    return ids.get(text) if isinstance(text, str) else None


def parse_tokenizer_json(text: bytes) -> dict[str, Any]:
    """The JSON object of a ``tokenizer.json``. Raises FormatError."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"tokenizer.json is not valid JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise FormatError("tokenizer.json has no 'model'; is it the file of the tokenizers library?")
    return document


def token_id(document: Mapping[str, Any], token: str) -> int | None:
    """The id of ``token`` in a parsed ``tokenizer.json``, or None."""
    for entry in _added_tokens(document):
        if entry["content"] == token:
            return int(entry["id"])
    vocab = document["model"].get("vocab")
    if isinstance(vocab, list):
        pieces = (piece[0] if isinstance(piece, list) and piece else None for piece in vocab)
        return next((index for index, text in enumerate(pieces) if text == token), None)
    index = vocab.get(token) if isinstance(vocab, dict) else None
    return index if isinstance(index, int) else None


def adds_bos(document: Mapping[str, Any], bos: str | None) -> bool:
    """Does the post-processor put ``bos`` in front of every text?"""
    return bos is not None and frame_of(document)[0] == bos


def frame_of(document: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The first token that the post-processor puts in front of every text, and the last behind it."""
    first = last = None
    for step in _steps(document.get("post_processor"), "processors"):
        if step.get("type") in ("BertProcessing", "RobertaProcessing"):
            first, last = _text_of(step.get("cls")), _text_of(step.get("sep"))
        parts = step.get("single") if step.get("type") == "TemplateProcessing" else None
        if isinstance(parts, list) and parts:
            first, last = _special_of(parts[0]), _special_of(parts[-1])
    return first, last


def doubles_sep(document: Mapping[str, Any]) -> bool:
    """Are there two tokens between the texts of a pair, as RoBERTa has them?"""
    doubled = False
    for step in _steps(document.get("post_processor"), "processors"):
        parts = step.get("pair") if step.get("type") == "TemplateProcessing" else None
        parts = parts if isinstance(parts, list) else []
        texts = [i for i, part in enumerate(parts) if isinstance(part, dict) and "Sequence" in part]
        doubled = (
            step.get("type") == "RobertaProcessing"
            or (len(texts) == 2 and texts[1] - texts[0] == 3)
            or doubled
        )
    return doubled


def _text_of(pair: Any) -> str | None:
    text = pair[0] if isinstance(pair, list) and pair else None
    return text if isinstance(text, str) else None


def _special_of(part: Any) -> str | None:
    token = part.get("SpecialToken") if isinstance(part, dict) else None
    text = token.get("id") if isinstance(token, dict) else None
    return text if isinstance(text, str) else None


def _added_tokens(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = _list(document, "added_tokens")
    for entry in entries:
        well_formed = isinstance(entry, dict) and isinstance(entry.get("content"), str)
        if not well_formed or not isinstance(entry.get("id"), int):
            raise FormatError("tokenizer.json: an entry of added_tokens makes no sense")
    return entries


def _list(table: Mapping[str, Any], key: str) -> list[Any]:
    """A list that may be missing or null. Raises FormatError."""
    value = table.get(key)
    if value is not None and not isinstance(value, list):
        raise FormatError(f"tokenizer.json: '{key}' is not a list")
    return value or []


def _vocabulary_kind(document: Mapping[str, Any], model: Mapping[str, Any]) -> VocabularyKind:
    model_type = model.get("type") or _unnamed_type(model)
    if model_type in KINDS:
        return KINDS[model_type]
    if model_type != "BPE":
        raise UnsupportedError(
            f"tokenizer.json holds a tokenizer of type {model_type!r}; known: BPE, {', '.join(KINDS)}"
        )
    if any(
        step.get("type") == "ByteLevel" for step in _steps(document.get("pre_tokenizer"), "pretokenizers")
    ):
        return VocabularyKind.BPE
    if model.get("byte_fallback"):
        return VocabularyKind.SPM
    raise UnsupportedError("tokenizer.json holds a BPE that is neither byte-level nor with byte fallback")


def _unnamed_type(model: Mapping[str, Any]) -> str:
    """The type of a model in a file older than the setting."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "continuing_subword_prefix" in model else "unnamed"


def _unknown_piece(model: Mapping[str, Any], pieces: Sequence[tuple[str, float]]) -> str | None:
    """The piece of what no other one spells: Unigram names its id, BPE its text."""
    if not pieces:
        text = model.get("unk_token")
        return text if isinstance(text, str) else None
    index = model.get("unk_id")
    return pieces[index][0] if isinstance(index, int) and 0 <= index < len(pieces) else None


def _kind_of(
    token: str, added: Mapping[str, Any] | None, unknown: str | None, byte_pieces: frozenset[str]
) -> TokenKind:
    if token == unknown:
        return TokenKind.UNKNOWN
    if added is not None:
        return TokenKind.CONTROL if added.get("special") else TokenKind.USER_DEFINED
    return TokenKind.BYTE if token in byte_pieces else TokenKind.NORMAL


def _merges(model: Mapping[str, Any]) -> list[str | list[str]]:
    """The merges, best first; older files write "left right", newer ones [left, right]."""
    merges = _list(model, "merges")
    for merge in merges:
        well_formed = (
            merge.count(" ") == 1
            if isinstance(merge, str)
            else isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge)
        )
        if not well_formed:
            raise FormatError(f"tokenizer.json: the merge {merge!r} does not name two tokens")
    return merges


def _scores(tokens: list[str], merges: list[str | list[str]]) -> tuple[float, ...]:
    """A score per token that makes joining by score equal joining by rank of the merge."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", "") if isinstance(merge, str) else "".join(merge), index)
    return tuple(float(-rank[token]) if token in rank else 0.0 for token in tokens)


def _pre_name(document: Mapping[str, Any]) -> str:
    normalizers = [step.get("type") for step in _steps(document.get("normalizer"), "normalizers")]
    return name_of(
        _steps(document.get("pre_tokenizer"), "pretokenizers"),
        nfc="NFC" in normalizers,
        ignore_merges=document["model"].get("ignore_merges") is True,
    )


def _adds_space_prefix(document: Mapping[str, Any]) -> bool:
    for step in _steps(document.get("normalizer"), "normalizers"):
        if step.get("type") == "Prepend":
            return True
    for step in _steps(document.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            return step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True)
    return False


def _steps(part: Any, list_key: str) -> list[dict[str, Any]]:
    """A component as a list: the members of a Sequence, or the one it is."""
    if not isinstance(part, dict):
        return []
    members = _list(part, list_key) if part.get("type") == "Sequence" else [part]
    return [dict(member) for member in members if isinstance(member, dict)]


# ---- to tokenizer.json ------------------------------------------------------------


def json_from_vocabulary(vocabulary: Vocabulary, special: SpecialTokens) -> bytes:
    """A ``tokenizer.json`` that splits text as the vocabulary does.

    Raises UnsupportedError where GGUF does not say enough: a byte-level BPE whose way
    of splitting text is named by a word this version has no rule for.
    """
    if vocabulary.kind is VocabularyKind.WORDLEVEL:
        raise UnsupportedError(
            "a vocabulary of whole words does not say how text is split; "
            "pass the model's tokenizer.json with --tokenizer"
        )
    parts = {
        VocabularyKind.BPE: _byte_level_parts,
        VocabularyKind.SPM: _sentencepiece_parts,
        VocabularyKind.UNIGRAM: unigram_parts,
        VocabularyKind.WORDPIECE: wordpiece_parts,
    }[vocabulary.kind]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(vocabulary, index) for index in _special_ids(vocabulary)],
        **parts(vocabulary),
        "post_processor": _post_processor(vocabulary, special),
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "surrogateescape")


def _special_ids(vocabulary: Vocabulary) -> list[int]:
    separate = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED)
    return [index for index, kind in enumerate(vocabulary.kinds) if kind in separate]


def _added_token(vocabulary: Vocabulary, index: int) -> dict[str, Any]:
    return {
        "id": index,
        "content": vocabulary.tokens[index],
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": vocabulary.kinds[index] is not TokenKind.USER_DEFINED,
    }


def _byte_level_parts(vocabulary: Vocabulary) -> dict[str, Any]:
    how = BY_NAME.get(vocabulary.pre)
    if how is None:
        raise UnsupportedError(
            f"the GGUF says only {vocabulary.pre!r} about how its tokenizer splits text, which is not known; "
            "pass the model's tokenizer.json with --tokenizer"
        )
    merges = [merge.split(" ", 1) for merge in vocabulary.merges]
    return {**how.parts(), "model": {**_bpe_model(vocabulary, merges), "ignore_merges": how.ignore_merges}}


def _sentencepiece_parts(vocabulary: Vocabulary) -> dict[str, Any]:
    table = base64.b64encode(vocabulary.charsmap).decode()
    before: list[dict[str, Any]] = [{"type": "Precompiled", "precompiled_charsmap": table}] if table else []
    before += SQUEEZE if vocabulary.squeezes_spaces else []
    spaces: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if vocabulary.add_space_prefix:
        spaces.insert(0, {"type": "Prepend", "prepend": SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": before + spaces},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            **_bpe_model(vocabulary, _merges_by_score(vocabulary)),
            "unk_token": None if vocabulary.unk_id is None else vocabulary.tokens[vocabulary.unk_id],
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def _bpe_model(vocabulary: Vocabulary, merges: list[list[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
        "merges": merges,
    }


def _merges_by_score(vocabulary: Vocabulary) -> list[list[str]]:
    """Every way to join two pieces into a third, best score of the third first.

    SentencePiece joins the neighbours whose joint piece has the best score; the
    tokenizers library joins the pair of the lowest rank. Ranking the pairs by that
    score makes the two agree (Kudo and Richardson 2018, arXiv:1808.06226).
    """
    joinable = {
        token: index
        for index, token in enumerate(vocabulary.tokens)
        if vocabulary.kinds[index] is TokenKind.NORMAL
    }
    longest = max(map(len, joinable), default=0)
    if longest > LONGEST:
        raise UnsupportedError(f"a token of {longest} characters; at most {LONGEST} are supported")
    ranked = sorted(joinable, key=lambda token: -vocabulary.scores[joinable[token]])
    return [
        [token[:cut], token[cut:]]
        for token in ranked
        for cut in range(1, len(token))
        if token[:cut] in joinable and token[cut:] in joinable
    ]


def framing(
    first: tuple[str, int] | None, last: tuple[str, int] | None, *, doubled: bool = False
) -> dict[str, Any] | None:
    """The post-processor that puts ``first`` in front of a text, ``last`` behind: tokens and their ids.

    ``doubled``: as RoBERTa has it, ``last`` stands twice between two texts, which are then of one type.
    """
    around = [token for token in (first, last) if token is not None]
    if not around:
        return None

    def part(token: tuple[str, int] | None, type_id: int) -> list[dict[str, Any]]:
        return [] if token is None else [{"SpecialToken": {"id": token[0], "type_id": type_id}}]

    second = 0 if doubled else 1
    texts = [{"Sequence": {"id": name, "type_id": index}} for name, index in (("A", 0), ("B", second))]
    single = [*part(first, 0), texts[0], *part(last, 0)]
    # Where nothing is between the texts of a pair, the second begins as the first does.
    between = part(last, 0) if doubled else [] if last is not None else part(first, 1)
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *between, texts[1], *part(last, second)],
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in around},
    }


def _post_processor(vocabulary: Vocabulary, special: SpecialTokens) -> dict[str, Any] | None:
    """Puts BOS in front of a text and EOS behind it, where the model was trained that way."""
    wanted = ((special.bos_id, special.add_bos), (special.eos_id, special.add_eos))
    around = ((vocabulary.tokens[i], i) if i is not None and added else None for i, added in wanted)
    return framing(*around, doubled=special.add_sep)
