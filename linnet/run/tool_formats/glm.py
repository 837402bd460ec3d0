"""GLM 4.5 and later: ``<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from linnet.run.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    make_call,
    properties,
    typed,
)

START, END = "<tool_call>", "</tool_call>"
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One call, as far as its end."""
    if END not in text:
        if final:
            raise NotACall
        return None
    end = text.index(END)
    body = text[len(START) : end]
    name = body.partition("<arg_key>")[0].strip()
    if not re.fullmatch(r"[\w.:/-]+", name):
        raise NotACall
    kinds = properties(schemas, name)
    arguments = {key.strip(): typed(value, kinds.get(key.strip())) for key, value in _ARGUMENT.findall(body)}
    return Read((make_call(name, arguments),), end + len(END))


def write(calls: Sequence[ToolCall]) -> str:
    """Texts as they are, other values as JSON."""
    blocks = []
    for call in calls:
        lines = [f"{START}{call.name}"]
        for key, value in json.loads(call.arguments).items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append(f"<arg_key>{key}</arg_key>\n<arg_value>{shown}</arg_value>")
        blocks.append("\n".join([*lines, END]))
    return "\n".join(blocks)


FORMAT = ToolFormat(
    name="glm",
    starts=(START,),
    inside=(END, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    matches=lambda source: "<arg_key>" in source and START in source,
    read=read,
    write=write,
)
