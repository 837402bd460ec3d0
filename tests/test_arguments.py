"""What callers pass: None stands for the default, and what cannot be meant is one line that names it."""

from __future__ import annotations

from typing import Any

import pytest

import linnet
from linnet.cli import main
from linnet.errors import LinnetError, UsageError

PROMPT = "Once upon a time"
QUESTION = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def model() -> linnet.LanguageModel:
    return linnet.load(n_ctx=64, threads=1)


def test_none_is_the_default(model: linnet.LanguageModel) -> None:
    names = ["temperature", "top_k", "top_p", "min_p", "logit_bias", "banned_strings", "stop", "max_tokens",
             "logprobs", "ends", "overflow", "n_keep", "adapter", "speculate", "regex"]  # fmt: skip
    nothing: dict[str, Any] = dict.fromkeys(names)
    assert model.generate(PROMPT, seed=3, **nothing).ids == model.generate(PROMPT, seed=3).ids
    with pytest.warns(UserWarning, match="no chat template"):
        usual = model.chat(QUESTION, seed=3, max_tokens=8)
    nothing |= {"max_tokens": 8, "tools": None, "variables": None, "enable_thinking": None}
    assert model.chat(QUESTION, seed=3, **nothing).text == usual.text
    nothing["overflow"] = "turns"
    assert model.chat(QUESTION, seed=3, **nothing).text == usual.text


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "1"), ("temperature", [1.0]), ("top_k", 1.5), ("top_k", 2**40), ("top_p", b"1"),
     ("seed", "x"), ("seed", -1), ("logit_bias", [5]), ("logit_bias", {"5": 1.0}), ("logit_bias", {5: "x"}),
     ("banned_strings", [1]), ("stop", 5), ("stop", ["a", None]), ("stop", ""), ("max_tokens", 0),
     ("max_tokens", "9"), ("logprobs", -1), ("logprobs", 1.0), ("best_of", 0), ("overflow", 3),
     ("n_keep", "1"), ("adapter", 5), ("ends", 5), ("ends", ["a"]), ("timeline", 5)],
)  # fmt: skip
def test_the_wrong_kind_is_one_line(model: linnet.LanguageModel, name: str, value: Any) -> None:
    for call, text in ((model.generate, PROMPT), (model.chat, QUESTION)):
        with pytest.raises(UsageError, match=name.partition("_")[0]) as raised:
            call(text, **{"max_tokens": 2, name: value})  # type: ignore[operator]
        assert len(str(raised.value)) < 200 and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["type", "kv_type"])
def test_a_type_is_known_by_name(name: str) -> None:
    with pytest.raises(LinnetError, match=r"'5'.*choose from"):
        linnet.load(**{name: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [5, None, [1.5], ["a"], [{}], [None], {"role": "user"}])
def test_a_prompt_is_a_text_or_token_ids(model: linnet.LanguageModel, prompt: Any) -> None:
    with pytest.raises(UsageError, match=r"prompt|token id"):
        model.generate(prompt, max_tokens=1)


def test_one_text_is_no_list_of_texts(model: linnet.LanguageModel) -> None:
    for call in (model.embed, lambda one: model.rerank("q", one), lambda one: model.score("q", one)):
        with pytest.raises(
            UsageError, match=r"^(texts|documents|continuations) is 'cats'; it must be a list of"
        ):
            call("cats")
        assert len(call(iter(["cats", "dogs"]))) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", [5, None, ["a", "b"], {}])
def test_each_text_is_a_text(model: linnet.LanguageModel, odd: Any) -> None:
    for call in (model.embed, lambda texts: model.rerank("q", texts)):
        with pytest.raises(UsageError, match=r"^text is .*; it must be a text$"):
            call(["cats", odd])


@pytest.mark.parametrize("odd", [5, None, ["a"]])
def test_a_continuation_is_a_text_or_token_ids(model: linnet.LanguageModel, odd: Any) -> None:
    with pytest.raises(UsageError, match=r"token id"):
        model.score("cats", [" sat", odd])
    with pytest.raises(UsageError, match=r"token id"):
        model.score([odd] if odd != 5 else odd)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [5, 1.5, {}, int])
def test_a_path_is_a_path(model: linnet.LanguageModel, path: Any) -> None:
    for call in (
        linnet.load,
        lambda path: linnet.load(draft_model=path),
        lambda path: linnet.load(adapters={"a": path}),
        lambda path: model.add_adapter("a", path),
        lambda path: model.save_prompt(path, PROMPT),
        model.load_prompt,
    ):
        with pytest.raises(UsageError, match=r"path|draft_model"):
            call(path)


def test_adapters_have_names() -> None:
    for adapters in ("folder", ["folder"], 5):
        with pytest.raises(UsageError, match=r"adapters is .*; it must be a dict of names"):
            linnet.load(adapters=adapters)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["n_ctx", "threads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", 2**40])
def test_a_model_has_at_least_one_of_each(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"{name} is .*; it must be"):
        linnet.load(**{name: value})


@pytest.mark.parametrize("ram", [0, 1.5, "4G"])
def test_a_budget_is_a_number_of_bytes(ram: Any) -> None:
    with pytest.raises(UsageError, match=r"ram is .*; it must be"):
        linnet.load(ram=ram)


@pytest.mark.parametrize("verb", ["run", "embed"])
@pytest.mark.parametrize("flags", [("--n-ctx", "0"), ("--threads", "0"), ("--threads", "-2")])
def test_so_it_has_on_the_command_line(
    verb: str, flags: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--ram", "1G"]):
        assert main([verb, *flags, *more, "hi"]) == 2
        name = flags[0].removeprefix("--").replace("-", "_")
        assert f"linnet {verb}: {name} is {flags[1]}; it must be at least 1\n" == capsys.readouterr().err


def test_a_text_that_cannot_drop_turns_says_what_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--overflow", "turns", "Once"]) == 2
    assert "no conversation; use 'slide'" in capsys.readouterr().err
    with pytest.raises(LinnetError, match="'drop'; choose from error, slide, turns"):
        linnet.load().stream("x", overflow="drop")
