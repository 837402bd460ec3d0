"""Speculation changes when tokens are computed, never which; and it does not cost what it does not earn."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import linnet
from linnet.engine.sampler import Sampler
from linnet.engine.session import PAGE_TOKENS
from linnet.errors import ContextFullError, UsageError
from linnet.formats.gguf import read_gguf, write_gguf
from linnet.formats.parts import ModelParts, TokenizerParts
from linnet.formats.source import read_model
from linnet.run.model import BUNDLED_MODEL
from linnet.run.text.choosing import Chooser
from linnet.run.text.generation import Generation, TextStream
from linnet.run.text.speculate import MOST_GUESSES, SIZES, Drafter, ModelDrafter, Pace, TextDrafter
from linnet.run.text.timeline import Timeline

STORY = "Once upon a time there was a cat. The cat had a red hat. Tom saw the cat. The cat had a red"


@pytest.fixture(scope="module")
def model() -> linnet.LanguageModel:
    return linnet.load(n_ctx=256)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every guess is checked, whatever it costs, so that the text does not rest on what was measured."""
    monkeypatch.setattr(Pace, "guesses", lambda self, chances: len(chances))


class Prompter:
    """Knows the text in advance, and guesses it with mistakes: wrong tokens, ends of text, short guesses."""

    def __init__(self, text: Sequence[int], vocab_size: int, eos_id: int, mistakes: float) -> None:
        self.text, self.at, self.random = text, 0, random.Random(1)
        self.wrong = lambda: self.random.choice([eos_id, self.random.randrange(vocab_size)])
        self.mistakes = mistakes

    def accept(self, token: int) -> None:
        self.at += 1

    def chances(self, n: int) -> Sequence[float]:
        return [1.0] * self.random.randint(0, n)

    def draft(self, n: int) -> Sequence[int]:
        known = list(self.text[self.at : self.at + n])
        known += [self.wrong() for _ in range(n - len(known))]
        return [self.wrong() if self.random.random() < self.mistakes else token for token in known]

    def shorten(self, text: Sequence[int]) -> None:
        raise AssertionError("these texts fit into the context")


def generate(
    model: linnet.LanguageModel, prompt: list[int], drafter: Drafter | None, max_tokens: int, **options: Any
) -> Generation:
    sampler = Sampler(model.model.vocab_size, **options)
    stream = TextStream(Timeline(model.open_session()), prompt, Chooser(sampler), max_tokens, drafter)
    assert "".join(stream) == stream.generation.text
    return stream.generation


def token_by_token(
    model: linnet.LanguageModel, prompt: list[int], max_tokens: int, **options: Any
) -> list[int]:
    """The text by its definition: draw, tell the sampler, evaluate, over and over."""
    sampler, ids = Sampler(model.model.vocab_size, **options), list[int]()
    with model.open_session() as session:
        session.eval(prompt)
        for token in prompt:
            sampler.accept(token)
        while len(ids) < max_tokens:
            token = session.draw(sampler)
            if token == model.tokenizer.eos_id:
                break
            sampler.accept(token)
            ids.append(token)
            session.eval([token])
    return ids


def saved(parts: ModelParts, path: Path) -> Path:
    with path.open("wb") as file:
        write_gguf(parts, file)
    return path


def same_text(one: Generation, other: Generation) -> bool:
    return (one.ids, one.text, one.finish_reason) == (other.ids, other.text, other.finish_reason)


# ---- the text -------------------------------------------------------------------------

