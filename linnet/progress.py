"""How far work is: bars of bytes, and one line of text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


_ROOM_FOR_A_BAR = 72  # columns


def byte_bars(quiet: bool = False) -> Progress:
    """Bars on standard error, gone when they are closed; hidden where that is no terminal, or ``quiet``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    told = [TextColumn("{task.description}"), DownloadColumn()]
    if console.width >= _ROOM_FOR_A_BAR:
        told[1:1] = [BarColumn()]
        told += [TransferSpeedColumn(), TimeRemainingColumn()]
    return Progress(*told, console=console, transient=True, disable=quiet or not console.is_terminal)


@contextmanager
def status_line(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows a short text in place of the last on standard error where that is a terminal; gone at the end.

    It runs nothing by itself and imports nothing, so that time and memory measured meanwhile are not its own.
    """
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        if not quiet and sys.stderr.isatty():
            print(f"\r{text:<{len(shown)}}", end="", file=sys.stderr, flush=True)
            shown = text

    try:
        yield show
    finally:
        show("")  # spaces over the last text
        show("")  # and the cursor where the line begins
