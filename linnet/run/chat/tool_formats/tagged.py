"""What GLM and Qwen3-Coder have in common: arguments one by one between signs, texts as they are and other
values as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from linnet.run.chat.tool_formats.call import NotACall, ToolCall, is_text, skip_space, typed, value_end
from linnet.run.chat.tool_formats.grammar import CallGrammar, verbatim

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)


@dataclass(frozen=True)
class Tags:
    """The signs of one format.

    ``opening`` finds what stands before a value, with its key as the group; ``end`` follows a value, with
    ``padding`` around the value; ``between`` follows an argument.
    """

    opening: re.Pattern[str]
    write_opening: Callable[[str], str]
    end: str
    padding: str
    between: str
    close: str  # of the whole call; no text may hold it

    def read(self, text: str, at: int, kinds: Mapping[str, Any]) -> tuple[dict[str, Any], int] | None:
        """The arguments from ``at`` on, and where ``close`` begins; None where it does not come."""
        arguments: dict[str, Any] = {}
        while True:
            found, close = self.opening.search(text, at), text.find(self.close, at)
            if close < 0 or found is None or found.start() > close:
                return None if close < 0 else (arguments, close)
            key = found[1].strip()
            end = self._value_end(text, found.end(), kinds.get(key))
            if end < 0:
                return None
            value = text[found.end() : end].removeprefix(self.padding).removesuffix(self.padding)
            arguments[key] = typed(value, kinds.get(key))
            at = end + len(self.end)

    def _value_end(self, text: str, at: int, schema: Any) -> int:
        """Where the value from ``at`` on ends; signs inside of JSON do not count."""
        after = at
        if not is_text(schema if isinstance(schema, Mapping) else {}):
            begin = skip_space(text, at)
            string = _STRING.match(text, begin)
            try:
                after = string.end() if string else value_end(text, begin) or at
            except NotACall:
                pass
        end = text.find(self.end, after)
        return end if end >= 0 else text.find(self.end, at)

    def write(self, call: ToolCall) -> list[str]:
        """The arguments of a call."""
        written = []
        for key, value in json.loads(call.arguments).items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            written.append(f"{self.write_opening(key)}{self.padding}{shown}{self.padding}{self.end}")
        return written

    def grammar(self, g: CallGrammar, name: str, opening: Callable[[str], str]) -> str:
        """The arguments of a function; ``opening`` writes what stands before the value of a key."""

        def argument(key: str, schema: Mapping[str, Any]) -> str:
            return f"{opening(key)} {g.raw_or_json(schema, self.padding, self.end, (self.end, self.close))}"

        between = verbatim(self.between) if self.between else ""
        return g.each_argument(name, argument, between)
