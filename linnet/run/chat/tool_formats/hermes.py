"""Hermes, Qwen 2.5 and 3, SmolLM3: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import Read, Schemas, ToolCall, ToolFormat, as_json, read_enclosed
from linnet.run.chat.tool_formats.grammar import CallGrammar

START, END = "<tool_call>", "</tool_call>"


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call (or a list); the end may be missing where the answer ends."""
    return read_enclosed(text, len(START), END, final)


def write(calls: Sequence[ToolCall]) -> str:
    """Each call on lines of its own."""
    return "\n".join(f"{START}\n{call}\n{END}" for call in as_json(calls))


def grammar(g: CallGrammar) -> dict[str, str]:
    """One call."""
    return {START: f"line {g.json_call()} line {g.sign(END)}"}


FORMAT = ToolFormat(
    name="hermes",
    starts=(START,),
    inside=(END,),
    matches=lambda source: START in source,
    read=read,
    write=write,
    grammar=grammar,
)
