"""Command R7B: ``<|START_ACTION|>[{"tool_name": ..., "parameters": ...}]<|END_ACTION|>``; Command R+: the
same list after ``Action:``, in a fence."""

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

START, END = "<|START_ACTION|>", "<|END_ACTION|>"
PLAIN, FENCE = "Action:", "```"
_NO_TOOL = "directly_answer"  # how Command R+ says that it needs none


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """A list of calls."""
    plain = text.startswith(PLAIN)
    at = len(PLAIN) if plain else len(START)
    if plain:
        at = skip(text, skip(text, at, FENCE), "json")
        if not final and text[at:].strip() in ("", "`", "``", "j", "js", "jso"):
            return None
    found = read_bracketed(text, at, final)
    if found is None:
        return None
    value, at = found
    sign = FENCE if plain else END
    end = skip(text, at, sign)
    if end == at and not final and sign.startswith(text[at:].strip()):
        return None
    calls = [call for call in calls_from_json(value) if call.name != _NO_TOOL or _NO_TOOL in schemas]
    return Read(tuple(calls), end)


def write(calls: Sequence[ToolCall]) -> str:
    """The list of Command R7B."""
    listed = (call.replace('"name"', '"tool_name"', 1) for call in as_json(calls, "parameters"))
    return f"{START}[{', '.join(listed)}]{END}"


FORMAT = ToolFormat(
    name="command_r",
    starts=(START, PLAIN),
    inside=(END,),
    matches=lambda source: START in source or ("Action:" in source and '"tool_name"' in source),
    read=read,
    write=write,
)
