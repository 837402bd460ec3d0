"""Llama 3.1 to 3.3: a JSON object as the whole answer, or after ``<|python_tag|>``; there also
``brave_search.call(query="...")`` for tools the model was trained with, and Python code."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from linnet.run.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    as_json,
    call_from_json,
    literal,
    make_call,
    parse_python,
    plain,
    read_bracketed,
    skip_space,
)

TAG = "<|python_tag|>"


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """Objects with semicolons between them; after the tag also a call, or code, as far as the end."""
    at = skip_space(text, len(TAG) if text.startswith(TAG) else 0)
    if at and text[at : at + 1] not in ("{", "["):
        if not final:
            return None
        return Read((_builtin(text[at:]),), len(text))
    calls: list[ToolCall] = []
    while True:
        found = read_bracketed(text, at, final)
        if found is None:
            return None
        values = found[0] if isinstance(found[0], list) else [found[0]]
        calls += map(call_from_json, values)
        at = skip_space(text, found[1])
        if at == len(text) and not final:
            return None  # another may follow
        if text[at : at + 1] not in (";", ",", "{"):
            break
        at = skip_space(text, at + (text[at] != "{"))
    if not calls or any(call.name not in schemas for call in calls):  # an answer may be JSON as well
        raise NotACall
    return Read(tuple(calls), at)


def _builtin(code: str) -> ToolCall:
    try:
        node = parse_python(code)
        if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, ast.Attribute):
            raise ValueError("not one call")
        if node.func.attr != "call" or not isinstance(node.func.value, ast.Name):
            raise ValueError("not one call")
        arguments = {str(word.arg): literal(word.value) for word in node.keywords}
        return make_call(node.func.value.id, plain(arguments))
    except (NotACall, ValueError, RecursionError, MemoryError, TypeError):
        if not code.strip():
            raise NotACall from None
        return make_call("python", {"code": code.strip()})


def write(calls: Sequence[ToolCall]) -> str:
    """The objects, with semicolons between them."""
    return "; ".join(as_json(calls, "parameters"))


FORMAT = ToolFormat(
    name="llama3",
    starts=(TAG, '{"', "{ ", "{\n"),
    matches=lambda source: TAG in source or '"parameters": dictionary' in source,
    read=read,
    write=write,
    bare=True,
)
