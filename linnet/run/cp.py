"""``linnet cp``: a model under another name, into the store or out of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from linnet.engine.rewrite import is_gguf_name
from linnet.errors import SourceError, TargetError
from linnet.formats import store
from linnet.formats.atomic import atomic_file
from linnet.formats.inputs import check_regular
from linnet.formats.store import ABOUT, CHECKPOINT, ModelName
from linnet.options import CpOptions


def cp(options: CpOptions) -> dict[str, object]:
    """Copies ``options.source`` to ``options.target``; returns what ``--json`` prints.

    Within the store files are linked where the file system can, and take no room twice
    then. Raises SourceError, UsageError, TargetError.
    """
    source = store.locate(Path(options.source))
    if not source.is_dir():
        check_regular(source)
        if not is_gguf_name(source):
            raise SourceError(f"{source} is neither a GGUF file nor a checkpoint folder")
    elif not (source / "config.json").exists():
        raise SourceError(f"{source} is not a checkpoint folder: it has no config.json")
    try:
        target = (
            _export(source, Path(options.target))
            if _is_path(options.target)
            else _store(source, options.target)
        )
    except OSError as error:
        raise TargetError(f"cannot write {options.target}: {error.strerror}") from None
    if not options.json:
        print(f"{source} is now {target}")
    return {"source": str(source), "target": target}


def _is_path(target: str) -> bool:
    """A name has no suffix and begins with a letter or a digit; anything else is meant as a path."""
    return target.endswith(".gguf") or target.startswith((".", "/", "~")) or "\\" in target


def _export(source: Path, target: Path) -> str:
    """A copy that does not depend on the store."""
    if source.is_dir():
        if target.exists():
            raise TargetError(f"{target} exists; choose another name")
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(ABOUT))
        return str(target)
    target = target / source.name if target.is_dir() else target
    with atomic_file(target) as file, source.open("rb") as stream:
        shutil.copyfileobj(stream, file, 1 << 20)
    return str(target)


def _store(source: Path, target: str) -> str:
    name = ModelName.parse(target)
    kind = CHECKPOINT if source.is_dir() else store.type_in_file_name(source.name) or "gguf"
    name = ModelName(name.repo, name.type or kind)
    if store.folder_of(name).exists():
        raise TargetError(f"there is a model '{name}' already; linnet rm {name} removes it")
    folder = store.store_folder() / "partial" / f"cp-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        for file in sorted(source.iterdir()) if source.is_dir() else [source]:
            if file.is_file():
                _link(file.resolve(), folder / file.name)
        if not (folder / ABOUT).exists():
            (folder / ABOUT).write_text(json.dumps({"copied_from": str(source.absolute())}), encoding="utf-8")
        store.adopt(folder, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return str(name)


def _link(source: Path, target: Path) -> None:
    """Only within the store: other files may be written to by their owner."""
    if source.is_relative_to(store.store_folder().resolve()):
        with contextlib.suppress(OSError):  # a file system without links
            os.link(source, target)
            return
    shutil.copyfile(source, target)
