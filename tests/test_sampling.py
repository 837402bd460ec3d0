"""Each way of drawing tokens, held to a reference in numpy over random logits; and what users see of them."""

from __future__ import annotations

import ctypes
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import linnet
from linnet.cli import main
from linnet.engine.sampler import Sampler, token_log_prob
from linnet.errors import UsageError

N = 400  # tokens of the made-up vocabulary
DRAWS = 300
FLOATS = ctypes.POINTER(ctypes.c_float)


@pytest.fixture(scope="module")
def model() -> linnet.LanguageModel:
    return linnet.load(threads=1)


def pointer(logits: np.ndarray) -> Any:
    return logits.ctypes.data_as(FLOATS)


def drawn(logits: np.ndarray, accepted: tuple[int, ...] = (), **options: Any) -> set[int]:
    """The tokens that come up in many draws."""
    sampler = Sampler(len(logits), seed=5, **options)  # type: ignore[arg-type]
    for token in accepted:
        sampler.accept(token)
    return {sampler.draw(pointer(logits)) for _ in range(DRAWS)}


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


# ---- references: which tokens are left, given the probabilities of all ------------------


def top_k(p: np.ndarray) -> np.ndarray:
    return np.argsort(-p, kind="stable")[:7]


def top_p(p: np.ndarray) -> np.ndarray:
    order = np.argsort(-p, kind="stable")
    return order[: int(np.searchsorted(np.cumsum(p[order]), 0.6)) + 1]


def min_p(p: np.ndarray) -> np.ndarray:
    return np.flatnonzero(p >= 0.2 * p.max())


def typical(p: np.ndarray) -> np.ndarray:
    surprise = -np.log(p)
    order = np.argsort(np.abs(surprise - (p * surprise).sum()), kind="stable")
    return order[: int(np.searchsorted(np.cumsum(p[order]), 0.5)) + 1]


def top_n_sigma(p: np.ndarray) -> np.ndarray:
    logits = np.log(p)
    return np.flatnonzero(logits >= logits.max() - logits.std())


def xtc(p: np.ndarray) -> np.ndarray:
    top = np.flatnonzero(p >= 0.05)
    weakest = top[np.argmin(p[top])]
    return np.setdiff1d(np.arange(len(p)), np.setdiff1d(top, [weakest]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"top_k": 7}, top_k),
        ({"top_p": 0.6}, top_p),
        ({"min_p": 0.2}, min_p),
        ({"typical_p": 0.5}, typical),
        ({"top_n_sigma": 1.0}, top_n_sigma),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.05}, xtc),
    ],
)
def test_what_is_left_is_what_the_reference_leaves(
    options: dict[str, Any], left: Callable[[np.ndarray], np.ndarray], seed: int
) -> None:
    logits = (np.random.default_rng(seed).standard_normal(N) * 3).astype(np.float32)
    p = softmax(logits.astype(np.float64))
    allowed = left(p)
    found = drawn(logits, temperature=1.0, **options)
    assert found <= set(allowed.tolist())
    likely = allowed[p[allowed] / p[allowed].sum() > 0.05]
    assert set(likely.tolist()) <= found


def test_the_distribution_is_that_of_the_temperature() -> None:
    logits = np.array([1.0, 0.0, -1.0, 2.0], dtype=np.float32)
    sampler = Sampler(4, temperature=0.7, seed=1)
    counts = np.bincount([sampler.draw(pointer(logits)) for _ in range(20000)], minlength=4) / 20000
    np.testing.assert_allclose(counts, softmax(logits / 0.7), atol=0.015)


def test_penalties_are_taken_off_what_was_accepted() -> None:
    logits = np.array([2.0, 1.9, 0.0], dtype=np.float32)
    assert drawn(logits, (0,), temperature=0.0) == {0}
    for options in ({"repetition_penalty": 1.5}, {"frequency_penalty": 0.2}, {"presence_penalty": 0.2}):
        assert drawn(logits, (0,), temperature=0.0, **options) == {1}
    assert drawn(logits, (0, 0, 1), temperature=0.0, frequency_penalty=0.04) == {0}
    assert drawn(logits, (0, 0, 0, 0, 1), temperature=0.0, frequency_penalty=0.04) == {1}
    assert drawn(logits, (0, 2, 2), temperature=0.0, presence_penalty=0.2, repeat_last_n=2) == {0}


def test_dry_breaks_a_repetition_and_nothing_else() -> None:
    logits = np.zeros(6, dtype=np.float32)
    logits[3] = 1.0
    text = (1, 2, 3, 4, 1, 2)  # 3 would repeat three tokens
    assert drawn(logits, text, temperature=0.0) == {3}
    options = {"dry_multiplier": 1.0, "dry_base": 2.0, "dry_sequence_breakers": ()}
    assert drawn(logits, text, temperature=0.0, dry_allowed_length=2, **options) != {3}
    assert drawn(logits, text, temperature=0.0, dry_allowed_length=3, **options) == {3}


def test_mirostat_holds_the_surprise() -> None:
    logits = (np.random.default_rng(3).standard_normal(N) * 2).astype(np.float32)
    p = softmax(logits.astype(np.float64))

    def surprise(tau: float) -> float:
        sampler = Sampler(N, temperature=1.0, mirostat=2, mirostat_tau=tau, mirostat_eta=0.1, seed=2)
        values = []
        for _ in range(800):
            token = sampler.draw(pointer(logits))
            sampler.accept(token)
            values.append(-np.log2(p[token]))
        return float(np.mean(values[200:]))

    assert surprise(2.0) < surprise(4.0) < surprise(6.0)


