"""Calls of tools held to their schemas: a model cannot write one that is not valid.

Until a call begins, and after it, the text is free: nothing is asked of it. Where the reader of answers sees
the sign of a call, however it was cut into tokens, the grammar of the format rules until the call is over.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from linnet.errors import LinnetError, MissingExtraError, UnsupportedError, UsageError, warn
from linnet.run.chat.answer import AnswerReader, Signs
from linnet.run.chat.format import ChatFormat, Prompt
from linnet.run.chat.tool_formats import NotACall, ToolCall, ToolFormat
from linnet.run.chat.tool_formats.call import Schemas
from linnet.run.chat.tool_formats.grammar import CallGrammar
from linnet.run.chat.tools import ToolChoice
from linnet.run.text.choosing import Guide
from linnet.run.text.schema import without_own_formats
from linnet.run.text.spelling import Spelling
from linnet.run.text.structured import Constraint, GrammarGuide, GuideTokenizer, address_of, why_refused

if TYPE_CHECKING:
    from linnet.run.model import LanguageModel

MOST_KEPT = 8  # sets of tools whose grammars a model keeps
_COMBINED = ("$ref", "allOf", "anyOf", "oneOf", "patternProperties")  # who has them may allow other arguments


class HeldCalls:
    """The grammars of what one conversation may call, compiled where they are needed.

    ``source`` is the template, whose signs come first; ``special`` are the special tokens by their texts.
    """

    def __init__(
        self,
        form: ToolFormat,
        schemas: Schemas,
        tokenizer: GuideTokenizer,
        special: Mapping[str, int],
        source: str,
        *,
        parallel: bool,
    ) -> None:
        self.form, self.schemas = form, schemas
        self.source = source
        self._tokenizer, self._special, self._parallel = tokenizer, special, parallel
        self._grammars: dict[str, Constraint] = {}
        self._masks: dict[str, bytes | None] = {}

    def after(self, sign: str) -> Constraint:
        """What may follow ``sign``: the rest of a call, or of several."""
        if sign not in self._grammars:
            grammar = self._grammar(forced=False)
            body = self.form.grammar(grammar)[sign]
            self._grammars[sign] = Constraint(self._tokenizer, grammar=grammar.lark(body))
        return self._grammars[sign]

    def alone(self, opened: str, thinking: bool, reasoning: Sequence[tuple[str, str]]) -> Constraint:
        """Texts that are calls and nothing else. The prompt ends with the sign ``opened`` of the first, or
        inside of reasoning, or there may be reasoning before the calls, between the signs ``reasoning``."""
        grammar = self._grammar(forced=True)
        bodies = self.form.grammar(grammar)
        used = [sign for sign in bodies if self.form.bare or sign in self.source] or list(bodies)
        ways = [f"{grammar.sign(sign)} {bodies[sign]}" for sign in (used if self.form.bare else used[:1])]
        calls = " | ".join(ways) if self.form.bare else grammar.several(ways[0], "line")
        if opened:
            more = f"(line {calls})?" if self._parallel else ""
            return Constraint(self._tokenizer, grammar=grammar.lark(f"{bodies[opened]} {more}"))
        if thinking:
            begun = f"{grammar.text_until(reasoning[0][1])} line line"
        else:
            thoughts = [
                f"{grammar.sign(begin)} {grammar.text_until(end)} line line" for begin, end in reasoning
            ]
            begun = f"({' | '.join(thoughts)})?" if thoughts else ""
        return Constraint(self._tokenizer, grammar=grammar.lark(f"line {begun} ({calls})"))

    def mask(self, opening: str) -> bytes | None:
        """Which tokens may follow a text that may be beginning with the sign of a call: all (None), but for
        those that end the sign and go on as no call does."""
        if opening not in self._masks:
            wrong = self._wrong(opening.encode())
            bits = bytearray(b"\xff" * (-(-len(self._tokenizer.tokens) // 32) * 4))
            for token in wrong:
                bits[token // 8] &= ~(1 << token % 8)
            self._masks[opening] = bytes(bits) if wrong else None
        return self._masks[opening]

    def _grammar(self, forced: bool) -> CallGrammar:
        return CallGrammar(self.schemas, self._special, self.source, parallel=self._parallel, forced=forced)

    def _wrong(self, opening: bytes) -> set[int]:
        wrong: set[int] = set()
        for text in self.form.starts:
            sign = text.encode()
            begun = [n for n in range(len(sign)) if opening.endswith(sign[:n])]
            for n in {len(opening)}.intersection(begun) if self.form.bare else begun:
                wrong.update(
                    token for token, rest in self._ending(sign[n:], n) if not self.after(text).allows(rest)
                )
        return wrong

    def _ending(self, left: bytes, n: int) -> Iterator[tuple[int, bytes]]:
        """The tokens that end a sign of which ``n`` bytes were there, and what they go on with."""
        for token in self._vocabulary.holding(left):
            before, _, rest = self._tokenizer.tokens[token].partition(left)
            spoilt = before if n else before.strip() if self.form.bare else b""
            if rest and not spoilt:
                yield token, rest

    @cached_property
    def _vocabulary(self) -> _Vocabulary:
        return _Vocabulary(self._tokenizer.tokens)


class _Vocabulary:
    """Finds the tokens that hold a text."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._ends = list(accumulate(len(token) + 1 for token in tokens))
        self._joined = b"\xff".join(tokens)  # no text has this byte

    def holding(self, text: bytes) -> list[int]:
        """The ids of the tokens in which ``text`` is."""
        found, at = [], self._joined.find(text)
        while at >= 0:
            token = bisect_right(self._ends, at)
            found.append(token)
            at = self._joined.find(text, self._ends[token])
        return found


