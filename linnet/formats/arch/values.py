"""Reading the values of a ``config.json`` or of GGUF metadata, each checked alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from linnet.display import shown
from linnet.errors import FormatError, UnsupportedError

_LARGEST = 1 << 31  # the core counts in int32
_LARGEST_F32 = float(np.finfo(np.float32).max)  # and computes in float
_SMALLEST_F32 = float(np.finfo(np.float32).tiny)

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


def size(name: str, value: int) -> int:
    """``value``, which was computed from others, if it is a possible size. Raises FormatError."""
    return count({name: value}, name)


def number(table: Table, key: str, default: float, *, zero: bool = False) -> float:
    """A number above zero, or with ``zero`` not below it, within the range of f32. Raises FormatError."""
    value = table.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise FormatError(f"'{key}' is {shown(value)}, which is not a number")
    if not (_SMALLEST_F32 <= value <= _LARGEST_F32 or (zero and value == 0)):
        raise FormatError(f"'{key}' is {shown(value)}, which is not a possible value")
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
    values = listed(table, key)
    if values is None or len(values) != length:
        raise FormatError(f"'{key}' is not a list of {length} numbers")
    return tuple(number({key: value}, key, 0.0) for value in values)


def listed(table: Table, key: str) -> list[Any] | None:
    """A list of anything, which a GGUF file has as an array; None where there is none. Raises FormatError."""
    values = table.get(key)
    if isinstance(values, np.ndarray):
        return list(values.tolist())
    if values is not None and not isinstance(values, (list, tuple)):
        raise FormatError(f"'{key}' is {shown(values)}, which is not a list")
    return None if values is None else list(values)


def nested(table: Table, key: str) -> Table:
    """A table in the table, {} where there is none. Raises FormatError."""
    value = table.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise FormatError(f"'{key}' is {shown(value)}, which is not a table of settings")
    return {} if value is None else value


def text(table: Table, key: str, default: str) -> str:
    """A text. Raises FormatError."""
    value = table.get(key)
    value = default if value is None else value
    if not isinstance(value, str):
        raise FormatError(f"'{key}' is {shown(value)}, which is not text")
    return value


def refuse(table: Table, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises UnsupportedError for a key with another value than those that change nothing."""
    for key, values in neutral.items():
        value = table.get(key)
        if value is not None and (isinstance(value, np.ndarray) or value not in values):
            supported = ", ".join(map(str, values)) or "a model without it"
            raise UnsupportedError(
                f"the model sets '{key}' to {shown(value)}, which is not supported; supported: {supported}"
            )
