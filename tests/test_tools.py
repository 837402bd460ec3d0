# ruff: noqa: E501 - tables of what models write
"""Tools: schemas of functions, calls in every family's format, and the loop that carries them out."""

from __future__ import annotations

import dataclasses
import enum
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest
from chat_models import write_chat_model

import linnet
from linnet.errors import ContextFullError, LinnetError, UsageError
from linnet.run.chat.answer import AnswerReader, Signs
from linnet.run.chat.tool_formats import FORMATS, ToolCall, ToolFormat, format_of
from linnet.run.chat.tools import Tools, schema_of
from linnet.run.text.context import check_prompt
from linnet.run.text.generation import Generation

STRING = {"type": "string"}
SCHEMAS = {
    "get_weather": {"type": "object", "properties": {"city": STRING, "days": {"type": "integer"}}},
    "f": {"type": "object", "properties": {"a": STRING, "b": {"type": "array"}, "c": {"type": "object"}}},
}
OSLO = ("get_weather", {"city": "Oslo", "days": 2})
NAMED = {form.name: form for form in FORMATS}

# What models of each family write, as their makers document it: format, text, calls, text around them.
WRITTEN: list[tuple[str, str, list[tuple[str, dict[str, Any]]], str]] = [
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>', [OSLO], ""),
    ("hermes", 'Let me see.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>', [("f", {})], "Let me see."),
    ("hermes", '<tool_call>{"arguments": {"a": "}</tool_call>"}, "name": "f"}</tool_call>', [("f", {"a": "}</tool_call>"})], ""),
    ("hermes", "<tool_call>{'name': 'f', 'arguments': {'b': [True, None]}}", [("f", {"b": [True, None]})], ""),
    ("llama3", '{"name": "get_weather", "parameters": {"city": "Oslo", "days": 2}}', [OSLO], ""),
    ("llama3", '{"name": "f", "parameters": {}}; {"name": "f", "parameters": {"a": "x"}}', [("f", {}), ("f", {"a": "x"})], ""),
    ("llama3", '<|python_tag|>brave_search.call(query="Oslo, now")', [("brave_search", {"query": "Oslo, now"})], ""),
    ("llama3", "<|python_tag|>print(1)\nx = 2", [("python", {"code": "print(1)\nx = 2"})], ""),
    ("llama3", '{"name": "Bob", "age": 3}', [], '{"name": "Bob", "age": 3}'),
    ("mistral", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}, "id": "abc"}]', [OSLO], ""),
    ("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo", "days": 2}', [OSLO], ""),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]a1[ARGS]{}[TOOL_CALLS]f{"a": "b"}', [("f", {}), ("f", {"a": "b"})], ""),
    ("command_r", '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo", "days": 2}}]<|END_ACTION|>', [OSLO], ""),
    ("command_r", 'Action: ```json\n[{"tool_name": "f", "parameters": {}}]\n```', [("f", {})], ""),
    ("tool_list", '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}]', [OSLO], ""),
    ("tool_list", '<|tool_call|>[{"name": "f", "arguments": {}}]<|/tool_call|>', [("f", {})], ""),
    ("tool_list", 'functools[{"name": "f", "arguments": {"a": "b"}}]', [("f", {"a": "b"})], ""),
    ("functionary", '<function=get_weather>{"city": "Oslo", "days": 2}</function>', [OSLO], ""),
    ("recipients", '>>>get_weather\n{"city": "Oslo", "days": 2}', [OSLO], ""),
    ("recipients", '>>>all\nHi>>>f\n{}', [("f", {})], "Hi"),
    ("deepseek", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Oslo", "days": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>', [OSLO], ""),
    ("deepseek", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "{}"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>', [("f", {}), ("f", {"a": "{}"})], ""),
    ("pythonic", '<|tool_call_start|>[get_weather(city="Oslo", days=2)]<|tool_call_end|>', [OSLO], ""),
    ("pythonic", "<|tool_call_start|>[f(), f(b=[1, true, None], c={'k': \"]\"})]<|tool_call_end|>Wait.", [("f", {}), ("f", {"b": [1, True, None], "c": {"k": "]"}})], "Wait."),
    ("pythonic", "<|tool_call_start|>[a-b.c(x-y=-1, from='f-g(')]<|tool_call_end|>", [("a-b.c", {"x-y": -1, "from": "f-g("})], ""),
    ("qwen_xml", "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>", [OSLO], ""),
    ("qwen_xml", "<function=f>\n<parameter=a>\n12\nlines\n</parameter>\n<parameter=b>\n[1, 2]\n</parameter>\n</function>", [("f", {"a": "12\nlines", "b": [1, 2]})], ""),
    ("glm", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>", [OSLO], ""),
    ("kimi", '<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo", "days": 2}<|tool_call_end|><|tool_calls_section_end|>', [OSLO], ""),
    ("apertus", '<|tools_prefix|>[{"get_weather": {"city": "Oslo", "days": 2}}, {"f": {}}]<|tools_suffix|>', [OSLO, ("f", {})], ""),
    ("generic", '{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}', [OSLO], ""),
    ("generic", '```json\n{"name": "f", "arguments": {}}\n```', [("f", {})], ""),
    ("generic", '```json\n{"no": "call"}\n```', [], '```json\n{"no": "call"}\n```'),
]  # fmt: skip

# Nothing here is a call, and all of it stays as it is.
BROKEN = [
    "<tool_call>", "<tool_call>{", '<tool_call>{"name": 3, "arguments": {}}</tool_call>', "<tool_call>[]</tool_call>",
    "<tool_call>" + "[" * 5000, "<tool_call>hm</tool_call>", "[TOOL_CALLS]", "[TOOL_CALLS]f[ARGS", "[TOOL_CALLS]{}",
    '<|tool_call|>[{"name": "f", "arguments": [1]}]', "<|tool_call_start|>[f(1)]<|tool_call_end|>",
    "<|tool_call_start|>[f(**x)]", "<|tool_call_start|>[" + "-" * 5000 + "1]", "<function=>{}</function>",
    "<function=f>{", "<｜tool▁calls▁begin｜>x<｜tool▁calls▁end｜>", "{", '{"', '{"name": "f"', "[1, 2]", "```json",
    "<|python_tag|>", "<|tools_prefix|>[{}]<|tools_suffix|>", ">>>", ">>>no\nHi", "Action: none", "<tool_call>f{}",
    "<|START_ACTION|>no<|END_ACTION|>", "<tool_call>{'a': {*()}}</tool_call>", '<tool_call>{"name": "f", "arguments": "x"}',
]  # fmt: skip


def read(form: ToolFormat, text: str, step: int) -> tuple[str, list[tuple[str, Any]]]:
    reader = AnswerReader(Signs(tools=form, schemas=SCHEMAS))
    deltas = [d for i in range(0, len(text), step) for d in reader.feed(text[i : i + step])] + reader.finish()
    calls = [(call.name, json.loads(call.arguments)) for delta in deltas for call in delta.tool_calls]
    return "".join(delta.content for delta in deltas), calls


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(("name", "text", "calls", "around"), WRITTEN)
def test_calls_of_every_family_are_read_while_they_stream(
    name: str, text: str, calls: list[tuple[str, dict[str, Any]]], around: str, step: int
) -> None:
    assert read(NAMED[name], text, step) == (around, calls)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_what_is_no_call_stays_text(form: ToolFormat) -> None:
    for text in BROKEN:
        for step in (3, 10_000):
            content, calls = read(form, text, step)
            if not calls:
                assert content == text, (form.name, text)
    rng = random.Random(1)
    signs = [
        *form.starts,
        *form.inside,
        '{"name": "f", "arguments": {',
        "}",
        "]",
        "f(",
        '"',
        "\\",
        "\n",
        "a",
        "'",
    ]
    for _ in range(100):  # whatever a model writes, there is no error, and nothing is lost without a call
        text = "".join(rng.choice(signs) for _ in range(rng.randrange(12))).strip()
        content, calls = read(form, text, rng.choice((1, 4, 99)))
        assert calls or content == text


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_what_is_written_is_read_again(form: ToolFormat) -> None:
    given = [OSLO, ("f", {"a": 'x "y" é', "b": [1, None, True], "c": {"k": "v"}})]
    text = form.write([ToolCall(name, json.dumps(arguments)) for name, arguments in given])
    assert read(form, text, 5) == ("", given)


def test_formats_are_read_off_the_template(shared: Path) -> None:
    expected = {
        "Qwen-Qwen2.5-7B-Instruct": "hermes", "Qwen-Qwen3-0.6B": "hermes", "Qwen3-Coder": "qwen_xml",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes", "meta-llama-Llama-3.1-8B-Instruct": "llama3",
        "meta-llama-Llama-3.2-3B-Instruct": "llama3", "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
        "unsloth-mistral-Devstral-Small-2507": "mistral", "ibm-granite-granite-3.3-2B-Instruct": "tool_list",
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command_r", "GLM-4.6": "glm", "LFM2-8B-A1B": "pythonic",
        "LFM2.5-Instruct": "pythonic", "deepseek-ai-DeepSeek-V3.1": "deepseek", "Kimi-K2-Instruct": "kimi",
        "meetkai-functionary-medium-v3.1": "functionary", "meetkai-functionary-medium-v3.2": "recipients",
        "Apertus-8B-Instruct": "apertus", "google-gemma-2-2b-it": "generic",
    }  # fmt: skip
    for name, form in expected.items():
        source = (shared / "tokenizers/chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
        assert format_of(source).name == form, name


def test_real_calls_are_read_in_every_format(shared: Path) -> None:
    """The calls of glaive_toolcall, written as each family writes them."""
    path = shared / "finetune/toolcall/glaive_toolcall_en_300.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    turns = [t["value"] for row in rows for t in row["conversations"] if t["from"] == "function_call"]
    given = [json.loads(turn) for turn in turns]
    calls = [call for turn in given for call in (turn if isinstance(turn, list) else [turn])]
    assert len(calls) > 200
    for form in FORMATS:
        for call in calls:
            arguments = call["arguments"]
            schema = {"properties": {k: STRING if isinstance(v, str) else {} for k, v in arguments.items()}}
            text = form.write([ToolCall(call["name"], json.dumps(arguments, ensure_ascii=False))])
            reader = AnswerReader(Signs(tools=form, schemas={call["name"]: schema}))
            deltas = reader.feed(text) + reader.finish()
            found = [(c.name, json.loads(c.arguments)) for delta in deltas for c in delta.tool_calls]
            assert found == [(call["name"], arguments)], (form.name, text)


@pytest.mark.slow
def test_the_schemas_of_bfcl_are_taken(shared: Path) -> None:
    """Every function is accepted in the words of JSON Schema, or refused with a reason."""
    jsonschema = pytest.importorskip("jsonschema")
    taken = 0
    for path in sorted((shared / "eval/bfcl").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            for function in json.loads(line)["function"]:
                (schema,) = Tools([function]).parameters.values()
                jsonschema.Draft202012Validator.check_schema(schema)
                taken += 1
    assert taken > 1000


# ---- functions ------------------------------------------------------------------------------


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


@dataclasses.dataclass
class Place:
    city: str
    zip: int = 0


class Window(TypedDict):
    start: int


def weather(
    place: Place,
    unit: Unit,
    hour: Literal["day", "night"] = "day",
    days: list[int] | None = None,
    limits: Annotated[dict[str, float] | None, "Bounds"] = None,
    window: Window | None = None,
) -> str:
    """Tells the weather
    of a place.

    Not this paragraph.

    Args:
        place: Where,
            exactly.
        unit (Unit): Of the temperature.

    Returns:
        days: not an argument.
    """
    return f"{place.city} {unit.value} {hour} {days}"


def test_a_function_becomes_a_schema() -> None:
    about = schema_of(weather)["function"]
    assert (about["name"], about["description"]) == ("weather", "Tells the weather of a place.")
    parameters = about["parameters"]
    assert parameters["required"] == ["place", "unit"]
    kinds = parameters["properties"]
    assert kinds["place"]["properties"] == {"city": {"type": "string"}, "zip": {"type": "integer"}}
    assert kinds["place"]["required"] == ["city"]
    assert kinds["place"]["description"] == "Where, exactly."
    assert kinds["unit"]["enum"] == ["celsius", "fahrenheit"]
    assert kinds["hour"] == {"type": "string", "enum": ["day", "night"], "default": "day"}
    assert {"type": "array", "items": {"type": "integer"}} in kinds["days"]["anyOf"]
    assert kinds["limits"]["description"] == "Bounds"
    assert "description" not in kinds["days"]


def test_sphinx_descriptions_are_read() -> None:
    def f(a: int, b: str = "x") -> None:
        """Does it.

        :param a: The first
            of them.
        :param str b: The second.
        """

    kinds = schema_of(f)["function"]["parameters"]["properties"]
    assert (kinds["a"]["description"], kinds["b"]["description"]) == ("The first of them.", "The second.")


@pytest.mark.parametrize("wrong", [lambda *a: 1, lambda x, /: 1, print, [weather, weather]])
def test_what_cannot_be_a_tool_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        Tools(wrong if isinstance(wrong, list) else [wrong])


@pytest.mark.parametrize(
    "wrong", [{}, {"name": ""}, {"function": 3}, {"name": "f", "parameters": {"type": "array"}}, 3]
)
def test_schemas_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(LinnetError):
        Tools([wrong])


def test_a_call_reaches_the_function_with_the_types_it_wants() -> None:
    tools = Tools([weather])

    def run(name: str, arguments: Any) -> str:
        call = ToolCall(name, json.dumps(arguments), "id1").as_message()
        message = tools.run(call)
        assert (message["role"], message["tool_call_id"], message["name"]) == ("tool", "id1", name)
        return str(message["content"])

    right = {"place": {"city": "Oslo"}, "unit": "celsius", "days": [1]}
    assert run("weather", right) == "Oslo celsius day [1]"
    assert run("weather", {"place": 1}).startswith("Error: ")
    assert run("nothing", {}) == "Error: there is no function 'nothing'; there are weather"


# ---- the loop -------------------------------------------------------------------------------

TEMPLATE = (
    "{% if tools %}{{ tools|tojson }}<tool_call>{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function|tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def scripted(monkeypatch: pytest.MonkeyPatch, model: linnet.LanguageModel, texts: list[str]) -> list[str]:
    """Lets a model answer with these texts, as token ids; returns the prompts it is given."""
    prompts: list[str] = []

    def stream(prompt: list[int], **options: Any) -> Any:
        check_prompt(len(prompt), model.n_ctx)
        prompts.append(model.detokenize(prompt, special=True))
        ids = model.tokenize(texts.pop(0), bos=False, special=True)
        made = Generation(prompt_tokens=len(prompt), ids=ids, finish_reason="stop")

        class Scripted:
            generation, tokens, seed = made, iter(ids), 0

            def close(self) -> None:
                pass

        return Scripted()

    monkeypatch.setattr(model, "stream", stream)
    return prompts


@pytest.fixture
def model(tmp_path: Path) -> linnet.LanguageModel:
    return linnet.load(write_chat_model(tmp_path / "m", TEMPLATE))


def call_text(name: str, arguments: dict[str, Any]) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_the_loop_calls_functions_until_there_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, model: linnet.LanguageModel
) -> None:
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    both = call_text("add", {"a": 1, "b": 2}) + call_text("add", {"a": 1, "b": "x"}) + call_text("sub", {})
    prompts = scripted(monkeypatch, model, ["<think>Hm.</think>I add." + both, "It is 3.<|im_end|>"])
    answer = linnet.chat("1 + 2?", model, tools=[add])
    assert (answer.text, answer.finish_reason) == ("It is 3.", "stop")
    roles = [message["role"] for message in answer.messages]
    assert roles == ["user", "assistant", "tool", "tool", "tool", "assistant"]
    assert answer.messages[1]["reasoning_content"] == "Hm."
    results = [message["content"] for message in answer.messages[2:5]]
    assert (
        results[0] == "3" and results[1].startswith("Error: TypeError") and "no function 'sub'" in results[2]
    )
    ids = [call["id"] for call in answer.messages[1]["tool_calls"]]
    assert ids == [message["tool_call_id"] for message in answer.messages[2:5]] and len(set(ids)) == 3
    assert '"name": "add"' in prompts[0] and "tool\n3<|im_end|>" in prompts[1]


def test_a_result_for_which_there_is_no_room_is_told_to_the_model(
    monkeypatch: pytest.MonkeyPatch, model: linnet.LanguageModel
) -> None:
    def read(lines: int) -> str:
        return "word " * lines

    calls = call_text("read", {"lines": 10**5}) + call_text("read", {"lines": 2})
    prompts = scripted(monkeypatch, model, [calls, call_text("read", {"lines": 3}), "Three words.<|im_end|>"])
    answer = linnet.chat("Read it.", model, tools=[read])
    results = [message["content"] for message in answer.messages if message["role"] == "tool"]
    assert re.fullmatch(
        rf"Error: the result has \d+ tokens, .* context of {model.n_ctx}; ask for less", results[0]
    )
    assert results[1:] == ["word " * 2, "word " * 3] and answer.text == "Three words."
    assert len(prompts) == 3 and "ask for less" in prompts[1]


def test_an_error_in_the_loop_loses_nothing_of_the_conversation(
    monkeypatch: pytest.MonkeyPatch, model: linnet.LanguageModel
) -> None:
    def read() -> str:
        return "word " * 10**5

    room = len(
        model.chat_format.prompt([{"role": "user", "content": "Go."}], tools=Tools([read]).schemas).ids
    )
    monkeypatch.setattr(type(model), "n_ctx", room + 10)  # for a call, but not for what follows
    scripted(monkeypatch, model, [call_text("read", {})])
    with pytest.raises(ContextFullError) as caught:
        linnet.chat("Go.", model, tools=[read])
    said = caught.value.messages
    assert said is not None and [message["role"] for message in said] == ["user", "assistant", "tool"]
    assert said[1]["tool_calls"][0]["function"]["name"] == "read" and said[2]["content"] == "word " * 10**5


def test_the_loop_ends(monkeypatch: pytest.MonkeyPatch, model: linnet.LanguageModel) -> None:
    def again() -> str:
        return "again"

    scripted(monkeypatch, model, [call_text("again", {})] * 3)
    answer = linnet.chat("go", model, tools=[again], max_rounds=3)
    assert answer.finish_reason == "tool_calls" and len(answer.messages) == 6


def test_calls_of_mere_schemas_are_for_the_caller(
    monkeypatch: pytest.MonkeyPatch, model: linnet.LanguageModel
) -> None:
    scripted(monkeypatch, model, [call_text("f", {"a": 1})])
    answer = linnet.chat("go", model, tools=[{"name": "f", "parameters": {"type": "dict", "properties": {}}}])
    assert answer.finish_reason == "tool_calls"
    assert [call["function"] for call in answer.tool_calls] == [{"name": "f", "arguments": '{"a": 1}'}]


def test_a_model_without_tools_is_told_of_them_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = linnet.load(write_chat_model(tmp_path / "plain"))
    one: Callable[[], str] = lambda: "one"  # noqa: E731
    one.__name__ = "one"
    prompts = scripted(monkeypatch, plain, ['{"name": "one", "arguments": {}}', "One."])
    assert linnet.chat("go", plain, tools=[one]).text == "One."
    assert '"name": "one"' in prompts[0]
    assert "Result of the call: one" in prompts[1] and '{"name": "one", "arguments": {}}' in prompts[1]


# ---- functions and schemas that cannot be meant -----------------------------------------------


@dataclasses.dataclass
class Chain:
    next: Chain | None = None


class Odd(enum.Enum):
    A = object()


class Empty(enum.Enum):
    pass


class Unhashable(enum.Enum):
    A = [1]  # noqa: RUF012 - on purpose


async def later(a: int) -> int:
    return a


def taking(hint: Any) -> Callable[..., Any]:
    def f(a: Any) -> None: ...

    f.__annotations__ = {"a": hint}
    return f


@pytest.mark.parametrize("hint", [Chain, Odd, Empty, Literal["a", b"b"], "1 +", "1 / 0", "no_such_name"])
def test_a_function_whose_types_json_cannot_say_is_refused(hint: Any) -> None:
    with pytest.raises(UsageError, match=r"f\(a\)|cannot be a tool"):
        schema_of(taking(hint))


def test_an_async_function_is_refused_and_a_value_that_cannot_be_hashed_is_not() -> None:
    with pytest.raises(UsageError, match="async"):
        schema_of(later)
    schema = schema_of(taking(Unhashable))["function"]["parameters"]["properties"]["a"]
    assert schema["enum"] == [[1]]


@pytest.mark.parametrize(
    "tools",
    [
        3,
        "ab",
        [{"name": "f", "description": object()}],
        [{"name": "f", "parameters": {"properties": {"x": {"default": float("nan")}}}}],
    ],
)
def test_tools_that_are_not_json_are_refused(tools: Any) -> None:
    with pytest.raises(UsageError):
        Tools(tools)


def test_an_error_that_cannot_be_told_is_told_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def f() -> None:
        raise Mute

    message = Tools([f]).run({"function": {"name": "f", "arguments": "{}"}})
    assert message["content"] == "Error: Mute: it cannot say what"


def test_classes_of_pydantic_are_referred_to_from_the_root_and_made_of_the_arguments() -> None:
    pydantic = pytest.importorskip("pydantic")
    inner = pydantic.create_model("Inner", x=(int, ...))
    outer = pydantic.create_model("Outer", inner=(inner, ...))

    def f(a: Any) -> int:
        return int(a.inner.x)

    f.__annotations__ = {"a": outer}
    parameters = schema_of(f)["function"]["parameters"]
    assert parameters["properties"]["a"]["properties"]["inner"] == {"$ref": "#/$defs/Inner"}
    assert set(parameters["$defs"]) == {"Inner"}
    call = {"function": {"name": "f", "arguments": '{"a": {"inner": {"x": 7}}}'}}
    assert Tools([f]).run(call)["content"] == "7"

    named_as_keyword = pydantic.create_model("Settings", default=(inner, ...), enum=(inner, ...))
    f.__annotations__ = {"a": named_as_keyword}
    parameters = schema_of(f)["function"]["parameters"]
    assert "$defs" not in parameters["properties"]["a"] and set(parameters["$defs"]) == {"Inner"}

    f.__annotations__ = {"a": outer}
    other = pydantic.create_model("Inner", y=(str, ...))
    f.__annotations__["b"] = pydantic.create_model("Other", inner=(other, ...))
    g = lambda a, b: None  # noqa: E731
    g.__annotations__ = f.__annotations__
    with pytest.raises(UsageError, match="two types are called 'Inner'"):
        schema_of(g)
