"""``linnet data``: text to corpus.

The sources are read twice. The first reading hashes every document, which finds exact
duplicates and decides what is kept out for validation; the second one tokenizes and
writes. When a tokenizer is trained, the text is read once more in between. Memory holds
16 bytes per document, one batch of text and its tokens, however large the input is.
"""

from __future__ import annotations

import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from linnet.data.bpe import train_bpe
from linnet.data.sources import Piece, ReadCounts, Source, cut, find_sources, read_pieces, utf8_name
from linnet.data.split import Segment, SplitPlan, index_documents
from linnet.data.tokenize import TextEncoder, open_encoder
from linnet.display import one_line
from linnet.errors import SourceError, UsageError
from linnet.formats.atomic import atomic_folder, check_replaceable, folder_made
from linnet.formats.corpus import FILES, Corpus, CorpusWriter, Manifest
from linnet.options import DataOptions
from linnet.progress import byte_bars

SAMPLE_BYTES = 1 << 26  # a tokenizer is trained on about this much text at most
BATCH_CHARS = 1 << 20  # text tokenized at a time
_SAMPLE_CHARS = 1 << 13  # the library buffers 256 of these
_STDIN = "standard-input"

Advance: TypeAlias = Callable[[int], None]  # takes bytes of text that are done
Track: TypeAlias = Callable[[str, int | None], Advance]  # takes a stage and its bytes, None if unknown


def data(options: DataOptions) -> dict[str, object]:
    """Makes the corpus ``options`` ask for; returns what ``--json`` prints.

    ``output, documents, tokens, train_tokens, validation_tokens, text_bytes,
    bytes_per_token, vocab_size, shards, validation, duplicates, blank, null_rows, replaced``
    (ill-formed UTF-8 sequences), ``skipped_files, seconds, mb_s, fingerprint``.
    Raises UsageError, SourceError or TargetError, and then leaves nothing behind.
    """
    _check(options)
    started = time.perf_counter()
    counts = ReadCounts()
    with folder_made(options.output.parent):
        manifest = _make(options, counts)
    result = _summary(options, manifest, counts, time.perf_counter() - started)
    if not options.json:
        _print(result, manifest)
    return result


def _make(options: DataOptions, counts: ReadCounts) -> Manifest:
    check_replaceable(options.output, FILES)
    encoder = open_encoder(options.tokenizer) if options.tokenizer else None
    with atomic_folder(options.output, FILES) as folder:
        stdin = _store_stdin(folder / _STDIN) if "-" in options.sources else None
        sources = find_sources(options.sources, stdin, counts)
        with _progress() as track:
            plan = _plan(sources, options, counts, track)
            if encoder is None:
                trained = _train_tokenizer(sources, options, plan, track)
                encoder = TextEncoder(trained, "the trained tokenizer")
            manifest = _write(folder, sources, options, plan, encoder, counts, track)
        if stdin is not None:
            stdin.unlink()
        Corpus.open(folder).verify()
    return manifest


def _check(options: DataOptions) -> None:
    if not options.sources:
        raise UsageError(
            "name at least one source: a text, JSONL or Parquet file, a directory, or - for standard input"
        )
    if options.sources.count("-") > 1:
        raise UsageError("standard input (-) can be read only once")
    if not 0 <= options.validation < 1:
        raise UsageError(f"--validation {options.validation} is not a share; write 0.01 for one in a hundred")
    if options.shard_tokens < 1:
        raise UsageError("--shard-tokens must be at least 1")


def _store_stdin(path: Path) -> Path:
    """Standard input can be read only once, so it is kept on disk for the second reading."""
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return path


# ---- the two readings ----------------------------------------------------------------


def _read(sources: list[Source], field: str, counts: ReadCounts, advance: Advance) -> Iterator[Piece]:
    for source in sources:
        for piece in read_pieces(source, field, counts):
            yield piece
            advance(len(piece.text.encode("utf-8")))


def _plan(sources: list[Source], options: DataOptions, counts: ReadCounts, track: Track) -> SplitPlan:
    advance = track("reading", None)
    index = index_documents(_read(sources, options.field, counts, advance))
    plan = SplitPlan(index, options.validation, options.seed)
    counts.blank_documents = index.blank
    if not plan.documents:
        raise SourceError(f"there is no text in {', '.join(options.sources)}")
    return plan


def _train_tokenizer(sources: list[Source], options: DataOptions, plan: SplitPlan, track: Track) -> bytes:
    advance = track("training the tokenizer", plan.read_bytes)
    segments = plan.segments(_read(sources, options.field, ReadCounts(), advance))
    return train_bpe(_sample(segments, plan.text_bytes), options.vocab_size)


def _sample(segments: Iterable[Segment], text_bytes: int) -> Iterator[str]:
    """Training text for the tokenizer: all of it, or parts chosen by their hash from everywhere."""
    limit = min(1.0, SAMPLE_BYTES / text_bytes) * (1 << 32)
    learnt = (segment.text for segment in segments if segment.split == "train")
    for part in (part for text in learnt for part in cut(text, _SAMPLE_CHARS)):
        if zlib.crc32(part.encode("utf-8")) < limit:
            yield part