class CallGuide:
    """Which tokens may come next in one answer: its text is free, its calls are held to their grammar.

    ``required`` is what the whole text is held to instead. What cannot be held any longer, because
    llguidance gives up, is free.
    """

    def __init__(
        self, calls: HeldCalls, reader: AnswerReader, spelling: Spelling, required: Constraint | None = None
    ) -> None:
        self._calls, self._reader, self._spelling = calls, reader, spelling
        self._required = required is not None
        self._guide: GrammarGuide | None = None
        self._unread = ""  # of the call, by the reader
        self._n_signs = 0  # of calls, that were seen
        self._mask: bytes | None = None
        if required is not None:
            self._guide = required.guide()
        else:
            self._look()

    @property
    def finished(self) -> bool:
        return self._required and self._guide is not None and self._guide.finished

    def mask(self) -> int | None:
        try:
            if self._guide is not None:
                return self._guide.mask()
            opening = self._reader.opening
            self._mask = None if opening is None else self._calls.mask(opening)
        except LinnetError:
            self._guide = self._mask = None
        return None if self._mask is None else address_of(self._mask)

    def forced(self) -> Sequence[int]:
        return self._guide.forced() if self._guide is not None else ()

    def accept(self, token: int) -> None:
        if self._guide is not None:
            try:
                self._guide.accept(token)
            except LinnetError:
                self._guide = None
        if self._required:
            return
        self._unread += self._spelling.feed(token)
        if self._guide is not None and not self._guide.complete:
            return
        self._reader.feed(self._unread)
        self._unread = ""
        if self._guide is not None and (self._guide.finished or not self._reader.call_sign):
            self._guide = None
        if self._guide is None:
            self._look()

    def _look(self) -> None:
        """Holds the text from here on if a call has begun."""
        if self._reader.n_signs == self._n_signs:
            return
        self._n_signs = self._reader.n_signs
        if not self._reader.call_sign:
            return
        try:
            constraint = self._calls.after(self._reader.call_sign)
            self._guide = constraint.guide(self._reader.call_text.encode())
        except LinnetError:
            self._guide = None


