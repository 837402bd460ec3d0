"""Conversations with a model: messages in, an answer out, in the shapes that OpenAI gave them.

A stream of an answer tells reasoning, text and calls of tools apart as they come. What a
model was asked before is not evaluated again: only what follows the common beginning is new.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, Unpack

from linnet.engine.arguments import given, int32, wrong
from linnet.errors import UsageError
from linnet.run.chat.answer import AnswerReader, Delta, Signs
from linnet.run.chat.format import Prompt
from linnet.run.chat.template import Message, prepared
from linnet.run.chat.tool_formats import ToolCall
from linnet.run.chat.tools import ToolChoice, Tools, choose
from linnet.run.text.choosing import FormOptions
from linnet.run.text.context import drop_oldest_turns
from linnet.run.text.generation import Generation, TextStream, stop_texts
from linnet.run.text.options import StreamOptions
from linnet.run.text.spelling import Spelling

if TYPE_CHECKING:
    from linnet.run.model import LanguageModel

_ID_SIGNS = string.ascii_letters + string.digits
_ID_LENGTH = 9  # Mistral's templates take no other


class ChatOptions(StreamOptions, total=False):
    """The options of :func:`stream_chat` and of the sampling."""

    tools: Sequence[Callable[..., Any] | Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    documents: Sequence[Mapping[str, Any]] | None
    enable_thinking: bool | None
    variables: Mapping[str, Any] | None


@dataclass
class Answer:
    """What a model answered: the ``message``, why it ended, and what it cost.

    ``finish_reason`` is that of the generation, or ``tool_calls``. ``messages`` is the
    conversation with the answer at its end.
    """

    message: dict[str, Any]
    finish_reason: str
    generation: Generation
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the answer, without reasoning and calls."""
        return str(self.message.get("content") or "")

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The functions the model wants called."""
        return list(self.message.get("tool_calls", ()))

    @property
    def usage(self) -> dict[str, int]:
        """Tokens: of the prompt, of them those that were known from earlier texts, and made."""
        made = self.generation
        return {
            "prompt_tokens": made.prompt_tokens,
            "cached_tokens": made.cached_tokens,
            "completion_tokens": len(made.ids),
            "total_tokens": made.prompt_tokens + len(made.ids),
        }


class ChatStream:
    """Iterates over what an answer brings, as :class:`Delta`; :meth:`answer` is complete at the end.

    Close it, or leave it as a context manager, to stop early; what was answered until then
    stays in :attr:`message`.
    """

    def __init__(self, stream: TextStream, reader: AnswerReader, spelling: Spelling) -> None:
        self.message: dict[str, Any] = {"role": "assistant", "content": ""}
        self.generation, self.seed = stream.generation, stream.seed
        self.dropped_messages = 0  # left out to make room
        self._stream, self._reader, self._spelling = stream, reader, spelling
        self._deltas = self._run()

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        return next(self._deltas)

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def mean_log_prob(self) -> float | None:
        """That of :attr:`generation`."""
        return self.generation.mean_log_prob

    def close(self) -> None:
        """Ends the answer here."""
        self._deltas.close()
        self._stream.close()

    def answer(self) -> Answer:
        """The answer, all of it."""
        for _ in self:
            pass
        reason = self.generation.finish_reason
        calls = self.message.get("tool_calls")
        return Answer(self.message, "tool_calls" if calls and reason == "stop" else reason, self.generation)

    def _run(self) -> Generator[Delta]:
        try:
            for token in self._stream.tokens:
                yield from map(self._noted, self._reader.feed(self._spelling.feed(token)))
                if self._reader.stopped:
                    self.generation.finish_reason = "stop"
                    break
            yield from map(self._noted, self._reader.feed(self._spelling.finish()))
            yield from map(self._noted, self._reader.finish())
        except GeneratorExit:
            self.generation.finish_reason = "interrupted"
            raise
        except KeyboardInterrupt:
            self.generation.finish_reason = "interrupted"
            for delta in self._reader.finish():
                self._noted(delta)
            raise
        finally:
            self._stream.close()

    def _noted(self, delta: Delta) -> Delta:
        """``delta``, entered into the message; calls get their ids."""
        calls = tuple(replace(call, id=_new_id()) for call in delta.tool_calls)
        delta = replace(delta, tool_calls=calls)
        self.message["content"] += delta.content
        if delta.reasoning_content:
            before = self.message.get("reasoning_content", "")
            self.message["reasoning_content"] = before + delta.reasoning_content
        if calls:
            self.message.setdefault("tool_calls", []).extend(call.as_message() for call in calls)
        self.generation.text += delta.content
        return delta


def stream_chat(
    model: LanguageModel,
    messages: Sequence[Message],
    *,
    tools: Sequence[Callable[..., Any] | Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] | None = None,
    parallel_tool_calls: bool | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    variables: Mapping[str, Any] | None = None,
    **options: Unpack[StreamOptions],
) -> ChatStream:
    """Begins the answer to ``messages``.

    ``tools`` are Python functions or schemas in OpenAI's shape, which the model may call; nothing is
    called here. ``tool_choice`` and ``parallel_tool_calls`` mean what :func:`linnet.run.chat.tools.choose`
    says; calls are held to their schemas, see :mod:`linnet.run.chat.held_calls`. ``documents``,
    ``enable_thinking`` and ``variables`` go to the template; ``options`` are those of
    :meth:`LanguageModel.stream`, where ``overflow="turns"`` leaves the oldest turns of a conversation
    out that is too long, and keeps a quarter of the context (or ``max_tokens``, if that is less) for
    the answer. Raises UsageError, TemplateError, ContextFullError.
    """
    if not isinstance(variables, (Mapping, NoneType)):
        raise wrong("variables", variables, "a dict of what the template knows")
    known = dict(variables or {})
    if enable_thinking is not None:
        known["enable_thinking"] = enable_thinking
    offered = Tools(tools or ())
    choice = choose(offered, tool_choice, parallel_tool_calls)
    shown = offered.schemas if choice.schemas else None
    chat = model.chat_format

    def prompt_of(conversation: Sequence[Message]) -> Prompt:
        return chat.prompt(conversation, tools=shown, documents=documents, variables=known)

    chosen: StreamOptions = {"ends": chat.ends, **given(options)}  # type: ignore[typeddict-item]
    dropped = 0
    if chosen.get("overflow") == "turns":
        chosen["overflow"] = "error"
        most = int32("max_tokens", chosen.get("max_tokens", model.n_ctx), least=1)
        room = model.n_ctx - min(most, model.n_ctx // 4)
        messages, _, dropped = drop_oldest_turns(prepared(messages), lambda left: prompt_of(left).ids, room)
    prompt = prompt_of(messages)
    stops = stop_texts(chosen.pop("stop", ()))
    signs = Signs(
        reasoning=chat.reasoning,
        tools=chat.tool_format if shown or prompt.opened else None,
        schemas=offered.parameters if shown else {},
        stops=(*chat.stop_texts, *stops),
        most_calls=choice.most_calls,
    )
    if shown and not _is_held(chosen, choice):
        from linnet.run.chat.held_calls import calls_guide

        thinks = enable_thinking is not False
        chosen["guide"] = calls_guide(model, choice, signs, prompt, chosen["ends"] or chat.ends, thinks)
    reader = AnswerReader(signs, prompt.thinking, prompt.opened)
    answer = ChatStream(model.stream(prompt.ids, **chosen), reader, chat.spelling(signs))
    answer.dropped_messages = dropped
    return answer


def _is_held(options: StreamOptions, choice: ToolChoice) -> bool:
    """Is the text held to a form that the caller gave? Raises UsageError where calls are required as well."""
    held = any(options.get(name) is not None for name in ("guide", *FormOptions.__annotations__))
    if held and choice.required:
        raise UsageError(
            "an answer cannot be a call and have a form as well; leave out tool_choice or the form"
        )
    return held


def _new_id() -> str:
    return "".join(secrets.choice(_ID_SIGNS) for _ in range(_ID_LENGTH))


__all__ = ["Answer", "ChatStream", "Delta", "ToolCall", "stream_chat"]
