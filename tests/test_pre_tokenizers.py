"""The ways to split that GGUF only names: the core and ``tokenizers`` cut alike, and so does llama.cpp."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
from test_tokenizer_kinds import from_vocabulary

from linnet.engine.tokenizer import Tokenizer
from linnet.errors import LinnetError, UnsupportedError
from linnet.formats.pre_tokenizers import BY_NAME, PRE_TOKENIZERS, PreTokenizer, name_of
from linnet.formats.tokenizer_json import json_from_vocabulary, vocabulary_from_json
from linnet.formats.vocabulary import TokenKind, Vocabulary, VocabularyKind
from linnet.types import SpecialTokens

ROOT = Path(__file__).resolve().parent.parent
ASCII = "aB'sZtlRe126  \t\n\r.!($+<^`/"
OTHERS = "éÀǅʰ\u212aж世か가\u0301²३。—\u00a0"
BYTES = bytes(range(33, 127)) + bytes(range(161, 173)) + bytes(range(174, 256))
SPELLING = {byte: chr(byte) for byte in BYTES}  # of byte-level BPE
SPELLING |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in BYTES)}


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], list[str]]:
    """Tokens and merges that join any two bytes of the alphabet, so that cuts can be seen."""
    used = sorted({SPELLING[byte] for byte in (ASCII + OTHERS).encode()})
    joined = [(a, b) for a in used for b in used]
    tokens = [*SPELLING.values(), *(a + b for a, b in joined)]
    return tokens, [f"{a} {b}" for a, b in joined]


def vocabulary_named(pre: str, pairs: tuple[list[str], list[str]]) -> Vocabulary:
    tokens, merges = pairs
    return Vocabulary(
        kind=VocabularyKind.BPE,
        tokens=tuple(tokens),
        kinds=(TokenKind.NORMAL,) * len(tokens),
        merges=tuple(merges),
        pre=pre,
        add_space_prefix=False,
    )


def telling_texts(alphabet: str, n: int) -> list[str]:
    draw = random.Random(1)
    return ["".join(draw.choices(alphabet, k=draw.randint(1, 24))) for _ in range(n)]


def assert_cuts_alike(ours: Tokenizer, encode: Callable[[str], list[int]], texts: list[str]) -> None:
    for text in texts:
        assert ours.encode(text) == encode(text), ascii(text)


def test_the_core_has_the_table_of_the_package() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "pre_tokenizers.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.names[0])
def test_cuts_as_the_tokenizer_json_that_says_the_same(
    row: PreTokenizer, pairs: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    vocabulary = vocabulary_named(row.names[0], pairs)
    document = json_from_vocabulary(vocabulary, SpecialTokens(add_bos=False))
    reference = tokenizers.Tokenizer.from_str(document.decode())
    texts = telling_texts(ASCII + OTHERS, 400) + telling_texts(ASCII, 400)
    encode = lambda text: reference.encode(text, add_special_tokens=False).ids  # noqa: E731
    assert_cuts_alike(from_vocabulary(vocabulary, tmp_path), encode, texts)
    assert_cuts_alike(Tokenizer.from_json(document), encode, texts)
    again = vocabulary_from_json(document, len(vocabulary.tokens))
    assert again == replace(vocabulary, pre=again.pre)
    assert BY_NAME[again.pre].parts() == row.parts()


def test_every_name_is_one_way_to_split(tmp_path: Path) -> None:
    names = [name for row in PRE_TOKENIZERS for name in row.names]
    assert len(names) == len(set(names))
    for name in BY_NAME:
        from_vocabulary(vocabulary_named(name, ([*SPELLING.values(), "ab"], ["a b"])), tmp_path)


def test_what_normalises_or_merges_otherwise_has_another_name() -> None:
    steps = BY_NAME["qwen2"].steps()
    assert name_of(steps, nfc=True, ignore_merges=False) == "qwen2"
    assert name_of(steps, nfc=False, ignore_merges=False) == "deepseek-r1-qwen"
    assert name_of(BY_NAME["llama-bpe"].steps(), nfc=False, ignore_merges=False) == "smaug-bpe"
    assert name_of([{"type": "Whitespace"}], nfc=False, ignore_merges=False) == "default"


def test_an_unknown_name_is_refused(pairs: tuple[list[str], list[str]], tmp_path: Path) -> None:
    vocabulary = vocabulary_named("no-such-model", pairs)
    with pytest.raises(LinnetError, match="the pre-tokenizer 'no-such-model' is not supported"):
        from_vocabulary(vocabulary, tmp_path)
    with pytest.raises(UnsupportedError, match=r"'no-such-model'.*--tokenizer"):
        json_from_vocabulary(vocabulary, SpecialTokens())


OTHERWISE_IN_LLAMA_CPP = {
    "gpt2": "a name of old files, which it does not know",
    "deepseek-llm": "it keeps numbers whole; no vocabulary of that name joins digits",
}


@pytest.mark.peers
@pytest.mark.parametrize("name", sorted(BY_NAME.keys() - OTHERWISE_IN_LLAMA_CPP.keys()))
def test_llama_cpp_cuts_alike(name: str, pairs: tuple[list[str], list[str]], tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama.cpp is not installed; pip install 'linnet[peers]'"
    )
    ours = from_vocabulary(vocabulary_named(name, pairs), tmp_path)
    peer = llama_cpp.Llama(str(tmp_path / "vocabulary.gguf"), vocab_only=True, verbose=False)
    encode = lambda text: peer.tokenize(text.encode(), add_bos=False, special=False)  # noqa: E731
    assert_cuts_alike(ours, encode, telling_texts(ASCII, 400))
