"""The store: models on this machine that have names, usable wherever a path to a model is.

A name is ``NAME`` or ``ORG/NAME``, with ``:TYPE`` where several types of one model are
here. The store is a folder (``LINNET_HOME``, else the user's data directory) in which
``models/<name, with -- for />/<type>/`` holds one GGUF file or the files of a checkpoint,
and ``linnet.json``, which says where they came from; ``partial/`` holds what has arrived of
others. What the cache of the Hugging Face Hub holds can be named as well, and is run where it lies.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet.errors import SourceError, UsageError
from linnet.formats.leftovers import restore

ABOUT = "linnet.json"
CHECKPOINT = "safetensors"  # what stands for the type of a checkpoint folder
_LONGEST_COMMIT = 100  # characters
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"(?P<repo>{_PART}(?:/{_PART})?)(?::(?P<type>{_PART}))?")


@dataclass(frozen=True)
class ModelName:
    """``repo`` is ``NAME`` or ``ORG/NAME``; ``type`` is lower case, or None where any will do."""

    repo: str
    type: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Reads ``ORG/NAME:TYPE``. Raises UsageError."""
        match = _NAME.fullmatch(text)
        if match is None or "--" in text or ".." in text:
            raise UsageError(f"'{text[:80]}' is not the name of a model; write ORG/NAME or ORG/NAME:TYPE")
        return cls(match["repo"], match["type"].lower() if match["type"] else None)

    @property
    def is_possible(self) -> bool:
        """Does it read as itself?"""
        try:
            return ModelName.parse(str(self)) == self
        except UsageError:
            return False

    def __str__(self) -> str:
        return f"{self.repo}:{self.type}" if self.type else self.repo


class _NotHereError(SourceError):
    """No model in the store has that name."""