SAMPLING = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 0.8, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.0, "top_k": 20, "repetition_penalty": 1.1},
    {"temperature": 1.5},
]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", SAMPLING)
def test_any_guesses_give_the_same_tokens(model: linnet.LanguageModel, options: dict[str, float]) -> None:
    prompt, vocab_size = model.tokenize(STORY), model.model.vocab_size
    for seed in range(2):
        plain = generate(model, prompt, None, 80, seed=seed, **options)
        assert plain.ids == token_by_token(model, prompt, 80, seed=seed, **options)
        assert plain.drafted == plain.accepted == 0
        for mistakes in (0.0, 0.2, 1.0):
            prompter = Prompter(plain.ids, vocab_size, model.tokenizer.eos_id or 0, mistakes)
            drafted = generate(model, prompt, prompter, 80, seed=seed, **options)
            assert same_text(drafted, plain)
            assert drafted.drafted > 50
            if mistakes < 1:
                assert drafted.accepted > (30 if mistakes else 60) * len(plain.ids) / 80
        assert same_text(generate(model, prompt, TextDrafter(prompt), 80, seed=seed, **options), plain)


@pytest.mark.usefixtures("eager")
def test_a_text_may_end_inside_a_draft(model: linnet.LanguageModel) -> None:
    eos = model.tokenizer.eos_id
    assert eos is not None
    prompt = model.tokenize("The cat")
    story = generate(model, prompt, None, 300, temperature=0)
    prompt += story.ids[:-40]
    plain = generate(model, prompt, None, 300, temperature=0)
    assert (plain.ids, plain.finish_reason) == (story.ids[-40:], "stop")
    # Guesses run over the end of the text, over the most tokens and over the context, at every distance.
    for spare in range(MOST_GUESSES + 2):
        oracle = Prompter([*plain.ids, eos, *plain.ids], model.model.vocab_size, eos, 0)
        drafted = generate(model, prompt, oracle, len(plain.ids) + spare, temperature=0)
        assert same_text(drafted, plain) or spare == 0
        most = len(plain.ids) - spare
        cut = generate(model, prompt, Prompter(plain.ids, 2, eos, 0), most, temperature=0)
        assert (cut.ids, cut.finish_reason) == (plain.ids[:most], "length")
        assert cut.accepted <= cut.drafted < len(cut.ids)
        small = linnet.load(n_ctx=len(prompt) + most - 1)
        full = generate(small, prompt, Prompter(plain.ids, 2, eos, 0), 300, temperature=0)
        assert (full.ids, full.finish_reason) == (plain.ids[:most], "context")


@pytest.mark.usefixtures("eager")
def test_an_end_of_text_in_the_prompt_is_copied_and_ends_the_text(model: linnet.LanguageModel) -> None:
    story = model.generate("The cat", temperature=0, speculate=False)
    assert story.finish_reason == "stop"
    once = [*model.tokenize("The cat"), *story.ids, model.tokenizer.eos_id or 0]
    reasons = set()
    for cut in range(2, 12):
        prompt = [*once, *once[:-cut]]
        plain = generate(model, prompt, None, 50, temperature=0)
        assert same_text(generate(model, prompt, TextDrafter(prompt), 50, temperature=0), plain)
        reasons.add(plain.finish_reason)
    assert "stop" in reasons


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("weights", "tokenizer"),
    [
        ("stories260K/stories260K.bin", "stories260K/tok512.bin"),
        ("stories3M/stories3M_q80_g64.bin", "stories3M/tok4096.bin"),
    ],
)
def test_real_models_give_the_same_tokens(shared: Path, tmp_path: Path, weights: str, tokenizer: str) -> None:
    parts = read_model(shared / "weights" / weights, shared / "weights" / tokenizer)
    model = linnet.load(saved(parts, tmp_path / "model.gguf"))
    for seed, options in enumerate(SAMPLING[1::2]):
        prompt = (STORY, "Lily had a ball. Lily had a")[seed % 2]
        plain = model.generate(prompt, max_tokens=150, seed=seed, speculate=False, **options)
        assert same_text(model.generate(prompt, max_tokens=150, seed=seed, **options), plain)


