"""Chat templates render as their makers meant them, and cannot hurt."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from linnet.errors import LinnetError, TemplateError, UsageError
from linnet.run.chat.template import PLAIN_FORM, ChatTemplate, render

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather of a city <now>, "as is" é',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Which one"},
                "days": {"type": "array", "items": {"type": "integer"}},
                "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
            },
            "required": ["city"],
        },
    },
}


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": "call12345", "type": "function", "function": function}


USER = {"role": "user", "content": "Hi, what's <up>?  "}
THINKING = [USER, {"role": "assistant", "content": "42", "reasoning_content": "Think\nhard."}, USER]


def tool_turn(arguments: Any, content: str | None) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": content, "tool_calls": [call(arguments)]},
        {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": '{"t": 21}'},
        {"role": "assistant", "content": "21 degrees"},
        {"role": "user", "content": "Thanks"},
    ]


CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one": ([USER], {}),
    "system": ([{"role": "system", "content": "Be\nbrief."}, USER], {}),
    "turns": ([USER, {"role": "assistant", "content": "Fine."}, USER], {}),
    "closed": ([USER, {"role": "assistant", "content": "Fine."}], {"add_generation_prompt": False}),
    "tools": ([USER], {"tools": [TOOL, TOOL]}),
    "results": (tool_turn({"city": "Tromsø", "days": [1, 2]}, "Let me see."), {"tools": [TOOL]}),
    "results as text": (tool_turn('{"city": "Oslo"}', None), {"tools": [TOOL]}),
    "thinking": (THINKING, {}),
    "no thinking": (THINKING, {"enable_thinking": False}),
    "documents": ([USER], {"documents": [{"title": "A", "text": "Text of A"}]}),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "In parts"}]}], {}),
    "out of order": ([{"role": "assistant", "content": "I begin"}, USER, USER], {}),
}


def ours(source: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
    keywords = dict(options)
    known = {k: keywords.pop(k) for k in ("tools", "documents", "add_generation_prompt") if k in keywords}
    return ChatTemplate(source, tokens=TOKENS).render(messages, **known, variables=keywords)


@pytest.fixture(scope="session")
def reference() -> Any:
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **TOKENS)


def theirs(reference: Any, source: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> Any:
    """What transformers makes of a conversation: a text, or the error it raises."""
    keywords = {"add_generation_prompt": True, **options}
    try:
        return reference.apply_chat_template(messages, chat_template=source, tokenize=False, **keywords)
    except Exception as error:
        return error


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_templates_render_as_transformers_renders_them(shared: Path, reference: Any, step: int) -> None:
    """Byte for byte; where transformers raises, so do we, with the same words. Compiling all takes long."""
    compared = refused = 0
    every = sorted((shared / "tokenizers" / "chat_templates").glob("*.jinja"))
    paths = every[::step]
    for path, (name, (messages, options)) in itertools.product(paths, CONVERSATIONS.items()):
        source = path.read_text(encoding="utf-8")
        expected = theirs(reference, source, messages, options)
        if isinstance(expected, str):
            assert ours(source, messages, options) == expected, (path.name, name)
            compared += 1
            continue
        with pytest.raises(TemplateError) as raised:
            ours(source, messages, options)
        assert " ".join(str(expected).split())[:400] in str(raised.value), (path.name, name)
        refused += 1
    assert len(every) == 55
    assert compared > 9 * len(paths)
    assert refused > 10 / step


def test_plain_form_is_a_dialogue() -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    template = ChatTemplate(PLAIN_FORM, tokens={"bos_token": "<s>"}, plain=True)
    assert template.render(messages) == "<s>Be kind.\n\nUser: Hi\nAssistant:"


def test_a_template_for_tools_is_taken_when_there_are_tools() -> None:
    template = ChatTemplate("plain", named={"tool_use": "with {{ tools[0].function.name }}"})
    assert template.render([USER]) == "plain"
    assert template.render([USER], tools=[TOOL]) == "with get_weather"


@pytest.mark.parametrize("messages", [[], "hi", [{"content": "x"}], ["hi"], [{"role": 3}], {"role": "user"}])
def test_messages_that_are_none_are_refused(messages: Any) -> None:
    with pytest.raises(UsageError, match="role"):
        ChatTemplate("x").render(messages)


def test_a_message_that_contains_itself_is_one_line() -> None:
    message: dict[str, Any] = {"role": "user", "content": "hi"}
    message["more"] = [message]
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    for bad in ([message], [{"role": "user", "content": deep}]):
        with pytest.raises(UsageError, match="contains itself") as raised:
            ChatTemplate("x").render(bad)
        assert "\n" not in str(raised.value)
    with pytest.raises(UsageError, match="contains itself"):
        ChatTemplate("x").render([USER], variables={"deep": deep})


TREE = """{% set n = namespace(a=[], b=[]) %}
{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"""
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "output": "{% for a in range(99999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}",
    "plain text": "{% for a in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "power": "{{ 9 ** 999999999 }}",
    "squares": "{% set n = namespace(a=9) %}{% for i in range(99) %}{% set n.a = n.a * n.a %}{% endfor %}",
    "times": "{{ 'a' * 9999999999 }}",
    "times in a constant": "{% if 'a' * 9999999999 %}{% endif %}",
    "list": "{{ [1] * 9999999999 }}",
    "doubling": "{% set n = namespace(a='a') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "joining": "{% set n = namespace(a='a') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "comparing": TREE + "{{ n.a == n.b }}",
    "a test": TREE + "{{ n.a is eq n.b }}",
    "printing": TREE + "{{ n.a }}",
    "width": "{{ '%9999999999d' % 1 }}",
    "width as a number": "{{ '%*d' % (999999999, 1) }}",
    "width of format": "{{ '{:999999999}'.format(1) }}",
    "width by name": "{{ '{:{w}}'.format(1, w=999999999) }}",
    "width within": "{{ '{:{0[w]}}'.format({'w': 999999999}) }}",
    "center": "{{ 'a'|center(999999999) }}{{ 'a'.center(999999999) }}",
    "indent": "{{ {'a': 1}|tojson(indent=999999999) }}",
    "lines": "{{ ('\\n' * 99999)|indent(99999, true) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "replace filter": "{{ ('a' * 99999)|replace('a', 'b' * 99999) }}",
    "join": "{{ ('b' * 99999).join(['a'] * 99999) }}",
    "join filter": "{{ (['a'] * 99999)|join('b' * 99999) }}",
    "tabs": "{{ ('\\t' * 99999).expandtabs(99999) }}",
    "mapped": "{{ range(99999)|map('replace', '1', 'a' * 999999)|list|length }}",
    "captured": "{% set a = 'a' * 999999 %}{% set b %}"
    "{% for i in range(99999) %}{{ a }}{% endfor %}{% endset %}",
    "macro": "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "tree of macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% for a in [1] %}" * 400 + "{% endfor %}" * 400,
    "slices": "{{ 'abc'|batch(999999999)|list }}{{ 'a'|slice(999999999)|list }}",
    "internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "namespace internals": "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "syntax": "{% for %}",
    "unknown filter": "{{ 1|nonsense }}",
    "include": "{% include '/etc/passwd' %}",
    "size": "a" * (2 << 20),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_soon_with_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linnet.run.chat.bounded_jinja.MOST_SECONDS", 0.1)
    began = time.process_time()
    with pytest.raises(TemplateError) as raised:
        render(HOSTILE[name], {})
    assert "\n" not in str(raised.value)
    assert time.process_time() - began < 10


def test_a_long_conversation_is_within_bounds(shared: Path) -> None:
    source = (shared / "tokenizers/chat_templates/Qwen-Qwen3-0.6B.jinja").read_text(encoding="utf-8")
    turn = [{"role": "user", "content": "word " * 500}, {"role": "assistant", "content": "word " * 500}]
    text = ChatTemplate(source).render([*turn * 200, USER], tools=[TOOL] * 20)
    assert text.count("<|im_start|>") == 403


def test_objects_of_the_caller_are_out_of_reach() -> None:
    class Spy(str):
        def leak(self) -> str:
            return "leaked"

    message = {"role": "user", "content": Spy("hi"), "file": ROOT}
    with pytest.raises(TemplateError):
        render("{{ messages[0].content.leak() }}", {"messages": [{"content": "hi"}]})
    text = ChatTemplate("{{ messages[0].content.leak is defined }} {{ messages[0].file }}").render([message])
    assert text.split()[0] == "False" and "Path" in text


def test_errors_are_linnets_own() -> None:
    assert issubclass(TemplateError, LinnetError)
    with pytest.raises(TemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles\nmust alternate') }}", {})
    json.dumps(str(TemplateError("x")))
