"""Writes linnet/engine/_bindings.py, the ctypes face of the core, from core/linnet.h.

    python scripts/bindings.py            write the file
    python scripts/bindings.py --check    exit 1 when the file is not what the header says

The header keeps to a small subset of C (one declaration per statement, integer
macros, enums, structs of plain fields, opaque structs, functions). Anything else is
an error with its line number, never skipped.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "core" / "linnet.h"
TARGET = ROOT / "linnet" / "engine" / "_bindings.py"
WIDTH = 108

SCALARS = {
    "int32_t": "c_int32",
    "int64_t": "c_int64",
    "uint32_t": "c_uint32",
    "uint64_t": "c_uint64",
    "size_t": "c_size_t",
    "float": "c_float",
    "double": "c_double",
}


class HeaderError(ValueError):
    """The header holds something outside the subset this script reads."""


@dataclass(frozen=True)
class Constant:
    name: str
    value: str
    comment: str


@dataclass(frozen=True)
class Field:
    name: str
    ctype: str
    comment: str


@dataclass(frozen=True)
class Struct:
    name: str
    fields: tuple[Field, ...]  # empty = opaque
    doc: str


@dataclass(frozen=True)
class Function:
    name: str
    result: str
    arguments: tuple[str, ...]
    prototype: str
    doc: str


@dataclass
class Header:
    """Declarations in the order of the file."""

    constants: list[Constant] = field(default_factory=list)
    structs: list[Struct] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)


_COMMENT = r"/\*(?:[^*]|\*(?!/))*\*/"
_ITEM = re.compile(
    rf"""
      (?P<comment>{_COMMENT})
    | \#define\ +(?P<macro>\w+)\ +(?P<value>-?\d+|0[xX][0-9a-fA-F]+)\b(?P<macro_tail>[^\n]*)
    | (?P<directive>\#(?:include|if|ifdef|ifndef|else|endif)\b[^\n]*)
    | (?P<marker>\#define\ LINNET_H\b|\#define\ LN_API\ [^\n]*)
    | (?P<linkage>extern\ "C"\ {{|}})
    | typedef\ enum\ \w+\ {{(?P<enum>[^}}]*)}}\ (?P<enum_name>\w+);
    | typedef\ struct\ \w+\ {{(?P<struct>[^}}]*)}}\ (?P<struct_name>\w+);
    | typedef\ struct\ (?P<opaque>\w+)\ (?P=opaque);
    | LN_API\ (?P<function>[^;{{}}]+);
    """,
    re.VERBOSE,
)
_ENUMERATOR = re.compile(rf"\s*(\w+)\s*=\s*(-?\d+)\s*,?[ \t]*({_COMMENT})?")
_FIELD = re.compile(rf"\s*([\w ]+?[\w*]\s*\*?)\s*\b(\w+)(?:\[(\w+)\])?;[ \t]*({_COMMENT})?")
_PROTOTYPE = re.compile(r"(.+?)\b(\w+)\((.*)\)", re.DOTALL)
_PARAMETER = re.compile(r"(.+?)\b(\w+)")


def parse(text: str) -> Header:
    """Reads the declarations of a header. Raises HeaderError with the line of what it cannot read."""
    header = Header()
    enums: set[str] = set()
    position, doc = 0, ""
    while True:
        start = position + len(text[position:]) - len(text[position:].lstrip())
        if text.count("\n", position, start) > 1:
            doc = ""  # a blank line parts a comment from what follows it
        if start == len(text):
            return header
        item = _ITEM.match(text, start)
        if item is None:
            line = text.count("\n", 0, start) + 1
            raise HeaderError(f"line {line}: cannot read '{text[start:].splitlines()[0]}'")
        try:
            _add(header, enums, item, doc)
        except HeaderError as error:
            raise HeaderError(f"line {text.count(chr(10), 0, start) + 1}: {error}") from None
        doc = _plain(item["comment"])
        position = item.end()


def _add(header: Header, enums: set[str], item: re.Match[str], doc: str) -> None:
    names = {struct.name for struct in header.structs}
    if item["macro"]:
        header.constants.append(Constant(item["macro"], item["value"], _plain(item["macro_tail"])))
    elif item["enum_name"]:
        enums.add(item["enum_name"])
        header.constants += [Constant(*found) for found in _body(item["enum"], _ENUMERATOR, 3)]
    elif item["struct_name"]:
        fields = tuple(
            Field(name, _field_type(declared, length, names, enums), comment)
            for declared, name, length, comment in _body(item["struct"], _FIELD, 4)
        )
        header.structs.append(Struct(item["struct_name"], fields, doc))
    elif item["opaque"]:
        header.structs.append(Struct(item["opaque"], (), doc))
    elif item["function"]:
        header.functions.append(_function(item["function"], doc, names, enums))


def _body(text: str, pattern: re.Pattern[str], groups: int) -> list[tuple[str, ...]]:
    """The groups of every declaration between braces; the last group is its comment."""
    rows, position = [], 0
    while text[position:].strip():
        found = pattern.match(text, position)
        if found is None:
            raise HeaderError(f"cannot read '{text[position:].strip().splitlines()[0]}'")
        row = [found[group] or "" for group in range(1, groups + 1)]
        rows.append((*row[:-1], _plain(row[-1])))
        position = found.end()
    return rows


def _plain(comment: str | None) -> str:
    """A comment as one line of text; a ruled section title is no text at all."""
    text = re.sub(r"\s*\n\s*\*?\s*", " ", (comment or "").strip().removeprefix("/*").removesuffix("*/"))
    return "" if text.strip().startswith("----") else text.strip()


def _field_type(declared: str, length: str, structs: set[str], enums: set[str]) -> str:
    base = " ".join(declared.split())
    if "*" in base and not length:
        return _type(base, structs, enums, is_result=False)
    if base == "char" and length:
        return f"c_char * {length}"
    ctype = SCALARS.get(base, "c_int" if base in enums else "")
    if not ctype:
        raise HeaderError(f"no rule for a field of type '{base}'")
    return f"{ctype} * {length}" if length else ctype


def _function(text: str, doc: str, structs: set[str], enums: set[str]) -> Function:
    prototype = " ".join(text.split())
    match = _PROTOTYPE.fullmatch(prototype)
    if match is None:
        raise HeaderError(f"cannot read the prototype '{prototype}'")
    result, name, parameters = match.groups()
    arguments = []
    for parameter in parameters.split(",") if parameters.strip() != "void" else []:
        declared = _PARAMETER.fullmatch(parameter.strip())
        if declared is None:
            raise HeaderError(f"parameter '{parameter.strip()}' of {name} needs a type and a name")
        arguments.append(_type(declared[1], structs, enums, is_result=False))
    return Function(name, _type(result, structs, enums, is_result=True), tuple(arguments), prototype, doc)


def _type(declared: str, structs: set[str], enums: set[str], *, is_result: bool) -> str:
    """The ctypes expression for a parameter or result.

    Pointers to data become c_void_p, which takes an address such as ``array.ctypes.data``,
    bytes, a ctypes array, ``ctypes.byref(...)`` or None, without a conversion per call.
    Pointers to structs keep their type, so that a handle of one kind cannot pass for another.
    """
    base = declared.replace("*", " ").replace("const", " ").strip()
    stars = declared.count("*")
    if stars == 0:
        plain = SCALARS | {"void": "None"} | dict.fromkeys(enums, "c_int")
        if base in plain:
            return plain[base]
    elif base in structs:
        return "POINTER(" * stars + base + ")" * stars
    elif stars == 1 and base == "char" and "const" in declared:
        return "c_char_p"
    elif stars == 1 and is_result and base in SCALARS:
        return f"POINTER({SCALARS[base]})"
    elif stars == 1 and base in {"void", "char", *SCALARS}:
        return "c_void_p"
    raise HeaderError(f"no rule for the type '{declared.strip()}'")


# ---- writing ---------------------------------------------------------------------------

_HEAD = '''\
"""The ctypes face of core/linnet.h. Generated by scripts/bindings.py: do not edit.

