"""``linnet.chat``: a conversation in which the functions that a model wants called are called."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from linnet.engine.arguments import int32
from linnet.errors import ContextFullError, LinnetError
from linnet.run.chat.conversation import Answer, ChatOptions
from linnet.run.chat.template import Message, prepared
from linnet.run.chat.tools import Tools
from linnet.run.model import LanguageModel, load


def chat(
    messages: str | Sequence[Message],
    model: LanguageModel | str | Path | None = None,
    *,
    max_rounds: int = 8,
    best_of: int = 1,
    **options: Unpack[ChatOptions],
) -> Answer:
    """Asks a model, calls the functions it wants called, and returns its last answer.

    ``messages`` may be one question. ``model`` is a loaded one or what
    :func:`linnet.load` takes (kept for the next call). Python functions among ``tools``
    are called with the arguments the model gives, and what they return, or the error
    they raise, is told to it, at most ``max_rounds`` times; each answer is the best of
    ``best_of``. Of a result for which the context has no room the model is told the length
    instead. A ``tool_choice`` that requires a call counts for the first answer. Calls of
    tools that are mere schemas end the loop and are for the caller to answer. The whole
    conversation is in :attr:`Answer.messages`; where an error ends it, in its ``messages``.
    """
    int32("max_rounds", max_rounds, least=1)
    loaded = model if isinstance(model, LanguageModel) else _loaded(model)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    spoken = prepared(messages)
    tools = Tools(options.get("tools") or ())
    results: list[dict[str, Any]] = []  # of the calls in the last answer
    while True:
        try:
            answer = _answer_to(spoken, results, loaded, best_of, options)
        except LinnetError as error:
            error.messages = [*spoken, *results]
            raise
        if options.get("tool_choice") != "none":
            options["tool_choice"] = "auto"
        spoken = answer.messages
        calls = answer.tool_calls
        max_rounds -= 1
        if not calls or max_rounds < 1 or not all(tools.can_run(call) for call in calls):
            return answer
        results = [tools.run(call) for call in calls]


def _answer_to(
    spoken: list[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    model: LanguageModel,
    best_of: int,
    options: ChatOptions,
) -> Answer:
    """The answer to a conversation that ends with results of tools, the longest of them refused as long as it
    does not fit."""
    told = list(results)
    longest_last = sorted(range(len(told)), key=lambda i: len(told[i]["content"]))
    while True:
        try:
            answer = model.chat([*spoken, *told], best_of=best_of, **options)
        except ContextFullError:
            if not longest_last:
                raise
            i = longest_last.pop()
            n_tokens = len(model.tokenize(told[i]["content"]))
            problem = f"Error: the result has {n_tokens} tokens, too many for the context of {model.n_ctx}"
            told[i] = {**told[i], "content": f"{problem}; ask for less"}
            continue
        answer.messages = [*spoken, *told, answer.message]
        return answer


@functools.lru_cache(maxsize=1)
def _loaded(path: str | Path | None) -> LanguageModel:
    return load(path)
