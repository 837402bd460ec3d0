"""``linnet pull``: a model from the Hugging Face Hub into the store, verified, in one piece or not at all."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from linnet.errors import TargetError
from linnet.formats import hub, store
from linnet.formats.hub import Choice, Repository
from linnet.formats.store import ABOUT, ModelName, StoredModel
from linnet.options import PullOptions


def pull(options: PullOptions) -> dict[str, object]:
    """Downloads the model ``options.name``; returns what ``--json`` prints.

    What was downloaded before is kept: of a pull that was cut off, and of a model that has not
    changed since. Raises SourceError, FormatError (wrong hash), UnsupportedError (pickled weights),
    TargetError, MissingExtraError.
    """
    name = ModelName.parse(options.name)
    repository = hub.open_repository(name.repo)
    choice = hub.choose(repository, name.type)
    model = _already_here(choice, repository.commit)
    is_new = model is None
    if model is None:
        try:
            model = store.adopt(_download(choice, repository, quiet=options.json), choice.name)
        except OSError as error:
            raise TargetError(f"cannot write the store {store.store_folder()}: {error.strerror}") from None
    if not options.json:
        state = "pulled" if is_new else "was here already:"
        print(f"{state} {model.name}, {model.n_bytes:,} bytes; use it with -m {model.name}")
    return {"name": str(model.name), "path": str(model.path), "bytes": model.n_bytes, "downloaded": is_new}


def _already_here(choice: Choice, commit: str) -> StoredModel | None:
    model = StoredModel(choice.name, store.folder_of(choice.name))
    about = model.about
    same = about.get("commit") == commit or about.get("files") == [asdict(file) for file in choice.files]
    return model if same else None


def _download(choice: Choice, repository: Repository, quiet: bool) -> Path:
    """A finished folder beside the store's models. Until then it stays, so that a pull can go on."""
    name = f"{choice.name.repo.replace('/', '--')}--{choice.name.type}--{repository.commit[:12]}"
    folder = store.store_folder() / "partial" / name
    folder.mkdir(parents=True, exist_ok=True)
    _check_space(folder, choice.n_bytes)
    if quiet or not sys.stderr.isatty():
        hub.hub().utils.disable_progress_bars()
    for file in choice.files:
        path = folder / "files" / file.name
        if not path.exists():  # else an earlier pull had finished it
            hub.download(repository, file, path)
    return _finished(folder, choice, repository.commit)


def _check_space(folder: Path, n_bytes: int) -> None:
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < n_bytes - there:
        raise TargetError(
            f"the model takes {n_bytes:,} bytes and {folder} has {free:,} left; make room, or set LINNET_HOME"
        )


def _finished(folder: Path, choice: Choice, commit: str) -> Path:
    """The files in one folder, with what tells where they came from."""
    for file in choice.files:
        (folder / "files" / file.name).replace(folder / Path(file.name).name)
    about = {
        "repository": choice.name.repo,
        "commit": commit,
        "files": [asdict(file) for file in choice.files],
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "files")
    return folder
