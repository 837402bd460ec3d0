"""Unigram, WordPiece, rank files and older files against the libraries that define them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from test_tokenizer import (
    assert_same_ids,
    build_qwen,
    byte_speller,
    code_points,
    make_texts,
    random_characters,
    word_counter,
)
from tokenizers import decoders, models, normalizers, pre_tokenizers

from linnet.engine.memory import Image
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import FormatError, UnsupportedError
from linnet.formats.gguf_tokenizer import metadata_from_tokenizer, tokenizer_from_metadata
from linnet.formats.parts import TokenizerParts
from linnet.formats.sentencepiece import parse_sentencepiece
from linnet.formats.source import open_tokenizer
from linnet.formats.tiktoken import document_from_ranks
from linnet.formats.tokenizer_json import json_from_vocabulary, vocabulary_from_json
from linnet.formats.vocabulary import Vocabulary, VocabularyKind
from linnet.types import SpecialTokens

Encode = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    return make_texts(shared, 60_000)


@pytest.fixture(scope="module")
def many_texts(shared: Path) -> list[str]:
    texts = make_texts(shared, 6_500_000)
    assert sum(len(text.encode()) for text in texts) >= 5_000_000
    return texts


def from_vocabulary(vocabulary: Vocabulary, folder: Path) -> Tokenizer:
    """The core's tokenizer from a GGUF file that holds nothing but the vocabulary."""
    gguf = pytest.importorskip("gguf")
    metadata = metadata_from_tokenizer(TokenizerParts(vocabulary), SpecialTokens(add_bos=False))
    writer = gguf.GGUFWriter(str(folder / "vocabulary.gguf"), "llama")
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
            writer.add_key_value(key, value.tobytes(), gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8)
        else:
            writer.add_array(key, value.tolist() if isinstance(value, np.ndarray) else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert tokenizer_from_metadata(metadata)[0].vocabulary == vocabulary
    return Tokenizer.from_gguf(Image.open(folder / "vocabulary.gguf"))


def assert_same(ours: Encode, reference: Encode, texts: list[str]) -> None:
    for text in texts:
        found, expected = ours(text), reference(text)
        if found != expected:
            pairs = enumerate(zip(found, expected, strict=False))
            first = next((i for i, (a, b) in pairs if a != b), min(len(found), len(expected)))
            where = slice(max(0, first - 3), first + 4)
            pytest.fail(f"of {text[:60]!r}: id {first}: {found[where]} instead of {expected[where]}")


# ---- WordPiece --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(shared: Path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    data = (shared / "tokenizers" / "bert" / "bert-base-uncased.tokenizer.json").read_bytes()
    return Tokenizer.from_json(data), tokenizers.Tokenizer.from_str(data.decode())


def check_wordpiece(bert: tuple[Tokenizer, tokenizers.Tokenizer], shared: Path, texts: list[str]) -> None:
    ours, reference = bert
    gguf = Tokenizer.from_gguf(Image.open(shared / "tokenizers" / "ggml-vocab" / "ggml-vocab-bert-bge.gguf"))
    for text in texts:
        assert_same_ids(ours, reference, text)
        assert gguf.encode(text) == ours.encode(text)
        ids = ours.encode(text, framed=True)
        assert ids[0] == 101 and ids[-1] == 102 and ids[1:-1] == ours.encode(text)


def test_wordpiece(bert: tuple[Tokenizer, tokenizers.Tokenizer], shared: Path, texts: list[str]) -> None:
    check_wordpiece(bert, shared, texts)
    ours, reference = bert
    assert (ours.kind, ours.bos_id, ours.eos_id, ours.add_eos) == ("wordpiece", 101, 102, True)
    ids = ours.encode("Hello, world! Don't (embed) uncommonnesses.")
    assert ours.decode(ids).decode() == reference.decode(ids)


@pytest.mark.slow
def test_wordpiece_on_five_megabytes(
    bert: tuple[Tokenizer, tokenizers.Tokenizer], shared: Path, many_texts: list[str]
) -> None:
    check_wordpiece(bert, shared, many_texts)


# ---- unigram ------------------------------------------------------------------------------

UNIGRAM: dict[str, dict[str, Any]] = {
    "nmt_nfkc": {"normalization_rule_name": "nmt_nfkc"},
    "bytes": {"normalization_rule_name": "nmt_nfkc", "byte_fallback": True},
    "identity": {
        "normalization_rule_name": "identity",
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<tag>"],
    },
}


@pytest.fixture(scope="module", params=UNIGRAM)
def unigram(request: pytest.FixtureRequest, shared: Path) -> bytes:
    """A small SentencePiece model, trained here: no large one may be had."""
    library = pytest.importorskip("sentencepiece")
    lines = [line for text in make_texts(shared, 120_000)[:60] for line in text.split("\n") if line]
    out = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(lines[:3000]),
        model_writer=out,
        model_type="unigram",
        vocab_size=4000,
        hard_vocab_limit=False,
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
        **UNIGRAM[request.param],
    )
    return out.getvalue()


