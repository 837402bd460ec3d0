"""Writes core/tokenizer/pre_tokenizer_table.h from the table in linnet/formats/pre_tokenizers.py.

python scripts/pre_tokenizers.py            write the file
python scripts/pre_tokenizers.py --check    exit 1 when the file is not what the table says
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from linnet.formats.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer

TARGET = Path(__file__).resolve().parents[1] / "core" / "tokenizer" / "pre_tokenizer_table.h"
WIDTH = 110
HEAD = """\
/* pre_tokenizer_table.h - how byte-level BPE splits a text; written by scripts/pre_tokenizers.py. */
#ifndef LINNET_PRE_TOKENIZER_TABLE_H
#define LINNET_PRE_TOKENIZER_TABLE_H

"""
STRUCT = """
/* A way to split. Each pattern splits what the one before it has left over. */
typedef struct named_pre_tokenizer {
    const char *names; /* separated by spaces */
    const char *patterns[LN_MAX_PATTERNS];
    int nfc;           /* the text is normalised first */
    int ignore_merges; /* what is a token is not merged */
    int add_bos;       /* where the file does not say */
} named_pre_tokenizer;

"""


def literal(text: str, indent: int) -> str:
    """A C string, over several lines where it is long."""
    width = WIDTH - indent - 2
    escaped = [char if char not in '"\\' else "\\" + char for char in text]
    lines, line = [], ""
    for char in escaped:
        if len(line) + len(char) > width:
            lines.append(line)
            line = ""
        line += char
    lines.append(line)
    return ("\n" + " " * indent).join(f'"{line}"' for line in lines)


def row(entry: PreTokenizer) -> str:
    """The row of one pre-tokenizer."""
    patterns = (",\n" + " " * 18).join(literal(pattern, 18) for pattern in entry.patterns)
    flags = "".join(
        f",\n     .{name} = 1" for name in ("nfc", "ignore_merges", "add_bos") if getattr(entry, name)
    )
    return (
        f"    {{.names = {literal(' '.join(entry.names), 14)},\n     .patterns = {{{patterns}}}{flags}}},\n"
    )


def table() -> str:
    """The whole file."""
    most = max(len(entry.patterns) for entry in PRE_TOKENIZERS)
    rows = "".join(map(row, PRE_TOKENIZERS))
    return (
        f"{HEAD}#define LN_MAX_PATTERNS {most}\n{STRUCT}"
        f"static const named_pre_tokenizer TABLE[] = {{\n{rows}}};\n\n#endif\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the core's table of pre-tokenizers.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if the file is out of date"
    )
    check = parser.parse_args().check
    if not check:
        TARGET.write_text(table(), encoding="ascii", newline="\n")
    elif TARGET.read_text(encoding="ascii") != table():
        sys.exit(f"{TARGET.name} is not what the table says; run python scripts/pre_tokenizers.py")


if __name__ == "__main__":
    main()
