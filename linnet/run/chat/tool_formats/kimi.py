"""Kimi K2: ``<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{...}<|tool_call_end|>``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import Read, Schemas, ToolCall, ToolFormat, read_all
from linnet.run.chat.tool_formats.grammar import CallGrammar, verbatim

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


def grammar(g: CallGrammar) -> dict[str, str]:
    """A section of numbered calls, or one without it."""
    separator, end = f"/[0-9]{{1,2}}/ {g.sign(ARGUMENTS)}", g.sign(END)
    call = g.functions(lambda name: f"{verbatim(f'functions.{name}:')} {separator} {g.arguments(name)} {end}")
    section = g.several(f"{g.sign(START)} {call}", "line")
    return {SECTION: f"line {section} line {g.sign(SECTION_END)}", START: call}


FORMAT = ToolFormat(
    name="kimi",
    starts=(SECTION, START),
    inside=(SECTION_END, ARGUMENTS, END),
    matches=lambda source: ARGUMENTS in source,
    read=read,
    write=write,
    grammar=grammar,
)
