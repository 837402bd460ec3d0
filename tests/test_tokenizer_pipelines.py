"""The steps around the model, as the tokenizers of well-known models have them; and text that is streamed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from test_tokenizer import SNIPPETS, assert_same_ids, make_texts, random_characters
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from linnet.engine.tokenizer import Tokenizer
from linnet.errors import UnsupportedError
from linnet.formats.gguf_tokenizer import metadata_from_tokenizer, tokenizer_from_metadata
from linnet.formats.parts import TokenizerParts
from linnet.formats.pre_tokenizers import BY_NAME
from linnet.formats.tokenizer_json import json_from_vocabulary, vocabulary_from_json
from linnet.formats.vocabulary import VocabularyKind
from linnet.run.text.spelling import Spelling
from linnet.types import SpecialTokens

LETTERS = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯΑ-ΡΣ-ϵЀ-ҁҊ-ԯԱ-Ֆ]+"
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(*steps: Any, prefix: bool = False, use_regex: bool = False) -> Any:
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)
    return pre_tokenizers.Sequence([*steps, last]) if steps else last


def isolated(*patterns: str) -> list[Any]:
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]


def named(name: str) -> str:
    """The regular expression that a name of GGUF stands for."""
    return BY_NAME[name].patterns[0]


GPT2, DIGITS = byte_level(use_regex=True), pre_tokenizers.Digits(True)
BYTE_LEVEL: dict[str, tuple[Any, Any]] = {  # normalizer and pre-tokenizer
    "GPT-2, OLMo, Phi-2, Whisper": (None, GPT2),
    "GPT-NeoX, ModernBERT": (normalizers.NFC(), GPT2),
    "RoBERTa, OPT": (None, byte_level(prefix=True, use_regex=True)),
    "StarCoder, SmolLM, Granite": (None, byte_level(DIGITS, use_regex=True)),
    "Command R": (normalizers.NFC(), byte_level(DIGITS, use_regex=True)),
    "Llama 3, SmolLM3, LFM2, GLM-4": (None, byte_level(*isolated(named("llama-bpe")))),
    "Qwen 2 and 3": (normalizers.NFC(), byte_level(*isolated(named("qwen2")))),
    "Qwen 3.5": (normalizers.NFC(), byte_level(*isolated(QWEN35))),
    "Mistral Nemo, Apertus": (None, byte_level(*isolated(named("tekken")))),
    "gpt-oss": (None, byte_level(*isolated(named("gpt-4o")))),
    "removed and inverted": (
        None,
        byte_level(pre_tokenizers.Split(Regex(named("gpt-4o")), "removed", invert=True)),
    ),
    "Falcon": (
        None,
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("contiguous"),
                GPT2,
                pre_tokenizers.Digits(False),
                *isolated("[0-9][0-9][0-9]"),
            ]
        ),
    ),
    "removed behind ByteLevel": (
        None,
        pre_tokenizers.Sequence([GPT2, pre_tokenizers.CharDelimiterSplit("\u0120"), DIGITS]),
    ),
    "BLOOM": (None, byte_level(*isolated(r" ?[^(\s|[.,!?…。，、।۔،])]+"))),
    "DeepSeek LLM": (
        None,
        byte_level(
            *isolated("[\r\n]", LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+"),
            DIGITS,
        ),
    ),
    "DeepSeek Coder": (
        None,
        byte_level(*isolated("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"), DIGITS),
    ),
    "DeepSeek V3": (None, byte_level(*isolated(r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", DEEPSEEK3))),
}
METASPACE = pre_tokenizers.Metaspace()
WORDS = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), METASPACE])
FUSED = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
OTHERS: dict[str, tuple[str, Any, Any, Any]] = {  # model, normalizer, pre-tokenizer, decoder
    "Llama 2, TinyLlama": (
        "BPE",
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
        decoders.Sequence([*FUSED, decoders.Strip(" ", 1, 0)]),
    ),
    "Gemma": (
        "BPE",
        normalizers.Replace(" ", "▁"),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        decoders.Sequence(FUSED),
    ),
    "Llama 2, newer": (
        "BPE",
        None,
        pre_tokenizers.Metaspace("▁", "first", split=False),
        decoders.Sequence(FUSED),
    ),
    "T5": ("Unigram", normalizers.NFKC(), METASPACE, decoders.Metaspace()),
    "XLM-RoBERTa": ("Unigram", normalizers.NFKC(), WORDS, decoders.Metaspace()),
    "DeBERTa 3": (
        "Unigram",
        normalizers.Sequence([normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]),
        METASPACE,
        decoders.Metaspace(),
    ),
    "ALBERT": (
        "Unigram",
        normalizers.Sequence(
            [
                normalizers.Replace("``", '"'),
                normalizers.Replace("''", '"'),
                normalizers.NFKD(),
                normalizers.StripAccents(),
                normalizers.Lowercase(),
            ]
        ),
        WORDS,
        decoders.Metaspace(),
    ),
    "MPNet": (
        "WordPiece",
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
    ),
}


@pytest.fixture(scope="module")
def corpus(shared: Path) -> list[str]:
    return [text[:2000] for text in make_texts(shared, 150_000)[::4]]


def trained(model: str, normalizer: Any, pre_tokenizer: Any, corpus: list[str]) -> tokenizers.Tokenizer:
    """A tokenizer of the library with a few hundred tokens."""
    parts: dict[str, tuple[Any, Any]] = {
        "BPE": (
            models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True),
            trainers.BpeTrainer(
                vocab_size=1500,
                special_tokens=["<unk>", "<s>", *(f"<0x{b:02X}>" for b in range(256))],
                show_progress=False,
            ),
        ),
        "bytes": (
            models.BPE(),
            trainers.BpeTrainer(
                vocab_size=900,
                special_tokens=["<s>"],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        ),
        "Unigram": (
            models.Unigram(),
            trainers.UnigramTrainer(
                vocab_size=6000, unk_token="<unk>", special_tokens=["<unk>", "<s>"], show_progress=False
            ),
        ),
        "WordPiece": (
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[UNK]", "<s>"], show_progress=False),
        ),
        "WordLevel": (
            models.WordLevel(unk_token="[UNK]"),
            trainers.WordLevelTrainer(vocab_size=900, special_tokens=["[UNK]", "<s>"], show_progress=False),
        ),
    }
    reference = tokenizers.Tokenizer(parts[model][0])
    if normalizer is not None:
        reference.normalizer = normalizer
    if pre_tokenizer is not None:
        reference.pre_tokenizer = pre_tokenizer
    lines = (line for text in corpus[:40] for line in text.split("\n"))
    reference.train_from_iterator(lines, parts[model][1])
    document = json.loads(reference.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if not t["content"].startswith("<0x")]
    return tokenizers.Tokenizer.from_str(json.dumps(document))


def compare(reference: tokenizers.Tokenizer, corpus: list[str]) -> Tokenizer:
    """The same ids, and the same text of them, as the library has."""
    ours = Tokenizer.from_json(reference.to_str().encode())
    rng = random.Random(12)
    texts = [*corpus, *(random_characters(rng, 200) for _ in range(20))]
    texts += ["".join(rng.choices(SNIPPETS, k=40)) for _ in range(60)]
    for text in texts:
        assert_same_ids(ours, reference, text)
        ids = ours.encode(text)
        decoded = ours.decode(ids).decode("utf-8", "replace")
        if "\ufffd" not in decoded and ours.kind != "unigram":  # whose library joins what is unknown
            assert decoded == reference.decode(ids)
    return ours


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_pipelines(name: str, corpus: list[str]) -> None:
    reference = trained("bytes", *BYTE_LEVEL[name], corpus)
    reference.decoder = decoders.ByteLevel()
    reference.post_processor = processors.ByteLevel(trim_offsets=False)
    compare(reference, corpus)


@pytest.mark.parametrize("name", OTHERS)
def test_other_pipelines(name: str, corpus: list[str]) -> None:
    model, normalizer, pre_tokenizer, decoder = OTHERS[name]
    reference = trained(model, normalizer, pre_tokenizer, corpus)
    reference.decoder = decoder
    compare(reference, corpus)


def test_whole_words(corpus: list[str]) -> None:
    reference = trained("WordLevel", normalizers.Lowercase(), pre_tokenizers.Whitespace(), corpus)
    ours = compare(reference, corpus)  # without a decoder: a space between the words
    assert ours.kind == "wordlevel"
    document = reference.to_str().encode()
    vocabulary = vocabulary_from_json(document, 950)
    assert (vocabulary.kind, vocabulary.unk_id) == (VocabularyKind.WORDLEVEL, 0)
    again, _ = tokenizer_from_metadata(
        metadata_from_tokenizer(TokenizerParts(vocabulary, document), SpecialTokens())
    )
    assert again == TokenizerParts(vocabulary, document)
    with pytest.raises(UnsupportedError, match="whole words"):
        json_from_vocabulary(vocabulary, SpecialTokens())


def test_a_word_without_an_unknown_token() -> None:
    ours = Tokenizer.from_json(b'{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}}')
    assert ours.encode("a") == [0]
    with pytest.raises(UnsupportedError, match="the word 'b' is not in the vocabulary"):
        ours.encode("b")


def test_unknown_text_of_a_unigram_model_is_one_token_also_across_words_or_refused() -> None:
    vocab = [["<unk>", 0.0], ["a", -1.5], ["▁ab", -3.0]]
    document = {"version": "1.0", "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab}}
    ours = Tokenizer.from_json(json.dumps(document).encode())
    theirs = tokenizers.Tokenizer.from_str(json.dumps(document))
    for text in ("xy▁z▁▁xa▁zab▁ab▁", "▁x▁", "▁", "a▁a"):
        assert ours.encode(text) == theirs.encode(text).ids, text
    del document["model"]["unk_id"]  # type: ignore[attr-defined]
    none = Tokenizer.from_json(json.dumps(document).encode())
    assert none.encode("a▁ab") == [1, 2]
    with pytest.raises(UnsupportedError, match="'▁z' is not in the vocabulary, which has no unknown token"):
        none.encode("a▁za")


REFUSED: dict[str, dict[str, Any]] = {
    "CharBPE": {"model": {"type": "CharBPE", "vocab": {}}},
    "end_of_word_suffix": {"model": {"type": "BPE", "vocab": {}, "merges": [], "end_of_word_suffix": "</w>"}},
    "dropout": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}},
    "the normalizer 'ByteLevel'": {"normalizer": {"type": "ByteLevel"}},
    "the pre-tokenizer 'UnicodeScripts'": {"pre_tokenizer": {"type": "UnicodeScripts"}},
    "the pre-tokenizer 'FixedLength'": {"pre_tokenizer": {"type": "FixedLength", "length": 5}},
    "Metaspace behind ByteLevel": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Metaspace"}]}
    },
    "the decoder 'CTC'": {"decoder": {"type": "CTC"}},
    "the decoder 'BPEDecoder'": {"decoder": {"type": "BPEDecoder", "suffix": "</w>"}},
    "a Strip decoder": {"decoder": {"type": "Strip", "content": " ", "start": 0, "stop": 1}},
    "the decoder Replace": {"decoder": {"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}},
    "the post-processor 'New'": {"post_processor": {"type": "New"}},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_refused(reason: str) -> None:
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    with pytest.raises(UnsupportedError, match=reason) as caught:
        Tokenizer.from_json(json.dumps({"model": model} | REFUSED[reason]).encode())
    assert "\n" not in str(caught.value)


# ---- streaming ------------------------------------------------------------------------------------


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What a reader of the stream sees, token by token."""
    spelling = Spelling(tokenizer, at_start=True)
    return [*map(spelling.feed, ids), spelling.finish()]


