"""The folder a run writes: what may be in it beforehand, where its state lies, and whose turn it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from linnet.errors import SourceError, TargetError
from linnet.formats.atomic import folder_made
from linnet.formats.checkpoint import CHECKPOINT_FILES, TRAINING_STATE
from linnet.options import TrainOptions

RUN_FILE, BEST_FILE = "run.pt", "best.pt"
_LOCK_FILE = "lock"


def state_file(output: Path) -> Path:
    """The state of the run in ``output``. Raises SourceError when there is none."""
    path = output / TRAINING_STATE / RUN_FILE
    if not path.is_file():
        raise SourceError(f"nothing to resume: {output} holds no state of a run; start it without --resume")
    return path


def check_output(options: TrainOptions) -> None:
    """Raises TargetError, or SourceError with --resume, unless the run may write its output."""
    output = options.output
    if options.resume:
        state_file(output)
        return
    if (output / TRAINING_STATE / RUN_FILE).is_file():
        raise TargetError(f"{output} holds a run; go on with --resume, or name another folder")
    if output.exists() and not output.is_dir():
        raise TargetError(f"cannot write {output}: a file of that name exists; name a folder")
    held = sorted(entry.name for entry in output.iterdir()) if output.exists() else []
    if [name for name in held if name != TRAINING_STATE]:
        kind = "a checkpoint" if held[0] in CHECKPOINT_FILES else f"'{held[0]}'"
        raise TargetError(f"cannot write {output}: the folder already holds {kind}; name a new folder")


@contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Inside, no other run writes ``output``. Raises TargetError at once where one does.

    The lock is the operating system's and ends with the process, however that ends. Folders that
    had to be made for it and are still empty afterwards are removed.
    """
    folder = output / TRAINING_STATE
    with folder_made(folder), _locked(folder / _LOCK_FILE, output):
        yield


@contextmanager
def _locked(path: Path, output: Path) -> Iterator[None]:
    try:
        file = open(path, "ab")  # noqa: SIM115 (closed by the with below)
    except OSError as error:
        raise TargetError(f"cannot write {path}: {error.strerror}") from None
    with file:
        if not _lock(file, path):
            raise TargetError(f"another run is writing {output}; wait for it, or name another folder")
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps a file that is open; it does no harm there
                path.unlink()


def _lock(file: BinaryIO, path: Path) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: as safe as it can be
        return True
    # The run before may have removed the file between open and lock; others then lock a new one.
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
