"""Qwen3-Coder, Nemotron, Seed-OSS: ``<function=name><parameter=key>value</parameter></function>``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    after_closing,
    make_call,
    properties,
    skip,
    skip_space,
)
from linnet.run.chat.tool_formats.grammar import CallGrammar, verbatim
from linnet.run.chat.tool_formats.tagged import Tags

_WRAPPERS = (("<tool_call>", "</tool_call>"), ("<seed:tool_call>", "</seed:tool_call>"))
_FUNCTION, _END = "<function=", "</function>"
_NAME = re.compile(r"<function=([^>\s]+)\s*>")
_TAGS = Tags(
    opening=re.compile(r"<parameter=([^>\n]+)>"),
    write_opening=lambda key: f"<parameter={key}>",
    end="</parameter>",
    padding="\n",
    between="\n",
    close=_END,
)


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One function, with or without what wraps it."""
    begin, end = next(((b, e) for b, e in _WRAPPERS if text.startswith(b)), ("", ""))
    named = _NAME.match(text, skip_space(text, skip(text, 0, begin)))
    found = _TAGS.read(text, named.end(), properties(schemas, named[1])) if named else None
    if not named or not found:
        if final or (not named and _END in text):
            raise NotACall
        return None
    after = after_closing(text, found[1] + len(_END), end, final)
    return None if after is None else Read((make_call(named[1], found[0]),), after)


def write(calls: Sequence[ToolCall]) -> str:
    """Texts as they are, other values as JSON."""
    begin, end = _WRAPPERS[0]
    blocks = ((f"{begin}\n{_FUNCTION}{call.name}>", *_TAGS.write(call), f"{_END}\n{end}") for call in calls)
    return "\n".join("\n".join(block) for block in blocks)


def grammar(g: CallGrammar) -> dict[str, str]:
    """One function."""

    def call(name: str) -> str:
        arguments = _TAGS.grammar(g, name, lambda key: verbatim(f"<parameter={key}>"))
        return f"{verbatim(name + '>')} line {arguments} line {g.sign(_END)}"

    function = g.functions(call)
    wrapped = {begin: f"line {g.sign(_FUNCTION)} {function} line {g.sign(end)}" for begin, end in _WRAPPERS}
    return {**wrapped, _FUNCTION: function}


FORMAT = ToolFormat(
    name="qwen_xml",
    starts=(*(begin for begin, _ in _WRAPPERS), _FUNCTION),
    inside=(*(end for _, end in _WRAPPERS), _END),
    matches=lambda source: _FUNCTION in source and "<parameter=" in source,
    read=read,
    write=write,
    grammar=grammar,
)
