"""Command R7B: ``<|START_ACTION|>[{"tool_name": ..., "parameters": ...}]<|END_ACTION|>``; Command R+: the
same list after ``Action:``, in a fence."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import (
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    as_json,
    read_enclosed,
    skip,
)
from linnet.run.chat.tool_formats.grammar import COMMA, GAP, CallGrammar

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
    found = read_enclosed(text, at, FENCE if plain else END, final)
    if found is None:
        return None
    return Read(
        tuple(call for call in found.calls if call.name != _NO_TOOL or _NO_TOOL in schemas), found.length
    )


def write(calls: Sequence[ToolCall]) -> str:
    """The list of Command R7B."""
    listed = (call.replace('"name"', '"tool_name"', 1) for call in as_json(calls, "parameters"))
    return f"{START}[{', '.join(listed)}]{END}"


def grammar(g: CallGrammar) -> dict[str, str]:
    """The whole list; ``Action:`` without a fence is text."""
    number = f'"\\"tool_call_id\\"" ws ":" ws /"[0-9]{{1,2}}"/ {COMMA}' if g.uses('"tool_call_id"') else ""
    signed = g.json_list(g.json_call("tool_name", "parameters", number))
    call = g.json_call("tool_name", "parameters")
    if not g.forced:
        call = f"({call} | {g.json({'const': {'tool_name': _NO_TOOL, 'parameters': {}}})})"
    fenced = f'line {g.json_list(call)} line "{FENCE}"'
    return {
        START: f"line {signed} line {g.sign(END)}",
        PLAIN: g.or_text(([GAP, *FENCE, *"json"], fenced)),
    }


FORMAT = ToolFormat(
    name="command_r",
    starts=(START, PLAIN),
    inside=(END,),
    matches=lambda source: START in source or ("Action:" in source and '"tool_name"' in source),
    read=read,
    write=write,
    grammar=grammar,
)
