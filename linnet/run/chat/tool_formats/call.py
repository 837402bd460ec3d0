"""What the formats of tool calls have in common: a call, a format, careful readers of values."""

from __future__ import annotations

import ast
import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linnet.run.chat.tool_formats.grammar import CallGrammar

Schemas = Mapping[str, Mapping[str, Any]]  # of the arguments of each function that may be called

MOST_NESTING = 100  # brackets within brackets in the arguments of a call


class NotACall(Exception):
    """What looked like a call is none: it stays text."""


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called; ``arguments`` is a JSON object, as text."""

    name: str
    arguments: str
    id: str = ""

    def as_message(self) -> dict[str, Any]:
        """The shape OpenAI gave it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class Read:
    """Calls, and how many characters they took; without calls these say nothing to the user."""

    calls: tuple[ToolCall, ...]
    length: int


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes calls.

    ``read(text, final, schemas)`` reads what begins with one of ``starts``: the calls;
    None while more of the text is needed, which there is unless ``final``; or it raises
    NotACall. Of ``bare`` formats the starts count at the beginning of an answer only.
    ``inside`` are further signs that are special tokens. ``write`` shows calls to models
    whose template cannot. ``matches`` tells from a template whether it is of this format.
    ``grammar`` says for each of ``starts`` what may follow it, up to the end of the call or
    calls, in the Lark of llguidance.
    """

    name: str
    starts: tuple[str, ...]
    matches: Callable[[str], bool]
    read: Callable[[str, bool, Schemas], Read | None]
    write: Callable[[Sequence[ToolCall]], str]
    grammar: Callable[[CallGrammar], dict[str, str]]
    inside: tuple[str, ...] = ()
    bare: bool = False


# ---- readers ------------------------------------------------------------------------------


def make_call(name: Any, arguments: Any) -> ToolCall:
    """A call of these parts, as parsed. Raises NotACall."""
    if isinstance(arguments, str) and arguments.lstrip()[:1] == "{":
        arguments = parse_value(arguments)
    if arguments is None or arguments == "":
        arguments = {}
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        raise NotACall
    return ToolCall(name.strip(), json.dumps(arguments, ensure_ascii=False))


def call_from_json(value: Any) -> ToolCall:
    """A call written as a JSON object, in any of the usual keys. Raises NotACall."""
    if not isinstance(value, dict):
        raise NotACall
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = next((value[key] for key in ("name", "tool_name", "function") if key in value), None)
    keys = ("arguments", "parameters", "args", "input")
    return make_call(name, next((value[key] for key in keys if key in value), {}))


def calls_from_json(value: Any) -> tuple[ToolCall, ...]:
    """One call, or a list of them. Raises NotACall for anything else, and for none."""
    calls = tuple(map(call_from_json, value if isinstance(value, list) else [value]))
    if not calls:
        raise NotACall
    return calls


def parse_value(text: str) -> Any:
    """A JSON value, or the same as Python writes it. Raises NotACall."""
    if deepest(text) > MOST_NESTING:
        raise NotACall
    try:
        return json.loads(text, strict=False, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError):
        pass
    try:
        return plain(literal(parse_python(text)))
    except (ValueError, RecursionError, MemoryError, TypeError):
        raise NotACall from None


def _finite(number: str | float) -> float:
    """A number; one that is too large becomes the largest there is."""
    return max(min(float(number), sys.float_info.max), -sys.float_info.max)


def _whole(digits: str) -> int | float:
    """A whole number; one of more digits than Python reads becomes the largest there is."""
    try:
        return int(digits)
    except ValueError:
        return _finite(digits)


def parse_python(text: str) -> ast.expr:
    """The tree of a Python expression. Raises NotACall."""
    try:
        with warnings.catch_warnings():  # of odd escapes in strings
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise NotACall from None


_NAMES = {
    "true": True,
    "false": False,
    "null": None,
    "none": None,
    "True": True,
    "False": False,
    "None": None,
}


def literal(node: ast.expr) -> Any:
    """The value of a Python literal, in which JSON's words count too. Raises ValueError."""
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError("not a literal")
        return {literal(key): literal(item) for key, item in zip(node.keys, node.values, strict=True) if key}
    value = ast.literal_eval(node)
    return _finite(value) if isinstance(value, float) else value


