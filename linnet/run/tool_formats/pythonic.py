"""LFM2, and Llama 4 without signs: ``<|tool_call_start|>[f(a=1), g(b="x")]<|tool_call_end|>``."""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Sequence
from typing import Any

from linnet.run.tool_formats.call import (
    MOST_NESTING,
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    calls_from_json,
    deepest,
    literal,
    make_call,
    parse_python,
    parse_value,
    plain,
    skip,
    skip_space,
    value_end,
)

_ESCAPE = "argument_"
_QUOTED = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", re.DOTALL)
_WORD = re.compile(rf"([(,]\s*)({'|'.join(keyword.kwlist)})\s*=(?!=)")
START, END = "<|tool_call_start|>", "<|tool_call_end|>"


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """The calls of a list, written as Python; a list of JSON objects is read too."""
    at = skip_space(text, len(START))
    if at == len(text) and not final:
        return None
    close = value_end(text, at)
    if close is None:
        if final:
            raise NotACall
        return None
    end = skip(text, close, END)
    if end == close and not final and END.startswith(text[close:].strip()):
        return None
    return Read(_calls(text[at:close]), end)


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


def _escaped(code: str) -> str:
    """``code`` in which names of arguments may be words of Python, such as ``from``."""
    parts = _QUOTED.split(code)
    parts[::2] = [_WORD.sub(rf"\1{_ESCAPE}\2=", part) for part in parts[::2]]
    return "".join(parts)


def _call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args or any(word.arg is None for word in node.keywords):
        raise NotACall
    try:
        name = ast.unparse(node.func)
        arguments: dict[str, Any] = {
            str(word.arg).removeprefix(_ESCAPE): literal(word.value) for word in node.keywords
        }
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


FORMAT = ToolFormat(
    name="pythonic",
    starts=(START,),
    inside=(END,),
    matches=lambda source: any(s in source for s in (START, "<|tool_list_start|>", "List of tools: [")),
    read=read,
    write=write,
)
