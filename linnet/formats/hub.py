"""Repositories of the Hugging Face Hub: what is in them, and which of it is a model to run.

Through ``huggingface_hub`` (extra ``[hub]``), which knows the endpoint (``HF_ENDPOINT``), the
token (``HF_TOKEN``) and what the Hub's errors mean. Every answer is read here, piece by piece
and never further than what was asked for: a server may lie, and may never stop. What the Hub
says of a file is checked: its size, and SHA-256 of large files, the git hash of small ones.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from linnet.errors import (
    FormatError,
    LinnetError,
    MissingExtraError,
    SourceError,
    TargetError,
    UnsupportedError,
    UsageError,
)
from linnet.formats.store import CHECKPOINT, ModelName, type_in_file_name

# The order in which a type is chosen where none was named: 4 bits first, then what loses less.
_PREFERRED = ("q4_k_m", "q4_k", "q4_0", "q4_k_s", "iq4_nl", "iq4_xs", "q5_k_m", "q5_0", "q6_k", "q8_0",
              "mxfp4", "mxfp4_moe", "f16", "bf16", "f32")  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CHECKPOINT_FILES = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model"
    r"|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)|vocab\.(json|txt)|merges\.txt"
    r"|additional_chat_templates/[^/]+\.jinja"
    r"|modules\.json|sentence_bert_config\.json|config_sentence_transformers\.json|1_Pooling/config\.json"
    r"|model\.safetensors(\.index\.json)?|model-\d+-of-\d+\.safetensors"
)
_PIECE = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # as git and SHA-256 write it
_BLOCK = 1 << 20
_LARGEST_LIST = 1 << 25  # bytes of what a server says of a repository; of 100,000 files it is less
_MOST_BYTES = 1 << 43  # of a file
_MOST_FILES = 1000  # of one model
_SILENCE = 10  # seconds without a byte after which a connection is given up
_LIST_SECONDS = 60  # in which the list of a repository has to be here
_TRIES = 5  # of a transfer that breaks, without a byte in between
_PAUSE = 1  # seconds before the next


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. ``sha256`` is known of large files, ``blob_id`` (git's hash) of others."""

    name: str
    n_bytes: int
    sha256: str | None
    blob_id: str | None

    @property
    def stored_name(self) -> str:
        """Where it is kept: a GGUF file is a model by itself, whatever folder it was in."""
        return f"{Path(self.name).stem}.gguf" if self.name.lower().endswith(".gguf") else self.name


@dataclass(frozen=True)
class Repository:
    """What a repository holds at one commit."""

    name: str
    commit: str
    files: tuple[HubFile, ...]


@dataclass(frozen=True)
class Choice:
    """The files that make up one model of a repository."""

    name: ModelName
    files: tuple[HubFile, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.n_bytes for file in self.files)


