"""Published encodings: those of llama.cpp's vocabularies and those of swift-transformers.

A vector is compared where its vocabulary lies in the shared data; one that is added is taken up by itself.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

from linnet.engine.memory import Image
from linnet.engine.tokenizer import Tokenizer
from linnet.formats.source import open_tokenizer
from linnet.formats.tokenizer_json import json_from_vocabulary
from linnet.types import SpecialTokens

TOKENIZERS = ROOT.parent / "shared" / "data" / "tokenizers"
GGML = sorted(
    path.name.removeprefix("ggml-vocab-").removesuffix(".gguf.inp")
    for path in (TOKENIZERS / "ggml-vocab").glob("*.inp")
)
BERT = "bert/bert-base-uncased.tokenizer.json"
SAME = {  # vocabularies that lie there under another name
    "llama-bpe": "llama3/tokenizer.model",
    "qwen2": "qwen2.5",
    "deepseek-r1-qwen": "qwen2.5",
}
ENCODED = {  # a file each
    "gpt2_encoded_tokens": "gpt2/tokenizer.json",
    "llama_encoded": "llama2/tokenizer.model",
    "llama_3.2_encoded": "llama3/tokenizer.model",
    "bert_uncased_encoded": BERT,
    "gemma_encoded": "gemma/tokenizer.json",
    "falcon_encoded": "falcon/tokenizer.json",
    "t5_base_encoded": "t5-base/tokenizer.json",
}
TESTED = {  # models of tokenizer_tests.json
    "bert-base-uncased": BERT,
    "google-bert/bert-base-uncased": BERT,
    "distilgpt2": "gpt2/tokenizer.json",
    "coreml-projects/Llama-2-7b-chat-coreml": "llama2/tokenizer.model",
    "pcuenq/Llama-3.2-1B-Instruct-tokenizer": "llama3/tokenizer.model",
    "pcuenq/gemma-tokenizer": "gemma/tokenizer.json",
    "tiiuae/falcon-7b": "falcon/tokenizer.json",
    "t5-base": "t5-base/tokenizer.json",
    "openai/whisper-tiny.en": "whisper-tiny.en/tokenizer.json",
    "openai/whisper-large-v2": "whisper-large-v2/tokenizer.json",
    "distilbert/distilbert-base-multilingual-cased": "distilbert-multilingual/tokenizer.json",
}
N_TOKENS = {"llama3/tokenizer.model": 128256, "llama2/tokenizer.model": 32000, "qwen2.5": 151936}

# What the shared data has no vocabulary for. None of them may be had: nothing above 4 MiB is there.
MISSING = {
    "chameleon", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "mpt", "refact", "roberta-bpe",
    "starcoder", "gemma_encoded", "falcon_encoded", "t5_base_encoded", "pcuenq/gemma-tokenizer",
    "tiiuae/falcon-7b", "t5-base", "openai/whisper-tiny.en", "openai/whisper-large-v2",
    "distilbert/distilbert-base-multilingual-cased",
}  # fmt: skip


def vocabulary_of_vectors(name: str) -> Path:
    """Where the vocabulary of llama.cpp's vectors is: beside them, or in a folder of its own."""
    beside = TOKENIZERS / "ggml-vocab" / f"ggml-vocab-{name}.gguf"
    return beside if beside.exists() else TOKENIZERS / SAME.get(name, f"{name}/tokenizer.json")


@cache
def opened(path: Path) -> Tokenizer:
    if not path.exists():
        pytest.skip(f"its vocabulary is not there: {path.relative_to(TOKENIZERS)}")
    if path.suffix == ".gguf":
        return Tokenizer.from_gguf(Image.open(path))
    if path.name == "tokenizer.json" or path.name.endswith(".tokenizer.json"):
        return Tokenizer.from_json(path.read_bytes())
    parts = open_tokenizer(path, N_TOKENS[str(path.relative_to(TOKENIZERS))])
    return Tokenizer.from_json(
        parts.json or json_from_vocabulary(parts.vocabulary, SpecialTokens(1, 2, True))
    )


def read_vectors(name: str) -> list[tuple[str, list[int]]]:
    """The texts and ids of a ggml-vocab test; the ids have no BOS."""
    stem = TOKENIZERS / "ggml-vocab" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{stem}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{stem}.out").read_text().split("\n")
    assert len(texts) == len(lines) > 40
    return [(text, [int(id) for id in line.split()]) for text, line in zip(texts, lines, strict=True)]


def test_what_has_no_vocabulary(shared: Path) -> None:
    """A vector that loses its vocabulary would otherwise be skipped unseen."""
    places = {name: vocabulary_of_vectors(name) for name in GGML}
    places |= {name: TOKENIZERS / path for name, path in (ENCODED | TESTED).items()}
    missing = {name for name, path in places.items() if not path.exists()}
    usable = places.keys() - missing
    assert missing <= MISSING
    assert len(usable) >= 16, sorted(usable)
    folder = shared / "tokenizers" / "expected_encodings"
    assert ENCODED.keys() | {"tokenizer_tests"} == {path.stem for path in folder.glob("*.json")}
    assert TESTED.keys() == json.loads((folder / "tokenizer_tests.json").read_text()).keys()


@pytest.mark.parametrize("name", GGML)
def test_vectors_of_llama_cpp(name: str) -> None:
    tokenizer = opened(vocabulary_of_vectors(name))
    for text, ids in read_vectors(name):
        assert tokenizer.encode(text) == ids


@pytest.mark.parametrize("name", ENCODED)
def test_expected_encodings(shared: Path, name: str) -> None:
    tokenizer = opened(TOKENIZERS / ENCODED[name])
    expected = json.loads((shared / "tokenizers" / "expected_encodings" / f"{name}.json").read_text())
    ids = tokenizer.encode(expected["text"], framed=True)
    assert ids == expected["token_ids"]
    if tokenizer.kind != "wordpiece":  # which has no case
        assert tokenizer.decode(ids).decode() == expected["text"]


@pytest.mark.parametrize("model", TESTED)
def test_published_encodings(shared: Path, model: str) -> None:
    tokenizer = opened(TOKENIZERS / TESTED[model])
    cases = json.loads((shared / "tokenizers" / "expected_encodings" / "tokenizer_tests.json").read_text())[
        model
    ]
    assert len(cases) >= 18
    for case in cases:
        ids = case["encoded"]["input_ids"]
        assert tokenizer.encode(case["input"], framed=True) == ids
        if tokenizer.kind in ("bpe", "spm"):  # the others do not keep every space
            assert tokenizer.decode(ids).decode() == case["input"]
