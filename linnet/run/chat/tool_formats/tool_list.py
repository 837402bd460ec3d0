"""Granite 3, Phi-4-mini: ``<|tool_call|>[{"name": ..., "arguments": ...}]``; Phi ends it with a sign."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import Read, Schemas, ToolCall, ToolFormat, as_json, read_enclosed
from linnet.run.chat.tool_formats.grammar import COMMA, CallGrammar

START, END = "<|tool_call|>", "<|/tool_call|>"
FUNCTOOLS = "functools"  # Firefunction


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """A list of calls."""
    return read_enclosed(text, len(START if text.startswith(START) else FUNCTOOLS), END, final)


def write(calls: Sequence[ToolCall]) -> str:
    """As Granite writes them."""
    return f"{START}[{', '.join(as_json(calls))}]"


def grammar(g: CallGrammar) -> dict[str, str]:
    """The whole list."""
    call = g.json_call()
    end = g.sign(END) if g.uses(END) else ""
    return {
        START: f"line {g.json_list(call)} {end}",
        f"{FUNCTOOLS}[": f'ws {g.several(call, COMMA)} ws "]"',
    }


FORMAT = ToolFormat(
    name="tool_list",
    starts=(START, f"{FUNCTOOLS}["),
    inside=(END,),
    matches=lambda source: START in source or f"{FUNCTOOLS}[" in source,
    read=read,
    write=write,
    grammar=grammar,
)
