"""JSONL: one JSON object per line, one of its fields holding a text (https://jsonlines.org)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, NamedTuple

from linnet.errors import SourceError

SUFFIXES = (".jsonl", ".ndjson", ".json")
LINE_BYTES = 1 << 26  # a longer line is taken for something other than JSONL
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Row(NamedTuple):
    """The text of a row, None where it is null, and the ill-formed sequences in it that became U+FFFD."""

    text: str | None
    replaced: int


def read_rows(file: BinaryIO, field: str, name: str) -> Iterator[Row]:
    """The rows of an open file, empty lines left out.

    Raises SourceError that names ``name`` and the line for what is not an object with
    text in ``field``.
    """
    number = 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            raise SourceError(f"{name}, line {number} is longer than {LINE_BYTES >> 20} MiB; is this JSONL?")
        if line.strip():
            yield _row(line, field, f"{name}, line {number}")


def listed(names: Collection[object]) -> str:
    """Field names for a message."""
    return ", ".join(f"'{name}'" for name in sorted(map(str, names))[:12]) or "none"


def _row(line: bytes, field: str, where: str) -> Row:
    decoded = line.decode("utf-8", "replace").removeprefix("\ufeff")
    replaced = decoded.count("\ufffd") - line.count("\ufffd".encode()) if "\ufffd" in decoded else 0
    try:
        row: Any = json.loads(decoded)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise SourceError(f'{where} is not a JSON object such as {{"{field}": "..."}}')
    if field not in row:
        raise SourceError(f"{where} has no field '{field}'; it has {listed(row)} (choose with --field)")
    text = row[field]
    if text is None:
        return Row(None, replaced)
    if not isinstance(text, str):
        raise SourceError(f"{where}: the field '{field}' does not hold text")
    # JSON can write half of a surrogate pair; UTF-8 cannot.
    text, halves = _SURROGATE.subn("\ufffd", text)
    return Row(text, replaced + halves)