@pytest.mark.usefixtures("eager")
def test_guesses_that_do_not_fit_into_memory_do_not_end_a_text_early() -> None:
    model = linnet.load(n_ctx=2 * PAGE_TOKENS)
    prompt = model.tokenize(STORY)
    assert len(prompt) < PAGE_TOKENS
    known = generate(model, prompt, None, 2 * PAGE_TOKENS, temperature=0).ids
    others = []
    while model.workspace.n_free_pages > 1:
        others.append(model.open_session())
        others[-1].eval([1])
    for drafter in (None, Prompter(known, model.model.vocab_size, 0, 0)):
        sampler = Sampler(model.model.vocab_size)
        timeline = Timeline(model.open_session())
        stream = TextStream(timeline, prompt, Chooser(sampler), 2 * PAGE_TOKENS, drafter)
        with pytest.raises(ContextFullError):
            list(stream)
        assert stream.generation.ids == known[: PAGE_TOKENS - len(prompt) + 1]
        del stream


def test_what_was_measured_does_not_show_in_the_text(model: linnet.LanguageModel) -> None:
    for seed in range(3):
        plain = model.generate(STORY, max_tokens=150, seed=seed, speculate=False)
        assert same_text(model.generate(STORY, max_tokens=150, seed=seed), plain)


# ---- drafting from the text -------------------------------------------------------------


def test_the_longest_and_then_the_latest_match_is_followed() -> None:
    drafter = TextDrafter([1, 2, 3, 10, 2, 3, 11, 7, 3, 12, 1, 2, 3])
    assert list(drafter.draft(3)) == [10, 2, 3]  # 1 2 3, though 2 3 and 3 came later
    assert list(TextDrafter([5, 8, 5, 9, 5]).draft(2)) == [9, 5]
    assert not TextDrafter([1, 2, 3, 4]).chances(5)
    assert not TextDrafter([]).chances(5)


def test_a_match_is_kept_while_it_holds_and_trusted_the_more() -> None:
    drafter = TextDrafter([1, 2, 3, 4, 5, 6, 7, 3, 4, 99, 1])
    trust = []
    for token in (2, 3, 4):
        trust.append(drafter.chances(1)[0])
        drafter.accept(token)
    assert list(drafter.draft(2)) == [5, 6]  # 3 4 was last followed by 99, but this match began with 1 2
    assert trust == sorted(trust) and trust[0] < trust[2]
    assert list(drafter.chances(20)) == sorted(drafter.chances(20))
    assert len(drafter.chances(20)) == 20
    drafter.accept(0)
    assert not drafter.chances(1)


def test_a_repeating_text_is_guessed_beyond_its_end() -> None:
    assert list(TextDrafter([7, 1, 2, 3, 1, 2, 3]).draft(7)) == [1, 2, 3, 1, 2, 3, 1]


def test_trust_is_learnt_without_drafting() -> None:
    drafter, noise = TextDrafter([0]), random.Random(0)
    for _ in range(400):
        drafter.accept(noise.randrange(4))
    assert drafter.chances(1)[0] < 0.5
    for token in [1, 2, 3, 4, 5, 6, 7, 8, 9] * 20:
        drafter.accept(token)
    assert drafter.chances(3)[2] > 0.95


# ---- drafting with a model -------------------------------------------------------------


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> linnet.LanguageModel:
    """The first half of the bundled model's layers: another model with the same tokenizer."""
    parts = read_gguf(BUNDLED_MODEL)
    half = parts.facts.n_layers // 2
    dropped = tuple(f"blk.{layer}." for layer in range(half, parts.facts.n_layers))
    kept = tuple(tensor for tensor in parts.tensors if not tensor.name.startswith(dropped))
    parts = replace(parts, facts=replace(parts.facts, n_layers=half), tensors=kept)
    return linnet.load(saved(parts, tmp_path_factory.mktemp("shallow") / "model.gguf"), n_ctx=256)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", SAMPLING)
def test_a_draft_model_gives_the_same_tokens(
    model: linnet.LanguageModel, shallow: linnet.LanguageModel, options: dict[str, float]
) -> None:
    prompt = model.tokenize(STORY)
    for seed in range(2):
        plain = generate(model, prompt, None, 100, seed=seed, **options)
        for draft in (model, shallow):
            drafter = ModelDrafter(draft.open_session(), prompt)
            drafted = generate(model, prompt, drafter, 100, seed=seed, **options)
            assert same_text(drafted, plain)
            assert drafted.drafted
            if draft is model and options == {"temperature": 0.0}:
                assert drafted.accepted == drafted.drafted


