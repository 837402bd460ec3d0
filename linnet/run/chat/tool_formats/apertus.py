"""Apertus: ``<|tools_prefix|>[{"name": {arguments}}, ...]<|tools_suffix|>``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from linnet.run.chat.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    make_call,
    read_enclosed,
)
from linnet.run.chat.tool_formats.grammar import CallGrammar, quoted

START, END = "<|tools_prefix|>", "<|tools_suffix|>"


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """A list of objects with one key each, the name."""
    return read_enclosed(text, len(START), END, final, _calls)


def _calls(value: Any) -> tuple[ToolCall, ...]:
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, dict) and len(item) == 1 for item in items):
        raise NotACall
    return tuple(make_call(*next(iter(item.items()))) for item in items)


def write(calls: Sequence[ToolCall]) -> str:
    """With the signs around them."""
    listed = (f"{{{json.dumps(call.name)}: {call.arguments}}}" for call in calls)
    return f"{START}[{', '.join(listed)}]{END}"


def grammar(g: CallGrammar) -> dict[str, str]:
    """The whole list."""
    call = g.functions(lambda name: f'"{{" ws {quoted(name)} ws ":" ws {g.arguments(name)} ws "}}"')
    return {START: f"line {g.json_list(call)} {g.sign(END)}"}


FORMAT = ToolFormat(
    name="apertus",
    starts=(START,),
    inside=(END,),
    matches=lambda source: START in source,
    read=read,
    write=write,
    grammar=grammar,
)
