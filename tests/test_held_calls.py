"""Calls of tools held to their schemas: whatever a model draws, its calls can be read and are valid."""

from __future__ import annotations

import ctypes
import json
import random
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_models import CHATML, tokenizer_json, write_chat_model
from conftest import ROOT

import linnet
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import MissingExtraError, UnsupportedError, UsageError
from linnet.run.chat import held_calls
from linnet.run.chat.answer import AnswerReader, Signs
from linnet.run.chat.format import ChatFormat
from linnet.run.chat.held_calls import CallGuide, HeldCalls, held_schemas
from linnet.run.chat.template import ChatTemplate
from linnet.run.chat.tool_formats import FORMATS, ToolCall, ToolFormat
from linnet.run.chat.tools import Tools
from linnet.run.text.spelling import Spelling
from linnet.run.text.structured import GuideTokenizer

pytest.importorskip("llguidance", reason="needs the [structured] extra")
jsonschema = pytest.importorskip("jsonschema")

SHORT = {"type": "string", "maxLength": 6}
WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": SHORT,
            "days": {"type": "integer", "minimum": 0, "maximum": 14},
            "unit": {"type": "string", "enum": ["C", "F </function>"]},
        },
        "required": ["city", "unit"],
    },
}
MIXED = {
    "name": "a.b-c",
    "parameters": {
        "type": "object",
        "properties": {
            "x": {"type": "number"},
            "from-to": {"type": ["string", "null"], "maxLength": 4},
            "ok": {"type": "boolean"},
            "list": {"type": "array", "items": SHORT, "maxItems": 2},
            "inner": {"type": "object", "properties": {"k": SHORT}, "additionalProperties": False},
            "path": {"type": "string", "pattern": "^[a-z/]{2,4}$"},
            "shared": {"$ref": "#/$defs/short"},
            "either": {"anyOf": [SHORT, {"type": "integer"}]},
        },
        "required": ["ok", "shared"],
        "$defs": {"short": SHORT},
    },
}
TOOLS = [WEATHER, MIXED, {"name": "now"}]
NAMED = {form.name: form for form in FORMATS}
TEXT = "Once upon a time"
END = "<|end|>"
each_format = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)


def begun(form: ToolFormat, start: str) -> str:
    """A text from which on a call is held."""
    if form.name == "recipients":
        return f"{start}g"
    if start == "Action:":
        return f"{start} ```json"
    if not form.bare or start.startswith("<"):
        return start
    opened = start.partition("{")[2] or start[-1:] == "{"
    return start + ('name"' if start.endswith('"') else '"name"' if opened else '{"name"')


