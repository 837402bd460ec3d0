"""Prints answers as they come: Markdown laid out on a terminal, plain text everywhere else.

A finished block (a paragraph, a list, a fenced piece of code) is printed once and stays.
The block that is being written is drawn again and again below, so that text which has
scrolled away never has to change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from linnet.display import visible
from linnet.run.chat.answer import Delta
from linnet.run.terminal.line_input import unechoed

REDRAWS = 12  # per second, at most
_FENCES = ("```", "~~~")


class AnswerPrinter(Protocol):
    """Where a chat is shown."""

    def note(self, text: str) -> None:
        """Shows a remark of the program."""

    def answer(self) -> Any:
        """A context manager whose value shows a Delta of an answer."""


def open_printer(target: TextIO) -> AnswerPrinter:
    """The printer for ``target``: plain unless it is a terminal that can do more."""
    able = target.isatty() and os.environ.get("TERM", "") != "dumb" and "NO_COLOR" not in os.environ
    return RichPrinter(target) if able else PlainPrinter(target)


class PlainPrinter:
    """Text as it comes; reasoning between the usual signs."""

    def __init__(self, target: TextIO) -> None:
        self._target = target

    def note(self, text: str) -> None:
        print(visible(text), file=self._target)

    @contextmanager
    def answer(self) -> Iterator[Callable[[Delta], None]]:
        thinking = False

        def show(delta: Delta) -> None:
            nonlocal thinking
            if bool(delta.reasoning_content) != thinking:
                print("<think>\n" if delta.reasoning_content else "\n</think>\n\n", end="", file=self._target)
                thinking = bool(delta.reasoning_content)
            calls = "".join(f"\n{call.name}({call.arguments})" for call in delta.tool_calls)
            text = delta.reasoning_content or delta.content or calls
            print(visible(text), end="", file=self._target, flush=True)

        try:
            yield show
        finally:
            print("\n</think>" if thinking else "", file=self._target, flush=True)


class RichPrinter:
    """Markdown, with the reasoning dim before it."""

    def __init__(self, target: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=target, highlight=False)

    def note(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(visible(text), style="dim"))

    @contextmanager
    def answer(self) -> Iterator[Callable[[Delta], None]]:
        from rich.live import Live

        # Drawn by this thread alone: a second one would erase by the size of what the first has replaced.
        live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
        with unechoed(), live:
            blocks = _Blocks(live)
            try:
                yield blocks.show
            finally:
                blocks.finish()


class _Blocks:
    """The answer so far: finished blocks are printed, the last one is drawn live."""

    def __init__(self, live: Any) -> None:
        self._live = live
        self._text = ""
        self._reasoning = False
        self._drawn = 0.0

    def show(self, delta: Delta) -> None:
        from rich.text import Text

        if bool(delta.reasoning_content) != self._reasoning:
            self.finish()
            self._reasoning = bool(delta.reasoning_content)
        self._text += visible(delta.reasoning_content or delta.content)
        cut = finished(self._text)
        if cut:
            self._print(self._text[:cut])
            self._text = self._text[cut:]
        for call in delta.tool_calls:
            self.finish()
            self._live.console.print(Text(visible(f"{call.name}({call.arguments})"), style="cyan"))
        if time.monotonic() - self._drawn >= 1 / REDRAWS:
            self._live.update(self._laid_out(self._text[-4000:]), refresh=True)  # more fits on no screen
            self._drawn = time.monotonic()

    def finish(self) -> None:
        """Prints what is left."""
        if self._text.strip():
            self._print(self._text)
        self._text = ""

    def _print(self, text: str) -> None:
        self._live.update("", refresh=True)
        self._live.console.print(self._laid_out(text.strip("\n")))
        if self._reasoning or text.endswith("\n"):
            self._live.console.print()

    def _laid_out(self, text: str) -> Any:
        from rich.markdown import Markdown
        from rich.text import Text

        if self._reasoning:
            return Text(text, style="dim italic")
        return _Visible(Markdown(text, hyperlinks=False))  # where a link leads is printed, not hidden


class _Visible:
    """What is laid out with its control characters visible: Markdown can spell them (``<http://a/%1b>``)."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        for segment in console.render(self._content, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def finished(text: str) -> int:
    """How much of ``text`` cannot change any more: what is before the last empty line outside of code."""
    cut = position = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        opens = next((sign for sign in _FENCES if bare.startswith(sign)), "")
        position += len(line)
        if fence:
            if opens == fence and not bare.strip(fence[0]):
                fence = ""
        elif opens:
            fence = opens
        elif not bare and line.endswith("\n"):
            cut = position
    return cut
