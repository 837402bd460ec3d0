"""Text of others on a terminal: what could command it is made visible. The one place that does so.

Escape sequences move the cursor, rename windows and write the clipboard (OSC 52), and they are plain
characters in the name of a tensor, in a file name or in what a model says. Into a file or a pipe text
goes as it is, but for lines that are made for people.
"""

from __future__ import annotations

import reprlib
from typing import TextIO

# C0, DEL and C1 but for line feed and tab. A carriage return would let a line hide what was before it;
# alone it shows nothing, and files of Windows are full of them.
_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t\r"
} | {ord("\r"): ""}
_IN_JSON = {code: f"\\u{code:04x}" for code in range(127, 160)}  # those below 32 JSON never holds
_LONGEST_LINE = 2000  # characters
_LONGEST_VALUE = 60
_VALUES = reprlib.Repr()  # which looks at the beginning of long lists only
_VALUES.maxstring = _VALUES.maxlong = _VALUES.maxother = _LONGEST_VALUE


def visible(text: str) -> str:
    """``text`` with its control characters written out, such as ``\\x1b``; line feeds and tabs stay."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def shown_on(target: TextIO, text: str) -> str:
    """``text``, :func:`visible` where ``target`` is a terminal."""
    return visible(text) if target.isatty() else text


def one_line(text: str) -> str:
    """``text`` on one line, not too long: whatever is not printable is written out, as in ``\\n``.

    That holds for what turns the direction of writing, and for bytes of file names that are not UTF-8.
    """
    text = text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def line_on(target: TextIO, text: str) -> str:
    """``text`` on one line: :func:`one_line` where ``target`` is a terminal, else whole, as it is but for
    line breaks."""
    return one_line(text) if target.isatty() else text.replace("\r", "\\r").replace("\n", "\\n")


def shown(value: object) -> str:
    """A value, whatever it is, for one line of an error."""
    try:
        line = " ".join(_VALUES.repr(value).split())  # an array is written in several
    except ValueError:  # a whole number of thousands of digits
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return line if len(line) <= _LONGEST_VALUE else line[: _LONGEST_VALUE - 3] + "..."


def visible_json(text: str) -> str:
    """The same JSON, with control characters escaped that it may hold as they are."""
    return text.translate(_IN_JSON)
