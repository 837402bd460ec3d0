"""Where text comes from: files, directories, compressed files, standard input.

A document is given as one or more pieces of text, so that a file of any size can be
read in bounded memory. What is one document:

- ``.jsonl``, ``.ndjson``, ``.json`` (one object per line) and ``.parquet``: each row;
- every other text file: the whole file, or, where lines that hold nothing but
  ``<|endoftext|>`` occur (the convention of the TinyStories files), each part between
  them. The line breaks around such a line belong to it.

A name that ends in ``.gz`` is decompressed on the way.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from linnet.errors import MissingExtraError, SourceError
from linnet.formats import jsonl
from linnet.formats.corpus import SourceRecord
from linnet.formats.inputs import check_regular

PARQUET = ".parquet"
# What a directory is searched for; a file named on the command line may have any name.
TEXT = (
    ".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".org", ".html", ".htm", ".xml", ".csv", ".tsv",
    ".srt", ".toml", ".yaml", ".yml", ".ini", ".cfg", ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".rs",
    ".go", ".java", ".kt", ".swift", ".js", ".ts", ".jsx", ".tsx", ".css", ".rb", ".pl", ".php", ".lua", ".r",
    ".jl", ".scala", ".hs", ".ml", ".ex", ".erl", ".clj", ".lisp", ".el", ".sh", ".bash", ".sql", ".vue",
    ".zig", ".nim", ".dart", ".cs", ".fs", ".m", ".proto", ".cmake", ".asm", ".s", ".tcl",
)  # fmt: skip
# A .json file in a directory is rarely JSONL; name it to have it read.
SEARCHED = (*TEXT, ".jsonl", ".ndjson", PARQUET)
SEPARATOR = re.compile(r"\n<\|endoftext\|>[ \t]*\r?\n")
PIECE_CHARS = 1 << 18  # a longer document is handed on in pieces of about this many characters
_SPACE = re.compile(r"\s+")
_CHUNK_BYTES = 1 << 18


class Piece(NamedTuple):
    """Some text of a document; ``last`` is true for the piece that ends it."""

    text: str
    last: bool


@dataclass(frozen=True)
class Source:
    """One file to read. ``name`` is what messages and the manifest call it."""

    path: Path
    name: str

    @property
    def kind(self) -> str:
        """``text``, ``rows`` or ``parquet``, by the ending of the name."""
        suffix = Path(self.name.removesuffix(".gz")).suffix.lower()
        if suffix in jsonl.SUFFIXES:
            return "rows"
        return "parquet" if suffix == PARQUET else "text"

    def record(self) -> SourceRecord:
        """Size and SHA-256 of the file as it lies on disk. Raises SourceError."""
        try:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return SourceRecord(self.name, file.tell(), digest)
        except OSError as error:
            raise SourceError(f"cannot read {self.name}: {error.strerror}") from None


@dataclass
class ReadCounts:
    """What was met while reading and did not become text as it stood."""

    replaced: int = 0  # ill-formed UTF-8 sequences, each now one U+FFFD
    null_rows: int = 0  # rows whose field is null
    blank_documents: int = 0
    skipped_files: list[str] = field(default_factory=list)  # in directories, of a kind that is not read


def find_sources(names: tuple[str, ...], stdin: Path | None, counts: ReadCounts) -> list[Source]:
    """The files behind the arguments of the command line, directories sorted by path.

    ``stdin`` is where standard input was stored; it takes the place of ``-``.
    Raises SourceError for what is not there, and when nothing readable is found.
    """
    found = []
    for name in names:
        path = Path(name)
        if name == "-" and stdin is not None:
            found.append(Source(stdin, "-"))
        elif path.is_dir():
            found += _search(path, counts)
        else:
            check_regular(path, advice="pipe its text into: linnet data -")
            found.append(Source(path, utf8_name(path.as_posix())))
    if not found:
        raise SourceError(f"no text, JSONL or Parquet files in {', '.join(names)}")
    return found


def _search(folder: Path, counts: ReadCounts) -> list[Source]:
    found = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.as_posix()):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        name = utf8_name((Path(folder.name) / inside).as_posix())
        if Path(name.lower().removesuffix(".gz")).suffix in SEARCHED:
            found.append(Source(path, name))
        else:
            counts.skipped_files.append(name)
    return found


def utf8_name(name: str) -> str:
    r"""A file name for messages and the manifest; bytes of it that are not UTF-8 are written as \xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_pieces(source: Source, field_name: str, counts: ReadCounts) -> Iterator[Piece]:
    """The documents of a file, in pieces, in order.

    Raises SourceError, in one line with the row where there is one, for a file that
    cannot be read or is not of its kind.
    """
    try:
        if source.kind == "parquet":
            rows = _parquet_rows(source, field_name)
        elif source.kind == "rows":
            rows = _json_rows(source, field_name, counts)
        else:
            yield from _text_pieces(source, counts)
            return
        for text in rows:
            if text is None:
                counts.null_rows += 1
            else:
                yield from _cut(text)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise SourceError(f"cannot decompress {source.name}: {error}") from None
    except OSError as error:
        raise SourceError(f"cannot read {source.name}: {error.strerror or error}") from None


