"""For models that were trained on no format: a JSON object as the whole answer, in a fence or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from linnet.run.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    as_json,
    calls_from_json,
    read_bracketed,
    skip,
)

FENCE = "```"


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call or a list of them, if all of the functions are known."""
    at = 0
    if text.startswith(FENCE):
        if not final and len(text) < len(FENCE) + len("json{") and "{" not in text:
            return None
        at = skip(text, len(FENCE), "json")
    found = read_bracketed(text, at, final)
    if found is None:
        return None
    value, end = found
    calls = calls_from_json(value)
    if any(call.name not in schemas for call in calls):
        raise NotACall
    after = skip(text, end, FENCE) if at else end
    if at and after == end and not final and FENCE.startswith(text[end:].strip()):
        return None
    return Read(calls, after)


def write(calls: Sequence[ToolCall]) -> str:
    """One object, or a list."""
    listed = as_json(calls)
    return listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """What tells a model, whose template cannot, which functions there are and how to call them."""
    functions = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions:\n{functions}\n"
        'To call one, answer with a JSON object and nothing else: {"name": "...", "arguments": {...}}'
    )


FORMAT = ToolFormat(
    name="generic",
    starts=(FENCE + "json", FENCE + "\n{", '{"', "{ ", "{\n", '[{"'),
    matches=lambda source: True,
    read=read,
    write=write,
    bare=True,
)
