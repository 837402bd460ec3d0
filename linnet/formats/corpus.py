"""A corpus: token shards that are mapped into memory, a tokenizer and a manifest.

    corpus/
      manifest.json           what is here and what it was made from (see below)
      tokenizer.json          the tokenizer the ids belong to, Hugging Face format
      train-00000.bin ...     token ids, little-endian uint16 or uint32, nothing else
      validation-00000.bin ...

The shards of a split, one after the other, are one stream. In the stream every
document is ``[BOS] tokens [EOS]``; where the tokenizer has one token for both, it
stands once between two documents, once before the first and once after the last.
Documents may cross shard borders.

manifest.json: ``format``, ``version``, ``dtype``, ``tokenizer`` (file, sha256,
vocab_size, bos_id, eos_id), ``splits`` (documents, tokens, text_bytes and shards,
each with file, tokens and sha256), ``sources`` (name, bytes, sha256), and ``made_by``
(the options and counts of the program that made it).
"""

from __future__ import annotations

import bisect
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from linnet.errors import FormatError, SourceError
from linnet.formats.leftovers import restore

FORMAT = "linnet-corpus"
VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "validation")
FILES = (MANIFEST, TOKENIZER, *(f"{split}-*.bin" for split in SPLITS))  # patterns of every name in a corpus
_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


@dataclass(frozen=True)
class Shard:
    """One file of token ids."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class SourceRecord:
    """A file the corpus was made from. ``name`` is the path as the user gave it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitRecord:
    """What the manifest says about one split."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    shards: tuple[Shard, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The contents of manifest.json."""

    dtype: str
    tokenizer_sha256: str
    vocab_size: int
    bos_id: int
    eos_id: int
    splits: dict[str, SplitRecord]
    sources: tuple[SourceRecord, ...] = ()
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of manifest.json, and so over the hash of every shard. 64 hex digits."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """The bytes of manifest.json; equal manifests give equal bytes."""
        table = {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self.dtype,
            "tokenizer": {
                "file": TOKENIZER,
                "sha256": self.tokenizer_sha256,
                "vocab_size": self.vocab_size,
                "bos_id": self.bos_id,
                "eos_id": self.eos_id,
            },
            "splits": {name: asdict(record) for name, record in self.splits.items()},
            "sources": [asdict(source) for source in self.sources],
            "made_by": self.made_by,
        }
        return (json.dumps(table, indent=1, ensure_ascii=False) + "\n").encode("utf-8")

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Raises ValueError, KeyError, TypeError or AttributeError on anything else than a manifest."""
        table = json.loads(data)
        if table["format"] != FORMAT:
            raise ValueError(f"format is '{table['format']}', not '{FORMAT}'")
        if table["version"] != VERSION:
            raise ValueError(f"version is {table['version']}, this Linnet reads {VERSION}")
        if table["dtype"] not in _DTYPES:
            raise ValueError(f"dtype is '{table['dtype']}', not uint16 or uint32")
        tokenizer = table["tokenizer"]
        return cls(
            dtype=table["dtype"],
            tokenizer_sha256=str(tokenizer["sha256"]),
            vocab_size=_natural(tokenizer["vocab_size"], "vocab_size"),
            bos_id=_natural(tokenizer["bos_id"], "bos_id"),
            eos_id=_natural(tokenizer["eos_id"], "eos_id"),
            splits={name: _split_record(table["splits"][name]) for name in SPLITS},
            sources=tuple(SourceRecord(**source) for source in table["sources"]),
            made_by=dict(table["made_by"]),
        )


def dtype_for(vocab_size: int) -> str:
    """The narrowest shard type that holds every id below ``vocab_size``."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class TokenStream:
    """All shards of one split as one array of token ids, read through memory maps."""

    def __init__(self, folder: Path, record: SplitRecord, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._maps = [_map_shard(folder / shard.file, shard.tokens, dtype) for shard in record.shards]
        self._starts = [0]
        for shard in record.shards:
            self._starts.append(self._starts[-1] + shard.tokens)

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger[Any]]:
        """Ids ``[start, stop)`` as one array of shape [stop - start], across shards.

        Inside one shard it is a view of the map (read-only, nothing is copied).
        Raises IndexError outside ``0 <= start <= stop <= len(self)``.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"[{start}, {stop}) is outside a stream of {len(self)} tokens")
        parts = []
        shard = bisect.bisect_right(self._starts, start) - 1
        while start < stop:
            origin, end = self._starts[shard], min(stop, self._starts[shard + 1])
            parts.append(self._maps[shard][start - origin : end - origin])
            start, shard = end, shard + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self._dtype)


