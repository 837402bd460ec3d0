"""Texts held to a form: they have it, whatever the pace; what cannot be held is refused with the reason."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import linnet
from linnet.cli import main
from linnet.errors import LinnetError, UnsupportedError, UsageError

pytest.importorskip("llguidance", reason="needs the [structured] extra")
jsonschema = pytest.importorskip("jsonschema")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["cat", "bird"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
BENCH = Path(__file__).parents[2] / "shared/data/eval/jsonschemabench/schemas_with_tests.jsonl"


@pytest.fixture(scope="module")
def model() -> linnet.LanguageModel:
    return linnet.load(threads=1)


def test_every_text_has_the_form_and_says_so(model: linnet.LanguageModel) -> None:
    for seed in range(5):
        made = model.generate("A person:", json_schema=SCHEMA, temperature=1.5, seed=seed, max_tokens=200)
        assert made.finish_reason == "stop"
        jsonschema.validate(json.loads(made.text), SCHEMA)
        made = model.generate("Once", regex="[a-c]{3,5}x", temperature=1.5, seed=seed)
        assert re.fullmatch("[a-c]{3,5}x", made.text) and made.finish_reason == "stop"
        made = model.generate("Once", choices=["yes", 'no "sir"\n', "né\\"], temperature=3.0, seed=seed)
        assert made.text in ("yes", 'no "sir"\n', "né\\")
        assert re.fullmatch("x[0-9]{2}y", model.generate("1", grammar='root ::= "x" [0-9] [0-9] "y"').text)
        assert re.fullmatch("a[0-9]{2}", model.generate("1", grammar='start: "a" b\nb: /[0-9]{2}/').text)


def test_the_text_is_the_same_at_every_pace(model: linnet.LanguageModel) -> None:
    plain = model.generate("A person:", json_schema=SCHEMA, seed=3, speculate=False, repetition_penalty=1.2)
    guessed = model.generate("A person:", json_schema=SCHEMA, seed=3, repetition_penalty=1.2)
    slow = model.generate("A person:", json_schema=SCHEMA, seed=3, repetition_penalty=1.2, logprobs=0)
    assert plain.ids == guessed.ids == slow.ids
    assert len(slow.log_probs) == len(slow.ids)
    pieces = model.stream("A person:", json_schema=SCHEMA, seed=3, repetition_penalty=1.2)
    assert "".join(pieces) == plain.text


def test_a_format_that_only_its_author_knows_is_no_constraint(model: linnet.LanguageModel) -> None:
    schema = {
        "$defs": {"id": {"type": "integer", "format": "int64", "minimum": 0, "maximum": 99}},
        "properties": {"format": {"$ref": "#/$defs/id"}, "kind": {"enum": [{"format": "int64"}]}},
        "required": ["format", "kind"],
        "additionalProperties": False,
        "type": "object",
    }
    jsonschema = pytest.importorskip("jsonschema")
    for form in (schema, json.dumps(schema)):
        made = json.loads(model.generate("A bird:", json_schema=form, seed=3).text)
        jsonschema.validate(made, schema)
        assert made["kind"] == {"format": "int64"}


def test_a_text_cut_short_says_so(model: linnet.LanguageModel) -> None:
    made = model.generate("A person:", json_schema=SCHEMA, max_tokens=4)
    assert made.finish_reason == "length" and len(made.ids) == 4


def test_the_end_is_allowed_where_the_form_is_complete(model: linnet.LanguageModel) -> None:
    guide = model.constrain(regex="ab*").guide()
    (a,) = model.tokenizer.encode("a", at_start=False)[-1:]
    assert not guide.complete and model.tokenizer.eos_id is not None
    guide.accept(a)
    assert guide.complete and not guide.finished


def test_what_llguidance_holds_goes_with_the_model() -> None:
    model = linnet.load(threads=1)
    model.generate("A bird:", regex="[a-z]", max_tokens=2)
    held = weakref.ref(model.guide_tokenizer().encode)
    del model
    gc.collect()
    assert held() is None


def test_a_pydantic_model_is_a_schema(model: linnet.LanguageModel) -> None:
    pydantic = pytest.importorskip("pydantic")
    config = {"extra": "forbid"}
    bird = pydantic.create_model("Bird", __config__=config, age=(int, pydantic.Field(ge=0, le=9)))
    assert 0 <= bird.model_validate_json(model.generate("A bird:", json_schema=bird).text).age <= 9


def test_a_class_that_has_no_schema_says_why(model: linnet.LanguageModel) -> None:
    pydantic = pytest.importorskip("pydantic")
    timer = pydantic.create_model("Timer", then=(Callable[[int], int], ...))

    class Raises:
        @classmethod
        def model_json_schema(cls) -> None:
            raise RuntimeError("not today\nnor tomorrow")

    def call(timer: Any) -> None: ...

    call.__annotations__["timer"] = timer
    for kind, reason in ((timer, "Callable"), (Raises, "not today")):
        with pytest.raises(UsageError, match=rf"the class {kind.__name__} has no JSON schema: .*{reason}"):
            model.generate("x", json_schema=kind)
    with pytest.raises(UsageError, match="the class Timer has no JSON schema"):
        model.chat([{"role": "user", "content": "x"}], tools=[call])


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"json_schema": {"$ref": "http://example.com/x"}}, "'http://example.com/x', and nothing is fetched"),
        ({"json_schema": {"$ref": "#/x"}}, "a $ref leads to '/x', which is not in it"),
        ({"json_schema": "{"}, "this JSON schema cannot be held: it is not valid JSON: Expecting"),
        ({"json_schema": []}, "it is no JSON object"),
        ({"json_schema": {"type": "bogus"}}, "'type' is bogus, which JSON Schema does not have"),
        ({"json_schema": {"not": {}, "if": {}}}, '"if", "not", which cannot be held; leave that out'),
        (
            {"json_schema": {"format": "uri-reference"}},
            "the format 'uri-reference' is not known; leave it out",
        ),
        ({"json_schema": {"oneOf": [{}, {}]}}, "the parts of a oneOf are not seen to exclude each other"),
        ({"json_schema": {"minimum": "a"}}, "'minimum' is \"a\"; it must be a number"),
        ({"json_schema": {"required": 5}}, "'required' is 5; it must be of type array"),
        (
            {"json_schema": {"minimum": 5, "maximum": 3, "type": "number"}},
            "no text can have this form: minimum",
        ),
        (
            {"json_schema": {"pattern": "(?=a)b", "type": "string"}},
            "a regex cannot be read, look-ar",
        ),
        ({"json_schema": {"$ref": "#"}}, "no text can be completed: what has to come never ends"),
        ({"regex": "("}, "this regex cannot be held: a regex cannot be read, unclosed group: ("),
        ({"regex": "(" * 9999}, "a regex cannot be read, unclosed group: ((((("),
        ({"json_schema": {"const": "\ud800"}}, "it holds bytes that are not UTF-8"),
        ({"regex": "a\\b"}, "a\\b looks around, which cannot be held"),
        ({"regex": "a" * (1 << 20) + "b"}, "bytes"),
        ({"grammar": "start: foo"}, 'line 1, column 8: unknown name: "foo"'),
        ({"grammar": "root ::= ["}, "line 1, after 'root ::= [': Unexpected end of input"),
        ({"grammar": 'a: "x"'}, "it has no rule called start, as Lark, and no ::=, as GBNF"),
        ({"grammar": "start: start"}, "no text can be completed"),
        ({"choices": ["\ud800"]}, "these choices cannot be held"),
    ],
)
def test_what_cannot_be_held_is_refused(model: linnet.LanguageModel, form: Any, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(reason)):
        model.constrain(**form)


def test_a_text_that_has_become_impossible_to_follow_ends_with_the_reason(
    model: linnet.LanguageModel,
) -> None:
    with pytest.raises(LinnetError, match="any longer: it is too large to be followed; make it simpler"):
        model.generate("x", regex="a{1000}{1000}", seed=1)


@pytest.mark.skipif(not BENCH.exists(), reason="needs ../shared/data/eval/jsonschemabench")
def test_refusals_of_real_schemas_say_what_to_do(model: linnet.LanguageModel) -> None:
    refused = set()
    for line in BENCH.read_text(encoding="utf-8").splitlines():
        try:
            model.constrain(json_schema=json.loads(line)["schema"])
        except UnsupportedError as error:
            refused.add(str(error))
    assert len(refused) > 10
    advice = "leave that out|leave it out|write anyOf|correct the|require them|copy that schema"
    assert not [said for said in refused if not re.search(advice, said)]


def test_lark_is_told_from_gbnf_by_its_rules(model: linnet.LanguageModel) -> None:
    made = model.generate("x", grammar='start[max_tokens=3]: "a" /b*/', seed=1)
    assert re.fullmatch("ab*", made.text)


def test_forms_exclude_each_other(model: linnet.LanguageModel) -> None:
    with pytest.raises(UsageError, match="exactly one"):
        model.stream("x", regex="a", choices=["b"])
    with pytest.raises(UsageError, match="not both"):
        model.stream("x", regex="a", guide=model.constrain(regex="a").guide())


def test_the_command_line_takes_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    assert main(["run", "--json", "--json-schema", str(tmp_path / "s.json"), "A person:"]) == 0
    jsonschema.validate(json.loads(json.loads(capsys.readouterr().out)["text"]), SCHEMA)
    assert main(["run", "--json", "--choice", "yes", "--choice", "no", "Is it?"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] in ("yes", "no")


@pytest.mark.skipif(not BENCH.exists(), reason="needs ../shared/data/eval/jsonschemabench")
def test_schemas_of_others(model: linnet.LanguageModel) -> None:
    n_valid = 0
    for line in BENCH.read_text(encoding="utf-8").splitlines()[::30]:
        schema = json.loads(line)["schema"]
        try:
            made = model.generate("JSON:", json_schema=schema, max_tokens=60, seed=1)
        except UnsupportedError:
            continue
        if made.finish_reason == "stop":
            jsonschema.validate(json.loads(made.text), schema)
            n_valid += 1
    assert n_valid > 2


@pytest.mark.parametrize("grammar", ["", "root ::= (", "root ::= \udcff"])
def test_a_grammar_that_cannot_be_read_is_refused_in_one_line(grammar: str) -> None:
    with pytest.raises(UnsupportedError, match="this grammar cannot be held"):
        linnet.load(threads=1).constrain(grammar=grammar)
