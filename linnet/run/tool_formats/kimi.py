"""Kimi K2: ``<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{...}<|tool_call_end|>``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from linnet.run.tool_formats.call import Read, Schemas, ToolCall, ToolFormat, read_all

SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
START, ARGUMENTS, END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_CALL = re.compile(
    rf"{re.escape(START)}\s*(?:functions\.)?([\w./-]+?)(?::\d+)?\s*{re.escape(ARGUMENTS)}(.*?){re.escape(END)}",
    re.DOTALL,
)


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """All calls of a section; those without a section one at a time."""
    return read_all(text, SECTION_END if text.startswith(SECTION) else END, _CALL, final)


def write(calls: Sequence[ToolCall]) -> str:
    """With a section around them."""
    listed = (f"{START}functions.{c.name}:{i}{ARGUMENTS}{c.arguments}{END}" for i, c in enumerate(calls))
    return SECTION + "".join(listed) + SECTION_END


FORMAT = ToolFormat(
    name="kimi",
    starts=(SECTION, START),
    inside=(SECTION_END, ARGUMENTS, END),
    matches=lambda source: ARGUMENTS in source,
    read=read,
    write=write,
)
