"""Apertus: ``<|tools_prefix|>[{"name": {arguments}}, ...]<|tools_suffix|>``."""

from __future__ import annotations

import json
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

START, END = "<|tools_prefix|>", "<|tools_suffix|>"


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """A list of objects with one key each, the name."""
    found = read_bracketed(text, len(START), final)
    if found is None:
        return None
    value, at = found
    end = skip(text, at, END)
    if end == at and not final and END.startswith(text[at:].strip()):
        return None
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, dict) and len(item) == 1 for item in items):
        raise NotACall
    return Read(tuple(make_call(*next(iter(item.items()))) for item in items), end)


def write(calls: Sequence[ToolCall]) -> str:
    """With the signs around them."""
    listed = (f"{{{json.dumps(call.name)}: {call.arguments}}}" for call in calls)
    return f"{START}[{', '.join(listed)}]{END}"


FORMAT = ToolFormat(
    name="apertus",
    starts=(START,),
    inside=(END,),
    matches=lambda source: START in source,
    read=read,
    write=write,
)