def test_a_draft_model_follows_the_text_at_any_distance(model: linnet.LanguageModel) -> None:
    """Its guesses are the greedy text of its model after exactly the text so far, whatever came between."""
    prompt, dice = model.tokenize(STORY), random.Random(5)
    text, drafter = list(prompt), ModelDrafter(model.open_session(), prompt)
    for _ in range(12):
        wanted = dice.randint(1, 6)
        guesses = list(drafter.draft(wanted))
        if not guesses:  # it was catching up
            guesses = list(drafter.draft(wanted))
        assert guesses == model.generate(text, max_tokens=wanted, temperature=0, speculate=False).ids
        taken = guesses[: dice.randint(0, wanted)]
        taken += [dice.randrange(1, 999) for _ in range(dice.randint(1, 4))]
        for token in taken:
            drafter.accept(token)
        text += taken


def test_a_draft_model_follows_a_text_that_was_shortened(model: linnet.LanguageModel) -> None:
    prompt = model.tokenize(STORY)
    drafter = ModelDrafter(model.open_session(), prompt)
    while not drafter.draft(3):
        pass
    for token in (7, 8, 9):
        drafter.accept(token)
    for rest in ([*prompt[:3], *prompt[-6:], 7, 8, 9], [*prompt[9:], 7], [5]):
        drafter.shorten(rest)
        while not (guesses := list(drafter.draft(5))):
            pass
        assert guesses == model.generate(rest, max_tokens=5, temperature=0, speculate=False).ids


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 4}])
def test_a_sliding_text_is_drafted_on(options: dict[str, Any]) -> None:
    """The same tokens as without, and guesses of the same model go on being right when the text slid."""
    small = linnet.load(n_ctx=PAGE_TOKENS, draft_model=BUNDLED_MODEL, threads=1)
    options |= {"max_tokens": 100, "overflow": "slide", "n_keep": 5, "ends": ()}
    plain = small.generate(STORY, speculate=False, **options)
    drafted = small.generate(STORY, **options)
    assert drafted.ids == plain.ids and drafted.dropped_tokens == plain.dropped_tokens > 60
    assert drafted.drafted > 60
    if options["temperature"] == 0:
        assert drafted.accepted == drafted.drafted


def test_a_draft_model_needs_the_same_tokenizer(tmp_path: Path) -> None:
    same = linnet.load(draft_model=BUNDLED_MODEL)
    assert same.draft is not None and same.draft.n_ctx == same.n_ctx
    parts = read_gguf(BUNDLED_MODEL)
    tokens = list(parts.tokenizer.vocabulary.tokens)
    tokens[300], tokens[301] = tokens[301], tokens[300]
    swapped = replace(parts.tokenizer.vocabulary, tokens=tuple(tokens))
    other = saved(replace(parts, tokenizer=TokenizerParts(swapped)), tmp_path / "swapped.gguf")
    with pytest.raises(UsageError, match="tokens of the draft model are not those of the model"):
        linnet.load(draft_model=other)


def test_a_draft_model_needs_as_many_tokens(shared: Path, tmp_path: Path) -> None:
    folder = shared / "weights" / "stories260K"
    parts = read_model(folder / "stories260K.bin", folder / "tok512.bin")
    with pytest.raises(UsageError, match="draft model has 512 tokens and the model 2048"):
        linnet.load(draft_model=saved(parts, tmp_path / "other.gguf"))


# ---- the pace --------------------------------------------------------------------------


