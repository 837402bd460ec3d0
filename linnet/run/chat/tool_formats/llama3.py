"""Llama 3.1 to 3.3: a JSON object as the whole answer, or after ``<|python_tag|>``; there also
``brave_search.call(query="...")`` for tools the model was trained with, and Python code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    as_json,
    call_from_json,
    make_call,
    read_bracketed,
    skip_space,
)
from linnet.run.chat.tool_formats.grammar import GAP, CallGrammar
from linnet.run.chat.tool_formats.pythonic import read_call, written_call

TAG = "<|python_tag|>"
_CALL = ".call"  # after the name of a function
CODE = "python"  # the function that code after the tag is a call of


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
        call = read_call(code)
        if not call.name.endswith(_CALL):
            raise NotACall
        return dataclasses.replace(call, name=call.name.removesuffix(_CALL))
    except NotACall:
        if not code.strip():
            raise
        return make_call(CODE, {"code": code.strip()})


def write(calls: Sequence[ToolCall]) -> str:
    """The objects, with semicolons between them."""
    return "; ".join(as_json(calls, "parameters"))


def grammar(g: CallGrammar) -> dict[str, str]:
    """Objects, which a text is from the key of their names on; after the tag also what is read there."""
    objects = g.several(g.json_call(arguments_key="parameters"), 'ws ";" line')
    more = f' (ws ";" line {objects})?' if g.parallel else ""
    rest = f"{g.json_rest('parameters')}{more}"
    after_tag = [objects, g.functions(lambda name: written_call(g, name, _CALL))]
    if CODE in g.schemas:
        after_tag.append(g.terminal(r"/[^{\[ \t\n](.|\n)*/"))
    name = [*'"name"']
    return {
        '{"': g.or_text((name[1:], rest)),
        "{ ": g.or_text(([GAP, *name], rest)),
        "{\n": g.or_text(([GAP, *name], rest)),
        TAG: f"line ({' | '.join(after_tag)})",
    }


FORMAT = ToolFormat(
    name="llama3",
    starts=('{"', "{ ", "{\n", TAG),
    matches=lambda source: TAG in source or '"parameters": dictionary' in source,
    read=read,
    write=write,
    grammar=grammar,
    bare=True,
)
