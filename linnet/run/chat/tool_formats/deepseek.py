"""DeepSeek V3 and R1: ``<｜tool▁call▁begin｜>function<｜tool▁sep｜>name`` and a fence; V3.1 without both."""

from __future__ import annotations

import re
from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import Read, Schemas, ToolCall, ToolFormat, read_all
from linnet.run.chat.tool_formats.grammar import CallGrammar, verbatim

SECTION, SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
START, SEPARATOR, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_CALL = re.compile(
    f"{START}(?:function{SEPARATOR})?\\s*([^\\s<｜]+?)\\s*(?:{SEPARATOR})?\\s*"
    f"(?:```(?:json)?\\s*)?(\\{{.*?\\}})\\s*(?:```)?\\s*{END}",
    re.DOTALL,
)


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """All calls of a section; those without a section one at a time."""
    return read_all(text, SECTION_END if text.startswith(SECTION) else END, _CALL, final)


def write(calls: Sequence[ToolCall]) -> str:
    """As V3.1."""
    return SECTION + "".join(f"{START}{c.name}{SEPARATOR}{c.arguments}{END}" for c in calls) + SECTION_END


def grammar(g: CallGrammar) -> dict[str, str]:
    """A section of calls, or one without it; in a fence where the template has one."""
    kind, before, after = "", g.sign(SEPARATOR), ""
    if g.uses("```json"):
        kind, before, after = f'"function" {g.sign(SEPARATOR)}', r'"\n```json\n"', r'"\n```"'
    end = g.sign(END)
    call = g.functions(lambda name: f"{kind} {verbatim(name)} {before} {g.arguments(name)} {after} {end}")
    section = g.several(f"{g.sign(START)} {call}", "line")
    return {SECTION: f"line {section} line {g.sign(SECTION_END)}", START: call}


FORMAT = ToolFormat(
    name="deepseek",
    starts=(SECTION, START),
    inside=(SECTION_END, SEPARATOR, END),
    matches=lambda source: START in source,
    read=read,
    write=write,
    grammar=grammar,
)
