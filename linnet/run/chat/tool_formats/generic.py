"""For models that were trained on no format: a JSON object as the whole answer, in a fence or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from linnet.run.chat.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    as_json,
    read_enclosed,
    skip,
)
from linnet.run.chat.tool_formats.grammar import COMMA, GAP, CallGrammar

FENCE = "```"


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call or a list of them, if all of the functions are known."""
    at = 0
    if text.startswith(FENCE):
        if not final and len(text) < len(FENCE) + len("json{") and "{" not in text:
            return None
        at = skip(text, len(FENCE), "json")
    found = read_enclosed(text, at, FENCE if at else "", final)
    if found is not None and any(call.name not in schemas for call in found.calls):
        raise NotACall
    return found


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


def grammar(g: CallGrammar) -> dict[str, str]:
    """One object or a list of them; a text is one from the key of a name on."""
    call, rest, name = g.json_call(), g.json_rest(), [*'"name"']
    more = f"({COMMA} {g.several(call, COMMA)})?" if g.parallel else ""
    several, fence = f'{rest} {more} ws "]"', f'line "{FENCE}"'
    return {
        '{"': g.or_text((name[1:], rest)),
        "{ ": g.or_text(([GAP, *name], rest)),
        "{\n": g.or_text(([GAP, *name], rest)),
        '[{"': g.or_text((name[1:], several)),
        FENCE + "\n{": g.or_text(([GAP, *name], f"{rest} {fence}")),
        FENCE + "json": g.or_text(
            ([GAP, r"\{", GAP, *name], f"{rest} {fence}"),
            ([GAP, r"\[", GAP, r"\{", GAP, *name], f"{several} {fence}"),
        ),
    }


FORMAT = ToolFormat(
    name="generic",
    starts=('{"', "{ ", "{\n", '[{"', FENCE + "\n{", FENCE + "json"),
    matches=lambda source: True,
    read=read,
    write=write,
    grammar=grammar,
    bare=True,
)