def calls_guide(
    model: LanguageModel,
    choice: ToolChoice,
    signs: Signs,
    prompt: Prompt,
    ends: Collection[int],
    thinks: bool,
) -> Guide | None:
    """What holds the calls in the answer to ``prompt``; None where nothing can, and nothing is required.

    With ``thinks`` there may be reasoning before calls that are required. Raises UnsupportedError for a
    schema that is ``strict`` and cannot be held, UsageError where no call can be made that has to be, and
    MissingExtraError.
    """
    try:
        tokenizer = model.guide_tokenizer(ends)
    except (MissingExtraError, UnsupportedError):
        if choice.required:
            raise
        return None
    chat = model.chat_format
    calls = _compiled(chat, choice, tokenizer, ends)
    if not calls.schemas:
        if choice.required:
            raise UsageError("tool_choice requires a call, and none of the tools can be called")
        return None
    reader = AnswerReader(signs, prompt.thinking, prompt.opened)
    reasoning = [pair for pair in signs.reasoning if prompt.thinking or (thinks and pair[1] in calls.source)]
    required = calls.alone(prompt.opened, prompt.thinking, reasoning) if choice.required else None
    return CallGuide(calls, reader, chat.spelling(signs), required)


def _compiled(
    chat: ChatFormat, choice: ToolChoice, tokenizer: GuideTokenizer, ends: Collection[int]
) -> HeldCalls:
    """The grammars for these tools, of which the model keeps those of the last few sets."""
    key = json.dumps([choice.schemas, choice.most_calls, sorted(ends)], sort_keys=True)
    if key not in chat.held_calls:
        while len(chat.held_calls) >= MOST_KEPT:
            del chat.held_calls[next(iter(chat.held_calls))]
        schemas = held_schemas(chat.tool_format, choice.schemas)
        special = {text: token for token, text in chat.special.items() if text}
        source, parallel = chat.template.choose(choice.schemas), choice.most_calls is None
        chat.held_calls[key] = HeldCalls(
            chat.tool_format, schemas, tokenizer, special, source, parallel=parallel
        )
    return chat.held_calls[key]


# ---- schemas --------------------------------------------------------------------------------


def held_schemas(form: ToolFormat, functions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The schemas to which the arguments of these functions can be held, in OpenAI's shape.

    Arguments that are not declared are refused. What llguidance cannot hold is any JSON value, with a
    warning; for a function that is ``strict`` it is an UnsupportedError. A function whose name or arguments
    this format of calls cannot write is left out, with a warning.
    """
    held = {}
    for tool in functions:
        function = tool["function"]
        name, parameters = function["name"], function["parameters"]
        if not _can_write(form, name, parameters):
            warn(
                f"the tool '{name}' cannot be called: this model's calls ({form.name}) have no way to write "
                "its name or arguments; rename them"
            )
            continue
        held[name], reason = _held(parameters)
        if reason and function.get("strict"):
            raise UnsupportedError(f"the schema of the tool '{name}' cannot be held: {reason}")
        if reason:
            warn(f"the arguments of the tool '{name}' are held in part: {reason}")
    return held


def _held(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A schema that can be held, and why it is not the whole."""
    closed = without_own_formats(dict(parameters))
    if not any(key in closed for key in _COMBINED):
        closed.setdefault("additionalProperties", False)
    reason = why_refused(closed)
    if not reason:
        return closed, ""
    shared: dict[str, Any] = {key: closed[key] for key in ("$defs", "definitions") if key in closed}
    properties = {
        key: {} if why_refused({**shared, **schema} if isinstance(schema, dict) else schema) else schema
        for key, schema in closed.get("properties", {}).items()
    }
    part: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    whole: dict[str, Any] = {**part, **shared, "required": closed.get("required", [])}
    if not why_refused(whole):
        return whole, reason
    part["properties"] = {key: {} for key in properties}
    return part, reason


def _can_write(form: ToolFormat, name: str, parameters: Mapping[str, Any]) -> bool:
    keys = list(parameters.get("properties", {}))
    text = form.write([ToolCall(name, json.dumps(dict.fromkeys(keys, 1)))])
    try:
        read = form.read(text, True, {name: parameters})
    except NotACall:
        return False
    calls = read.calls if read else ()
    return [(call.name, list(json.loads(call.arguments))) for call in calls] == [(name, keys)]