class Walk:
    """A text of tokens drawn uniformly from those that are allowed."""

    def __init__(self, form: ToolFormat, signs: str, *, parallel: bool, template: bool = True) -> None:
        texts = [text for text in (*form.starts, *form.inside) if text.startswith(("<", "["))]
        special = texts if signs == "special" else []
        added = texts if signs == "added" else []
        self.tokenizer = Tokenizer.from_json(tokenizer_json([END, *special], added))
        self.tools = Tools(TOOLS)
        ids = {text: token for text, (token, is_special) in self.tokenizer.added_tokens.items() if is_special}
        self.calls = HeldCalls(
            form,
            held_schemas(form, self.tools.schemas),
            GuideTokenizer(self.tokenizer, self.tokenizer.vocab_size, [256]),
            ids,
            " ".join(texts) if template else "",
            parallel=parallel,
        )
        self.signs = Signs(tools=form, schemas=self.tools.parameters)
        self._special = {token: text for text, token in ids.items()}

    def spelling(self) -> Spelling:
        said = {token: text if self.signs.holds(text) else "" for token, text in self._special.items()}
        return Spelling(self.tokenizer, said)

    def guide(self, required: bool = False) -> CallGuide:
        alone = self.calls.alone("", False, []) if required else None
        return CallGuide(self.calls, AnswerReader(self.signs), self.spelling(), alone)

    def allowed(self, guide: CallGuide) -> list[int] | None:
        mask, n = guide.mask(), self.tokenizer.vocab_size
        if mask is None:
            return None
        bits = (ctypes.c_uint8 * ((n + 31) // 32 * 4)).from_address(mask)
        return [token for token in range(n) if bits[token // 8] >> token % 8 & 1]

    def run(self, rng: random.Random, beginning: str = "") -> list[int]:
        """``beginning``, then drawn tokens: only calls where there is none, else up to the end of one."""
        guide, ids = self.guide(required=not beginning), []
        for token in self.tokenizer.encode(beginning, special=True):
            allowed = self.allowed(guide)
            assert allowed is None or token in allowed
            guide.accept(token)
            ids.append(token)
        while len(ids) < 4000:
            forced = list(guide.forced())
            allowed = self.allowed(guide) if not forced else None
            if not forced and (allowed is None or guide.finished or (256 in allowed and rng.random() < 0.5)):
                return ids
            others = [token for token in allowed or () if token != 256]
            for token in forced or [rng.choice(others)]:
                guide.accept(token)
                ids.append(token)
        raise AssertionError("the text does not end")

    def read(self, ids: Sequence[int]) -> tuple[str, list[ToolCall]]:
        """What the project's own reader makes of it; every call is valid."""
        reader, spelling = AnswerReader(self.signs), self.spelling()
        deltas = [delta for token in ids for delta in reader.feed(spelling.feed(token))] + reader.finish()
        calls = [call for delta in deltas for call in delta.tool_calls]
        for call in calls:
            jsonschema.validate(json.loads(call.arguments), self.tools.parameters[call.name])
        return "".join(delta.content for delta in deltas), calls


@each_format
@pytest.mark.parametrize("signs", ["special", "text"])
def test_random_tokens_make_valid_calls_where_calls_have_to_come(form: ToolFormat, signs: str) -> None:
    walk, rng = Walk(form, signs, parallel=True), random.Random(1)
    content, calls = walk.read(walk.run(rng))
    assert calls and not content
    single = Walk(form, signs, parallel=False, template=False)
    content, calls = single.read(single.run(rng))
    assert len(calls) == 1 and not content


@each_format
@pytest.mark.parametrize("signs", ["special", "added"])
def test_random_tokens_make_valid_calls_after_each_sign(form: ToolFormat, signs: str) -> None:
    walk, rng = Walk(form, signs, parallel=True), random.Random(2)
    before = "" if form.bare else "Hi "
    for start in form.starts:
        ids = walk.run(rng, before + begun(form, start))
        content, calls = walk.read(ids)
        free_for_all = form.name == "recipients" and not calls
        assert (calls or free_for_all) and content == before.strip(), (start, walk.tokenizer.decode(ids))


@each_format
def test_nothing_is_asked_before_a_call_and_after_it(form: ToolFormat) -> None:
    walk = Walk(form, "text", parallel=True)
    guide = walk.guide()
    for token in walk.tokenizer.encode(TEXT):
        assert walk.allowed(guide) is None and not guide.forced() and not guide.finished
        guide.accept(token)
    written = form.write([ToolCall("get_weather", '{"city": "Oslo", "unit": "C"}'), ToolCall("now", "{}")])
    again = Walk(form, "text", parallel=True, template=False)
    guide = again.guide()
    for token in again.tokenizer.encode(written):  # what a format writes is among what may be written
        allowed = again.allowed(guide)
        assert allowed is None or token in allowed, written
        guide.accept(token)
    assert not guide.finished


def test_an_answer_may_begin_inside_of_a_call() -> None:
    walk = Walk(NAMED["recipients"], "text", parallel=True)

    def read(text: str) -> tuple[str, int]:
        reader = AnswerReader(walk.signs, opened=">>>")
        guide = CallGuide(walk.calls, AnswerReader(walk.signs, opened=">>>"), walk.spelling())
        for token in walk.tokenizer.encode(text):
            allowed = walk.allowed(guide)
            assert allowed is None or token in allowed
            guide.accept(token)
        deltas = reader.feed(text) + reader.finish()
        return "".join(delta.content for delta in deltas), sum(len(delta.tool_calls) for delta in deltas)

    assert read("now\n{}>>>now\n{}") == ("", 2)
    assert read("all\nHi>>>now\n{}") == ("Hi", 1)
    assert read(" 3 + 4\n7") == ("3 + 4\n7", 0)


def test_calls_in_reasoning_are_text() -> None:
    walk = Walk(NAMED["hermes"], "added", parallel=True)
    signs = Signs(reasoning=(("<think>", "</think>"),), tools=walk.signs.tools, schemas=walk.signs.schemas)
    guide = CallGuide(walk.calls, AnswerReader(signs, thinking=True), walk.spelling())
    for token in walk.tokenizer.encode("I could <tool_call>", special=True):
        guide.accept(token)
    assert guide.mask() is None
    for token in walk.tokenizer.encode("</think><tool_call>", special=True):
        guide.accept(token)
    assert guide.mask() is not None


def test_a_token_may_end_a_sign_and_go_on_as_a_call_does() -> None:
    """The sign straddles tokens; those that would spoil the call are not allowed."""
    texts = ["<tool", "_call>{", '_call>\n{"', "_call>no", "_call>\n", "x<tool_call>{", "x<tool_call>]"]
    walk = Walk.__new__(Walk)
    walk.tokenizer = Tokenizer.from_json(tokenizer_json([END], texts))
    walk.tools = Tools([WEATHER])
    vocabulary = GuideTokenizer(walk.tokenizer, walk.tokenizer.vocab_size, [256])
    form = NAMED["hermes"]
    schemas = held_schemas(form, walk.tools.schemas)
    walk.calls = HeldCalls(form, schemas, vocabulary, {}, "", parallel=True)
    walk.signs, walk._special = Signs(tools=form, schemas=walk.tools.parameters), {}
    token = {text: walk.tokenizer.added_tokens[text][0] for text in texts}
    guide = walk.guide()
    allowed = walk.allowed(guide)
    assert allowed is not None and token["x<tool_call>{"] in allowed and token["x<tool_call>]"] not in allowed
    assert len(allowed) == walk.tokenizer.vocab_size - 1
    guide.accept(token["<tool"])
    allowed = walk.allowed(guide)
    assert allowed is not None and token["_call>no"] not in allowed
    assert token["_call>\n"] in allowed and token["_call>{"] in allowed
    guide.accept(token['_call>\n{"'])
    assert bytes(walk.tokenizer.decode(guide.forced())).startswith(b'name"')


# ---- schemas --------------------------------------------------------------------------------

ODD = {"type": "object", "properties": {"a": {"not": {"type": "string"}}, "b": {"type": "integer"}}}


def test_what_cannot_be_held_is_free_or_refused() -> None:
    form = NAMED["hermes"]
    with pytest.warns(UserWarning, match="held in part: .*not"):
        held = held_schemas(form, Tools([{"name": "f", "parameters": ODD}]).schemas)
    assert held["f"]["properties"] == {"a": {}, "b": {"type": "integer"}}
    with pytest.raises(UnsupportedError, match=r"the tool 'f' cannot be held: .*not"):
        held_schemas(form, Tools([{"name": "f", "parameters": ODD, "strict": True}]).schemas)
    with pytest.warns(UserWarning, match="'two words' cannot be called"):
        assert not held_schemas(NAMED["glm"], Tools([{"name": "two words"}]).schemas)


@pytest.mark.slow
def test_the_schemas_of_bfcl_are_held(shared: Path) -> None:
    """For each function of the benchmark the grammar of each format compiles."""
    model = linnet.load(threads=1)
    vocabulary = model.guide_tokenizer()
    functions = {}
    for path in sorted((shared / "eval/bfcl").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines()[::20]:
            functions.update({function["name"]: function for function in json.loads(line)["function"]})
    n_held = 0
    for form in FORMATS:
        for function in functions.values():
            with warnings.catch_warnings(record=True) as said:
                held = held_schemas(form, Tools([function]).schemas)
            n_held += bool(held) and not said
            if held:
                HeldCalls(form, held, vocabulary, {}, "", parallel=True).alone("", False, [])
    assert n_held > 0.9 * len(functions) * len(FORMATS)


# ---- with models ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> linnet.LanguageModel:
    return linnet.load(threads=1)


def template_of(form: ToolFormat) -> str:
    """A plain template that shows the signs of a format."""
    extra = {"recipients": ">>>${recipient}", "kimi": "", "llama3": '"parameters": dictionary'}
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if tools %}{% endif %}"
    shown = " ".join((*form.starts, *form.inside, extra.get(form.name, "")))
    wanted = {"qwen_xml": "<parameter=", "pythonic": "List of tools: [", "command_r": '"tool_name"'}
    end = ">>>" if form.name == "recipients" else "assistant:"  # its prompts end with the sign
    return f"{source}{{# {'' if form.name == 'generic' else shown + wanted.get(form.name, '')} #}}{end}"


@each_format
def test_a_story_model_calls_when_it_must(
    form: ToolFormat, model: linnet.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ChatFormat(ChatTemplate(template_of(form)), model.tokenizer, model.model.metadata)
    assert chat.tool_format is form
    monkeypatch.setitem(model.__dict__, "chat_format", chat)
    question = [{"role": "user", "content": "Tom wants to know the weather."}]
    for choice in ("required", "get_weather"):
        answer = model.chat(
            question, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, max_tokens=400, seed=3
        )
        (call,) = answer.tool_calls
        tools = Tools(TOOLS)
        jsonschema.validate(
            json.loads(call["function"]["arguments"]), tools.parameters[call["function"]["name"]]
        )
        assert choice in ("required", call["function"]["name"])
        assert answer.finish_reason == "tool_calls" and not answer.text
    free = model.chat(question, max_tokens=20, seed=3)
    assert model.chat(question, tools=TOOLS, tool_choice="none", max_tokens=20, seed=3).text == free.text


def test_the_calls_are_the_same_at_every_pace(model: linnet.LanguageModel) -> None:
    question = [{"role": "user", "content": "Tom wants to know the weather. Tom wants to know."}]
    for choice in ("auto", "required"):
        options: dict[str, Any] = {"tools": [WEATHER], "tool_choice": choice, "seed": 5, "max_tokens": 120}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = model.chat(question, speculate=False, **options)
            guessed = model.chat(question, **options)
            slow = model.chat(question, logprobs=0, **options)
        assert plain.generation.ids == guessed.generation.ids == slow.generation.ids
        assert choice == "required" or not plain.tool_calls


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> linnet.LanguageModel:
    template = CHATML.replace("{% for", "{% if tools %}{{ tools|tojson }}<tool_call>{% endif %}{% for", 1)
    return linnet.load(write_chat_model(tmp_path_factory.mktemp("held") / "model", template), n_ctx=2048)


def test_a_choice_means_what_openai_says(chat_model: linnet.LanguageModel) -> None:
    def ask(**options: Any) -> Any:
        return chat_model.chat([{"role": "user", "content": "?"}], max_tokens=200, seed=1, **options)

    by_name = {"type": "function", "function": {"name": "now"}}
    for choice in ("now", by_name):
        calls = ask(tools=TOOLS, tool_choice=choice).tool_calls
        assert [call["function"]["name"] for call in calls] == ["now"]
    made = [ask(tools=[{"name": "now"}], tool_choice="required", temperature=t) for t in (0, 1, 2, 9)]
    assert max(len(answer.tool_calls) for answer in made) > 1
    assert not ask(tools=TOOLS, tool_choice="none").tool_calls
    for options in ({"tool_choice": "required"}, {"tools": TOOLS, "tool_choice": "other"}):
        with pytest.raises(UsageError, match="tool_choice is"):
            ask(**options)
    with pytest.raises(UsageError, match="leave out"):
        ask(tools=TOOLS, tool_choice="required", regex="a")


def test_a_required_call_is_asked_for_once(chat_model: linnet.LanguageModel) -> None:
    def now() -> str:
        """Tells the time."""
        return "noon"

    answer = linnet.chat("?", chat_model, tools=[now], tool_choice="now", max_tokens=80, temperature=0)
    assert [message["role"] for message in answer.messages[:3]] == ["user", "assistant", "tool"]
    assert not answer.tool_calls


def test_reasoning_may_come_before_a_call(chat_model: linnet.LanguageModel) -> None:
    format_ = chat_model.chat_format
    walk = Walk(NAMED["hermes"], "text", parallel=False)
    pairs = [("<think>", "</think>")]
    for thinking, text in ((False, "<think>so<x</think>\n<tool_call>"), (True, "so</think><tool_call>")):
        guide = walk.calls.alone("", thinking, pairs).guide()
        for token in walk.tokenizer.encode(text):
            guide.accept(token)
        assert not guide.complete
    assert format_.reasoning == (("<think>", "</think>"),)


def test_without_the_extra_calls_are_free(
    chat_model: linnet.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise MissingExtraError("llguidance", "structured")

    monkeypatch.setattr(chat_model, "guide_tokenizer", missing)
    question = [{"role": "user", "content": "?"}]
    assert not chat_model.chat(question, tools=TOOLS, max_tokens=4).tool_calls
    with pytest.raises(MissingExtraError):
        chat_model.chat(question, tools=TOOLS, tool_choice="required")


def test_what_llguidance_gives_up_is_free(
    chat_model: linnet.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(self: object, token: int) -> None:
        raise UnsupportedError("too complex")

    monkeypatch.setattr(held_calls.GrammarGuide, "accept", give_up)
    answer = chat_model.chat(
        [{"role": "user", "content": "?"}], tools=TOOLS, tool_choice="required", max_tokens=9, seed=1
    )
    assert answer.finish_reason == "length" and not answer.tool_calls


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/chat.md").read_text(encoding="utf-8")
    (example,) = [
        code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "tool_choice" in code
    ]
    with pytest.warns(UserWarning, match="no chat template"):
        exec(compile(example, "docs/chat.md", "exec"), {"__name__": "example"})
    shown = capsys.readouterr().out.splitlines()
    assert re.match(r"assistant .*'name': 'weather'", shown[0])
    assert re.fullmatch(r"tool (Oslo|Rome): rain for -?\d+ days", shown[1])
