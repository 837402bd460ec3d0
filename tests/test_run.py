"""Generating text: the Python interface and the command, with the bundled model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import linnet
from linnet.cli import main
from linnet.engine.memory import Image
from linnet.engine.model import Model
from linnet.errors import ContextFullError, UsageError
from linnet.formats.gguf import read_gguf
from linnet.formats.parts import TokenizerParts
from linnet.run.meter import peak_rss_bytes, process_age
from linnet.run.model import BUNDLED_MODEL
from linnet.types import SpecialTokens


@pytest.fixture(scope="module")
def model() -> linnet.LanguageModel:
    return linnet.load()


def linnet_run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "linnet", "run", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_a_seed_gives_the_same_text_for_every_thread_count(model: linnet.LanguageModel) -> None:
    first = model.generate("Once upon a time", max_tokens=40, seed=7)
    again = linnet.load(threads=1).generate("Once upon a time", max_tokens=40, seed=7)
    assert first.ids == again.ids
    assert first.text == again.text
    assert first.ids != model.generate("Once upon a time", max_tokens=40, seed=8).ids


def test_stream_pieces_are_the_text(model: linnet.LanguageModel) -> None:
    stream = model.stream("The cat", max_tokens=30, temperature=0)
    pieces = list(stream)
    assert (
        "".join(pieces)
        == stream.generation.text
        == model.generate("The cat", max_tokens=30, temperature=0).text
    )
    assert len(pieces) > 5


def test_streams_of_one_model_do_not_disturb_each_other(model: linnet.LanguageModel) -> None:
    prompts = ("Once upon a time", "The cat")
    alone = [model.generate(prompt, max_tokens=20, temperature=0).text for prompt in prompts]
    streams = [model.stream(prompt, max_tokens=20, temperature=0) for prompt in prompts]
    for _ in range(10):
        for stream in streams:
            next(stream)
        model.score(model.tokenize("The dog ran."))
    assert [(*stream, stream.generation.text)[-1] for stream in streams] == alone
    with ThreadPoolExecutor(3) as pool:
        made = list(
            pool.map(lambda prompt: model.generate(prompt, max_tokens=20, temperature=0).text, prompts * 6)
        )
    assert made == alone * 6


@pytest.mark.parametrize("ids", [[2**40], [-1], [10**6]])
def test_ids_outside_the_vocabulary_are_refused(model: linnet.LanguageModel, ids: list[int]) -> None:
    for call in (model.score, model.detokenize, model.generate):
        with pytest.raises(UsageError):
            call(ids)


def test_a_stream_that_is_closed_was_interrupted(model: linnet.LanguageModel) -> None:
    for n_read in (0, 3):
        stream = model.stream("Once upon a time", max_tokens=20)
        for _ in range(n_read):
            next(stream)
        stream.close()
        assert (len(stream.generation.ids), stream.generation.finish_reason) == (n_read, "interrupted")
    ended = model.stream("Once upon a time", max_tokens=2)
    ended.finish()
    ended.close()
    assert ended.generation.finish_reason in ("length", "stop")


def test_generation_says_why_it_ended_and_what_it_cost(model: linnet.LanguageModel) -> None:
    made = model.generate("Once upon a time", max_tokens=5, seed=1)
    assert (len(made.ids), made.finish_reason) == (5, "length")
    assert made.prefill_tok_s and made.decode_tok_s
    small = linnet.load(n_ctx=16)
    full = small.generate("Once upon a time there was", max_tokens=500, seed=1)
    assert full.finish_reason in ("context", "stop")
    assert full.prompt_tokens + len(full.ids) <= 17


def test_score_is_the_probability_the_model_samples_from(model: linnet.LanguageModel) -> None:
    ids = model.tokenize("Once upon a time there was a little girl.")
    scores = model.score(ids)
    assert math.isnan(scores[0])
    model.session.truncate(0)
    model.session.eval(ids[:5])
    logits = model.session.logits.astype(np.float64)
    assert scores[5] == pytest.approx(
        logits[ids[5]] - np.log(np.exp(logits - logits.max()).sum()) - logits.max(), abs=1e-4
    )


def test_text_survives_tokenization(model: linnet.LanguageModel) -> None:
    text = "A café, 12,345 naïve 漢字 🐦\n\n\tend  "
    assert model.detokenize(model.tokenize(text, bos=False)) == text


def test_a_prompt_that_does_not_fit_is_refused_with_the_counts() -> None:
    small = linnet.load(n_ctx=8)
    with pytest.raises(ContextFullError, match="context holds 8"):
        small.generate("one two three four five six seven eight nine ten eleven", max_tokens=1)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 1.5}, {"top_k": -3}, {"min_p": 2.0}])
def test_impossible_sampling_options_are_refused(
    model: linnet.LanguageModel, wrong: dict[str, float]
) -> None:
    with pytest.raises(UsageError):
        model.generate("x", max_tokens=1, **wrong)  # type: ignore[arg-type]


def test_a_tokenizer_without_bos_and_eos_generates_but_not_from_nothing() -> None:
    parts = read_gguf(BUNDLED_MODEL)
    bare = replace(parts, special=SpecialTokens(), tokenizer=TokenizerParts(parts.tokenizer.vocabulary))
    engine = Model(Image.of_parts(bare))
    model = linnet.LanguageModel(engine, n_ctx=64)
    made = model.generate("The cat", max_tokens=5, seed=1)
    assert made.prompt_tokens == len(model.tokenize("The cat", bos=False))
    assert (len(made.ids), made.finish_reason) == (5, "length")
    with pytest.raises(UsageError, match="the prompt is empty"):
        model.generate("")
    with pytest.raises(UsageError, match="no beginning-of-sequence token"):
        model.tokenize("x", bos=True)


def test_a_session_outlives_what_it_was_opened_with() -> None:
    session = linnet.load(n_ctx=16).session
    del session.model
    session.eval([1, 2, 3])
    assert np.isfinite(session._logits()[0])


def test_the_command_streams_text_and_ends_with_its_cost() -> None:
    done = linnet_run("Once upon a time", "-n", "20", "--seed", "1")
    assert done.returncode == 0
    assert done.stdout.strip()
    for word in ("20 tokens", "tok/s", "first token after", "peak", "MB"):
        assert word in done.stderr
    assert "energy" in done.stderr or "J/token" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_pipe_gives_the_prompt_and_json_gives_one_object() -> None:
    done = linnet_run("--json", "-n", "12", "--seed", "3", stdin="The dog")
    result = json.loads(done.stdout)
    assert done.stderr == ""
    assert {
        "text",
        "tokens",
        "prefill_tok_s",
        "decode_tok_s",
        "ttft_s",
        "peak_rss_bytes",
        "energy",
    } <= result.keys()
    assert result["tokens"] == 12
    assert result["text"] == linnet.load().generate("The dog", max_tokens=12, seed=3).text


def test_top_k_1_is_greedy(model: linnet.LanguageModel) -> None:
    greedy = model.generate("The sun", max_tokens=20, temperature=0).ids
    assert model.generate("The sun", max_tokens=20, temperature=1.0, top_k=1, seed=5).ids == greedy


def test_repetition_penalty_keeps_a_text_from_repeating_itself(model: linnet.LanguageModel) -> None:
    plain = model.generate("the the the the", max_tokens=60, temperature=0).ids
    penalised = model.generate("the the the the", max_tokens=60, temperature=0, repetition_penalty=1.8).ids
    assert len(set(penalised)) > len(set(plain))


def test_the_meter_reads_this_process() -> None:
    assert 0 < process_age() < 24 * 3600
    peak = peak_rss_bytes()
    assert peak is None or 10 * 2**20 < peak < 64 * 2**30


def test_a_broken_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = BUNDLED_MODEL.read_bytes()
    cases = {"empty": b"", "text": b"hello there", "cut": whole[: len(whole) // 2], "short": whole[:30]}
    for name, data in cases.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        assert main(["run", "-m", str(path), "hi"]) == 2, name
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and told.startswith("linnet run: "), told
