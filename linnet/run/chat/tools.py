"""Tools: Python functions as JSON schemas, and their calls carried out.

A schema says what the type hints say; the descriptions are those of the docstring (its
first paragraph, and ``Args:`` or ``:param name:`` for each argument).
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Union

from linnet.engine.arguments import wrong
from linnet.errors import LinnetError, UnsupportedError, UsageError
from linnet.run.text.schema import class_schema, rewritten

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
# Names of types in schemas that are not JSON Schema's own but are meant as these.
_SYNONYMS = {
    "dict": "object", "float": "number", "int": "integer", "bool": "boolean", "str": "string",
    "tuple": "array", "list": "array", "any": None, "String": "string", "Boolean": "boolean",
}  # fmt: skip
_SECTION = re.compile(r"^\s*(?:Args|Arguments|Parameters):\s*$", re.MULTILINE)
_OTHER_SECTION = re.compile(r"^\s*(?:Returns|Yields|Raises|Example|Examples|Note|Notes):", re.MULTILINE)
_ARGUMENT = re.compile(r"^\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_PARAM = re.compile(r"^\s*:param\s+(?:[\w\[\], .|]+\s+)?(\w+)\s*:\s*(.*)$")


# ---- a function as a schema -----------------------------------------------------------------


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The schema of a function, in OpenAI's shape. Raises UsageError for what JSON cannot say."""
    name = getattr(function, "__name__", "")
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"the function {name} cannot be a tool: it is async; give one that waits for it")
    try:
        return _schema_of(function, name)
    except LinnetError:
        raise
    except RecursionError:
        raise UsageError(f"the function {name} cannot be a tool: a type refers to itself") from None
    except Exception as error:  # type hints are code of others, evaluated here
        raise UsageError(f"the function {name or function!r} cannot be a tool: {error}") from None


def _schema_of(function: Callable[..., Any], name: str) -> dict[str, Any]:
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    about, arguments = _described(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UsageError(f"the function {name} cannot be a tool: '{parameter}' cannot be given by name")
        schema = _schema(hints.get(parameter.name, Any), f"{name}({parameter.name})")
        if parameter.name in arguments:
            schema["description"] = arguments[parameter.name]
        if parameter.default is not parameter.empty and _is_plain(parameter.default):
            schema["default"] = parameter.default
        properties[parameter.name] = schema
    required = [p.name for p in signature.parameters.values() if p.default is p.empty]
    parameters = {"type": "object", "properties": properties, "required": required}
    parameters = _with_shared_definitions(parameters, name)
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def _with_shared_definitions(parameters: dict[str, Any], name: str) -> dict[str, Any]:
    """The definitions that pydantic wrote into a property, moved out: its references begin at the root."""
    found: dict[str, Any] = {}

    def taken_out(schema: dict[str, Any]) -> dict[str, Any]:
        for kind, definition in schema.pop("$defs", {}).items():
            if found.setdefault(kind, definition) != definition:
                raise UsageError(f"the function {name} cannot be a tool: two types are called '{kind}'")
        return schema

    parameters = rewritten(parameters, taken_out)
    return {**parameters, "$defs": found} if found else parameters


def _schema(hint: Any, where: str) -> dict[str, Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, inspect.Parameter.empty):
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is typing.Annotated:
        notes = [note for note in inner[1:] if isinstance(note, str)]
        return {**_schema(inner[0], where), **({"description": notes[0]} if notes else {})}
    if origin is Literal:
        return _one_of(list(inner), where)
    if origin in (Union, types.UnionType):
        return _union([_schema(part, where) for part in inner])
    if origin in (list, Sequence, set, frozenset) or hint in (list, set, frozenset):
        items = _schema(inner[0], where) if inner else {}
        unique = {"uniqueItems": True} if set in (origin, hint) or frozenset in (origin, hint) else {}
        return {"type": "array", "items": items, **unique}
    if origin is tuple and inner:
        if inner[-1] is Ellipsis:
            return {"type": "array", "items": _schema(inner[0], where)}
        parts = [_schema(part, where) for part in inner]
        return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
    if origin in (dict, Mapping) or hint is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1], where) if inner else {}}
    if isinstance(hint, type):
        return _class_schema(hint, where)
    raise UsageError(f"the type {hint} of {where} has no JSON schema; use plain types, Literal, list or dict")


