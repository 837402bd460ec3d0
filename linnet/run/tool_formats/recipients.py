"""Functionary 3.2: ``>>>name`` and the arguments on the next line; ``>>>all`` is text for everybody."""

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
)

START = ">>>"
_NAME = re.compile(r"(?:>>>)?([\w.:/-]+)\n")


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call. The prompt ends with the sign, so that the answer may begin with a name."""
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


FORMAT = ToolFormat(
    name="recipients",
    starts=(START,),
    matches=lambda source: ">>>${recipient}" in source,
    read=read,
    write=write,
)
