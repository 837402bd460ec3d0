"""What people type on a terminal: lines with their history, messages of several lines, names of commands."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from linnet.errors import LinnetError

MARGIN = '"""'
HISTORY_LINES = 1000


def _read_message() -> str:
    """One message. Several lines are one where each but the last ends with a backslash, or between MARGINs.

    Raises EOFError, KeyboardInterrupt.
    """
    line = input("> ")
    if line.strip().startswith(MARGIN):
        lines = [line.strip().removeprefix(MARGIN)]
        while not lines[-1].rstrip().endswith(MARGIN) or (len(lines) == 1 and not lines[0].strip()):
            lines.append(input(". "))
        lines[-1] = lines[-1].rstrip().removesuffix(MARGIN)
        return "\n".join(lines).strip("\n")
    while line.endswith("\\"):
        line = line[:-1] + "\n" + input(". ")
    return line


def _messages() -> Iterator[str]:
    """One message after the other until end of file; an interrupt begins the one being typed again."""
    while True:
        try:
            message = _read_message()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        yield message


def converse(commands: Sequence[str], follow: Callable[[str], bool]) -> None:
    """Calls ``follow`` with one message after the other, until it returns False or the file ends."""
    with _history(commands):
        for message in _messages():
            if not _followed(message, follow):
                return


def _followed(message: str, follow: Callable[[str], bool]) -> bool:
    """What is wrong with a message is said, and an interrupt ends only what was made of it."""
    try:
        return follow(message)
    except LinnetError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print()
    return True


@contextlib.contextmanager
def _history(commands: Sequence[str]) -> Iterator[None]:
    """Line editing, earlier lines, and Tab for ``commands``; nothing where there is no readline."""
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
    readline.set_completer_delims(" \t\n")
    readline.set_completer(_completer(commands))
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """What is typed meanwhile waits for the next line, unseen as ``^C`` is: both would move the cursor."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _completer(commands: Sequence[str]) -> Callable[[str, int], str | None]:
    def complete(begun: str, index: int) -> str | None:
        fitting = [f"{name} " for name in commands if begun.startswith("/") and name.startswith(begun)]
        return fitting[index] if index < len(fitting) else None

    return complete
