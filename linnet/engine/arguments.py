"""What callers pass, checked: the wrong kind, or an impossible value, is one line that names the argument.

None stands for the default, as it does in most libraries: see :func:`given`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from linnet.display import shown
from linnet.errors import UsageError

_INT32 = 1 << 31


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number from ``least`` to ``most``. Raises UsageError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise wrong(name, value, "a whole number") from None
    if not least <= number <= most:
        limit = f"at least {least}" if number < least else f"at most {most}"
        raise UsageError(f"{name} is {shown(number)}; it must be {limit}")
    return number


def int32(name: str, value: Any, least: int = -_INT32) -> int:
    """A whole number for a field of 32 bits, to which ctypes would cut it silently. Raises UsageError."""
    return whole(name, value, least, _INT32 - 1)


def real(name: str, value: Any) -> float:
    """A number; a text that spells one is none. Raises UsageError."""
    try:
        if isinstance(value, (str, bytes, bytearray)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong(name, value, "a number") from None


def texts(name: str, value: Any) -> tuple[str, ...]:
    """One text, or several. Raises UsageError."""
    listed = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not all(isinstance(text, str) for text in listed):
        raise wrong(name, value, "a text or a list of texts")
    return listed


def listed(name: str, value: Any, kind: str) -> list[Any]:
    """Several things of a ``kind``; one text, a sequence of letters, is no list. Raises UsageError."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise wrong(name, value, f"a list of {kind}")
    return list(value)


def path(name: str, value: Any) -> Path:
    """A path. Raises UsageError."""
    try:
        return Path(value)
    except TypeError:
        raise wrong(name, value, "a path") from None


def token_ids(name: str, value: Any) -> frozenset[int]:
    """Some token ids, in no order. Raises UsageError."""
    if not isinstance(value, Iterable):
        raise wrong(name, value, "a list of token ids")
    return frozenset(int32(f"a token of {name}", token, least=0) for token in value)


def wrong(name: str, value: Any, kind: str) -> UsageError:
    """The error for a value that is not of the kind it has to be."""
    return UsageError(f"{name} is {shown(value)}; it must be {kind}")