def plain(value: Any) -> Any:
    """``value`` if JSON can hold it. Raises NotACall."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        raise NotACall from None


# Texts in quotes (single ones only where a value can begin: others are apostrophes), quotes of texts
# that do not end, and brackets.
_VALUE = r"(?<=[{\[(:, =])"
_STRUCTURE = re.compile(
    rf"""\"(?:[^"\\]++|\\.)*+\"|{_VALUE}'(?:[^'\\]++|\\.)*+'|\"|{_VALUE}'|[{{}}\[\]()]""", re.DOTALL
)


def value_end(text: str, at: int) -> int | None:
    """Where the bracketed value that begins at ``at`` ends; None when the text ends before.

    Raises NotACall where no bracket begins there.
    """
    if text[at : at + 1] not in ("{", "["):
        raise NotACall
    depth = 0
    for part in _STRUCTURE.finditer(text, at):
        sign = part[0]
        if sign in ('"', "'"):
            return None
        if sign in "{[(":
            depth += 1
        elif sign in "}])":
            depth -= 1
            if not depth:
                return part.end()
    return None


def deepest(text: str) -> int:
    """How deep brackets lie in brackets."""
    depth = most = 0
    for part in _STRUCTURE.finditer(text):
        depth += (part[0] in "{[(") - (part[0] in "}])")
        most = max(most, depth)
    return most


def bracketed(text: str, at: int, final: bool) -> tuple[str, int] | None:
    """What is written from the next bracket on, and where it ends; None when more is needed.

    A value that the end of the answer cut off is none. Raises NotACall.
    """
    at = skip_space(text, at)
    if at == len(text) and not final:
        return None
    end = value_end(text, at)
    if end is None:
        if final:
            raise NotACall
        return None
    return text[at:end], end


def read_bracketed(text: str, at: int, final: bool) -> tuple[Any, int] | None:
    """As :func:`bracketed`, the value parsed."""
    found = bracketed(text, at, final)
    return (parse_value(found[0]), found[1]) if found else None


def read_enclosed(
    text: str,
    at: int,
    closing: str,
    final: bool,
    calls: Callable[[Any], tuple[ToolCall, ...]] = calls_from_json,
) -> Read | None:
    """The calls in the value that begins at the next bracket, and ``closing``, which may be missing."""
    found = read_bracketed(text, at, final)
    if found is None:
        return None
    value, at = found
    end = after_closing(text, at, closing, final)
    return None if end is None else Read(calls(value), end)


def after_closing(text: str, at: int, closing: str, final: bool) -> int | None:
    """The place after ``closing``, or ``at`` where it is missing; None while it may still come."""
    end = skip(text, at, closing) if closing else at
    may_come = closing and end == at and not final and closing.startswith(text[at:].strip())
    return None if may_come else end


def skip_space(text: str, at: int) -> int:
    """The next place that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def skip(text: str, at: int, sign: str) -> int:
    """The place after ``sign``, if it is the next thing at ``at``."""
    after = skip_space(text, at)
    return after + len(sign) if text.startswith(sign, after) else at


def is_text(schema: Mapping[str, Any]) -> bool:
    """Is an argument that is written without quotes taken as it is?"""
    kind = schema.get("type")
    return kind == "string" or (isinstance(kind, list) and "string" in kind)


def typed(text: str, schema: Mapping[str, Any] | None) -> Any:
    """An argument written without quotes, as its schema wants it; a text where nothing else fits."""
    several = isinstance((schema or {}).get("type"), list)
    if is_text(schema or {}) and not (several and text.strip() == "null"):
        return text
    try:
        return plain(parse_value(text))
    except NotACall:
        return text


def properties(schemas: Schemas, name: str) -> Mapping[str, Any]:
    """The schemas of the arguments of a function; {} where nothing is known."""
    found = schemas.get(name, {}).get("properties")
    return found if isinstance(found, Mapping) else {}


def as_json(calls: Sequence[ToolCall], arguments: str = "arguments") -> list[str]:
    """Each call as a JSON object with the keys ``name`` and ``arguments``."""
    return [
        f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "{arguments}": {call.arguments}}}'
        for call in calls
    ]


def read_all(text: str, closing: str, call: re.Pattern[str], final: bool) -> Read | None:
    """All calls (a name, then arguments) up to the sign ``closing``, or to the end of a final text.

    Raises NotACall where there is none.
    """
    if closing not in text and not final:
        return None
    end = text.index(closing) + len(closing) if closing in text else len(text)
    calls = tuple(make_call(name, parse_value(body)) for name, body in call.findall(text[:end]))
    if not calls:
        raise NotACall
    return Read(calls, end)
