"""``linnet run`` of a model made for conversations, on a terminal: a chat with commands."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from linnet.engine.sampler import SamplingOptions
from linnet.errors import ContextFullError, LinnetError, SourceError, UsageError
from linnet.formats.atomic import atomic_file
from linnet.formats.inputs import read_bytes
from linnet.run.chat import ChatOptions, ChatStream, stream_chat
from linnet.run.markdown import AnswerPrinter, open_printer
from linnet.run.model import LanguageModel, StreamOptions
from linnet.run.template import prepared

GREETING = "Write a message. /help shows what else there is; Ctrl-C stops an answer, Ctrl-D leaves."
HELP = """\
/help               this text
/clear              begin a new conversation (the system prompt stays)
/system [TEXT]      show or set the system prompt; /system - takes it away
/set [NAME VALUE]   show or change how answers are made: temperature, top_p, max_tokens, seed,
                    enable_thinking on|off, and what else the model's template knows
/regenerate         answer the last message again
/undo               forget the last message and its answer
/save FILE          write the conversation to a file
/load FILE          go on with a conversation from a file
/exit               leave, as Ctrl-D does
A message may go on over several lines: end a line with \\, or put it between two lines of \"\"\"."""
MARGIN = '"""'
HISTORY_LINES = 1000
_SWITCHES = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


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
    with _history():
        for message in _messages_of_user():
            if not _follow(message, chat, printer, report):
                break
    return {"answers": chat.answers}


def _follow(
    message: str, chat: Chat, printer: AnswerPrinter, report: Callable[[ChatStream, Chat], None]
) -> bool:
    """Answers a message or carries out a command; False where it ends the chat."""
    try:
        if message.startswith("/"):
            return _command(message, chat, printer, report)
        chat.messages.append({"role": "user", "content": message})
        _reply(chat, printer, report)
    except LinnetError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:  # before there was an answer
        print()
    return True


def _reply(chat: Chat, printer: AnswerPrinter, report: Callable[[ChatStream, Chat], None]) -> None:
    """Answers the last message; one that cannot be answered is taken back."""
    try:
        stream = stream_chat(chat.model, chat.spoken, **chat.options)
    except ContextFullError as error:
        del chat.messages[-1]
        advice = "/clear begins a new conversation, --overflow turns leaves the oldest out"
        raise ContextFullError(f"{error}; {advice}") from None
    except (LinnetError, KeyboardInterrupt):
        del chat.messages[-1]
        raise
    with contextlib.suppress(KeyboardInterrupt), stream, printer.answer() as show:
        for delta in stream:
            show(delta)
    chat.messages.append(stream.message)
    chat.answers += 1
    report(stream, chat)


# ---- what the user writes -------------------------------------------------------------------


def _messages_of_user() -> Iterator[str]:
    """Messages, several lines joined; ends at the end of file."""
    while True:
        try:
            message = _read_message()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if message.strip():
            yield message.strip()


def _read_message() -> str:
    line = input("> ")
    if line.strip().startswith(MARGIN):
        lines = [line.strip().removeprefix(MARGIN)]
        while not lines[-1].rstrip().endswith(MARGIN) or (len(lines) == 1 and not lines[0].strip()):
            lines.append(input(". "))
        lines[-1] = lines[-1].rstrip().removesuffix(MARGIN)
        return "\n".join(lines)
    while line.endswith("\\"):
        line = line[:-1] + "\n" + input(". ")
    return line


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Line editing, and the lines of earlier chats; nothing where the system has no readline."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    path = Path(state) / "linnet" / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)


# ---- commands -------------------------------------------------------------------------------


def _command(
    line: str, chat: Chat, printer: AnswerPrinter, report: Callable[[ChatStream, Chat], None]
) -> bool:
    """Carries out a command; False where it ends the chat. Raises UsageError for an unknown one."""
    name, _, rest = line.partition(" ")
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
    return f"{len(chat.messages)} messages are left."


def _take_back(chat: Chat, *, with_question: bool) -> None:
    last = next((i for i in reversed(range(len(chat.messages))) if chat.messages[i]["role"] == "user"), None)
    if last is None:
        raise UsageError("there is no message yet")
    del chat.messages[last + (not with_question) :]


def _set(chat: Chat, rest: str) -> str:
    if not rest:
        shown = {**chat.options, **(chat.options["variables"] or {})}
        del shown["variables"]
        return "\n".join(f"{name} = {value}" for name, value in shown.items())
    name, _, text = rest.partition(" ")
    kind = _kinds().get(name)
    if kind is None:
        chat.options["variables"] = {**(chat.options["variables"] or {}), name: _template_value(text)}
        known = name in chat.model.chat_format.template.source
        return "" if known else f"The template of this model does not mention {name}."
    try:
        value = _template_value(text) if kind is bool else kind(text)
        if kind is bool and not isinstance(value, bool):
            raise ValueError
    except ValueError:
        raise UsageError(f"{name} cannot be '{text}'") from None
    chat.options[name] = value  # type: ignore[literal-required]
    return ""


def _kinds() -> dict[str, Callable[[str], Any]]:
    """The options of answers that are one value, and how each is read."""
    kinds: dict[str, Callable[[str], Any]] = {"max_tokens": int, "enable_thinking": bool, "stop": str}
    for name, hint in get_type_hints(SamplingOptions).items():
        plain = next((part for part in get_args(hint) if part is not type(None)), hint)
        if plain in (int, float, str, bool) and get_origin(plain) is None:
            kinds[name] = plain
    return kinds


def _template_value(text: str) -> Any:
    if text.lower() in _SWITCHES:
        return _SWITCHES[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _save(chat: Chat, rest: str) -> str:
    path = _path(rest)
    document = {"system": chat.system, "messages": chat.messages}
    with atomic_file(path) as file:
        file.write(json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n")
    return f"{len(chat.messages)} messages are in {path}."


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
    return f"{len(chat.messages)} messages from {path}."


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