def hub() -> Any:
    """The module huggingface_hub. Raises MissingExtraError."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    return huggingface_hub


def open_repository(repo: str) -> Repository:
    """Asks the Hub what is in a repository. Raises SourceError, FormatError."""
    url = f"{_endpoint()}/api/models/{repo}?blobs=true"
    with reported(repo):
        text = _receive(url, _LARGEST_LIST, time.monotonic() + _LIST_SECONDS)
    try:
        about = json.loads(text)
        commit, entries = str(about["sha"]), list(about["siblings"])
        files = tuple(_file(entry) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FormatError(f"what the server says of {repo} makes no sense; nothing was taken") from None
    if not _HASH.fullmatch(commit):
        raise FormatError("the server names a commit that is no hash; nothing was taken")
    return Repository(repo, commit, files)


def _file(entry: Any) -> HubFile:
    """A file as the server names it.

    Raises FormatError for what could lead out of a folder; KeyError, TypeError for no description of a file.
    """
    name, n_bytes, lfs = str(entry["rfilename"]), entry.get("size"), entry.get("lfs")
    odd = name.startswith("/") or "\\" in name or ":" in name or not {"..", "."}.isdisjoint(name.split("/"))
    sha256, blob_id = (lfs["sha256"], None) if lfs is not None else (None, entry.get("blobId"))
    hashes = [value for value in (sha256, blob_id) if value is not None]
    if odd or not name.isprintable() or not all(_HASH.fullmatch(str(value)) for value in hashes):
        raise FormatError(f"the server names a file {name[:100]!r}, which cannot be; nothing was taken")
    if type(n_bytes) is not int or not 0 <= n_bytes < _MOST_BYTES:
        shown = f"{name[:100]!r} is {str(n_bytes)[:40]} bytes large"
        raise FormatError(f"the server says that {shown}, which cannot be; nothing was taken")
    return HubFile(name, n_bytes, sha256, blob_id)


def choose(repository: Repository, wanted: str | None) -> Choice:
    """The GGUF file of that type, or the checkpoint; without ``wanted`` the one most people want.

    Raises UnsupportedError for a repository that holds none, SourceError for a type it does not have.
    """
    checkpoint = tuple(file for file in repository.files if _CHECKPOINT_FILES.fullmatch(file.name))
    ggufs: dict[str, list[HubFile]] = {}
    for file in repository.files:
        if file.name.lower().endswith(".gguf") and "mmproj" not in file.name.lower():
            ggufs.setdefault(type_in_file_name(_PIECE.sub(".gguf", file.name)) or "gguf", []).append(file)
    has_weights = any(file.name.endswith(".safetensors") for file in checkpoint)
    types = [*ggufs, *([CHECKPOINT] if has_weights else [])]
    if not types:
        raise UnsupportedError(_why_none(repository))
    type = _closest(types, wanted, repository.name)
    name = ModelName(repository.name, type)
    if type == CHECKPOINT and type not in ggufs:
        if len(checkpoint) > _MOST_FILES:
            raise UnsupportedError(f"{name} comes in {len(checkpoint)} files, more than {_MOST_FILES}")
        return Choice(name, checkpoint)
    files = ggufs[type]
    if _PIECE.search(files[0].name):
        raise UnsupportedError(
            f"{name} comes in {len(files)} pieces, which this version cannot join; choose another type"
        )
    return Choice(name, (min(files, key=lambda file: (file.name.count("/"), file.name)),))


def _closest(types: Sequence[str], wanted: str | None, repo: str) -> str:
    if wanted is None:
        return next(
            (type for type in _PREFERRED if type in types), types[-1] if CHECKPOINT in types else types[0]
        )
    if wanted in types:
        return wanted
    of_kind = [type for type in types if type.startswith(wanted + "_")]  # q4_k: q4_k_m before q4_k_s
    if of_kind:
        return min(of_kind, key=lambda type: (not type.endswith("_m"), type))
    near = difflib.get_close_matches(wanted, types, n=1)
    hint = f"; did you mean {repo}:{near[0]}?" if near else ""
    raise SourceError(f"{repo} has no type '{wanted}', but {', '.join(types)}{hint}")


def _why_none(repository: Repository) -> str:
    pickles = [file.name for file in repository.files if file.name.endswith(_PICKLES)]
    if pickles:
        return (
            f"{repository.name} holds its weights as {pickles[0]}, a Python pickle, which can run any "
            "program when it is opened; Linnet reads safetensors and GGUF only"
        )
    return f"{repository.name} holds neither a GGUF file nor a safetensors checkpoint"


def download(
    repository: Repository, file: HubFile, path: Path, advance: Callable[[int], None] = lambda n_bytes: None
) -> None:
    """Gets a file; goes on with what an earlier call left beside ``path``.

    ``advance`` is told the bytes as they arrive. Raises FormatError for what is not the file that the
    Hub promised, SourceError, and TargetError where the disk refuses.
    """
    expected = file.sha256 or file.blob_id
    if not expected:
        raise FormatError(f"the server states no hash of {file.name}, to verify it with; nothing was taken")
    part = path.with_name(f"{path.name}.{expected[:16]}.part")
    with written(part):
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as stream, reported(repository.name):
            advance(stream.tell())
            _fill(stream, file, _address(repository, file), advance)
        _verify(part, file)
        os.replace(part, path)


def _fill(stream: BinaryIO, file: HubFile, url: str, advance: Callable[[int], None]) -> None:
    """Appends what is missing, however often the connection breaks, unless nothing comes any more."""
    begin, tries = stream.tell(), 0
    while (before := stream.tell()) < file.n_bytes:
        problem: Exception = FormatError(f"{file.name} ends before its {file.n_bytes:,} bytes; pull again")
        try:
            _append(stream, file.n_bytes, url, advance)
        except hub().errors.HfHubHTTPError:
            raise
        except _network_error() as error:
            problem = error
        if stream.tell() < file.n_bytes:
            tries = tries + 1 if stream.tell() <= before else 0
            if stream.tell() == begin or tries == _TRIES:
                raise problem
            time.sleep(_PAUSE)


def _append(stream: BinaryIO, n_bytes: int, url: str, advance: Callable[[int], None]) -> None:
    """What follows the end of ``stream`` up to ``n_bytes``; all of it where the server begins anew."""
    begin = stream.tell()
    with _asked(url, f"bytes={begin}-" if begin else None) as response:
        if response.is_error:
            hub().utils.hf_raise_for_status(_bounded(response, time.monotonic() + _SILENCE))
        if begin and response.status_code != 206:
            advance(-begin)
            with written(Path(stream.name)):
                stream.seek(0)
                stream.truncate()
        elif begin and not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            raise FormatError("the server sends another part of the file than it was asked for; pull again")
        for piece in response.iter_raw():
            kept = piece[: n_bytes - stream.tell()]
            with written(Path(stream.name)):
                stream.write(kept)
            advance(len(kept))
            if stream.tell() >= n_bytes:
                return


def read_beginning(repository: Repository, file: HubFile, n_bytes: int, deadline: float) -> bytes:
    """The first ``n_bytes`` of a file, asked for as a range.

    Raises SourceError, also when it is not here by ``deadline``, a time of :func:`time.monotonic`.
    """
    n_bytes = min(n_bytes, file.n_bytes)
    with reported(repository.name):
        return _receive(_address(repository, file), n_bytes, deadline, f"bytes=0-{n_bytes - 1}")


def _address(repository: Repository, file: HubFile) -> str:
    where = {"revision": repository.commit, "endpoint": _endpoint()}
    return str(hub().hf_hub_url(repository.name, file.name, **where))


def _receive(url: str, limit: int, deadline: float, span: str | None = None) -> bytes:
    """The first ``limit`` bytes of an answer, or all. Raises SourceError, and what the Hub's errors are."""
    if not limit:
        return b""
    with _asked(url, span) as response:
        whole = _bounded(response, deadline, limit)
    hub().utils.hf_raise_for_status(whole)
    return bytes(whole.content)