def check_unigram(model: bytes, folder: Path, texts: list[str]) -> None:
    library = pytest.importorskip("sentencepiece")
    reference = library.SentencePieceProcessor(model_proto=model)
    vocabulary = parse_sentencepiece(model)
    ours = from_vocabulary(vocabulary, folder)
    assert ours.kind == "unigram"
    assert_same(ours.encode, reference.encode, texts)
    for text in texts[:200:5]:
        ids = ours.encode(text)
        pieces = [ours.decode([id], at_start=i == 0) for i, id in enumerate(ids)]
        assert b"".join(pieces) == ours.decode(ids)


def test_unigram_as_sentencepiece(unigram: bytes, tmp_path: Path, texts: list[str]) -> None:
    check_unigram(unigram, tmp_path, texts)


@pytest.mark.slow
def test_unigram_on_five_megabytes(unigram: bytes, tmp_path: Path, many_texts: list[str]) -> None:
    """Whole documents, and one of megabytes: sums in float become coarse, and start again at -100,000."""
    joined = "\n".join(many_texts)[:3_000_000]
    check_unigram(unigram, tmp_path, [*many_texts, joined, joined.replace("the", "<tag>")])


def check_unigram_json(model: bytes, texts: list[str]) -> None:
    vocabulary = parse_sentencepiece(model)
    document = json_from_vocabulary(vocabulary, SpecialTokens(add_bos=False))
    reference = tokenizers.Tokenizer.from_str(document.decode())
    ours = Tokenizer.from_json(document)
    assert_same(ours.encode, lambda text: reference.encode(text, add_special_tokens=False).ids, texts)
    again = vocabulary_from_json(document, len(vocabulary))
    assert (again.kind, again.tokens, again.charsmap) == (
        VocabularyKind.UNIGRAM,
        vocabulary.tokens,
        vocabulary.charsmap,
    )


def test_unigram_as_the_library(unigram: bytes, texts: list[str]) -> None:
    check_unigram_json(unigram, [text for text in texts if "<" not in text])


@pytest.mark.slow
def test_unigram_json_on_five_megabytes(unigram: bytes, many_texts: list[str]) -> None:
    check_unigram_json(unigram, [text for text in many_texts if "<" not in text])


def test_damaged_charsmap() -> None:
    model = {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0}
    for table in ("AAAA", "/////w==", "BAAAAP////8A"):
        step = {"type": "Precompiled", "precompiled_charsmap": table}
        document = json.dumps({"model": model, "normalizer": step}).encode()
        try:
            Tokenizer.from_json(document).encode("a\u0301 bc" * 10)
        except FormatError as error:
            assert "precompiled_charsmap" in str(error)


# ---- SentencePiece BPE ------------------------------------------------------------------------

SENTENCEPIECE = {
    "tokenizers/llama2/tokenizer.model": 32000,
    "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3": 32768,
    "weights/babyllama_char/tok105.model": 105,
}


def check_sentencepiece(path: Path, n: int, folder: Path, texts: list[str]) -> None:
    library = pytest.importorskip("sentencepiece")
    reference = library.SentencePieceProcessor(model_file=str(path))
    ours = from_vocabulary(open_tokenizer(path, n).vocabulary, folder)
    assert_same(ours.encode, reference.encode, texts)


