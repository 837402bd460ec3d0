"""Writes core/tokenizer/unicode_tables.h: properties, case and normalization of characters.

    pip install unicodedata2==16.0.0 tokenizers==0.23.3
    python scripts/unicode_tables.py core/tokenizer/unicode_tables.h

Ids must equal those of the `tokenizers` library, so the tables hold what that library sees
(0.23.3, compared over every code point):

- its regular expressions (Oniguruma 6.9.10) use Unicode 16.0 for \\p{..}, \\s and \\w; \\w is
  Alphabetic | M | Nd | Pc, and for U+0080..U+00FF also the six No characters there;
- `Digits` uses Rust's char::is_numeric, which is category N of Unicode 17.0: the 13 characters that
  are new there are named in core/tokenizer/load_steps.c;
- `NFC` knows no character newer than about Unicode 10. Decompositions and combining classes never
  change once assigned (Unicode stability policy), so the values are taken from Unicode 16.0 and
  kept where the library knows the character, which is asked of the library itself;
- lower case, the characters that ``StripAccents``, ``BertNormalizer`` and ``Nmt`` drop, those that
  ``BertPreTokenizer`` splits at, and compatibility decompositions are asked of the library too: its
  crates hold several versions of Unicode.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import unicodedata2
from tokenizers import normalizers, pre_tokenizers

UNICODE_VERSION = "16.0.0"
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = (  # in the order of ln_category in core/tokenizer/unicode.h
    ["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe"]
    + ["Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"]
)
CLASS_NEXT_LINE = 30  # U+0085, the one white space outside ASCII that is not Z
WORD_BIT = 32
NFC_BIT = 64  # may change under NFC, or may make a neighbour change

# So characters that are Other_Alphabetic (PropList.txt): circled and squared Latin letters.
ALPHABETIC_SYMBOLS = [(0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)]
LATIN1_WORD_NUMBERS = {0xB2, 0xB3, 0xB9, 0xBC, 0xBD, 0xBE}

BLOCK = 128


def is_word(code_point: int, category: str) -> bool:
    """Whether Oniguruma's \\w matches the character."""
    if category[0] in "LM" or category in ("Nd", "Nl", "Pc"):
        return True
    return code_point in LATIN1_WORD_NUMBERS or any(a <= code_point <= b for a, b in ALPHABETIC_SYMBOLS)


def decompositions() -> dict[int, list[int]]:
    """Canonical decomposition mappings (one step) of the characters the library decomposes."""
    nfd = normalizers.NFD()
    found: dict[int, list[int]] = {}
    for c in CODE_POINTS:
        mapping = unicodedata2.decomposition(chr(c))
        if mapping and not mapping.startswith("<") and nfd.normalize_str(chr(c)) != chr(c):
            found[c] = [int(part, 16) for part in mapping.split()]
    return found


def combining_classes() -> dict[int, int]:
    """Non-zero canonical combining classes of the characters the library reorders.

    U+0334 has class 1 and U+0301 class 230: a character with a class c != 0 changes places
    with the first when c > 1 and with the second when c < 230.
    """
    nfd = normalizers.NFD()
    found: dict[int, int] = {}
    for c in CODE_POINTS:
        value = unicodedata2.combining(chr(c))
        if not value:
            continue
        after, before = chr(c) + "\u0334", "\u0301" + chr(c)
        if nfd.normalize_str(after) != after or nfd.normalize_str(before) != before:
            found[c] = value
    return found


def compositions(parts: dict[int, list[int]]) -> dict[tuple[int, int], int]:
    """Primary composites: pairs that NFC joins again (full composition exclusions are left out)."""
    nfc = normalizers.NFC()
    return {(p[0], p[1]): c for c, p in parts.items() if len(p) == 2 and nfc.normalize_str(chr(c)) == chr(c)}


def compatibility() -> dict[int, str]:
    """The full compatibility decompositions that differ from the canonical ones."""
    nfkd, nfd = normalizers.NFKD(), normalizers.NFD()
    found = {c: nfkd.normalize_str(chr(c)) for c in CODE_POINTS}
    return {c: text for c, text in found.items() if text != nfd.normalize_str(chr(c))}


def character_classes() -> dict[str, list[int]]:
    """The characters of each ln_character_class, by the name of its array."""
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    bert = pre_tokenizers.BertPreTokenizer()

    def chosen(change: Callable[[str], str], wanted: str) -> list[int]:
        return [c for c in CODE_POINTS if c != 0x20 and change(f"a{chr(c)}b") == wanted]

    def bert_step(name: str) -> Callable[[str], str]:
        step = normalizers.BertNormalizer(**{**off, name: True})
        return step.normalize_str

    return {
        "MARKS": chosen(normalizers.StripAccents().normalize_str, "ab"),
        "NONSPACING_MARKS": chosen(bert_step("strip_accents"), "ab"),
        "BERT_CONTROLS": chosen(bert_step("clean_text"), "ab"),
        "BERT_PUNCTUATION": [c for c in CODE_POINTS if len(bert.pre_tokenize_str(f"a{chr(c)}b")) == 3],
        "NMT_CONTROLS": chosen(normalizers.Nmt().normalize_str, "ab"),
        "NMT_SPACES": chosen(normalizers.Nmt().normalize_str, "a b"),
    }


