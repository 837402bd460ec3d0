"""Hermes, Qwen 2.5 and 3, SmolLM3: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``."""

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

START, END = "<tool_call>", "</tool_call>"


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call (or a list); the end may be missing where the answer ends."""
    found = read_bracketed(text, len(START), final)
    if found is None:
        return None
    value, at = found
    end = skip(text, at, END)
    if end == at and not final and END.startswith(text[at:].strip()):
        return None
    return Read(calls_from_json(value), end)


def write(calls: Sequence[ToolCall]) -> str:
    """Each call on lines of its own."""
    return "\n".join(f"{START}\n{call}\n{END}" for call in as_json(calls))


FORMAT = ToolFormat(
    name="hermes",
    starts=(START,),
    inside=(END,),
    matches=lambda source: START in source,
    read=read,
    write=write,
)
