"""How one model writes conversations: their token ids, and what ends and divides an answer.

Text of users must not give orders in the model's own signs. Special tokens come from the
template alone: wherever a message spells one, or could be the beginning of one, a mark is
put inside before the template runs, and the rendered text is encoded in pieces, cut at the
marks. No token can reach across a cut, so what a user wrote stays text, letter by letter.
The mark is a noncharacter, which no text may hold (Unicode 23.7).

Guarded are the special tokens, and of the others that the tokenizer finds whole (such as
``<tool_call>`` of Qwen) those that the template mentions or that divide answers. Of what an
assistant said before, its signs for reasoning are left as they are: templates look for them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from linnet.engine.metadata import Metadata
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import TemplateError, UsageError
from linnet.formats.gguf_keys import END_IDS_KEY, EOM_KEY, EOT_KEY
from linnet.run.chat.answer import Signs
from linnet.run.chat.content import SOME_TOOL, Contents, text_of
from linnet.run.chat.template import MARK, ChatTemplate, Message, prepared
from linnet.run.chat.tool_formats import FORMATS, ToolCall, ToolFormat, format_of, generic
from linnet.run.chat.tool_formats.call import NotACall, call_from_json
from linnet.run.text.spelling import Spelling

if TYPE_CHECKING:
    from linnet.run.chat.held_calls import HeldCalls

_ROLE = re.compile(r"\w[\w.-]*")
_UNEXPECTED = ("bos", "padding")  # tokens that no answer holds; a model that emits one has nothing to say

# Pairs of signs around what a model thinks before it answers; those of a template are in its text.
REASONING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)


@dataclass(frozen=True)
class Prompt:
    """A conversation as token ids; ``thinking`` says that the answer begins inside its reasoning.

    ``opened`` is the sign of a call with which it ends, so that the answer begins inside of that.
    """

    ids: list[int]
    thinking: bool
    opened: str = ""


class ChatFormat:
    """The template of a model with its tokenizer."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, metadata: Metadata) -> None:
        self.template = template
        self._tokenizer = tokenizer
        self._metadata = metadata
        self._contents = Contents(template)
        self.held_calls: dict[str, HeldCalls] = {}  # of earlier sets of tools

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The ids of a conversation; arguments and errors as of :meth:`ChatTemplate.render`.

        Tools and their calls are shown in words to a model whose template knows none.
        """
        given = dict(variables or {})
        checked = self._contents.checked(prepared(messages))
        shown = self._contents.fitted(self._in_words(checked, tools or ()))
        if tools and not self._knows("tools") and self._knows("xml_tools"):
            given["xml_tools"] = tools

        def rendered(conversation: Sequence[Message]) -> str:
            return self.template.render(
                conversation,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                variables=given,
                guard=self._guard,
            )

        parsed = [_with_parsed_arguments(message) for message in shown]
        try:
            text = rendered(parsed)
        except TemplateError:
            if parsed == shown:
                raise
            text = rendered(shown)  # a few want the arguments of calls as text
        return Prompt(self.encode(text), self._ends_thinking(text), self._opened(text))

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How this model writes calls of tools."""
        source = self.template.choose(tools=[SOME_TOOL])
        return format_of(source) if self._knows("tools") or self._knows("xml_tools") else generic.FORMAT

    @cached_property
    def special(self) -> dict[int, str]:
        """The special tokens and their texts."""
        return {token: text for text, (token, special) in self._tokenizer.added_tokens.items() if special}

    def spelling(self, signs: Signs) -> Spelling:
        """What the tokens of an answer say, one after the other."""
        said = {token: text if signs.holds(text) else "" for token, text in self.special.items()}
        return Spelling(self._tokenizer, said)

    def _knows(self, word: str) -> bool:
        """Does the template look at this variable, or write this word?"""
        return re.search(rf"\b{word}\b", self.template.choose(tools=[SOME_TOOL])) is not None

    def _in_words(
        self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Messages in which what the template does not know is text."""
        if tools and not self._knows("tools") and not self._knows("xml_tools"):
            messages = _instructed(messages, generic.instructions(tools))
        if self._knows("tool_calls"):
            return messages
        shown = []
        for message in messages:
            calls = message.get("tool_calls")
            if calls:
                written = self.tool_format.write(_given_calls(calls))
                text = text_of(message.get("content")) or ""
                kept = {key: value for key, value in message.items() if key != "tool_calls"}
                message = {**kept, "content": f"{text}\n{written}" if text else written}
            elif message["role"] == "tool" and not re.search(r"""["']tool["']""", self.template.source):
                result = text_of(message.get("content", ""))
                result = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
                message = {"role": "user", "content": f"Result of the call: {result}"}
            shown.append(message)
        return shown

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered text, cut at its marks."""
        ids: list[int] = []
        for index, piece in enumerate(text.split(MARK)):
            ids += self._tokenizer.encode(piece, special=True, at_start=index == 0)
        return ids

    @cached_property
    def reasoning(self) -> tuple[tuple[str, str], ...]:
        """The signs of this model around its reasoning."""
        source = self.template.source
        known = [pair for pair in REASONING if pair[0] in source or ("/" in pair[1] and pair[1] in source)]
        return tuple(known) or REASONING[:1]

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer: those the model names, and what follows one in the template."""
        keys = ["tokenizer.ggml.eos_token_id", EOT_KEY, EOM_KEY, END_IDS_KEY]
        keys += [f"tokenizer.ggml.{name}_token_id" for name in _UNEXPECTED]
        ends = {token for key in keys for token in self._metadata.integers(key)}
        ends |= {self._tokenizer.eos_id, self._tokenizer.bos_id} - {None}  # type: ignore[arg-type]
        token = self._token_at(self._after_answer.lstrip())
        return frozenset(ends | ({self._control[token]} if token else set()))

    @cached_property
    def stop_texts(self) -> tuple[str, ...]:
        """What ends an answer where it is no token: the next sign of the template, or the next speaker."""
        after = self._after_answer
        if not after.strip() or self._token_at(after.lstrip()):
            return ()
        line = after.lstrip().splitlines()[0].rstrip()
        return (line if after.startswith(line) else "\n" + line,)

    @cached_property
    def _after_answer(self) -> str:
        """What the template writes between an answer and the next question."""
        question, answer, more = "First question", "First answer", "Second question"
        roles = (("user", question), ("assistant", answer), ("user", more))
        messages = self._contents.fitted([{"role": role, "content": content} for role, content in roles])
        for tools in (None, [SOME_TOOL]):  # there are templates that do not work without
            try:
                text = self.template.render(messages, tools=tools, add_generation_prompt=False)
            except TemplateError:
                continue
            after = text.rpartition(answer)[2].partition(more)[0]
            return "" if any(after.lstrip().startswith(end) for _, end in self.reasoning) else after
        return ""

    def _token_at(self, text: str) -> str | None:
        """The longest control token with which ``text`` begins."""
        found = [token for token in self._control if text.startswith(token)]
        return max(found, key=len, default=None)

    def _opened(self, text: str) -> str:
        form = self.tool_format
        return "" if form.bare else next((sign for sign in form.starts if text.endswith(sign)), "")

    def _ends_thinking(self, text: str) -> bool:
        return any(text.rstrip().endswith(begin) for begin, _ in self.reasoning)

    # ---- marks -----------------------------------------------------------------------

    @cached_property
    def _control(self) -> dict[str, int]:
        """The tokens that text of users must not become."""
        signs = [sign for form in FORMATS for sign in (*form.starts, *form.inside)]
        signs += sum(REASONING, ())
        sources = "\0".join((self.template.source, *self.template.named.values(), *signs))
        return {
            text: token
            for text, (token, special) in self._tokenizer.added_tokens.items()
            if len(text) > 1 and text.strip() and (special or text in sources)
        }

    @cached_property
    def _guards(self) -> tuple[Callable[[str], str], Callable[[str], str]]:
        """Put marks into a text of anybody, and into one of an assistant."""
        own = {sign for pair in self.reasoning for sign in pair}
        return _marker(self._control), _marker(self._control.keys() - own)

    def _guard(self, name: str, value: Any) -> Any:
        """Marks what a template is given. Raises UsageError for a role that is no plain word."""
        anybody, assistant = self._guards
        if name != "messages":
            return _marked(value, anybody)
        for message in value:
            if not _ROLE.fullmatch(message["role"]):
                raise UsageError(
                    f"'{message['role']}' is no role; usual are system, user, assistant and tool"
                )
        return [
            {
                key: item
                if key == "role"
                else _marked(item, assistant if _is_spoken(message, key) else anybody)
                for key, item in message.items()
            }
            for message in value
        ]


def _given_calls(calls: Any) -> list[ToolCall]:
    """The calls of a message. Raises UsageError."""
    try:
        return [call_from_json(call) for call in calls]
    except (NotACall, TypeError):
        raise UsageError(
            "tool_calls is a list of {'type': 'function', 'function': {'name': ..., 'arguments': '{...}'}}"
        ) from None


def _with_parsed_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """``message`` with the arguments of its calls as objects, which most templates expect."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    parsed = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            with contextlib.suppress(ValueError, RecursionError):
                function = {**function, "arguments": json.loads(function["arguments"])}
            call = {**call, "function": function}
        parsed.append(call)
    return {**message, "tool_calls": parsed}


def _instructed(messages: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """Messages that begin with ``words``: in the system's, or else in the first of a user."""
    first, content = messages[0], text_of(messages[0].get("content"))
    if first["role"] in ("system", "developer", "user") and isinstance(content, str):
        parts = [content, words] if first["role"] != "user" else [words, content]
        return [{**first, "content": "\n\n".join(parts)}, *messages[1:]]
    return [{"role": "user", "content": words}, *messages]


def _is_spoken(message: Mapping[str, Any], key: str) -> bool:
    return message["role"] == "assistant" and key == "content"


def _marked(value: Any, mark: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return mark(value)
    if isinstance(value, dict):
        return {_marked(key, mark): _marked(item, mark) for key, item in value.items()}
    return [_marked(item, mark) for item in value] if isinstance(value, list) else value


def _marker(tokens: Iterable[str]) -> Callable[[str], str]:
    """Puts a mark into each of ``tokens`` in a text, and at its end where one might begin there."""
    by_first: dict[str, list[str]] = {}
    for token in sorted(tokens, key=len, reverse=True):
        by_first.setdefault(token[0], []).append(re.escape(token[1:]))
    begins = "|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in by_first.items())
    inside = re.compile(begins or r"(?!)")
    openings = {token[:n] for token in tokens if not token[0].isalnum() for n in range(1, len(token))}
    longest = max(map(len, openings), default=0)

    def mark(text: str) -> str:
        text = inside.sub(lambda found: found[0] + MARK, text.replace(MARK, "\ufffd"))
        end = len(text.rstrip())
        if any(text[end - n : end] in openings for n in range(1, min(longest, end) + 1)):
            text = text[:end] + MARK + text[end:]
        return text

    return mark