def _write(
    folder: Path,
    sources: list[Source],
    options: DataOptions,
    plan: SplitPlan,
    encoder: TextEncoder,
    counts: ReadCounts,
    track: Track,
) -> Manifest:
    advance = track("tokenizing", plan.read_bytes)
    segments = plan.segments(_read(sources, options.field, ReadCounts(), advance))
    with CorpusWriter(
        folder, encoder.json, encoder.vocab_size, encoder.bos_id, encoder.eos_id, options.shard_tokens
    ) as writer:
        for batch in _batches(segments):
            for segment, ids in zip(batch, encoder.encode([segment.text for segment in batch]), strict=True):
                _write_segment(writer, segment, ids)
        records = tuple(source.record() for source in sources)
        manifest = writer.finish(records, _made_by(options, plan, counts))
    for name, record in manifest.splits.items():
        if record.documents == 0 and (name == "train" or options.validation):
            raise SourceError(f"there is too little text for {name} data; add text, or use --validation 0")
    return manifest


def _write_segment(writer: CorpusWriter, segment: Segment, ids: list[int]) -> None:
    if segment.begins:
        writer.begin(segment.split)
    writer.write(segment.split, ids, len(segment.text.encode("utf-8")))
    if segment.ends:
        writer.end(segment.split)


def _batches(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    chars = 0
    for segment in segments:
        batch.append(segment)
        chars += len(segment.text)
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _made_by(options: DataOptions, plan: SplitPlan, counts: ReadCounts) -> dict[str, Any]:
    return {
        "options": {
            "sources": [utf8_name(name) for name in options.sources],
            "tokenizer": utf8_name(options.tokenizer.as_posix()) if options.tokenizer else None,
            "vocab_size": None if options.tokenizer else options.vocab_size,
            "field": options.field,
            "validation": options.validation,
            "seed": options.seed,
            "shard_tokens": options.shard_tokens,
        },
        "validation": plan.method if options.validation else "none",
        "tokenizer_sample_bytes": None if options.tokenizer else min(SAMPLE_BYTES, plan.text_bytes),
        "duplicates": plan.duplicates,
        "blank": counts.blank_documents,
        "null_rows": counts.null_rows,
        "replaced": counts.replaced,
        "skipped_files": counts.skipped_files,
    }


# ---- what the user sees --------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[Track]:
    """A bar per stage, in bytes of text, on a terminal; elsewhere nothing."""
    with byte_bars() as progress:

        def track(stage: str, total: int | None) -> Advance:
            task = progress.add_task(stage, total=total)
            return lambda size: progress.advance(task, size)

        yield track


def _summary(
    options: DataOptions, manifest: Manifest, counts: ReadCounts, seconds: float
) -> dict[str, object]:
    splits = manifest.splits.values()
    tokens = sum(split.tokens for split in splits)
    text_bytes = sum(split.text_bytes for split in splits)
    return {
        "output": str(options.output),
        "documents": sum(split.documents for split in splits),
        "tokens": tokens,
        "train_tokens": manifest.splits["train"].tokens,
        "validation_tokens": manifest.splits["validation"].tokens,
        "text_bytes": text_bytes,
        "bytes_per_token": text_bytes / tokens,
        "vocab_size": manifest.vocab_size,
        "shards": sum(len(split.shards) for split in splits),
        "validation": manifest.made_by["validation"],
        "duplicates": manifest.made_by["duplicates"],
        "blank": counts.blank_documents,
        "null_rows": counts.null_rows,
        "replaced": counts.replaced,
        "skipped_files": len(counts.skipped_files),
        "seconds": seconds,
        "mb_s": text_bytes / 1e6 / seconds,
        "fingerprint": manifest.fingerprint,
    }


def _print(result: dict[str, object], manifest: Manifest) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name, split in manifest.splits.items():
        console.print(
            f"[bold]{name:<11}[/]{split.documents:>12,} documents {split.tokens:>15,} tokens "
            f"{split.text_bytes:>15,} bytes in {len(split.shards)} shard{'s' * (len(split.shards) != 1)}"
        )
    console.print(f"vocabulary {result['vocab_size']:,}; {result['bytes_per_token']:.2f} bytes per token")
    console.print(f"validation: {result['validation']}")
    for count, what in (
        (result["duplicates"], "duplicate documents dropped"),
        (result["blank"], "blank documents dropped"),
        (result["null_rows"], "rows without text dropped"),
        (result["replaced"], "ill-formed UTF-8 sequences replaced by U+FFFD"),
        (result["skipped_files"], "files of other kinds skipped, listed in the manifest"),
    ):
        if count:
            console.print(f"{count:,} {what}")
    written = f"{result['output']} written in {result['seconds']:.1f} s, {result['mb_s']:.1f} MB/s"
    console.print(one_line(written), markup=False)
