"""Every error Linnet raises on purpose, in one tree; and its warnings, which point at the caller's line.

    LinnetError
    ├── UsageError           an option or argument that cannot be meant
    ├── SourceError          an input that is missing, unreadable or not what it should be
    │   └── FormatError      a file whose bytes are damaged or contradict themselves
    ├── UnsupportedError     well formed, but this version cannot do it
    ├── TargetError          an output that cannot be written
    ├── VerificationError    an artifact that, reloaded, is not what was written
    ├── ContextFullError     more tokens than the session was opened for
    ├── TemplateError        a chat template that cannot render a conversation, or refuses to
    ├── TrainingError        a training that diverged
    └── MissingExtraError    a verb whose optional packages are not installed

The message is one line that says what is wrong and what to do about it, whatever the names in
it hold. The command line prints it without a traceback and exits with code 2.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from linnet.display import one_line


class LinnetError(Exception):
    """Base of every error raised on purpose. ``messages``: the conversation it ended, see linnet.chat."""

    messages: list[dict[str, Any]] | None = None

    def __init__(self, message: object) -> None:
        super().__init__(one_line(str(message)))


class UsageError(LinnetError):
    """An option or argument that cannot be meant."""


class SourceError(LinnetError):
    """An input that is missing, unreadable or not what it should be."""


class FormatError(SourceError):
    """A file whose bytes are damaged or contradict themselves."""


class UnsupportedError(LinnetError):
    """Well formed, but this version cannot do it."""


class TargetError(LinnetError):
    """An output that cannot be written."""


class VerificationError(LinnetError):
    """An artifact that, reloaded, is not what was written."""


class ContextFullError(LinnetError):
    """More tokens than the session was opened for."""


class TemplateError(LinnetError):
    """A chat template that cannot render a conversation, or refuses to."""


class TrainingError(LinnetError):
    """A training that diverged."""


class MissingExtraError(LinnetError):
    """A verb whose optional packages are not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'linnet[{extra}]'")


_NOT_THE_CALLER = ("linnet", "functools")  # packages between who warns and who called


def warn(message: str) -> None:
    """Warns of the line outside of this package that led here, however deep the calls."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_CALLER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