@dataclass(frozen=True)
class StoredModel:
    """A model in the store. ``folder`` is all of it, ``path`` what is run: a GGUF file or the folder."""

    name: ModelName
    folder: Path

    @property
    def path(self) -> Path:
        """The GGUF file, or the folder of a checkpoint."""
        return next(iter(sorted(self.folder.glob("*.gguf"))), self.folder)

    @property
    def n_bytes(self) -> int:
        """Bytes of all its files, as far as they can be seen."""
        total = 0
        with suppress(OSError):  # another process is removing it
            for file in self.folder.rglob("*"):
                total += file.stat().st_size if file.is_file() else 0
        return total

    @property
    def about(self) -> dict[str, Any]:
        """Where it came from; empty where that is not known any more."""
        try:
            about = json.loads((self.folder / ABOUT).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return about if isinstance(about, dict) else {}


def store_folder() -> Path:
    """Where the store is, whether it exists or not."""
    home = os.environ.get("LINNET_HOME")
    if home:
        return Path(home)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "linnet"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "linnet"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "linnet"


def folder_of(name: ModelName) -> Path:
    """Where the store keeps a model, whose type is known."""
    assert name.type is not None
    return store_folder() / "models" / _joined(name.repo) / name.type


def stored_models() -> Iterator[StoredModel]:
    """The models of the store, by name. Folders that are called as no model can be are not ours.

    Raises SourceError where nobody may look into the store.
    """
    for repo in _folders_of_store("models"):
        types = list[Path]()
        with suppress(OSError):  # a model that only others may look into
            types = _folders(repo)
        for folder in types:
            name = ModelName(repo.name.replace("--", "/"), folder.name)
            if name.is_possible:
                yield StoredModel(name, folder)


def partial_folder(name: ModelName, commit: str) -> Path:
    """Where the files of a model are until all of them are here."""
    return store_folder() / "partial" / f"{_joined(name.repo)}--{name.type}--{commit[:12]}"


def partial_models() -> Iterator[StoredModel]:
    """Of what pulls that were cut off have left, by name. Raises as :func:`stored_models`."""
    for folder in _folders_of_store("partial"):
        repo, _, type = folder.name.rpartition("--")[0].rpartition("--")
        model = StoredModel(ModelName(repo.replace("--", "/"), type), folder)
        if model.name.is_possible and model.n_bytes:
            yield model


def _joined(repo: str) -> str:
    return repo.replace("/", "--")


def _folders_of_store(kind: str) -> list[Path]:
    try:
        return _folders(store_folder() / kind)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SourceError(
            f"cannot look into the store {store_folder()}: {error.strerror}; mend that, or set LINNET_HOME"
        ) from None


def _folders(path: Path) -> list[Path]:
    restore(path)
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def find_stored(name: ModelName, among: Iterable[StoredModel] | None = None) -> StoredModel:
    """The model of that name, of all in the store or ``among`` these.

    Raises SourceError when there is none, UsageError when there are several.
    """
    models = stored_models() if among is None else among
    found = [model for model in models if model.name.repo.lower() == name.repo.lower()]
    matching = [model for model in found if name.type in (None, model.name.type)]
    matching = [model for model in matching if model.name.repo == name.repo] or matching
    if len(matching) == 1:
        return matching[0]
    if matching:
        types = ", ".join(str(model.name) for model in matching)
        raise UsageError(f"there are several: {types}; say which")
    if found:
        types = ", ".join(str(model.name) for model in found)
        raise _NotHereError(f"there is no model '{name}' here, but {types}")
    raise _NotHereError(f"there is no model '{name}' here; 'linnet list' names those that are")


def locate(path: Path) -> Path:
    """``path``, or the model that goes by that name, in the store or in the cache of the Hub.

    Raises SourceError for a name of which there is no model, or where nobody may look into the store,
    UsageError where there are several.
    """
    if not os.path.lexists(path):
        restore(path.parent)
    if os.path.lexists(path):
        return _snapshot_of(path, None) or path
    try:
        name = ModelName.parse(path.as_posix())
    except UsageError:
        return path  # whoever opens it says that it does not exist
    try:
        return find_stored(name).path
    except SourceError as error:
        cached = _in_hub_cache(name)
        if cached is not None:
            return cached
        if not isinstance(error, _NotHereError):
            raise  # it may be in the store, and the error says what is wrong with that
        if "/" in name.repo and not path.parent.exists() and not path.suffix:
            raise SourceError(f"{error}; 'linnet pull {name}' gets it") from None
        return path


# ---- the cache of the Hub ---------------------------------------------------------------


def hub_cache() -> Path:
    """The folder in which huggingface_hub keeps what it downloads."""
    home = (
        os.environ.get("HF_HOME")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _in_hub_cache(name: ModelName) -> Path | None:
    return _snapshot_of(hub_cache() / f"models--{_joined(name.repo)}", name.type)


def _snapshot_of(repo: Path, type: str | None) -> Path | None:
    """What can be run of a repository in the cache: its only GGUF file of that type, or a checkpoint."""
    if not repo.name.startswith("models--"):
        return None
    try:
        with (repo / "refs" / "main").open("rb") as file:
            commit = file.read(_LONGEST_COMMIT).decode().strip()
    except (OSError, ValueError):
        return None
    if not commit.isalnum():
        return None
    snapshot = repo / "snapshots" / commit
    files = [file for file in sorted(snapshot.glob("*.gguf")) if type in (None, type_in_file_name(file.name))]
    if len(files) == 1:
        return files[0]
    if type in (None, CHECKPOINT) and (snapshot / "config.json").exists():
        return snapshot
    return None


# ---- types in file names ------------------------------------------------------------------

_TYPE = re.compile(
    r"(?:^|[ ._-])((?:ud-)?(?:i?q\d\w*|tq\d_\d|f16|bf16|f32|fp16|fp32|mxfp4\w*))$", re.IGNORECASE
)


def type_in_file_name(file: str) -> str | None:
    """``q4_k_m`` for ``model-Q4_K_M.gguf``; None where the name of a GGUF file tells no type."""
    match = _TYPE.search(file.removesuffix(".gguf").removesuffix(".GGUF"))
    return match[1].lower() if match else None


# ---- changes --------------------------------------------------------------------------------


def remove(model: StoredModel) -> None:
    """Takes a model out of the store. Raises OSError."""
    from linnet.formats.atomic import discard  # its imports take time, which every verb would pay

    discard(model.folder)
    with suppress(OSError):  # other types are left
        model.folder.parent.rmdir()


def adopt(folder: Path, name: ModelName) -> StoredModel:
    """Moves a finished folder into the store; one that is there goes when the new one is. Raises OSError."""
    from linnet.formats.atomic import swap_in

    target = folder_of(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    swap_in(folder, target)
    return StoredModel(name, target)
