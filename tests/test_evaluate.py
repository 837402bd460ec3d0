"""Loss, bits per byte and perplexity: windows, texts, reference numbers, and what goes wrong."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from linnet.errors import SourceError, UsageError
from linnet.evaluate.evaluate import evaluate, read_texts
from linnet.evaluate.perplexity import Score, Window, score_texts, windows
from linnet.export.convert import convert
from linnet.options import ConvertOptions, EvaluateOptions, QuantizeOptions
from linnet.quantize.quantize import quantize

# ---- windows -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_tokens", "n_ctx", "stride"), [(1, 8, 4), (8, 8, 4), (9, 8, 4), (50, 8, 3), (50, 8, 7)]
)
def test_windows_score_every_token_but_the_first_once(n_tokens: int, n_ctx: int, stride: int) -> None:
    found = list(windows(n_tokens, n_ctx, stride))
    scored = [token for window in found for token in range(window.scored, window.stop)]
    assert scored == list(range(1, n_tokens))
    for window in found:
        assert 0 <= window.start < window.scored < window.stop <= window.start + n_ctx
        # As much context as fits: a window is full, or begins at the beginning.
        assert window.stop - window.start == n_ctx or window.start == 0
    for window in found[1:]:
        assert window.scored - window.start >= n_ctx - stride


def test_windows_of_a_known_case() -> None:
    assert list(windows(12, 6, 4)) == [Window(0, 1, 6), Window(4, 6, 10), Window(6, 10, 12)]


@pytest.mark.parametrize("stride", [0, 8, 9])
def test_an_impossible_stride_is_refused(stride: int) -> None:
    with pytest.raises(UsageError):
        list(windows(20, 8, stride))


class Markov:
    """A model that looks at one token only, so that the exact loss of a text is a sum over pairs."""

    def __init__(self, vocab_size: int, n_ctx: int) -> None:
        logits = np.random.default_rng(0).normal(size=(vocab_size, vocab_size))
        self.table = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        self.n_ctx = n_ctx

    def score(self, ids: Sequence[int]) -> NDArray[np.float32]:
        assert len(ids) <= self.n_ctx
        pairs = self.table[list(ids[:-1]), list(ids[1:])]
        return np.concatenate([[np.nan], pairs]).astype(np.float32)


def test_the_score_is_the_sum_over_all_tokens_whatever_the_windows() -> None:
    rng = np.random.default_rng(1)
    texts = [([0, *rng.integers(0, 20, n).tolist()], n * 3) for n in (1, 7, 8, 100)]
    model = Markov(20, n_ctx=8)
    exact = -sum(float(model.table[a, b]) for ids, _ in texts for a, b in pairwise(ids))
    seen: list[int] = []
    for stride in (1, 4, 7):
        score = score_texts(model, texts, 8, stride, seen.append)
        assert score.nats == pytest.approx(exact, rel=1e-6)
        assert (score.tokens, score.bytes, score.texts, score.windowed_texts) == (116, 348, 4, 2)
        assert sum(seen) == 116
        seen.clear()


def test_bits_per_byte_and_perplexity_follow_their_definitions() -> None:
    score = Score(nats=100 * math.log(2), tokens=50, bytes=200)
    assert score.bits_per_byte == pytest.approx(0.5)
    assert score.perplexity == pytest.approx(4.0)
    assert Score(nats=1e6, tokens=1, bytes=1).perplexity == math.inf


# ---- texts ---------------------------------------------------------------------------


def test_a_text_file_is_one_text_and_every_row_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n<|endoftext|>\ntwo \xff")
    assert read_texts(tmp_path / "a.txt", "text") == ["one\n<|endoftext|>\ntwo \ufffd"]
    (tmp_path / "a.jsonl").write_text(
        '{"body": "one"}\n\n{"body": ""}\n{"body": null}\n{"body": "t\\ud83dwo"}\n'
    )
    assert read_texts(tmp_path / "a.jsonl", "body") == ["one", "t\ufffdwo"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.jsonl", b"\n", "holds no text"),
        ("a.txt", b"GGUF\0\0", "is not text"),
        ("a.txt.gz", b"\x1f\x8b\x08\0", "rows of .jsonl, .ndjson, .json files, not compressed"),
        ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2 is not valid JSON"),
        ("a.jsonl", b'{"body": "a", "id": 1}', "line 1 has no field 'text'; it has 'body', 'id'"),
        ("a.jsonl", b'"a"', "line 1 is not a JSON object"),
        ("a.jsonl", b'{"text": ["a"]}', "line 1: the field 'text' does not hold text"),
    ],
)
def test_a_text_that_cannot_be_scored_is_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError) as raised:
        read_texts(tmp_path / name, "text")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.name == "nt", reason="no such files there")
def test_a_text_without_an_end_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(SourceError, match="is not a regular file; save what it gives"):
            read_texts(path, "text")


# ---- models --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stories260k(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = shared / "weights" / "stories260K"
    path = tmp_path_factory.mktemp("models") / "stories260K.gguf"
    convert(
        ConvertOptions(
            source=weights / "stories260K.bin", output=path, tokenizer=weights / "tok512.bin", json=True
        )
    )
    return path


def measure(model: Path, text: Path, **options: object) -> dict[str, object]:
    return evaluate(EvaluateOptions(model=model, text=text, json=True, threads=2, **options))  # type: ignore[arg-type]


def test_stories260k_has_the_reference_loss(stories260k: Path, shared: Path) -> None:
    found = measure(stories260k, shared / "text" / "tinystories" / "reference_40.jsonl")
    assert found["nats_per_token"] == pytest.approx(1.2621, abs=1e-3)
    assert found["bits_per_byte"] == pytest.approx(0.887, abs=1e-3)
    assert (found["tokens"], found["bytes"], found["texts"], found["windowed_texts"]) == (
        14_299,
        29_341,
        40,
        0,
    )
    assert found["perplexity"] == pytest.approx(math.exp(1.2621), rel=2e-3)
    settings = found["settings"]
    assert isinstance(settings, dict)
    assert (settings["bos"], settings["n_ctx"], settings["kind"]) == (True, 512, "documents")
    assert {"isa", "threads", "kv_type", "stride", "model", "text"} <= set(settings)


def test_stories260k_in_8_bits_is_as_near_as_its_type_allows(
    stories260k: Path, shared: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "q8_0.gguf"
    quantize(QuantizeOptions(source=stories260k, output=packed, type="q8_0", json=True))
    found = measure(packed, shared / "text" / "tinystories" / "reference_40.jsonl")
    assert found["nats_per_token"] == pytest.approx(1.263, abs=2e-3)


def test_stories3m_has_the_reference_loss(shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights" / "stories3M"
    path = tmp_path / "stories3M.gguf"
    source, tokenizer = weights / "stories3M_q80_g64.bin", weights / "tok4096.bin"
    convert(ConvertOptions(source=source, output=path, tokenizer=tokenizer, json=True))
    found = measure(path, shared / "text" / "tinystories" / "reference_40.jsonl")
    assert found["nats_per_token"] == pytest.approx(1.2134, abs=2e-3)
    assert found["tokens"] == 7_468


def test_a_stream_longer_than_the_context_is_scored_whole(
    stories260k: Path, shared: Path, tmp_path: Path
) -> None:
    rows = (shared / "text" / "tinystories" / "reference_40.jsonl").read_text("utf-8").splitlines()[:4]
    text = "\n\n".join(json.loads(row)["text"] for row in rows)
    path = tmp_path / "stories.txt"
    path.write_text(text, encoding="utf-8")
    wide = measure(stories260k, path, n_ctx=512, stride=64)
    narrow = measure(stories260k, path, n_ctx=64, stride=32)
    assert wide["tokens"] == narrow["tokens"]
    assert narrow["bytes"] == len(text.encode())
    assert narrow["windowed_texts"] == 1
    # A model that sees less of the text predicts it worse, but not like one that sees nothing.
    assert 0 < narrow["nats_per_token"] - wide["nats_per_token"] < 0.5  # type: ignore[operator]


def test_the_command_line_prints_one_object_or_one_error_line(stories260k: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Once upon a time, there was a bird.")

    def linnet_evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "linnet", "evaluate", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = linnet_evaluate("-m", stories260k, "--text", tmp_path / "a.txt", "--json")
    assert json.loads(done.stdout)["bytes"] == 35, done.stderr
    for arguments in (
        ("-m", stories260k, "--text", tmp_path / "b.txt"),
        ("-m", tmp_path / "b.gguf", "--text", tmp_path / "a.txt"),
        ("-m", stories260k, "--text", tmp_path / "a.txt", "--stride", 512),
        ("-m", stories260k, "--text", tmp_path / "a.txt", "--stride", 0),
    ):
        failed = linnet_evaluate(*arguments)
        assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1), failed.stderr


class Letters(Markov):
    """A whole language model as evaluate sees it: one token per character, with or without BOS."""

    def __init__(self, bos_id: int | None) -> None:
        super().__init__(128, n_ctx=16)
        self.tokenizer = SimpleNamespace(bos_id=bos_id)
        self.workspace = SimpleNamespace(isa="none", n_threads=1)
        self.model = SimpleNamespace(check_writes=lambda: None)

    def tokenize(self, text: str, *, bos: bool) -> list[int]:
        assert self.tokenizer.bos_id is not None or not bos
        return [self.tokenizer.bos_id] * bos + [ord(letter) for letter in text]


@pytest.mark.parametrize("bos_id", [0, None])
def test_without_bos_the_first_token_is_not_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bos_id: int | None
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "abc"}\n{"text": "a longer text than the context"}\n')
    model = Letters(bos_id)
    monkeypatch.setattr("linnet.evaluate.evaluate.load", lambda *_, **__: model)
    found = measure(tmp_path / "model.gguf", tmp_path / "a.jsonl")
    assert found["tokens"] == 3 + 30 - (2 if bos_id is None else 0)
    assert (found["bytes"], found["texts"], found["windowed_texts"]) == (33, 2, 1)
    settings = found["settings"]
    assert isinstance(settings, dict)
    assert (settings["bos"], settings["stride"]) == (bos_id is not None, 8)
    texts = [
        model.tokenize(text, bos=bos_id is not None) for text in ("abc", "a longer text than the context")
    ]
    exact = -sum(float(model.table[a, b]) for ids in texts for a, b in pairwise(ids))
    assert found["bits_per_byte"] == pytest.approx(exact / math.log(2) / 33)


def test_a_text_of_one_token_without_bos_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr("linnet.evaluate.evaluate.load", lambda *_, **__: Letters(None))
    with pytest.raises(SourceError, match="no token to predict"):
        measure(tmp_path / "model.gguf", tmp_path / "a.txt")