def lower_cases() -> list[tuple[int, int, int, int]]:
    """Runs (first, last, step, distance to lower case) of the characters whose lower case is one other."""
    lower = normalizers.Lowercase()
    pairs = {c: lower.normalize_str(chr(c)) for c in CODE_POINTS}
    found: list[tuple[int, int, int, int]] = []
    for c, text in pairs.items():
        if text == chr(c) or len(text) != 1:
            continue
        first, last, step, distance = found[-1] if found else (0, 0, 0, 0)
        gap = c - last
        if found and distance == ord(text) - c and gap <= 2 and (first == last or gap == step):
            found[-1] = (first, c, gap, distance)
        else:
            found.append((c, c, 1, ord(text) - c))
    return found


def pool(texts: Iterable[str]) -> tuple[list[int], dict[str, int]]:
    """UTF-16 units that hold every text, and where each begins; short texts lie within long ones."""
    joined = ""
    for text in sorted(set(texts), key=lambda text: (-len(text), text)):
        joined += "" if text in joined else text
    assert max(joined) < "\U00010000"
    return [ord(character) for character in joined], {text: joined.index(text) for text in set(texts)}


def properties(nfc_active: set[int]) -> bytearray:
    """One byte per code point: class in the low five bits, then the word and NFC bits."""
    index = {name: i for i, name in enumerate(CATEGORIES)}
    table = bytearray([index["Cn"]]) * 0x110000
    for c in range(0x110000):
        category = unicodedata2.category(chr(c))
        value = index[category]
        if c == 0x85:
            value = CLASS_NEXT_LINE
        table[c] = value | (WORD_BIT if is_word(c, category) else 0) | (NFC_BIT if c in nfc_active else 0)
    return table


def two_stage(table: bytearray) -> tuple[list[int], list[int]]:
    """Splits a table into a block index and the distinct blocks of BLOCK entries."""
    blocks: dict[bytes, int] = {}
    index = [blocks.setdefault(bytes(table[i : i + BLOCK]), len(blocks)) for i in range(0, len(table), BLOCK)]
    return index, [value for block in blocks for value in block]


def runs(classes: dict[int, int]) -> Iterator[tuple[int, int, int]]:
    """Merges neighbours of equal class into (first, last, class)."""
    first = last = value = -1
    for c in sorted(classes):
        if c == last + 1 and classes[c] == value:
            last = c
            continue
        if value >= 0:
            yield first, last, value
        first, last, value = c, c, classes[c]
    yield first, last, value


def spans(points: list[int]) -> list[str]:
    """Characters as C initialisers {first, last}."""
    return [f"{{0x{a:X}, 0x{b:X}}}" for a, b, _ in runs(dict.fromkeys(points, 1))]


def array(declaration: str, items: Iterable[str]) -> str:
    """A C array, filled to 110 columns."""
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > 110:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return f"static const {declaration} = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def header() -> str:
    """The text of unicode_tables.h."""
    parts, classes = decompositions(), combining_classes()
    pairs = compositions(parts)
    active = (set(parts) - set(pairs.values())) | set(classes) | {b for _, b in pairs}
    active |= set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))  # Hangul vowels and finals
    index, blocks = two_stage(properties(active))
    wide = compatibility()
    units, places = pool(wide.values())
    sections = [
        "/* unicode_tables.h - written by scripts/unicode_tables.py, which says what is in it and why. */\n",
        f"/* Unicode {UNICODE_VERSION} */\n",
        array(f"uint16_t PROPERTY_INDEX[{len(index)}]", map(str, index)),
        array(f"uint8_t PROPERTY_BLOCKS[{len(blocks)}]", map(str, blocks)),
        "/* {first, last, class}, sorted */\n",
        array("ccc_run COMBINING[]", (f"{{0x{a:X}, 0x{b:X}, {v}}}" for a, b, v in runs(classes))),
        "/* {character, first, second or 0}, sorted by character */\n",
        array(
            "decomposition DECOMPOSITION[]",
            (f"{{0x{c:X}, 0x{p[0]:X}, 0x{p[1] if len(p) > 1 else 0:X}}}" for c, p in sorted(parts.items())),
        ),
        "/* {first, second, composite}, sorted by first and second */\n",
        array(
            "composition COMPOSITION[]",
            (f"{{0x{a:X}, 0x{b:X}, 0x{c:X}}}" for (a, b), c in sorted(pairs.items())),
        ),
        "/* texts of compatibility decompositions, each of which may lie within another */\n",
        array(f"uint16_t COMPATIBLE_TEXT[{len(units)}]", map(str, units)),
        "/* {character, place in COMPATIBLE_TEXT, length}, sorted by character */\n",
        array(
            "compatible COMPATIBLE[]",
            (f"{{0x{c:X}, {places[t]}, {len(t)}}}" for c, t in sorted(wide.items())),
        ),
        "/* {first, last, step, distance}, sorted */\n",
        array("case_run LOWER[]", (f"{{0x{a:X}, 0x{b:X}, {s}, {d}}}" for a, b, s, d in lower_cases())),
        "/* {first, last}, sorted; in the order of ln_character_class */\n",
        *[array(f"code_run {name}[]", spans(points)) for name, points in character_classes().items()],
    ]
    return "\n".join(sections)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} OUT.h")
    if unicodedata2.unidata_version != UNICODE_VERSION:
        raise SystemExit(f"unicodedata2 {UNICODE_VERSION} is wanted, this is {unicodedata2.unidata_version}")
    target = Path(sys.argv[1])
    temporary = target.with_name(target.name + ".tmp")
    temporary.write_text(header(), encoding="ascii", newline="\n")
    os.replace(temporary, target)


if __name__ == "__main__":
    main()
