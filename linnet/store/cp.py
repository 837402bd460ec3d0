"""``linnet cp``: a model under another name, into the store or out of it."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
from pathlib import Path

from linnet.display import one_line
from linnet.errors import SourceError, TargetError
from linnet.formats import store
from linnet.formats.atomic import atomic_file, atomic_folder, folder_made
from linnet.formats.checkpoint import CHECKPOINT_FILES, TEMPLATE_FOLDER
from linnet.formats.inputs import check_regular
from linnet.formats.sentence_transformers import POOLING_FOLDER
from linnet.formats.source import source_kind
from linnet.formats.store import ABOUT, CHECKPOINT, ModelName
from linnet.options import CpOptions


def cp(options: CpOptions) -> dict[str, object]:
    """Copies ``options.source`` to ``options.target``; returns what ``--json`` prints.

    Of a folder what a checkpoint consists of. Within the store files are linked where the file
    system can, and take no room twice then. Raises SourceError, UsageError, TargetError.
    """
    source = store.locate(Path(options.source))
    if not source.is_dir():
        check_regular(source)
        if source_kind(source) != "gguf":
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
        where = f" ({error.filename})" if error.filename else ""
        raise TargetError(f"cannot copy {source}: {error.strerror or error}{where}") from None
    if not options.json:
        print(one_line(f"{target} is a copy of {options.source}"))
    return {"source": str(source), "target": target}


def _is_path(target: str) -> bool:
    """A name has no suffix and begins with a letter or a digit; anything else is meant as a path."""
    return target.endswith(".gguf") or target.startswith((".", "/", "~")) or "\\" in target


def _export(source: Path, target: Path) -> str:
    """A copy that does not depend on the store."""
    if not source.is_dir() and target.is_dir():
        target = target / source.name
    if os.path.lexists(target):
        raise TargetError(f"{target} exists; choose another name")
    if source.is_dir():
        with atomic_folder(target) as folder:
            for name in _files_of(source):
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / name, folder / name)
        return str(target)
    with atomic_file(target) as file, source.open("rb") as stream:
        shutil.copyfileobj(stream, file, 1 << 20)
    return str(target)


def _files_of(folder: Path) -> list[str]:
    """The files of a checkpoint, and nothing else that lies beside them."""
    names = [
        path.name
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in CHECKPOINT_FILES)
    ]
    below = [*(folder / TEMPLATE_FOLDER).glob("*.jinja"), *(folder / POOLING_FOLDER).glob("config.json")]
    return sorted([*names, *(f"{path.parent.name}/{path.name}" for path in below if path.is_file())])


def _store(source: Path, target: str) -> str:
    name = ModelName.parse(target)
    kind = CHECKPOINT if source.is_dir() else store.type_in_file_name(source.name) or "gguf"
    name = ModelName(name.repo, name.type or kind)
    place = store.folder_of(name)
    if os.path.lexists(place):
        raise TargetError(f"there is a model '{name}' already; linnet rm {name} removes it")
    pairs = (
        {file: source / file for file in _files_of(source)}
        if source.is_dir()
        else {f"{source.stem}.gguf": source}
    )
    with folder_made(place.parent), atomic_folder(place) as folder:
        for file, path in pairs.items():
            (folder / file).parent.mkdir(exist_ok=True)
            _link(path.resolve(), folder / file)
        about = json.dumps({"copied_from": str(source.absolute())})
        (folder / ABOUT).write_text(about, encoding="utf-8")
    return str(name)


def _link(source: Path, target: Path) -> None:
    """Only within the store: other files may be written to by their owner."""
    if source.is_relative_to(store.store_folder().resolve()):
        with contextlib.suppress(OSError):  # a file system without links
            os.link(source, target)
            return
    shutil.copyfile(source, target)
