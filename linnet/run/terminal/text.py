"""``linnet run`` of a model not made for conversations, on a terminal: texts that it goes on with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from linnet.errors import ContextFullError, UsageError
from linnet.run.generation import TextStream
from linnet.run.model import LanguageModel, StreamOptions
from linnet.run.terminal import line_input, settings

GREETING = "Write the beginning of a text. Enter alone goes on, Ctrl-C stops, Ctrl-D leaves; /help says more."
HELP = """\
Enter              go on with the last text
/set [NAME VALUE]  show or change how texts are made: temperature, top_p,
                   max_tokens, seed, stop, ...; - is the default
/help              this text
/exit              leave, as Ctrl-D does
A text may go on over several lines: end a line with \\, or put it
between two lines of \"\"\"."""
COMMANDS = ("/help", "/set", "/exit")


def converse(
    model: LanguageModel,
    options: StreamOptions,
    show: Callable[[Callable[[], TextStream]], str],
    note: Callable[[str], None],
) -> dict[str, object]:
    """Asks for texts to continue until end of file; an empty line continues the last one.

    ``show`` begins a stream, prints it and returns its text; ``note`` prints a remark.
    """
    model.stream([0], **options).close()  # what cannot be is said now
    note(GREETING)
    text, texts = "", 0
    with line_input.history(COMMANDS):
        for line in line_input.messages():
            name = line.partition(" ")[0].lower()
            if name == "/exit":
                break
            if name in COMMANDS:
                _command(line, model, options, note)
            elif line or text:
                text = _continued(line or text, model, options, show)
                texts += 1
    return {"texts": texts}


def _command(line: str, model: LanguageModel, chosen: StreamOptions, note: Callable[[str], None]) -> None:
    command, name, text = [*line.split(maxsplit=2), "", ""][:3]
    said, options = HELP, cast(dict[str, Any], chosen)
    if command.lower() == "/set":
        try:
            if name and name not in settings.SETTINGS:
                raise UsageError(f"there is nothing called {name} to set; /set shows what there is")
            if text:
                settings.change(model, options, name, text, in_chat=False)
            said = settings.told(options, *filter(None, [name]))
        except UsageError as error:
            print(error, file=sys.stderr)
            return
    note(said)


def _continued(
    text: str,
    model: LanguageModel,
    options: StreamOptions,
    show: Callable[[Callable[[], TextStream]], str],
) -> str:
    """``text`` and how it goes on, which is shown; nothing where it has become too long."""
    try:
        return text + show(partial(model.stream, text, **options))
    except ContextFullError as error:
        print(f"{error}; begin a new text", file=sys.stderr)
        return ""