class Corpus:
    """A corpus opened for reading. Make one with :meth:`open`."""

    def __init__(self, folder: Path, manifest: Manifest, tokenizer_json: bytes) -> None:
        self.path = folder
        self.manifest = manifest
        self.tokenizer_json = tokenizer_json
        dtype = _DTYPES[manifest.dtype]
        self._streams = {name: TokenStream(folder, record, dtype) for name, record in manifest.splits.items()}

    @classmethod
    def open(cls, path: Path | str) -> Corpus:
        """Opens the corpus in folder ``path``; checks names, sizes and ids of the manifest, not the hashes.

        Raises SourceError when there is no corpus, FormatError when it is damaged.
        """
        folder = Path(path)
        if not folder.exists():
            restore(folder.parent)
        try:
            data = (folder / MANIFEST).read_bytes()
        except OSError:
            raise SourceError(
                f"{folder} is not a corpus (no {MANIFEST}); make one with: linnet data"
            ) from None
        try:
            manifest = Manifest.from_json(data)
            _check(manifest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else error
            raise FormatError(f"{folder / MANIFEST} is damaged: {detail}; make the corpus again") from None
        try:
            tokenizer_json = (folder / TOKENIZER).read_bytes()
        except OSError as error:
            raise FormatError(f"cannot read {folder / TOKENIZER}: {error.strerror}") from None
        if hashlib.sha256(tokenizer_json).hexdigest() != manifest.tokenizer_sha256:
            raise FormatError(f"{folder / TOKENIZER} is not the tokenizer the corpus was made with")
        return cls(folder, manifest, tokenizer_json)

    @property
    def vocab_size(self) -> int:
        """Every id of the corpus is below this."""
        return self.manifest.vocab_size

    @property
    def bos_id(self) -> int:
        """The id that begins a document."""
        return self.manifest.bos_id

    @property
    def eos_id(self) -> int:
        """The id that ends a document; may be the same as :attr:`bos_id`."""
        return self.manifest.eos_id

    @property
    def fingerprint(self) -> str:
        """As of :attr:`Manifest.fingerprint`."""
        return self.manifest.fingerprint

    def split(self, name: str) -> TokenStream:
        """The stream called ``train`` or ``validation``. It may be empty."""
        return self._streams[name]

    def bytes_per_token(self, name: str) -> float:
        """UTF-8 bytes of text per token of a split, BOS and EOS counted as tokens. 0 for an empty split."""
        record = self.manifest.splits[name]
        return record.text_bytes / record.tokens if record.tokens else 0.0

    def verify(self) -> None:
        """Reads every shard and compares its hash and its largest id. Raises FormatError."""
        for record in self.manifest.splits.values():
            for shard in record.shards:
                self._verify_shard(shard)

    def _verify_shard(self, shard: Shard) -> None:
        # Read, not mapped: the pages of a map would count as memory of this process.
        path, dtype, state = self.path / shard.file, _DTYPES[self.manifest.dtype], hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                state.update(data)
                largest = int(np.frombuffer(data, dtype).max())
                if largest >= self.vocab_size:
                    raise FormatError(f"{path} holds id {largest}, the vocabulary has {self.vocab_size}")
        if state.hexdigest() != shard.sha256:
            raise FormatError(f"{path} is not what was written (its hash differs)")


class CorpusWriter:
    """Writes a corpus into ``folder`` as the tokens come; at no time are they all in memory.

    Give every split its documents with :meth:`begin`, any number of :meth:`write` and
    :meth:`end`, then call :meth:`finish`. Nothing is a corpus before that: the folder is
    expected to be one of :func:`linnet.formats.atomic.atomic_folder`.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer_json: bytes,
        vocab_size: int,
        bos_id: int,
        eos_id: int,
        shard_tokens: int,
    ) -> None:
        self._folder = folder
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._ids = (bos_id, eos_id)
        self._dtype = dtype_for(vocab_size)
        dtype = _DTYPES[self._dtype]
        self._splits = {name: _SplitWriter(folder, name, dtype, shard_tokens) for name in SPLITS}

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for split in self._splits.values():
            split.close()

    def begin(self, split: str) -> None:
        """Begins a document."""
        writer = self._splits[split]
        bos, eos = self._ids
        if bos != eos or writer.tokens == 0:
            writer.write([bos])

    def write(self, split: str, ids: list[int], text_bytes: int) -> None:
        """Appends ids, which stand for ``text_bytes`` bytes of UTF-8, to the document that was begun last.

        Raises FormatError for an id outside the vocabulary.
        """
        if ids and not 0 <= min(ids) <= max(ids) < self._vocab_size:
            raise FormatError(f"the tokenizer gave an id outside its vocabulary of {self._vocab_size}")
        writer = self._splits[split]
        writer.write(ids)
        writer.text_bytes += text_bytes

    def end(self, split: str) -> None:
        """Ends the document."""
        writer = self._splits[split]
        writer.write([self._ids[1]])
        writer.documents += 1

    def finish(self, sources: tuple[SourceRecord, ...], made_by: dict[str, Any]) -> Manifest:
        """Closes the shards and writes tokenizer and manifest."""
        for split in self._splits.values():
            split.close()
        manifest = Manifest(
            dtype=self._dtype,
            tokenizer_sha256=hashlib.sha256(self._tokenizer_json).hexdigest(),
            vocab_size=self._vocab_size,
            bos_id=self._ids[0],
            eos_id=self._ids[1],
            splits={name: split.record() for name, split in self._splits.items()},
            sources=sources,
            made_by=made_by,
        )
        (self._folder / TOKENIZER).write_bytes(self._tokenizer_json)
        (self._folder / MANIFEST).write_bytes(manifest.to_json())
        return manifest


class _SplitWriter:
    """The shards of one split while they are written."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], shard_tokens: int) -> None:
        self._folder, self._name, self._dtype, self._limit = folder, name, dtype, shard_tokens
        self._shards: list[Shard] = []
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._filled = 0
        self.documents = 0
        self.tokens = 0
        self.text_bytes = 0

    def write(self, ids: list[int]) -> None:
        rest = np.asarray(ids, self._dtype)
        while len(rest):
            part, rest = rest[: self._limit - self._filled], rest[self._limit - self._filled :]
            data = part.tobytes()
            if self._file is None:
                self._file = (self._folder / self._file_name()).open("wb", buffering=1 << 20)
            self._file.write(data)
            self._hash.update(data)
            self._filled += len(part)
            self.tokens += len(part)
            if self._filled == self._limit:
                self.close()

    def close(self) -> None:
        """Finishes the shard that is open, if one is."""
        if self._file is None:
            return
        file, self._file = self._file, None
        file.close()
        self._shards.append(Shard(self._file_name(), self._filled, self._hash.hexdigest()))
        self._hash, self._filled = hashlib.sha256(), 0

    def record(self) -> SplitRecord:
        return SplitRecord(self.documents, self.tokens, self.text_bytes, tuple(self._shards))

    def _file_name(self) -> str:
        return f"{self._name}-{len(self._shards):05d}.bin"


def _natural(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{what} is {value!r}, not a whole number")
    return value


def _split_record(table: dict[str, Any]) -> SplitRecord:
    shards = tuple(
        Shard(str(s["file"]), _natural(s["tokens"], "tokens"), str(s["sha256"])) for s in table["shards"]
    )
    counts = {key: _natural(table[key], key) for key in ("documents", "tokens", "text_bytes")}
    return SplitRecord(**counts, shards=shards)


def _check(manifest: Manifest) -> None:
    """Raises ValueError when the facts of a manifest contradict each other."""
    if max(manifest.bos_id, manifest.eos_id) >= manifest.vocab_size:
        raise ValueError("bos_id or eos_id is outside the vocabulary")
    if manifest.dtype != dtype_for(manifest.vocab_size):
        raise ValueError(f"dtype {manifest.dtype} does not belong to a vocabulary of {manifest.vocab_size}")
    for name, record in manifest.splits.items():
        if sum(shard.tokens for shard in record.shards) != record.tokens:
            raise ValueError(f"the shards of {name} do not add up to its {record.tokens} tokens")
        for shard in record.shards:
            if Path(shard.file).name != shard.file or shard.tokens == 0:
                raise ValueError(f"'{shard.file}' cannot be a shard")


def _map_shard(path: Path, tokens: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        size = path.stat().st_size
        if size != tokens * dtype.itemsize:
            raise FormatError(
                f"{path} has {size} bytes, the manifest says {tokens * dtype.itemsize}; make the corpus again"
            )
        return np.asarray(np.memmap(path, dtype, mode="r"))
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror}; make the corpus again") from None
