"""Functionary 3.1: ``<function=name>{...}</function>``."""

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
    read_enclosed,
)
from linnet.run.chat.tool_formats.grammar import CallGrammar, verbatim

START, END = "<function=", "</function>"
_NAME = re.compile(r"<function=([^>\s{]+)>")


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call; the end may be missing where the answer ends."""
    named = _NAME.match(text)
    if not named:
        if final or ">" in text or len(text) > 200:
            raise NotACall
        return None
    return read_enclosed(text, named.end(), END, final, lambda value: (make_call(named[1], value),))


def write(calls: Sequence[ToolCall]) -> str:
    """Each call in a tag."""
    return "\n".join(f"{START}{call.name}>{call.arguments}{END}" for call in calls)


def grammar(g: CallGrammar) -> dict[str, str]:
    """One call."""
    return {START: g.functions(lambda name: f"{verbatim(name + '>')} {g.arguments(name)} {g.sign(END)}")}


FORMAT = ToolFormat(
    name="functionary",
    starts=(START,),
    inside=(END,),
    matches=lambda source: "<function=" in source and "</function>" in source,
    read=read,
    write=write,
    grammar=grammar,
)