def cut_at_random(rng: random.Random, tokenizer: Tokenizer, data: bytes) -> list[int]:
    """Ids that spell the bytes, cut wherever a token allows it, also within characters."""
    ids_of: dict[bytes, int] = {}
    for id in range(tokenizer.vocab_size):
        ids_of.setdefault(tokenizer.decode([id], at_start=False), id)
    ids, at = [], 0
    while at < len(data):
        lengths = [n for n in range(1, 8) if data[at : at + n] in ids_of and at + n <= len(data)]
        length = rng.choice(lengths)
        ids.append(ids_of[data[at : at + length]])
        at += length
    return ids


@pytest.mark.parametrize("kind", ["bytes", "BPE"])
def test_streams_split_no_character(kind: str, corpus: list[str]) -> None:
    """Whatever the cuts, a character appears once it is whole, and nothing is lost."""
    rng = random.Random(13)
    pre_tokenizer = GPT2 if kind == "bytes" else None
    reference = trained(kind, None, pre_tokenizer, corpus)
    reference.decoder = decoders.ByteLevel() if kind == "bytes" else decoders.Sequence(FUSED)
    tokenizer = Tokenizer.from_json(reference.to_str().encode())
    for _ in range(10):
        text = random_characters(rng, 100) + "".join(rng.choices(SNIPPETS, k=30))
        text = text.replace("\ufffd", "")
        pieces = streamed(tokenizer, cut_at_random(rng, tokenizer, text.encode()))
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", ["bytes", "BPE", "Unigram", "WordPiece", "WordLevel"])
def test_streams_of_any_tokens(kind: str, corpus: list[str]) -> None:
    """Tokens in any order, which need not spell UTF-8: as if all were decoded at once."""
    rng = random.Random(14)
    steps = {"bytes": GPT2, "BPE": METASPACE, "Unigram": METASPACE}
    reference = trained(kind, None, steps.get(kind, pre_tokenizers.Whitespace()), corpus)
    reference.decoder = {
        "bytes": decoders.ByteLevel(),
        "BPE": decoders.Sequence(FUSED),
        "Unigram": decoders.Metaspace(),
    }.get(kind, decoders.WordPiece())
    tokenizer = Tokenizer.from_json(reference.to_str().encode())
    for _ in range(20):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(200)]
        whole = tokenizer.decode(ids).decode("utf-8", "replace")
        assert "".join(streamed(tokenizer, ids)) == whole