Names are those of the header. How C types appear here:

- ``const char *`` is c_char_p: bytes, which may hold NUL where a length goes with them.
- Any other pointer to data, in or out, is c_void_p: pass ``array.ctypes.data``, bytes,
  a ctypes array, ``ctypes.byref(...)`` of a scalar, or None. Nothing checks the size or
  element type of what it points to, and the caller keeps it alive during the call.
- ``ln_x *`` is POINTER(ln_x): pass ``ctypes.byref(ln_x())``, or for an opaque handle the
  pointer that the ``*_open`` or ``*_from_*`` function stored in its ``ln_x **out``.
- A returned ``const float *`` is POINTER(c_float); it is false when NULL.
- A pointer in a structure has the same type as a parameter; of data keep what it points to alive.
"""

# fmt: off
from __future__ import annotations

import ctypes
import os
from ctypes import (
    {names},
)
from typing import Any
'''

_TAIL = '''

def load(path: str | os.PathLike[str]) -> ctypes.CDLL:
    """Opens the shared library at ``path`` and declares every function of the header.

    Raises OSError when it cannot be opened, AttributeError when a function is missing
    (a library of another version).
    """
    library = ctypes.CDLL(os.fspath(path))
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library
'''


def generate(header: Header) -> str:
    """The text of _bindings.py; the same header always gives the same bytes."""
    parts = [_line("", f"{item.name} = {item.value}", item.comment) for item in header.constants]
    parts += [_struct(struct) for struct in header.structs]
    parts.append("\n\n# name: (result, arguments)\nFUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {\n")
    parts += [_entry(function) for function in header.functions]
    body = "".join(parts) + "}\n"
    names = sorted(set(re.findall(r"\b(?:c_\w+|POINTER|Structure)\b", body)))
    return _HEAD.format(names=",\n    ".join(names)) + "\n" + body + _TAIL


def _line(indent: str, code: str, comment: str) -> str:
    """A line of code with its comment behind it, or above it where that would be too long."""
    if not comment:
        return f"{indent}{code}\n"
    joined = f"{indent}{code}  # {comment}"
    return f"{joined}\n" if len(joined) <= WIDTH else f"{_comment(indent, comment)}{indent}{code}\n"


def _comment(indent: str, text: str) -> str:
    return _fill(text, f"{indent}# ")


def _fill(text: str, prefix: str) -> str:
    """Lines of at most WIDTH columns, each behind prefix and ending in a newline."""
    filled = textwrap.fill(
        text, WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_on_hyphens=False
    )
    return f"{filled}\n"


def _struct(struct: Struct) -> str:
    doc = struct.doc or ("" if struct.fields else "Opaque: only pointers to it are used.")
    text = f"\n\nclass {struct.name}(Structure):\n"
    if doc:
        text += _fill(f'"""{doc}"""', "    ")
    if not struct.fields:
        return text
    text += "\n" if doc else ""
    text += "    _fields_ = (\n"
    for item in struct.fields:
        text += _line(" " * 8, f'("{item.name}", {item.ctype}),', item.comment)
    return text + "    )\n"


def _entry(function: Function) -> str:
    arguments = ", ".join(function.arguments) + ("," if len(function.arguments) == 1 else "")
    code = f'    "{function.name}": ({function.result}, ({arguments})),\n'
    if len(code) > WIDTH:
        indent = " " * 8
        listed = textwrap.fill(
            f"({arguments}),", WIDTH, initial_indent=indent, subsequent_indent=f"{indent} "
        )
        code = f'    "{function.name}": (\n{indent}{function.result},\n{listed}\n    ),\n'
    about = _comment("    ", function.doc) if function.doc else ""
    return f"{_comment('    ', function.prototype)}{about}{code}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Generate the ctypes bindings of the core.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    given = parser.parse_args(arguments)
    try:
        text = generate(parse(HEADER.read_text(encoding="utf-8")))
    except HeaderError as error:
        print(f"{HEADER.relative_to(ROOT)}: {error}", file=sys.stderr)
        return 1
    current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    if given.check:
        if current != text:
            name = TARGET.relative_to(ROOT)
            print(f"{name} is out of date: run python scripts/bindings.py", file=sys.stderr)
        return int(current != text)
    if current != text:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