@pytest.mark.parametrize("name", ["weights/babyllama_char/tok105.model"])
def test_sentencepiece_bpe(shared: Path, name: str, tmp_path: Path, texts: list[str]) -> None:
    check_sentencepiece(shared / name, SENTENCEPIECE[name], tmp_path, texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_sentencepiece_bpe_on_five_megabytes(
    shared: Path, name: str, tmp_path: Path, many_texts: list[str]
) -> None:
    check_sentencepiece(shared / name, SENTENCEPIECE[name], tmp_path, many_texts)


# ---- rank files, older files ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama3(shared: Path) -> tuple[Tokenizer, Any]:
    """The core's tokenizer from the rank file, and tiktoken with the pattern of Meta's tokenizer.py."""
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    path = shared / "tokenizers" / "llama3" / "tokenizer.model"
    document = document_from_ranks(path.read_bytes(), {})
    pattern = document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    reference = tiktoken.Encoding(
        "llama3", pat_str=pattern, mergeable_ranks=load_tiktoken_bpe(str(path)), special_tokens={}
    )
    return Tokenizer.from_json(json.dumps(document).encode()), reference


@pytest.mark.slow
def test_rank_file(llama3: tuple[Tokenizer, Any], shared: Path, texts: list[str]) -> None:
    ours, reference = llama3
    assert_same(ours.encode, reference.encode_ordinary, texts)
    settings = json.loads(
        (shared / "tokenizers" / "configs" / "Llama-3.1-8B.tokenizer_config.json").read_text()
    )
    added = settings["added_tokens_decoder"]
    assert len(added) == 256
    for index, entry in added.items():
        assert ours.encode(entry["content"], special=True) == [int(index)]


@pytest.mark.slow
def test_rank_file_on_five_megabytes(llama3: tuple[Tokenizer, Any], many_texts: list[str]) -> None:
    ours, reference = llama3
    assert_same(ours.encode, reference.encode_ordinary, many_texts)


def test_rank_files_that_say_too_little() -> None:
    with pytest.raises(UnsupportedError, match="how its tokenizer splits text"):
        document_from_ranks(b"YQ== 0\nYg== 1\n", {})
    for broken in (b"YQ== 0\nYQ== 1\n", b"YQ== 1\n", b"!! 0\n", b"YQ==\n"):
        with pytest.raises(FormatError):
            document_from_ranks(broken, {})


@pytest.mark.slow
def test_vocab_json_and_merges(shared: Path, texts: list[str]) -> None:
    folder = shared / "tokenizers" / "qwen2.5"
    parts = open_tokenizer(folder, 151936)
    assert parts.json is not None and parts.vocabulary.pre == "qwen2"
    ours, reference = Tokenizer.from_json(parts.json), build_qwen(folder)
    for text in texts:
        assert_same_ids(ours, reference, text)


def test_vocab_txt(bert: tuple[Tokenizer, tokenizers.Tokenizer], tmp_path: Path, texts: list[str]) -> None:
    vocab = sorted(bert[1].get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("\n".join(token for token, _ in vocab) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    parts = open_tokenizer(tmp_path, len(vocab))
    assert parts.json is not None
    ours = Tokenizer.from_json(parts.json)
    for text in texts[::4]:
        assert ours.encode(text, framed=True) == bert[0].encode(text, framed=True)


# ---- single steps ---------------------------------------------------------------------------------

NORMALIZERS: dict[str, Callable[[], Any]] = {
    "NFD": normalizers.NFD,
    "NFKC": normalizers.NFKC,
    "NFKD": normalizers.NFKD,
    "Lowercase": normalizers.Lowercase,
    "StripAccents": normalizers.StripAccents,
    "Nmt": normalizers.Nmt,
    "Strip": normalizers.Strip,
    "left": lambda: normalizers.Strip(left=True, right=False),
    "bert": lambda: normalizers.BertNormalizer(lowercase=True),
    "cased": lambda: normalizers.BertNormalizer(lowercase=False),
    "albert": lambda: normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()]),
}


def check_normalizer(name: str, texts: list[str]) -> None:
    reference = byte_speller(NORMALIZERS[name]())
    ours = Tokenizer.from_json(reference.to_str().encode())
    for text in texts:
        assert ours.encode(text) == reference.encode(text).ids


@pytest.mark.parametrize("name", NORMALIZERS)
def test_more_normalizers(name: str) -> None:
    import random

    rng = random.Random(11)
    around = ["", " \u3000\n", "\x85\x0b x"]
    check_normalizer(name, [a + random_characters(rng, 500) + b for a in around for b in around])


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizers_of_every_code_point(name: str) -> None:
    check_normalizer(name, ["".join(f"{c}\n" for c in code_points()), "\u0301".join(code_points())])


@pytest.mark.slow
def test_bert_pre_tokenizer_of_every_code_point() -> None:
    reference = word_counter(pre_tokenizers.BertPreTokenizer())
    ours = Tokenizer.from_json(reference.to_str().encode())
    text = "x".join(code_points())
    assert ours.encode(text) == reference.encode(text).ids


def test_frames() -> None:
    """The tokens around a text, in the three ways that files write them."""
    model = models.WordPiece({"[UNK]": 0, "a": 1, "<s>": 2, "</s>": 3}, unk_token="[UNK]")
    reference = tokenizers.Tokenizer(model)
    reference.decoder = decoders.WordPiece()
    document = json.loads(reference.to_str())
    pair = {"sep": ["</s>", 3], "cls": ["<s>", 2]}
    for kind in ("RobertaProcessing", "BertProcessing"):
        ours = Tokenizer.from_json(json.dumps(document | {"post_processor": {"type": kind, **pair}}).encode())
        assert ours.encode("a", framed=True) == [2, 1, 3]
        assert ours.encode("a") == [1]
    twice = {"SpecialToken": {"id": "<s>"}}
    template = {
        "type": "TemplateProcessing",
        "single": [twice, twice, {"Sequence": {"id": "A"}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [2]}},
    }
    ours = Tokenizer.from_json(json.dumps(document | {"post_processor": template}).encode())
    assert ours.encode("a", framed=True) == [2, 2, 1]
    assert (ours.add_bos, ours.add_eos) == (True, False)
