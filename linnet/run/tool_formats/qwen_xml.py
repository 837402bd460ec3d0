"""Qwen3-Coder, Nemotron, Seed-OSS: ``<function=name><parameter=key>value</parameter></function>``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from linnet.run.tool_formats.call import (
    NotACall,
    Read,
    Schemas,
    ToolCall,
    ToolFormat,
    make_call,
    properties,
    skip,
    skip_space,
    typed,
)

_WRAPPERS = (("<tool_call>", "</tool_call>"), ("<seed:tool_call>", "</seed:tool_call>"))
_FUNCTION, _END = "<function=", "</function>"
_NAME = re.compile(r"<function=([^>\s]+)\s*>")
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)


def read(text: str, final: bool, schemas: Schemas) -> Read | None:
    """One function, with or without what wraps it."""
    if _END not in text:
        if final:
            raise NotACall
        return None
    begin, end = next(((b, e) for b, e in _WRAPPERS if text.startswith(b)), ("", ""))
    found = _NAME.match(text, skip_space(text, skip(text, 0, begin)))
    if not found:
        raise NotACall
    close = text.index(_END)
    kinds = properties(schemas, found[1])
    arguments: dict[str, Any] = {}
    for key, value in _PARAMETER.findall(text[found.end() : close]):
        arguments[key.strip()] = typed(_unwrapped(value), kinds.get(key.strip()))
    at = close + len(_END)
    after = skip(text, at, end) if end else at
    if end and after == at and not final and end.startswith(text[at:].strip()):
        return None
    return Read((make_call(found[1], arguments),), after)


def _unwrapped(value: str) -> str:
    """``value`` without the line breaks that the format puts around it."""
    return value.removeprefix("\n").removesuffix("\n")


def write(calls: Sequence[ToolCall]) -> str:
    """Texts as they are, other values as JSON."""
    blocks = []
    for call in calls:
        lines = [f"<tool_call>\n<function={call.name}>"]
        for key, value in json.loads(call.arguments).items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append(f"<parameter={key}>\n{shown}\n</parameter>")
        blocks.append("\n".join([*lines, "</function>\n</tool_call>"]))
    return "\n".join(blocks)


FORMAT = ToolFormat(
    name="qwen_xml",
    starts=(*(begin for begin, _ in _WRAPPERS), _FUNCTION),
    inside=(*(end for _, end in _WRAPPERS), _END),
    matches=lambda source: _FUNCTION in source and "<parameter=" in source,
    read=read,
    write=write,
)
