"""``linnet pull``: a model from the Hugging Face Hub into the store, verified, in one piece or not at all."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from linnet.errors import TargetError
from linnet.formats import hub, store
from linnet.formats.hub import Choice, Repository
from linnet.formats.store import ABOUT, ModelName, StoredModel
from linnet.options import PullOptions
from linnet.progress import byte_bars


def pull(options: PullOptions) -> dict[str, object]:
    """Downloads the model ``options.name``; returns what ``--json`` prints.

    What was downloaded before is kept: of a pull that was cut off, and of a model that has not
    changed since. Raises SourceError, FormatError (wrong hash), UnsupportedError (pickled weights),
    TargetError, UsageError (another process pulls it), MissingExtraError.
    """
    name = ModelName.parse(options.name)
    repository = hub.open_repository(name.repo)
    choice = hub.choose(repository, name.type)
    model, is_new = _already_here(choice, repository.commit, quiet=True), False
    if model is None:  # else nothing is written: the store may be one that others look after
        model, is_new = _pulled(choice, repository, quiet=options.json)
    if not options.json:
        state = "pulled" if is_new else "was here already:"
        print(f"{state} {model.name}, {model.n_bytes:,} bytes; use it with -m {model.name}")
    return {"name": str(model.name), "path": str(model.path), "bytes": model.n_bytes, "downloaded": is_new}


def _pulled(choice: Choice, repository: Repository, quiet: bool) -> tuple[StoredModel, bool]:
    """The model, and whether it is this process that got it."""
    folder = store.partial_folder(choice.name, repository.commit)
    lock = store.partial_folder(choice.name, "lock")
    with hub.only_one(lock.with_name(f".{lock.name}"), str(choice.name)), _told_how_to_go_on(choice.name):
        model = _already_here(choice, repository.commit)
        if model is not None:  # of a process that was faster
            return model, False
        with hub.written(folder):
            _remove_older(choice.name, folder)
            _download(choice, repository, folder, quiet)
            return store.adopt(folder, choice.name), True


def _already_here(choice: Choice, commit: str, quiet: bool = False) -> StoredModel | None:
    """The model, if it is what the Hub has. Where a file of it was changed, standard error says which."""
    model = StoredModel(choice.name, store.folder_of(choice.name))
    about = model.about
    if about.get("commit") != commit and about.get("files") != [asdict(file) for file in choice.files]:
        return None
    for file in choice.files:
        n_bytes = _size(model.folder / file.stored_name)
        if n_bytes != file.n_bytes:
            state = "is missing" if n_bytes is None else f"has {n_bytes:,} bytes, not {file.n_bytes:,}"
            problem = f"{model.name} is damaged: {file.stored_name} {state}; it is pulled again"
            if not quiet:
                print(problem, file=sys.stderr)
            return None
    return model


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


@contextmanager
def _told_how_to_go_on(name: ModelName) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; linnet pull {name} goes on from here") from None


def _remove_older(name: ModelName, folder: Path) -> None:
    """What is left of pulls of the same model at other commits."""
    for other in folder.parent.glob(store.partial_folder(name, "*").name):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _download(choice: Choice, repository: Repository, folder: Path, quiet: bool) -> None:
    """All files in ``folder``, with what tells where they came from. It stays until then, to go on with."""
    folder.mkdir(parents=True, exist_ok=True)
    _check_space(folder, choice.n_bytes)
    with _progress(choice, quiet) as advance:
        for file in choice.files:
            path = folder / file.stored_name
            if _size(path) == file.n_bytes:  # an earlier pull had finished it
                advance(file.n_bytes)
            else:
                hub.download(repository, file, path, advance)
    about = {
        "repository": choice.name.repo,
        "commit": repository.commit,
        "files": [asdict(file) for file in choice.files],
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _progress(choice: Choice, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar in bytes on a terminal; elsewhere nothing."""
    with byte_bars(quiet) as progress:
        task = progress.add_task(str(choice.name), total=choice.n_bytes)
        yield lambda n_bytes: progress.advance(task, n_bytes)


def _check_space(folder: Path, n_bytes: int) -> None:
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < n_bytes - there:
        raise TargetError(
            f"{n_bytes - there:,} bytes are to come and {store.store_folder()} has room for {free:,}; "
            "make room, or set LINNET_HOME"
        )
