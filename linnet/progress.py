"""Bars of work that is measured in bytes."""

from __future__ import annotations

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