def _class_schema(kind: type, where: str) -> dict[str, Any]:
    if issubclass(kind, enum.Enum):
        return _one_of([member.value for member in kind], where)
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        if dataclasses.is_dataclass(kind):
            fields = [field for field in dataclasses.fields(kind) if field.init]
            missing = dataclasses.MISSING
            required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
            names = [field.name for field in fields]
        else:
            names, required = list(hints), sorted(getattr(kind, "__required_keys__", hints))
        properties = {name: _schema(hints[name], f"{where}.{name}") for name in names}
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
    if (own := class_schema(where, kind)) is not None:
        return dict(own)
    raise UsageError(
        f"the type {kind.__name__} of {where} has no JSON schema; use plain types, Literal, list or dict"
    )


def _one_of(values: list[Any], where: str) -> dict[str, Any]:
    if not values or not _is_plain(values):
        raise UsageError(f"the values of {where} are none of JSON: {values!r}")
    kinds = {_PLAIN.get(type(value)) for value in values}
    kind = {"type": kinds.pop()} if len(kinds) == 1 and None not in kinds else {}
    return {**kind, "enum": values}


def _union(parts: list[dict[str, Any]]) -> dict[str, Any]:
    simple = all(set(part) == {"type"} for part in parts)
    return {"type": [part["type"] for part in parts]} if simple else {"anyOf": parts}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _described(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring says about its function, and about each argument."""
    section = _SECTION.search(text)
    head, tail = (text[: section.start()], text[section.end() :]) if section else (text, "")
    other = _OTHER_SECTION.search(tail)
    tail = tail[: other.start()] if other else tail
    lines, found, name = head.splitlines(), {}, ""
    for pattern, group in ((_ARGUMENT, tail.splitlines()), (_PARAM, lines)):
        name = ""
        for line in group:
            match = pattern.match(line)
            if match:
                name = match[1]
                found[name] = match[2].strip()
            elif name and line.strip() and not line.lstrip().startswith(":"):
                found[name] += " " + line.strip()
            else:
                name = ""
    fields = next((i for i, line in enumerate(lines) if line.lstrip().startswith(":")), len(lines))
    about = _OTHER_SECTION.split("\n".join(lines[:fields]).strip())[0]
    return " ".join(about.split("\n\n")[0].split()), {key: value.strip() for key, value in found.items()}


# ---- tools ----------------------------------------------------------------------------------


class Tools:
    """What a model may call: Python functions, and schemas of functions that somebody else calls."""

    def __init__(self, given: Sequence[Callable[..., Any] | Mapping[str, Any]]) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}
        self.schemas: list[dict[str, Any]] = []
        if not isinstance(given, Iterable):
            raise wrong("tools", given, "a list of functions and schemas")
        for tool in given:
            if callable(tool):
                schema = schema_of(tool)
                self.functions[schema["function"]["name"]] = tool
            else:
                schema = checked_schema(tool)
            self.schemas.append(schema)
        names = [schema["function"]["name"] for schema in self.schemas]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"two tools are called '{twice}'; give each its own name")

    @cached_property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The schema of the arguments of each function."""
        return {s["function"]["name"]: s["function"].get("parameters") or {} for s in self.schemas}

    def can_run(self, call: Mapping[str, Any]) -> bool:
        """Is this call one of a Python function, or of none at all (the model is told so)?"""
        name = call["function"]["name"]
        return name in self.functions or name not in self.parameters

    def run(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Calls a function and returns the message with what it said: its result, or the error it raised."""
        name = call["function"]["name"]
        function = self.functions.get(name)
        if function is None:
            content = f"Error: there is no function '{name}'; there are {', '.join(self.functions)}"
        else:
            content = _outcome(function, call["function"]["arguments"])
        return {"role": "tool", "tool_call_id": call.get("id", ""), "name": name, "content": content}


def _outcome(function: Callable[..., Any], arguments: str) -> str:
    try:
        hints = typing.get_type_hints(function)
        given = {key: _as_hinted(value, hints.get(key)) for key, value in json.loads(arguments).items()}
        result = function(**given)
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
    except Exception as error:  # whatever it is, the model has to know
        return f"Error: {type(error).__name__}: {_told(error)}"


def _told(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # even that is code of others
        return "it cannot say what"


def _as_hinted(value: Any, hint: Any) -> Any:
    """A JSON value as the class that a function wants; as it is where it wants none."""
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        return hint(**{key: _as_hinted(item, hints.get(key)) for key, item in value.items()})
    if isinstance(hint, type) and callable(read := getattr(hint, "model_validate", None)):  # pydantic
        return read(value)
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is list and isinstance(value, list):
        return [_as_hinted(item, inner[0]) for item in value]
    if typing.get_origin(hint) in (Union, types.UnionType) and value is not None:
        others = [part for part in inner if part is not type(None)]
        return _as_hinted(value, others[0]) if len(others) == 1 else value
    return value


@dataclasses.dataclass(frozen=True)
class ToolChoice:
    """What an answer may call: these functions, at least one of them if ``required``, at most so many."""

    schemas: list[dict[str, Any]]
    required: bool = False
    most_calls: int | None = None


def choose(tools: Tools, choice: str | Mapping[str, Any] | None, parallel: bool | None) -> ToolChoice:
    """What OpenAI's ``tool_choice`` and ``parallel_tool_calls`` mean. Raises UsageError.

    ``auto`` (or None): calls if the model likes, ``none``: no calls, ``required``: one call or more; the
    name of a tool (or ``{"type": "function", "function": {"name": ...}}``): one call of it. Where
    ``parallel`` is False there is at most one call.
    """
    most_calls = 1 if parallel is False else None
    if choice == "none":
        return ToolChoice([])
    if choice is None or choice == "auto":
        return ToolChoice(tools.schemas, most_calls=most_calls)
    if not tools.schemas:
        raise UsageError(f"tool_choice is {choice!r}, but there are no tools; give some")
    if choice == "required":
        return ToolChoice(tools.schemas, required=True, most_calls=most_calls)
    name: Any = choice
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, Mapping) else None
    named = [schema for schema in tools.schemas if schema["function"]["name"] == name]
    if not named:
        raise UsageError(
            f"tool_choice is {choice!r}; choose auto, none, required or one of {', '.join(tools.parameters)}"
        )
    return ToolChoice(named, required=True, most_calls=1)


# ---- schemas of others ----------------------------------------------------------------------


def checked_schema(tool: Any) -> dict[str, Any]:
    """A tool in OpenAI's shape, with or without its outer table. Raises UsageError.

    Words that are not JSON Schema's own, such as ``dict`` and ``float``, are read as what
    they mean.
    """
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UsageError("a tool is a function or {'type': 'function', 'function': {'name': ..., ...}}")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    try:
        parameters = rewritten(parameters, _in_standard_words)
    except RecursionError:
        raise UnsupportedError(f"the schema of the tool '{function['name']}' is nested too deep") from None
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise UsageError(f"the parameters of the tool '{function['name']}' are not an object with properties")
    if not isinstance(parameters.get("properties", {}), dict):
        raise UsageError(f"the properties of the tool '{function['name']}' are not an object")
    if not _is_plain({**function, "parameters": parameters}):
        raise UsageError(f"the schema of the tool '{function['name']}' holds what is not JSON")
    return {"type": "function", "function": {**function, "parameters": {"type": "object", **parameters}}}


def _in_standard_words(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    if isinstance(kind, str) and kind in _SYNONYMS:
        schema["type"] = _SYNONYMS[kind]
        if schema["type"] is None:
            del schema["type"]
    return schema