def test_dynamic_temperature_follows_the_entropy() -> None:
    sure = np.zeros(N, dtype=np.float32)
    sure[0] = 12.0
    flat = np.zeros(N, dtype=np.float32)
    options = {"temperature": 1.0, "dynatemp_range": 0.9}
    assert drawn(sure, **options) == {0}
    assert len(drawn(flat, **options)) > 100


def test_a_mask_and_biases_say_what_may_come() -> None:
    logits = np.zeros(70, dtype=np.float32)
    mask = np.zeros(3, dtype=np.uint32)
    mask[2] = 1 << 3  # token 67
    sampler = Sampler(70, temperature=1.0, seed=1)
    assert {sampler.draw(pointer(logits), mask.ctypes.data) for _ in range(20)} == {67}
    assert drawn(logits, temperature=1.0, logit_bias={5: 50.0}) == {5}
    assert 5 not in drawn(np.full(6, 1.0, dtype=np.float32), temperature=1.0, logit_bias={5: float("-inf")})


def test_log_probabilities_are_those_of_the_model() -> None:
    logits = (np.random.default_rng(1).standard_normal(N) * 3).astype(np.float32)
    expected = np.log(softmax(logits.astype(np.float64)))
    found = token_log_prob(pointer(logits), N, 17, 3)
    assert found.log_prob == pytest.approx(expected[17], abs=1e-4)
    assert [token for token, _ in found.top] == np.argsort(-expected)[:3].tolist()


@pytest.mark.parametrize(
    "options",
    [{"top_p": -1.0}, {"mirostat": 1}, {"temperature": float("nan")}, {"top_k": -2}, {"nonsense": 1},
     {"logit_bias": {99999: 1.0}}, {"dry_base": -1.0, "dry_multiplier": 1.0}],
)  # fmt: skip
def test_impossible_options_are_one_line(options: dict[str, Any], model: linnet.LanguageModel) -> None:
    with pytest.raises(UsageError) as raised:
        model.generate("Once", max_tokens=2, **options)
    assert "\n" not in str(raised.value)


# ---- texts --------------------------------------------------------------------------------


def test_banned_strings_never_come(model: linnet.LanguageModel) -> None:
    usual = model.generate("Once upon a time", max_tokens=60, temperature=0).text
    word = next(word for word in usual.split() if len(word) > 3)
    for banned in (word, word[1:], usual[10:13]):
        assert (
            banned
            not in model.generate(
                "Once upon a time", max_tokens=60, temperature=0, banned_strings=[banned]
            ).text
        )


def test_a_text_ends_before_a_stop_string(model: linnet.LanguageModel) -> None:
    usual = model.generate("Once upon a time", max_tokens=60, temperature=0).text
    stop = usual[20:24]
    made = model.generate("Once upon a time", max_tokens=60, temperature=0, stop=[stop, "never there"])
    assert made.text == usual[: usual.index(stop)] and made.finish_reason == "stop"
    pieces = list(model.stream("Once upon a time", max_tokens=60, temperature=0, stop=stop))
    assert "".join(pieces) == made.text


def test_the_best_of_several_is_the_most_probable(model: linnet.LanguageModel) -> None:
    best = model.generate("Once", max_tokens=8, seed=3, best_of=4)
    each = [model.generate("Once", max_tokens=8, seed=3 + i, logprobs=0) for i in range(4)]
    assert best.text == max(each, key=lambda one: one.mean_log_prob or 0).text


def test_the_command_makes_several_texts_and_prints_the_best(
    model: linnet.LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    best = model.generate("Once", max_tokens=8, seed=3, best_of=4)
    flags = ["-n", "8", "--seed", "3", "--best-of", "4", "Once"]
    assert main(["run", *flags]) == 0
    assert capsys.readouterr().out == best.text + "\n"
    assert main(["run", "--json", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == best.text and "log_probs" not in found
    assert found["text"] == model.generate("Once", max_tokens=8, seed=found["seed"]).text
    assert main(["run", "--best-of", "0", "Once"]) == 2
    assert "best_of is 0; it must be at least 1" in capsys.readouterr().err


def test_the_command_line_reaches_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--sampling",
        "top_n_sigma=1",
        "--sampling",
        "logit_bias=5:-inf",
        "--sampling",
        "banned_strings=Lily",
    ]
    assert main(["run", "-n", "5", "--seed", "1", "--logprobs", "2", "--json", *flags, "Once"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["log_probs"]) == found["tokens"] and len(found["log_probs"][0]["top"]) == 2
    assert main(["run", "-n", "5", "--seed", "1", "--logprobs", "2", *flags, "Once"]) == 0
    told = capsys.readouterr()
    lines = told.err.splitlines()[-found["tokens"] :]
    assert told.out == found["text"] + "\n"
    for line, (token, log_prob, top) in zip(lines, (one.values() for one in found["log_probs"]), strict=True):
        shares = [float(share) for share in re.findall(r"([\d.]+)% '", line)]
        expected = [100 * math.exp(value) for value in (log_prob, *(value for _, value in top))]
        assert shares == pytest.approx(expected, abs=0.01) and token >= 0
    assert main(["run", "--sampling", "top_n_sigma=much", "Once"]) == 2
    assert main(["run", "--sampling", "top_sigma=1", "Once"]) == 2
    assert "did you mean" in capsys.readouterr().err
