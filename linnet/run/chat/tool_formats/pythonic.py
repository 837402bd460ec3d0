"""LFM2, and Llama 4 without signs: ``<|tool_call_start|>[f(a=1), g(b="x")]<|tool_call_end|>``."""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

from linnet.run.chat.tool_formats.call import (
    MOST_NESTING,
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    after_closing,
    bracketed,
    calls_from_json,
    deepest,
    literal,
    make_call,
    parse_python,
    parse_value,
    plain,
)
from linnet.run.chat.tool_formats.grammar import COMMA, CallGrammar, verbatim

_ESCAPE, _DASH = "argument_", "_dash_"
_QUOTED = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", re.DOTALL)
_WORD = re.compile(rf"([(,]\s*)({'|'.join(keyword.kwlist)})\s*=(?!=)")
_DASHED = re.compile(r"(?<![\w.-])[^\W\d][\w.]*+(?:-[\w.]++)+(?=\s*(?:\(|=(?!=)))")
START, END = "<|tool_call_start|>", "<|tool_call_end|>"


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """The calls of a list, written as Python; a list of JSON objects is read too."""
    found = bracketed(text, len(START), final)
    if found is None:
        return None
    end = after_closing(text, found[1], END, final)
    return None if end is None else Read(_calls(found[0]), end)


def _calls(code: str) -> tuple[ToolCall, ...]:
    if deepest(code) > MOST_NESTING:
        raise NotACall
    try:
        listed = parse_python(_escaped(code))
    except NotACall:
        return calls_from_json(parse_value(code))
    if not isinstance(listed, ast.List) or not listed.elts:
        raise NotACall
    if any(isinstance(item, ast.Dict) for item in listed.elts):
        return calls_from_json(parse_value(code))
    return tuple(map(_call, listed.elts))


def read_call(code: str) -> ToolCall:
    """One call written as Python. Raises NotACall."""
    if deepest(code) > MOST_NESTING:
        raise NotACall
    return _call(parse_python(_escaped(code)))


def _escaped(code: str) -> str:
    """``code`` in which arguments may be called as words of Python are, and names may have dashes."""
    parts = _QUOTED.split(code)
    parts[::2] = [_WORD.sub(rf"\1{_ESCAPE}\2=", part) for part in parts[::2]]
    parts[::2] = [_DASHED.sub(lambda name: name[0].replace("-", _DASH), part) for part in parts[::2]]
    return "".join(parts)


def _unescaped(name: str) -> str:
    return name.removeprefix(_ESCAPE).replace(_DASH, "-")


def _call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args or any(word.arg is None for word in node.keywords):
        raise NotACall
    try:
        name = _unescaped(ast.unparse(node.func))
        arguments: dict[str, Any] = {_unescaped(str(word.arg)): literal(word.value) for word in node.keywords}
    except (ValueError, TypeError, RecursionError):
        raise NotACall from None
    return make_call(name, plain(arguments))


def write(calls: Sequence[ToolCall]) -> str:
    """As Python."""
    written = []
    for call in calls:
        arguments = (f"{key}={_shown(value)}" for key, value in json.loads(call.arguments).items())
        written.append(f"{call.name}({', '.join(arguments)})")
    return f"{START}[{', '.join(written)}]{END}"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def written_call(g: CallGrammar, name: str, attribute: str = "") -> str:
    """The grammar of a call as Python; truth values as Python has them, other values as JSON."""

    def argument(key: str, schema: Mapping[str, Any]) -> str:
        plain = schema.get("type") == "boolean" and not schema.keys() & {"enum", "const"}
        value = '("True" | "False")' if plain else g.json(schema)
        return f"{verbatim(key + '=')} {value}"

    return f'{verbatim(f"{name}{attribute}(")} ws {g.each_argument(name, argument, COMMA)} ws ")"'


def grammar(g: CallGrammar) -> dict[str, str]:
    """The whole list."""
    return {START: f"line {g.json_list(g.functions(lambda name: written_call(g, name)))} {g.sign(END)}"}


FORMAT = ToolFormat(
    name="pythonic",
    starts=(START,),
    inside=(END,),
    matches=lambda source: any(s in source for s in (START, "<|tool_list_start|>", "List of tools: [")),
    read=read,
    write=write,
    grammar=grammar,
)
