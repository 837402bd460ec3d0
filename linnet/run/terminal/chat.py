"""``linnet run`` of a model made for conversations, on a terminal: a chat with commands."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linnet.errors import ContextFullError, LinnetError, SourceError, UsageError
from linnet.formats.atomic import atomic_file
from linnet.formats.inputs import read_bytes
from linnet.run.chat.conversation import ChatOptions, ChatStream, stream_chat
from linnet.run.chat.template import prepared
from linnet.run.model import LanguageModel
from linnet.run.terminal import line_input, settings
from linnet.run.terminal.markdown import AnswerPrinter, open_printer
from linnet.run.text.options import StreamOptions

GREETING = "Write a message. /help shows what else there is; Ctrl-C stops an answer, Ctrl-D leaves."
HELP = """\
/help              this text
/clear             begin a new conversation (the system prompt stays)
/system [TEXT]     show or set the system prompt; /system - takes it away
/set [NAME VALUE]  show or change how answers are made: temperature, top_p,
                   max_tokens, seed, stop, overflow, ..., and what the model's
                   template knows (enable_thinking on); - is the default
/regenerate        answer the last message again
/undo              forget the last message and its answer
/save FILE         write the conversation to a file
/load FILE         go on with a conversation from a file
/exit              leave, as Ctrl-D does
A message may go on over several lines: end a line with \\, or put it
between two lines of \"\"\"."""

_COMMAND = re.compile(r"/[A-Za-z]*( .*)?")  # on one line; a message may begin with /etc/hosts


@dataclass
class Chat:
    """The state of a conversation on a terminal."""

    model: LanguageModel
    options: ChatOptions
    system: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    answers: int = 0

    @property
    def spoken(self) -> list[dict[str, Any]]:
        """The messages, after the system prompt if there is one."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]


def converse(
    model: LanguageModel, options: StreamOptions, system: str, report: Callable[[ChatStream, Chat], None]
) -> dict[str, object]:
    """Chats until end of file. ``report`` is called after each answer."""
    chosen: Any = {**options, "variables": {}}
    chat = Chat(model, chosen, system)
    printer = open_printer(sys.stdout)
    printer.note(GREETING)

    def follow(message: str) -> bool:
        message = message.strip()
        if _COMMAND.fullmatch(message):
            return _command(message, chat, printer, report)
        if message:
            chat.messages.append({"role": "user", "content": message})
            _reply(chat, printer, report)
        return True

    line_input.converse([*COMMANDS, "/regenerate", "/exit"], follow)
    return {"answers": chat.answers}


def _reply(chat: Chat, printer: AnswerPrinter, report: Callable[[ChatStream, Chat], None]) -> None:
    """Answers the last message; one that cannot be answered is taken back."""
    try:
        stream = stream_chat(chat.model, chat.spoken, **chat.options)
    except ContextFullError as error:
        del chat.messages[-1]
        advice = "/clear begins a new conversation, /set overflow turns leaves the oldest out"
        raise ContextFullError(f"{error}; {advice}") from None
    except (LinnetError, KeyboardInterrupt):
        del chat.messages[-1]
        raise
    try:
        with stream, printer.answer() as show:
            for delta in stream:
                show(delta)
    except KeyboardInterrupt:
        pass
    finally:
        chat.messages.append(stream.message)
        chat.answers += 1
    report(stream, chat)


# ---- commands -------------------------------------------------------------------------------


def _command(
    line: str, chat: Chat, printer: AnswerPrinter, report: Callable[[ChatStream, Chat], None]
) -> bool:
    """Carries out a command; False where it ends the chat. Raises UsageError for an unknown one."""
    name, _, rest = line.partition(" ")
    name = name.lower()
    if name in ("/exit", "/quit", "/bye"):
        return False
    if name == "/regenerate":
        _take_back(chat, with_question=False)
        _reply(chat, printer, report)
        return True
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name}; /help shows those there are")
    said = COMMANDS[name](chat, rest.strip())
    if said:
        printer.note(said)
    return True


def _help(chat: Chat, rest: str) -> str:
    return HELP


def _clear(chat: Chat, rest: str) -> str:
    chat.messages.clear()
    return "A new conversation."


def _system(chat: Chat, text: str) -> str:
    if text:
        chat.system = "" if text == "-" else text
    return f"system: {chat.system}" if chat.system else "There is no system prompt."


def _undo(chat: Chat, rest: str) -> str:
    _take_back(chat, with_question=True)
    return f"{_counted(chat)} left."


def _take_back(chat: Chat, *, with_question: bool) -> None:
    last = next((i for i in reversed(range(len(chat.messages))) if chat.messages[i]["role"] == "user"), None)
    if last is None:
        raise UsageError("there is no message yet")
    del chat.messages[last + (not with_question) :]


def _set(chat: Chat, rest: str) -> str:
    name, _, text = rest.partition(" ")
    options: Any = chat.options
    variables = chat.options["variables"]
    assert isinstance(variables, dict)
    if not name:
        return "\n".join([settings.told(options), *(f"{key:20} {value}" for key, value in variables.items())])
    if name not in settings.SETTINGS:
        return _set_variable(chat, variables, name, text.strip())
    if text.strip():
        settings.change(chat.model, options, name, text.strip(), in_chat=True)
    return settings.told(options, name)


def _set_variable(chat: Chat, variables: dict[str, Any], name: str, text: str) -> str:
    """Sets what the template knows under ``name``. Raises UsageError where it knows nothing."""
    if name not in chat.model.chat_format.template.source:
        near = difflib.get_close_matches(name, settings.SETTINGS, n=1)
        hint = f"did you mean {near[0]}?" if near else "/set alone shows what can be set"
        raise UsageError(f"the template of this model does not mention {name}; {hint}")
    if text == settings.DEFAULT:
        variables.pop(name, None)
    elif text:
        variables[name] = _template_value(text)
    return f"{name:20} {variables.get(name, settings.DEFAULT)}"


def _template_value(text: str) -> Any:
    try:
        return settings.switch(text)
    except ValueError:
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _save(chat: Chat, rest: str) -> str:
    path = _path(rest)
    document = {"system": chat.system, "messages": chat.messages}
    with atomic_file(path) as file:
        file.write(json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n")
    return f"{_counted(chat)} in {path}."


def _load(chat: Chat, rest: str) -> str:
    path = _path(rest)
    try:
        document = json.loads(read_bytes(path))
        system, messages = document.get("system", ""), document["messages"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SourceError(f"{path} is no conversation; /save writes one") from None
    if not isinstance(system, str) or not isinstance(messages, list):
        raise SourceError(f"{path} is no conversation; /save writes one")
    chat.messages = [dict(message) for message in prepared(messages)] if messages else []
    chat.system = system
    return f"{_counted(chat)} from {path}."


def _counted(chat: Chat) -> str:
    n = len(chat.messages)
    return "1 message" if n == 1 else f"{n} messages"


def _path(rest: str) -> Path:
    try:
        names = shlex.split(rest)
    except ValueError:
        names = [rest]
    if len(names) != 1:
        raise UsageError("name one file: /save FILE, /load FILE")
    return Path(names[0]).expanduser()


COMMANDS: dict[str, Callable[[Chat, str], str]] = {
    "/help": _help,
    "/clear": _clear,
    "/system": _system,
    "/set": _set,
    "/undo": _undo,
    "/save": _save,
    "/load": _load,
}