@contextmanager
def _asked(url: str, span: str | None) -> Iterator[Any]:
    """An answer whose body is not read yet. (The client sends no token on to another host.)"""
    headers = {**hub().utils.build_hf_headers(library_name="linnet"), "Accept-Encoding": "identity"}
    if span is not None:
        headers["Range"] = span
    with hub().utils.get_session().stream("GET", url, headers=headers, timeout=_SILENCE) as response:
        yield response


def _bounded(response: Any, deadline: float, limit: int = _BLOCK) -> Any:
    """The same answer with its body, no more than ``limit`` bytes of it."""
    body = bytearray()
    for piece in response.iter_raw():
        body += piece[: limit - len(body)]
        if len(body) >= limit:
            break
        if time.monotonic() > deadline:
            raise SourceError(f"{_endpoint()} answers too slowly; try again later")
    said = {name: text for name, text in response.headers.items() if name.lower().startswith("x-")}
    return type(response)(response.status_code, headers=said, content=bytes(body), request=response.request)


def _verify(path: Path, file: HubFile) -> None:
    """Compares a file with what the Hub says of it. Deletes it and raises FormatError where they differ."""
    n_bytes = path.stat().st_size
    digest = hashlib.sha256() if file.sha256 is not None else hashlib.sha1(f"blob {n_bytes}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    if n_bytes != file.n_bytes or digest.hexdigest() != (file.sha256 or file.blob_id):
        path.unlink()
        raise FormatError(
            f"{file.name} arrived damaged: its hash is not the Hub's; it was deleted, pull it again"
        )


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What this machine refuses while ``path`` is written, or what belongs to it, as a TargetError."""
    try:
        yield
    except OSError as error:
        where, why = error.filename2 or error.filename or path, error.strerror or error
        raise TargetError(
            f"cannot write {where}: {why}; what has arrived stays, pull again to go on"
        ) from None


@contextmanager
def reported(repo: str) -> Iterator[None]:
    """What huggingface_hub raises, as one line that says what to do."""
    errors = hub().errors
    try:
        yield
    except errors.GatedRepoError:
        raise SourceError(
            f"{repo} is gated: accept its terms at {_endpoint()}/{repo}, then set HF_TOKEN to your token"
        ) from None
    except errors.RepositoryNotFoundError:
        raise SourceError(
            f"the Hub has no model '{repo}', or it is private; check the spelling, or set HF_TOKEN"
        ) from None
    except errors.EntryNotFoundError as error:
        raise SourceError(f"{repo}: a file is gone from the Hub: {_first_line(error)}") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise SourceError(f"the Hub answered {status} for {repo}: {_first_line(error)}") from None
    except errors.HFValidationError as error:
        raise SourceError(_first_line(error)) from None
    except errors.OfflineModeIsEnabled:
        raise SourceError("HF_HUB_OFFLINE is set, so the Hub is not asked") from None
    except LinnetError:
        raise
    except _network_error() as error:
        raise SourceError(
            f"cannot reach {_endpoint()}: {_first_line(error)}; check the connection and try again, "
            "a pull goes on where it stopped"
        ) from None
    except Exception as error:  # of this machine: no token can be read, HF_ENDPOINT is no address, ...
        raise SourceError(f"cannot ask {_endpoint()} for {repo}: {_first_line(error)}") from None


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Keeps other processes out of a block; ``path`` is the lock. Raises UsageError where one is inside."""
    lock = hub().utils.WeakFileLock(path, timeout=0.1)
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.__enter__()
        except TimeoutError:
            raise UsageError(f"another process is pulling {what}; wait for it") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.__exit__(None, None, None)


def _network_error() -> type[Exception]:
    """What the HTTP client raises: httpx, or what it is called now. The Hub's errors are kinds of it."""
    error: type[Exception] = hub().errors.HfHubHTTPError.__bases__[0]
    return error


def _endpoint() -> str:
    return str(hub().constants.ENDPOINT)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
