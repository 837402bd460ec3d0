"""Reading the values of a ``config.json`` or of GGUF metadata, each checked alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from linnet.errors import FormatError, UnsupportedError

_LARGEST = 1 << 31  # the core counts in int32

Table = Mapping[str, Any]


def count(table: Table, key: str, default: int | None = None, *, least: int = 1) -> int:
    """A whole number of at least ``least``. Raises FormatError where it is missing or impossible."""
    value = table.get(key)
    value = default if value is None else value
    if value is None:
        raise FormatError(f"'{key}' is missing from the description of the model")
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value < _LARGEST:
        raise FormatError(f"'{key}' is {shown(value)}, which is not a possible size")
    return int(value)


def number(table: Table, key: str, default: float, *, zero: bool = False) -> float:
    """A finite number above zero, or with ``zero`` not below it. Raises FormatError."""
    value = table.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise FormatError(f"'{key}' is {shown(value)}, which is not a number")
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise FormatError(f"'{key}' is {shown(value)}, which is not a possible value")
    if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        raise FormatError(f"'{key}' is {value}, which is not a possible value")
    return float(value)


def flag(table: Table, key: str, default: bool = False) -> bool:
    """True or false. Raises FormatError."""
    value = table.get(key)
    value = default if value is None else value
    if not isinstance(value, (bool, np.bool_)):
        raise FormatError(f"'{key}' is {shown(value)}, which is neither true nor false")
    return bool(value)


def choice(table: Table, key: str, default: str, known: Mapping[str, str]) -> str:
    """What ``known`` says of a name. Raises UnsupportedError for one it does not hold."""
    value = table.get(key)
    value = default if value is None else value
    if not isinstance(value, str) or value not in known:
        raise UnsupportedError(f"'{key}' is {shown(value)}; known: {', '.join(known)}")
    return known[value]


def numbers(table: Table, key: str, length: int) -> tuple[float, ...]:
    """A list of so many numbers above zero. Raises FormatError."""
    values = table.get(key)
    if not isinstance(values, (list, tuple)) or len(values) != length:
        raise FormatError(f"'{key}' is not a list of {length} numbers")
    return tuple(number({key: value}, key, 0.0) for value in values)


def refuse(table: Table, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises UnsupportedError for a key with another value than those that change nothing."""
    for key, values in neutral.items():
        if table.get(key) is not None and table[key] not in values:
            raise UnsupportedError(
                f"the model sets '{key}' to {shown(table[key])}, which is not supported; "
                f"supported: {', '.join(map(str, values))}"
            )


def shown(value: Any) -> str:
    """``value`` for one line of an error."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
