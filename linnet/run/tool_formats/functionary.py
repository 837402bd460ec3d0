"""Functionary 3.1: ``<function=name>{...}</function>``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from linnet.run.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    make_call,
    read_bracketed,
    skip,
)

START, END = "<function=", "</function>"
_NAME = re.compile(r"<function=([^>\s{]+)>")


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call; the end may be missing where the answer ends."""
    named = _NAME.match(text)
    if not named:
        if final or ">" in text or len(text) > 200:
            raise NotACall
        return None
    found = read_bracketed(text, named.end(), final)
    if found is None:
        return None
    value, at = found
    end = skip(text, at, END)
    if end == at and not final and END.startswith(text[at:].strip()):
        return None
    return Read((make_call(named[1], value),), end)


def write(calls: Sequence[ToolCall]) -> str:
    """Each call in a tag."""
    return "\n".join(f"{START}{call.name}>{call.arguments}{END}" for call in calls)


FORMAT = ToolFormat(
    name="functionary",
    starts=(START,),
    inside=(END,),
    matches=lambda source: "<function=" in source and "</function>" in source,
    read=read,
    write=write,
)
