"""GLM 4.5 and later: ``<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from linnet.run.chat.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    make_call,
    properties,
)
from linnet.run.chat.tool_formats.grammar import CallGrammar, verbatim
from linnet.run.chat.tool_formats.tagged import Tags

START, END = "<tool_call>", "</tool_call>"
KEY, KEY_END, VALUE, VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_NAME = re.compile(rf"\s*([\w.:/-]+)\s*(?={KEY}|{END})")
_TAGS = Tags(
    opening=re.compile(rf"{KEY}(.*?){KEY_END}\s*{VALUE}", re.DOTALL),
    write_opening=lambda key: f"{KEY}{key}{KEY_END}\n{VALUE}",
    end=VALUE_END,
    padding="",
    between="\n",
    close=END,
)


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call, as far as its end."""
    named = _NAME.match(text, len(START))
    found = _TAGS.read(text, named.end(), properties(schemas, named[1])) if named else None
    if named and found:
        return Read((make_call(named[1], found[0]),), found[1] + len(END))
    if final or (not named and END in text):
        raise NotACall
    return None


def write(calls: Sequence[ToolCall]) -> str:
    """Texts as they are, other values as JSON."""
    return "\n".join("\n".join([f"{START}{call.name}", *_TAGS.write(call), END]) for call in calls)


def grammar(g: CallGrammar) -> dict[str, str]:
    """One call."""
    key, key_end, value = (g.sign(sign) for sign in (KEY, KEY_END, VALUE))

    def call(name: str) -> str:
        arguments = _TAGS.grammar(g, name, lambda word: f"{key} {verbatim(word)} {key_end} line {value}")
        return f"{verbatim(name)} line {arguments} line {g.sign(END)}"

    return {START: f"line {g.functions(call)}"}


FORMAT = ToolFormat(
    name="glm",
    starts=(START,),
    inside=(END, KEY, KEY_END, VALUE, VALUE_END),
    matches=lambda source: KEY in source and START in source,
    read=read,
    write=write,
    grammar=grammar,
)
