"""``linnet run`` of a model not made for conversations, on a terminal: texts that it goes on with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from linnet.errors import ContextFullError, UsageError
from linnet.run.model import LanguageModel
from linnet.run.terminal import line_input, settings
from linnet.run.text.generation import TextStream
from linnet.run.text.options import StreamOptions

GREETING = """\
Write the beginning of a text. Enter alone goes on, Ctrl-C stops it,
Ctrl-D leaves; /help says more."""
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

    def follow(line: str) -> bool:
        nonlocal text, texts
        name = line.partition(" ")[0].lower()
        if name == "/exit":
            return False
        if name in COMMANDS:
            note(HELP if name == "/help" else _set(line, model, options))
        elif begun := line or text:
            try:
                text = begun + show(partial(model.stream, begun, **options))
            except ContextFullError as error:
                text = ""
                raise ContextFullError(f"{error}; begin a new text") from None
            texts += 1
        return True

    line_input.converse(COMMANDS, follow)
    return {"texts": texts}


def _set(line: str, model: LanguageModel, chosen: StreamOptions) -> str:
    """What ``/set`` shows or has changed. Raises UsageError."""
    _, name, text = [*line.split(maxsplit=2), "", ""][:3]
    options = cast(dict[str, Any], chosen)
    if name and name not in settings.SETTINGS:
        raise UsageError(f"there is nothing called {name} to set; /set shows what there is")
    if text:
        settings.change(model, options, name, text, in_chat=False)
    return settings.told(options, *filter(None, [name]))
