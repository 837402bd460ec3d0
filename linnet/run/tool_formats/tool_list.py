"""Granite 3, Phi-4-mini: ``<|tool_call|>[{"name": ..., "arguments": ...}]``; Phi ends it with a sign."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.run.tool_formats.call import (
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    as_json,
    calls_from_json,
    read_bracketed,
    skip,
)

START, END = "<|tool_call|>", "<|/tool_call|>"
FUNCTOOLS = "functools"  # Firefunction


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """A list of calls."""
    found = read_bracketed(text, len(START if text.startswith(START) else FUNCTOOLS), final)
    if found is None:
        return None
    value, at = found
    end = skip(text, at, END)
    if end == at and not final and END.startswith(text[at:].strip()):
        return None
    return Read(calls_from_json(value), end)


def write(calls: Sequence[ToolCall]) -> str:
    """As Granite writes them."""
    return f"{START}[{', '.join(as_json(calls))}]"


FORMAT = ToolFormat(
    name="tool_list",
    starts=(START, f"{FUNCTOOLS}["),
    inside=(END,),
    matches=lambda source: START in source or f"{FUNCTOOLS}[" in source,
    read=read,
    write=write,
)
