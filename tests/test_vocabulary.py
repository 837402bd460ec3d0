"""Files of llama2.c and of tokenizers: what they mean, and that others understand what is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linnet.errors import FormatError, SourceError, UnsupportedError
from linnet.formats.llama2c import parse_tokenizer_bin, parse_vocab_text
from linnet.formats.sentencepiece import parse_sentencepiece
from linnet.formats.source import open_tokenizer, read_model
from linnet.formats.tokenizer_json import json_from_vocabulary, vocabulary_from_json
from linnet.formats.vocabulary import TokenKind, Vocabulary, VocabularyKind
from linnet.types import SpecialTokens

SPECIAL = SpecialTokens(bos_id=1, eos_id=2, add_bos=True)


# ---- llama2.c ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def stories(shared: Path) -> Path:
    return shared / "weights" / "stories260K"


def test_legacy_and_version_1_hold_the_same_model(stories: Path) -> None:
    legacy = read_model(stories / "stories260K.bin", stories / "tok512.bin")
    modern = read_model(stories / "stories260K_v1.bin", stories / "tok512.bin")
    assert legacy.facts == modern.facts
    assert legacy.facts.n_params == 260_032
    for a, b in zip(legacy.tensors, modern.tensors, strict=True):
        assert (a.name, a.shape, a.load().tobytes()) == (b.name, b.shape, b.load().tobytes())


@pytest.mark.parametrize("group", [8, 32])
def test_version_2_is_near_the_original(stories: Path, group: int) -> None:
    exact = read_model(stories / "stories260K.bin", stories / "tok512.bin")
    near = read_model(stories / f"stories260K_q80_g{group}.bin", stories / "tok512.bin")
    assert exact.facts == near.facts
    for a, b in zip(exact.tensors, near.tensors, strict=True):
        values, found = a.load().view(np.float32), b.load().view(np.float32)
        if len(a.shape) == 1:
            assert np.array_equal(values, found)
            continue
        step = np.abs(values.reshape(-1, group)).max(axis=1, keepdims=True) / 127
        assert np.all(np.abs(values - found).reshape(-1, group) <= 0.501 * step)


def test_llama2c_needs_the_right_tokenizer(stories: Path, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--tokenizer"):
        read_model(stories / "stories260K.bin")
    with pytest.raises(FormatError, match="more than the model's 512"):
        read_model(stories / "stories260K.bin", shared / "weights" / "stories3M" / "tok4096.bin")
    with pytest.raises(FormatError, match="ends after 512 of"):
        read_model(shared / "weights" / "stories3M" / "stories3M_q80_g64.bin", stories / "tok512.bin")
    for name in ("stories260K.bin", "stories260K_q80_g32.bin"):
        data = (stories / name).read_bytes()
        for length in (0, 20, 28, 200, len(data) - 1, len(data) // 2):
            (tmp_path / "short.bin").write_bytes(data[:length])
            with pytest.raises(FormatError):
                read_model(tmp_path / "short.bin", stories / "tok512.bin")


def test_pieces_of_llama2c_are_spelt_as_sentencepiece_does(stories: Path, shared: Path) -> None:
    vocabulary = parse_tokenizer_bin((stories / "tok512.bin").read_bytes(), 512)
    assert vocabulary.tokens[:4] == ("<unk>", "<s>", "</s>", "<0x00>")
    assert vocabulary.tokens[259:262] == ("\u2581t", "he", "\u2581a")
    assert vocabulary.kinds[:4] == (TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.CONTROL, TokenKind.BYTE)
    folder = shared / "weights" / "babyllama_char"
    from_text = parse_vocab_text((folder / "tok105.vocab").read_text(encoding="utf-8"), 105)
    from_model = parse_sentencepiece((folder / "tok105.model").read_bytes())
    assert from_text == replace(from_model, squeezes_spaces=False)


def test_sentencepiece_models(shared: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    path = shared / "tokenizers" / "llama2" / "tokenizer.model"
    reference = library.SentencePieceProcessor(model_file=str(path))
    vocabulary = open_tokenizer(path, 32000).vocabulary
    assert list(vocabulary.tokens) == [reference.id_to_piece(i) for i in range(32000)]
    assert list(vocabulary.scores) == [reference.get_score(i) for i in range(32000)]
    assert [kind is TokenKind.BYTE for kind in vocabulary.kinds] == [
        reference.is_byte(i) for i in range(32000)
    ]
    data = path.read_bytes()
    for broken in (b"", b"\x0a", data[:100_001], b"\xff" * 20, b"\x0b\x00"):
        with pytest.raises(FormatError):
            parse_sentencepiece(broken)


# ---- tokenizer.json ---------------------------------------------------------------


def join_by_score(vocabulary: Vocabulary, text: str) -> list[int]:
    """SentencePiece BPE as defined: join the neighbours with the best joint piece until none is left."""
    pieces = {t: i for i, t in enumerate(vocabulary.tokens) if vocabulary.kinds[i] is TokenKind.NORMAL}
    byte_ids = {t: i for i, t in enumerate(vocabulary.tokens) if vocabulary.kinds[i] is TokenKind.BYTE}
    ids: list[int] = []
    for character in "\u2581" + text.replace(" ", "\u2581"):
        fallback = [byte_ids[f"<0x{byte:02X}>"] for byte in character.encode()]
        ids += [pieces[character]] if character in pieces else fallback
    while True:
        candidates = [
            (vocabulary.scores[joined], -i, joined)
            for i in range(len(ids) - 1)
            if (joined := pieces.get(vocabulary.tokens[ids[i]] + vocabulary.tokens[ids[i + 1]])) is not None
        ]
        if not candidates:
            return ids
        _, i, joined = max(candidates)
        ids[-i : -i + 2] = [joined]


def test_tokenizer_json_made_from_scores_encodes_as_sentencepiece(stories: Path, shared: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = parse_tokenizer_bin((stories / "tok512.bin").read_bytes(), 512)
    document = json_from_vocabulary(vocabulary, SPECIAL)
    tokenizer = tokenizers.Tokenizer.from_str(document.decode())
    path = shared / "text" / "tinystories" / "reference_40.jsonl"
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert encoded == [join_by_score(vocabulary, text) for text in texts]
    assert sum(map(len, encoded)) == 14_299
    assert tokenizer.encode("a").ids[0] == SPECIAL.bos_id
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    again = vocabulary_from_json(document, 512)
    assert (again.tokens, again.kinds, again.unk_id) == (vocabulary.tokens, vocabulary.kinds, 0)


def test_vocabularies_of_real_tokenizer_json_files(shared: Path) -> None:
    folder = shared / "tokenizers"
    expected = {"gpt2": ("gpt-2", 50257), "smollm2": ("smollm", 49152)}
    for name, (pre, n) in expected.items():
        vocabulary = open_tokenizer(folder / name / "tokenizer.json", n).vocabulary
        assert (vocabulary.kind, vocabulary.pre, len(vocabulary)) == (VocabularyKind.BPE, pre, n)
    phi = open_tokenizer(folder / "phi3" / "tokenizer.json", 32064).vocabulary
    assert (phi.kind, phi.unk_id, phi.tokens[29871]) == (VocabularyKind.SPM, 0, "\u2581")
    assert phi.kinds[32000] is TokenKind.CONTROL
    assert phi.kinds[32063] is TokenKind.UNUSED  # the model has more embeddings than the tokenizer tokens
    bert = open_tokenizer(folder / "bert" / "bert-base-uncased.tokenizer.json", 30522).vocabulary
    assert (bert.kind, bert.unk_id, bert.tokens[30521]) == (VocabularyKind.WORDPIECE, 100, "##～")


def test_tokenizer_json_made_from_a_byte_level_gguf(shared: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder = shared / "tokenizers"
    vocabulary = open_tokenizer(folder / "ggml-vocab" / "ggml-vocab-gpt-2.gguf", 50257).vocabulary
    made = tokenizers.Tokenizer.from_str(
        json_from_vocabulary(vocabulary, SpecialTokens(add_bos=False)).decode()
    )
    original = tokenizers.Tokenizer.from_file(str(folder / "gpt2" / "tokenizer.json"))
    sample = (folder / "ggml-vocab" / "ggml-vocab-gpt-2.gguf.inp").read_text(encoding="utf-8")
    assert made.encode(sample).ids == original.encode(sample).ids
    with pytest.raises(UnsupportedError, match="--tokenizer"):
        json_from_vocabulary(replace(vocabulary, pre="default"), SpecialTokens())