def _open(source: Source) -> BinaryIO:
    if source.name.lower().endswith(".gz"):
        return gzip.open(source.path, "rb")  # type: ignore[return-value]
    return source.path.open("rb")


# ---- text files ----------------------------------------------------------------------


def _text_pieces(source: Source, counts: ReadCounts) -> Iterator[Piece]:
    # The first character of `held` is context: the line break before the text, or the
    # last character handed on. It lets SEPARATOR see whether a line begins.
    held = "\n"
    for chunk in _decoded(source, counts):
        held += chunk
        at = 0
        while match := SEPARATOR.search(held, at):
            yield from _cut(held[at + 1 : match.start()])
            at = match.end() - 1
        held = held[at:]
        while len(held) > 2 * PIECE_CHARS:
            end = border(held, PIECE_CHARS, back=PIECE_CHARS // 2)
            yield Piece(held[1:end], last=False)
            held = held[end - 1 :]
    if match := SEPARATOR.search(held + "\n"):  # the last line, without a line break
        held = held[: match.start()]
    yield from _cut(held[1:])


def _decoded(source: Source, counts: ReadCounts) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    at_start = True
    with _open(source) as file:
        while True:
            data = file.read(_CHUNK_BYTES)
            if b"\0" in data:
                raise SourceError(f"{source.name} is not text (it holds NUL bytes); give UTF-8 text")
            pending = decoder.getstate()[0]
            text = decoder.decode(data, final=not data)
            if "\ufffd" in text:
                whole = pending + data
                whole = whole[: len(whole) - len(decoder.getstate()[0])]
                counts.replaced += text.count("\ufffd") - whole.count("\ufffd".encode())
            if at_start and text:
                text, at_start = text.removeprefix("\ufeff"), False
            if text:
                yield text
            if not data:
                return


def _cut(text: str) -> Iterator[Piece]:
    """A whole document in pieces."""
    *parts, rest = cut(text, PIECE_CHARS)
    yield from (Piece(part, last=False) for part in parts)
    yield Piece(rest, last=True)


def cut(text: str, near: int) -> Iterator[str]:
    """``text`` in parts of about ``near`` characters, at most twice that, cut at borders."""
    start = 0
    while len(text) - start > 2 * near:
        end = start + border(text[start : start + 2 * near], near, back=near // 2)
        yield text[start:end]
        start = end
    yield text[start:]


def border(text: str, near: int, back: int) -> int:
    """Where to cut: at the last paragraph border among the ``back`` characters before ``near``.

    Where there is none, at the last line border, else between words, else at ``near``. The cut
    is before the last white-space character there, which byte-level BPE joins to the word after
    it, or before a digit, which stands alone: both sides then have the tokens of the uncut text.
    """
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, near - back, near)
        if at >= 0:
            space = _SPACE.match(text, at)
            end = space.end() if space else at + 1
            return end if text[end : end + 1].isnumeric() else end - 1
    return near


# ---- rows ----------------------------------------------------------------------------


def _json_rows(source: Source, field_name: str, counts: ReadCounts) -> Iterator[str | None]:
    with _open(source) as file:
        for text, replaced in jsonl.read_rows(file, field_name, source.name):
            counts.replaced += replaced
            yield text


def _parquet_rows(source: Source, field_name: str) -> Iterator[str | None]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "train") from None
    if source.name.lower().endswith(".gz"):
        raise SourceError(f"{source.name}: Parquet is compressed inside; decompress the file first")
    try:
        with parquet.ParquetFile(source.path) as file:
            names = file.schema_arrow.names
            if field_name not in names:
                known = jsonl.listed(names)
                raise SourceError(
                    f"{source.name} has no column '{field_name}'; it has {known} (choose with --field)"
                )
            kind = file.schema_arrow.field(field_name).type
            if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
                raise SourceError(f"{source.name}: the column '{field_name}' holds {kind}, not text")
            for batch in file.iter_batches(batch_size=64, columns=[field_name]):
                yield from batch.column(0).to_pylist()
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        detail = str(error).splitlines()[0]
        raise SourceError(f"{source.name} is not a readable Parquet file: {detail}") from None
