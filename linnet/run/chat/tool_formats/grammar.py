"""Grammars of calls, in the Lark of llguidance: what a model may write after the sign that begins one.

A format says how its calls are put together; what stands in the arguments is what the schemas say. Signs
that are special tokens are written as such.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from linnet.run.chat.tool_formats.call import Schemas, is_text

MOST_CALLS = 16  # at once; a model that is unsure would go on for ever
COMMA = 'ws "," ws'
_TEXT = r"(.|\n)"
GAP = r"[ \t\n]{0,16}"  # as a regular expression; before it is certain that a text is a call
# What the grammars of all formats share: where whitespace may be, and where a line may end. There is at most
# one of it; a model that is unsure would go on with whitespace for ever.
_SHARED = ["ws: / ?/", "line: /[ \\n]?/"]
# Inside of JSON as well; and the escapes that Python reads as JSON does.
_JSON = {"whitespace_pattern": " ?", "json_allowed_escapes": '"\\nrtbf'}


class CallGrammar:
    """The rules of the calls of some functions, as one format writes them.

    ``special`` are the special tokens of the model by their texts, ``source`` is its template. Unless
    ``parallel`` there is one call, and if ``forced`` nothing else than calls.
    """

    def __init__(
        self, schemas: Schemas, special: Mapping[str, int], source: str, *, parallel: bool, forced: bool
    ) -> None:
        self.schemas, self.parallel, self.forced = schemas, parallel, forced
        self._special, self._source = special, source
        longest = sorted(special, key=len, reverse=True)
        self._splitting = re.compile(f"({'|'.join(map(re.escape, longest))})")
        self._rules: dict[str, str] = {}  # their names by their bodies

    def lark(self, start: str) -> str:
        """The grammar of texts that are ``start``."""
        return "\n".join(
            [f"start: {start}", *_SHARED, *(f"{name}: {body}" for body, name in self._rules.items())]
        )

    # ---- parts that formats are made of ------------------------------------------------------

    def uses(self, sign: str) -> bool:
        """Does the template of this model write ``sign``?"""
        return sign in self._source

    def sign(self, text: str) -> str:
        """``text`` as it is; what is a special token in it, as that token."""
        parts = self._splitting.split(text) if self._special else [text]
        return " ".join(
            f"<[{self._special[part]}]>" if part in self._special else verbatim(part)
            for part in parts
            if part
        )

    def rule(self, body: str) -> str:
        """A name for ``body``."""
        return self._rules.setdefault(body, f"r{len(self._rules)}")

    def terminal(self, body: str) -> str:
        """A name for ``body``, which is read as one regular expression."""
        return self._rules.setdefault(body, f"T{len(self._rules)}")

    def text_until(self, sign: str) -> str:
        """Any text, then ``sign``."""
        return self.raw_or_json({"type": "string"}, "", sign, (sign,))

    def several(self, item: str, between: str = "") -> str:
        """One ``item`` or more of them; a single one where one call is allowed."""
        item = self.rule(item)
        return f"{item} ({between} {item}){{0,{MOST_CALLS - 1}}}" if self.parallel else item

    def functions(self, written: Callable[[str], str]) -> str:
        """One of the functions, each as ``written`` says."""
        return self.rule(" | ".join(written(name) for name in self.schemas))

    def arguments(self, name: str) -> str:
        """The arguments of a function, as one JSON object."""
        return self.json(self.schemas[name])

    def json(self, schema: Mapping[str, Any]) -> str:
        """A JSON value."""
        return self.rule(f"%json {json.dumps({**schema, 'x-guidance': _JSON})}")

    def json_call(
        self, name_key: str = "name", arguments_key: str = "arguments", before: str = "", after: str = ""
    ) -> str:
        """A call as a JSON object with these keys; ``before`` and ``after`` them may be others."""
        return f'"{{" ws {before} {quoted(name_key)} {self.json_rest(arguments_key, after)}'

    def json_rest(self, arguments_key: str = "arguments", after: str = "") -> str:
        """What follows the key of the name in such a call."""
        return self.functions(
            lambda name: (
                f'ws ":" ws {quoted(name)} ws "," ws {quoted(arguments_key)} ws ":" ws '
                f'{self.arguments(name)} {after} ws "}}"'
            )
        )

    def json_list(self, call: str) -> str:
        """Calls in brackets."""
        return f'"[" ws {self.several(call, COMMA)} ws "]"'

    def or_text(self, *ways: tuple[Sequence[str], str]) -> str:
        """A call, or any text that is none.

        Each way to write a call is a head, in regular expressions of one sign each, and what follows it. A
        text that begins with no head is none.
        """
        heads = [self.terminal(f"/{''.join(head)}/") for head, _ in ways]
        calls = " | ".join(f"{head} {rest}" for head, (_, rest) in zip(heads, ways, strict=True))
        if self.forced:
            return f"({calls})"
        other = f"/{_TEXT}+/"
        for head, _ in ways:
            begun = ""
            for part in reversed(head):
                begun = f"({part}{begun})?"
            other += f" & ~/{begun}/ & ~/{''.join(head)}{_TEXT}*/"
        return f"({calls} | {self.terminal(other)})"

    # ---- arguments one by one ----------------------------------------------------------------

    def each_argument(self, name: str, written: Callable[[str, Mapping[str, Any]], str], between: str) -> str:
        """The arguments of a function in their order, each as ``written`` says (key, schema), those that it
        can do without left out or not."""
        declared = self.schemas[name]
        shared = {key: declared[key] for key in ("$defs", "definitions") if key in declared}
        required = declared.get("required") or ()
        first = rest = '""'  # from here on, before there was an argument and after one
        for key, schema in reversed(declared.get("properties", {}).items()):
            schema = schema if isinstance(schema, Mapping) else {}
            item = self.rule(written(key, {**shared, **schema}))
            if key in required:
                first, rest = f"{item} {rest}", f"{between} {item} {rest}"
            else:
                first = f"{item} {rest} | {first}"
                rest = f"({between} {item})? {rest}"
            first, rest = self.rule(first), self.rule(rest)
        return first

    def raw_or_json(
        self, schema: Mapping[str, Any], padding: str, closing: str, forbidden: Sequence[str]
    ) -> str:
        """A value with ``padding`` around it, then ``closing``: a text as it is, without ``forbidden``;
        another value as JSON."""
        pad = verbatim(padding) if padding else ""
        if not is_text(schema):
            return f"{pad} {self.json(schema)} {pad} {self.sign(closing)}"
        raw = f"({_raw(schema, forbidden)})"
        if self.sign(closing) != verbatim(closing):
            return f"{pad} {self.terminal(f'{raw} {pad}')} {self.sign(closing)}"
        return f"{pad} {self.terminal(f'{raw} {verbatim(padding + closing)}')}"


def _raw(schema: Mapping[str, Any], forbidden: Sequence[str]) -> str:
    """A text without quotes, as its schema wants it, as a terminal."""
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices:
        kinds = schema["type"]
        texts = [choice for choice in choices if isinstance(choice, str)]
        texts += ["null"] if None in choices and len(kinds) > 1 and "null" in kinds else []
        return " | ".join(map(verbatim, texts))
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    parts = [f"/{_TEXT}{{{least},{most}}}/"]
    parts += [f"~/{_TEXT}*{escaped(sign)}{_TEXT}*/" for sign in forbidden]
    if "pattern" in schema:
        parts.append(f"/{_searched(schema['pattern'])}/")
    return " & ".join(parts)


def _searched(pattern: str) -> str:
    """A regular expression of all texts in which ``pattern`` is found."""
    begin = "" if pattern.startswith("^") else f"{_TEXT}*"
    end = "" if pattern.endswith("$") and not pattern.endswith("\\$") else f"{_TEXT}*"
    body = pattern.removeprefix("^")
    body = body.removesuffix("$") if not end else body
    return f"{begin}({body.replace('/', chr(92) + '/')}){end}"


def verbatim(text: str) -> str:
    """``text`` and nothing else."""
    return json.dumps(text, ensure_ascii=False)


def quoted(text: str) -> str:
    """``text`` as a JSON string."""
    return verbatim(json.dumps(text, ensure_ascii=False))


def escaped(text: str) -> str:
    """``text`` inside a regular expression."""
    plain = "".join("\\" + sign if sign in r".^$*+?{}[]\|()/" else sign for sign in text)
    return plain.replace("\n", r"\n")
