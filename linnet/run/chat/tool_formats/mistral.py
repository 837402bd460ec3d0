"""Mistral: ``[TOOL_CALLS][{...}, ...]`` (v3), ``[TOOL_CALLS]name[ARGS]{...}`` (v11 and later)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    as_json,
    calls_from_json,
    make_call,
    read_bracketed,
    skip_space,
)
from linnet.run.chat.tool_formats.grammar import COMMA, CallGrammar, verbatim

START, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAME = re.compile(r"\s*([\w.:/-]+)(?:\[CALL_ID\]([\w-]+))?\s*(?:\[ARGS\])?\s*(?=\{)")


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """A list of calls, or one by name."""
    at = skip_space(text, len(START))
    if text[at : at + 1] in ("[", "{"):
        found = read_bracketed(text, at, final)
        return Read(calls_from_json(found[0]), found[1]) if found else None
    named = _NAME.match(text, at)
    if not named:
        if final or (len(text) - at > 200 and "{" not in text[at:]):
            raise NotACall
        return None
    found = read_bracketed(text, named.end(), final)
    return Read((make_call(named[1], found[0]),), found[1]) if found else None


def write(calls: Sequence[ToolCall]) -> str:
    """The list of version 3."""
    return f"{START}[{', '.join(as_json(calls))}]"


def grammar(g: CallGrammar) -> dict[str, str]:
    """A list, or one call by name where the template writes calls so."""
    if g.uses(ARGS):
        return {START: g.functions(lambda name: f"{verbatim(name)} {g.sign(ARGS)} {g.arguments(name)}")}
    numbered = f'({COMMA} "\\"id\\"" ws ":" ws /"[0-9a-zA-Z]{{9}}"/)?'
    return {START: f"line {g.json_list(g.json_call(after=numbered))}"}


FORMAT = ToolFormat(
    name="mistral",
    starts=(START,),
    inside=(ARGS, CALL_ID),
    matches=lambda source: START in source,
    read=read,
    write=write,
    grammar=grammar,
)
