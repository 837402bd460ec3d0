"""Functionary 3.2: ``>>>name`` and the arguments on the next line; ``>>>all`` is text for everybody."""

from __future__ import annotations

import re
from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    make_call,
    read_bracketed,
)
from linnet.run.chat.tool_formats.grammar import CallGrammar, verbatim

START, EVERYBODY = ">>>", "all\n"
_NAME = re.compile(r">>>([\w.:/-]+)\n")


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call, or the sign of a text for everybody, which is none of it."""
    if text.startswith(START + EVERYBODY):
        return Read((), len(START + EVERYBODY))
    named = _NAME.match(text)
    if not named:
        if final or "\n" in text or len(text) > 200:
            raise NotACall
        return None
    if named[1] not in schemas:
        raise NotACall
    found = read_bracketed(text, named.end(), final)
    return Read((make_call(named[1], found[0]),), found[1]) if found else None


def write(calls: Sequence[ToolCall]) -> str:
    """Each call after its sign."""
    return "".join(f"{START}{call.name}\n{call.arguments}" for call in calls)


def grammar(g: CallGrammar) -> dict[str, str]:
    """One call, or what announces a text for everybody; a sign with no name after it is text."""
    call = g.functions(lambda name: f"{verbatim(name + chr(10))} {g.arguments(name)}")
    text = g.terminal(r"/\W(.|\n)*/")
    return {START: call if g.forced else f"({call} | {verbatim(EVERYBODY)} | {text})"}


FORMAT = ToolFormat(
    name="recipients",
    starts=(START,),
    matches=lambda source: ">>>${recipient}" in source,
    read=read,
    write=write,
    grammar=grammar,
)
