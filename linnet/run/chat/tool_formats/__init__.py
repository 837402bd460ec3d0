"""Formats of tool calls, one file each; which one a model has is read off its template."""

from __future__ import annotations

from linnet.run.chat.tool_formats import (
    apertus,
    command_r,
    deepseek,
    functionary,
    generic,
    glm,
    hermes,
    kimi,
    llama3,
    mistral,
    pythonic,
    qwen_xml,
    recipients,
    tool_list,
)
from linnet.run.chat.tool_formats.call import NotACall, Read, ToolCall, ToolFormat

__all__ = ["FORMATS", "NotACall", "Read", "ToolCall", "ToolFormat", "format_of"]

# In the order in which they are asked: those whose signs others have too come later.
FORMATS: tuple[ToolFormat, ...] = (
    deepseek.FORMAT,
    kimi.FORMAT,
    mistral.FORMAT,
    glm.FORMAT,
    qwen_xml.FORMAT,
    recipients.FORMAT,
    functionary.FORMAT,
    pythonic.FORMAT,
    apertus.FORMAT,
    command_r.FORMAT,
    hermes.FORMAT,
    tool_list.FORMAT,
    llama3.FORMAT,
    generic.FORMAT,
)


def format_of(source: str) -> ToolFormat:
    """The format that a template's text shows; the generic one where it shows none."""
    return next(form for form in FORMATS if form.matches(source))