def simulate(cost: Callable[[int], float], share: float, seed: int) -> float:
    """Time of a text of 3,000 tokens whose guesses are right with probability ``share``, without = 1.

    ``cost`` is in plain passes. What is measured jitters, and one pass in 100 takes 20 times as long.
    """
    pace, dice, spent, made = Pace(), random.Random(seed), 0.0, 0
    while made < 3000:
        guesses = pace.guesses([share] * MOST_GUESSES)
        right = 0
        while right < guesses and dice.random() < share:
            right += 1
        hiccup = 20 if dice.random() < 0.01 else 1
        pace.record(1 + guesses, cost(1 + guesses) * (1 + dice.random() / 10) * hiccup * 1e-3, 1 + right)
        spent += cost(1 + guesses)
        made += 1 + right
    return spent / made


COSTS: dict[str, Callable[[int], float]] = {
    "bound by memory": lambda n: 1 + 0.02 * (n - 1),
    "between": lambda n: 1 + 0.3 * (n - 1),
    "bound by arithmetic": lambda n: n,
    "a step, then flat": lambda n: 1.0 if n == 1 else 2.2,
}


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8])
def test_guesses_never_cost_much(name: str, share: float) -> None:
    assert max(simulate(COSTS[name], share, seed) for seed in range(3)) < 1.02


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("bound by memory", 0.3),
        ("bound by memory", 0.9),
        ("between", 0.5),
        ("between", 0.95),
        ("a step, then flat", 0.9),
    ],
)
def test_guesses_that_pay_are_checked_in_nearly_the_best_number(name: str, share: float) -> None:
    def of_always(size: int) -> float:
        return COSTS[name](size) / sum(share**i for i in range(size))

    usual = statistics.median(simulate(COSTS[name], share, seed) for seed in range(5))
    assert usual < 1.1 * min(map(of_always, SIZES))


def test_overrated_guesses_are_given_up_and_tried_again() -> None:
    """A drafter that promises 0.9 and holds nothing wastes little; when it comes true, it is used."""
    pace, dice, spent, made = Pace(), random.Random(7), 0.0, 0
    while made < 2000:
        guesses = pace.guesses([0.9] * MOST_GUESSES)
        pace.record(1 + guesses, 1 + 0.3 * guesses, 1)
        spent += 1 + 0.3 * guesses
        made += 1
        assert spent < 1.02 * made + 10
    assert spent > made  # it did try
    spent_then = spent
    while made < 4000:
        guesses = pace.guesses([0.9] * MOST_GUESSES)
        right = guesses if dice.random() < 0.8 else 0
        pace.record(1 + guesses, 1 + 0.3 * guesses, 1 + right)
        spent += 1 + 0.3 * guesses
        made += 1 + right
    assert spent - spent_then < 0.8 * 2000


def test_deciding_is_left_where_it_costs_more_than_it_saves() -> None:
    small, large, copying = Pace(), Pace(), Pace()
    for pace, seconds in ((small, 1e-4), (large, 1e-2), (copying, 1e-4)):
        for _ in range(200):
            pace.record(1, seconds, 1)
            pace.guesses([])
            pace.rest(5e-6)
    for _ in range(20):
        copying.record(8, 2e-4, 8)
        copying.guesses([])
    assert small.rest(5e-6) == 10  # 5 of 1,000 microseconds
    assert large.rest(5e-6) == copying.rest(5e-6) == 0


# ---- the command -----------------------------------------------------------------------


def linnet_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "linnet", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_counts_guesses_and_can_do_without() -> None:
    arguments = ("bla bla bla bla bla bla", "--temperature", "0", "-n", "200", "--threads", "1")
    plain = json.loads(linnet_run(*arguments, "--json", "--no-speculate").stdout)
    assert plain["drafted"] == plain["accepted"] == 0
    drafted = json.loads(linnet_run(*arguments, "--json").stdout)
    assert drafted["text"] == plain["text"]
    assert 0 <= drafted["accepted"] <= drafted["drafted"]
    again = linnet_run(*arguments, "--draft-model", str(BUNDLED_MODEL))
    assert again.stdout.strip() == plain["text"].strip()


def test_a_draft_model_that_is_none_is_one_line(tmp_path: Path) -> None:
    done = linnet_run("hi", "--draft-model", str(tmp_path / "none.gguf"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
