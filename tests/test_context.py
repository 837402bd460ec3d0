"""The limit of the context, what is left out only when asked for, and what calls leave to later ones."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

import linnet
from linnet.engine.sampler import Sampler
from linnet.engine.session import PAGE_TOKENS
from linnet.errors import ContextFullError, UsageError
from linnet.run.text.context import cut_middle, drop_oldest_turns

STORY = "Once upon a time there was a little girl named Lily. She had a red ball and a small dog called Max. "
LONG = STORY * 5


@pytest.fixture
def model() -> linnet.LanguageModel:
    return linnet.load(threads=1)


@pytest.fixture(scope="module")
def fresh() -> linnet.LanguageModel:
    """Evaluates everything from its first token."""
    return linnet.load(threads=1, cache_bytes=0)


# ---- what earlier calls leave ---------------------------------------------------------


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_is_the_same_with_and_without_what_is_known_of_its_prompt(
    kv_type: str, temperature: float
) -> None:
    model = linnet.load(threads=1, kv_type=kv_type)
    plain = linnet.load(threads=1, kv_type=kv_type, cache_bytes=0)
    text = LONG
    for turn in range(4):
        options = {"max_tokens": 30, "temperature": temperature, "seed": turn}
        made = model.generate(text, **options)
        expected = plain.generate(text, **options)
        assert (made.ids, made.text) == (expected.ids, expected.text)
        assert expected.cached_tokens == 0
        assert made.cached_tokens >= (0 if turn == 0 else 100)
        text = text[: len(text) - turn] + made.text + " The end."


def test_the_same_prompt_again_is_known_but_for_its_last_token(model: linnet.LanguageModel) -> None:
    first = model.generate(LONG, max_tokens=20, temperature=0)
    again = model.generate(LONG, max_tokens=20, temperature=0)
    assert (first.cached_tokens, again.cached_tokens) == (0, again.prompt_tokens - 1)
    assert first.ids == again.ids
    assert model.generate("Nothing alike", max_tokens=2).cached_tokens == 0  # BOS alone is not worth it


def test_streams_side_by_side_share_a_beginning(
    model: linnet.LanguageModel, fresh: linnet.LanguageModel
) -> None:
    model.generate(LONG, max_tokens=1)
    endings = ("Max", "The dog", "Then Lily")
    streams = [model.stream(LONG + end, max_tokens=15, temperature=0) for end in endings]
    for _ in range(5):
        for stream in streams:
            next(stream)
    texts = [(*stream, stream.generation.text)[-1] for stream in streams]
    assert texts == [fresh.generate(LONG + end, max_tokens=15, temperature=0).text for end in endings]
    assert all(stream.generation.cached_tokens > 100 for stream in streams)


def test_what_is_kept_is_limited_and_the_oldest_goes_first(fresh: linnet.LanguageModel) -> None:
    limit = 2 * fresh.session.n_bytes + 4 * fresh.workspace.page_bytes  # two timelines of two pages
    model = linnet.load(threads=1, cache_bytes=limit)
    prompts = [[1, *range(first, first + 100)] for first in (10, 300, 600)]
    for ids in prompts:
        model.generate(ids, max_tokens=1)
        assert model.cache.n_bytes <= limit
    assert [model.generate(ids, max_tokens=1).cached_tokens for ids in prompts[1:]] == [100, 100]
    assert model.generate(prompts[0], max_tokens=1).cached_tokens == 0
    too_long = [1, *range(100, 600)]
    model.generate(too_long, max_tokens=1)
    assert model.cache.n_bytes <= limit
    with pytest.raises(UsageError, match="cache_bytes is -1"):
        linnet.load(cache_bytes=-1)


def test_a_conversation_is_kept_once(model: linnet.LanguageModel) -> None:
    text = LONG
    for _ in range(3):
        text += model.generate(text, max_tokens=10, temperature=0).text
    assert model.cache.n_tokens < len(model.tokenize(text)) + 10
    model.generate(LONG, max_tokens=1, temperature=0)  # the beginning of what is kept
    assert model.cache.n_tokens < len(model.tokenize(text)) + 10


def test_a_timeline_that_needs_memory_gets_what_is_only_kept() -> None:
    model = linnet.load(threads=1, n_ctx=4 * PAGE_TOKENS, cache_bytes=1 << 30)
    for first in range(10, 1800, 150):
        model.generate([1, *range(first, first + 200)], max_tokens=1)
    assert model.workspace.n_free_pages <= model.workspace.n_pages - 3 * 3
    sessions = [model.open_session() for _ in range(4)]
    for session in sessions[:2]:
        session.eval(list(range(4 * PAGE_TOKENS)))
    model.workspace.eval([(session, list(range(4 * PAGE_TOKENS))) for session in sessions[2:]])
    assert model.workspace.n_free_pages == 0
    assert model.cache.n_tokens == 0
    with pytest.raises(ContextFullError, match="kv_tokens"):
        model.score([1, 2, 3])
    del sessions, session


def test_a_full_timeline_does_not_cost_what_is_kept() -> None:
    model = linnet.load(threads=1, n_ctx=PAGE_TOKENS)
    model.generate(STORY, max_tokens=1)
    kept = model.cache.n_tokens
    with pytest.raises(ContextFullError, match="more do not fit"):
        model.score(range(PAGE_TOKENS + 1))
    assert model.cache.n_tokens == kept > 0


def test_a_model_nobody_names_is_gone_at_once() -> None:
    model = linnet.load(threads=1)
    model.generate(STORY, max_tokens=2)
    gone = weakref.ref(model.workspace)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_an_abandoned_stream_leaves_what_it_evaluated(model: linnet.LanguageModel) -> None:
    stream = model.stream(LONG, max_tokens=50, temperature=0)
    next(stream)
    stream.close()
    assert model.generate(LONG, max_tokens=1).cached_tokens > 100


def test_streams_that_were_forgotten_half_way_do_no_harm(model: linnet.LanguageModel) -> None:
    gc.disable()  # they end without it
    try:
        for _ in range(20):
            next(model.stream(LONG, max_tokens=50))
        assert model.workspace.n_sessions < 10
    finally:
        gc.enable()
    assert model.generate(LONG, max_tokens=5).ids


def test_the_garbage_collector_may_come_at_any_time(model: linnet.LanguageModel) -> None:
    thresholds = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        for turn in range(60):
            stream = model.stream(LONG + str(turn), max_tokens=50)
            stream.itself = stream  # a cycle: only the collector ends it
            next(stream)
            del stream
            assert model.generate(LONG + str(turn % 5), max_tokens=2).ids
    finally:
        gc.set_threshold(*thresholds)


# ---- texts that do not fit ------------------------------------------------------------


def test_what_is_cut_is_the_middle() -> None:
    assert cut_middle(range(10), 10, 2) == list(range(10))
    assert cut_middle(range(11), 10, 2) == [0, 1, 7, 8, 9, 10]
    assert cut_middle(range(100), 10, 0) == [95, 96, 97, 98, 99]
    for n_keep in (-1, 9, 10):
        with pytest.raises(UsageError, match="n_keep"):
            cut_middle(range(11), 10, n_keep)


@pytest.mark.parametrize("n_keep", [0, 20])
@pytest.mark.parametrize("speculate", [False, True])
def test_a_sliding_text_goes_on_from_what_is_left_of_it(
    fresh: linnet.LanguageModel, n_keep: int, speculate: bool
) -> None:
    n_ctx = PAGE_TOKENS + 5
    small = linnet.load(threads=1, n_ctx=n_ctx)
    prompt = small.tokenize(STORY)
    options: dict[str, Any] = {"temperature": 1.0, "repetition_penalty": 1.2, "seed": 3}
    made = small.generate(
        prompt, max_tokens=90, overflow="slide", n_keep=n_keep, speculate=speculate, **options
    )
    sampler, seen, expected, dropped = Sampler(fresh.model.vocab_size, **_full(options)), prompt, [], 0
    for token in prompt:
        sampler.accept(token)
    while len(expected) < len(made.ids):
        if len(seen) > n_ctx:
            dropped += len(seen)
            seen = cut_middle(seen, n_ctx, max(n_keep, 1))
            dropped -= len(seen)
        with fresh.open_session() as session:
            session.eval(seen)
            token = session.draw(sampler)
        sampler.accept(token)
        expected.append(token)
        seen = [*seen, token]
    assert made.ids == expected
    assert len(made.ids) == 90 or made.finish_reason == "stop"
    assert made.dropped_tokens == dropped > 30


def _full(options: dict[str, Any]) -> dict[str, Any]:
    return {"top_p": 0.95, "min_p": 0.05, **options}


def test_a_long_prompt_is_cut_only_when_asked_for(fresh: linnet.LanguageModel) -> None:
    small = linnet.load(threads=1, n_ctx=32)
    prompt = small.tokenize(LONG)
    with pytest.raises(ContextFullError, match=rf"{len(prompt)} tokens and the context holds 32"):
        small.generate(prompt, max_tokens=1)
    made = small.generate(prompt, max_tokens=10, temperature=0, overflow="slide", n_keep=4)
    left = [*prompt[:4], *prompt[-14:]]
    assert made.ids == fresh.generate(left, max_tokens=10, temperature=0).ids
    assert (made.prompt_tokens, made.dropped_tokens) == (len(left), len(prompt) - len(left))


def test_impossible_ways_to_overflow_are_refused(model: linnet.LanguageModel) -> None:
    with pytest.raises(UsageError, match="overflow is 'drop'; choose from error, slide"):
        model.stream("x", overflow="drop")
    with pytest.raises(UsageError, match="n_keep is -3"):
        model.stream("x", overflow="slide", n_keep=-3)


# ---- conversations --------------------------------------------------------------------

CONVERSATION = [
    {"role": "system", "content": "s" * 10},
    {"role": "user", "content": "a" * 20},
    {"role": "assistant", "content": "b" * 20},
    {"role": "tool", "content": "c" * 20},
    {"role": "user", "content": "d" * 20},
    {"role": "assistant", "content": "e" * 20},
    {"role": "user", "content": "f" * 20},
]


def render(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    return [ord(character) for message in messages for character in message["content"]]


@pytest.mark.parametrize(
    ("limit", "left"), [(130, "sabcdef"), (129, "sdef"), (70, "sdef"), (69, "sf"), (30, "sf")]
)
def test_whole_turns_go_and_the_oldest_first(limit: int, left: str) -> None:
    messages, ids, dropped = drop_oldest_turns(CONVERSATION, render, limit)
    assert "".join(message["content"][0] for message in messages) == left
    assert (ids, dropped) == (render(messages), len(CONVERSATION) - len(left))


def test_a_last_turn_that_does_not_fit_is_an_error_with_the_counts() -> None:
    with pytest.raises(ContextFullError, match=r"has 30 tokens.*room for 29"):
        drop_oldest_turns(CONVERSATION, render, 29)
