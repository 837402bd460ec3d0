"""Outputs that appear whole or not at all.

Everything is written under a temporary name in the folder of the target and renamed
over it at the end, so a reader never sees half an artifact and a failure leaves the
target as it was. What a process that was killed left behind is cleared away by the next one
that writes into the same folder; what it was about to replace comes back, for readers too.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from linnet.errors import TargetError
from linnet.formats.leftovers import (
    ASIDE,
    TEMPORARY,
    alone_in,
    bring_back,
    is_abandoned,
    leftover_name,
    remove,
    sweep,
)

# What a full or failing disk raises while data is written, as opposed to a source
# that cannot be read inside the same with-block.
_WRITE_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new binary file that replaces ``path`` when the block ends without an exception.

    Raises TargetError when the folder is missing or not writable, ``path`` is a
    folder, or the disk is full. The old file, if any, stays until the very end.
    """
    target = resolved(path)
    if os.path.isdir(target):
        raise TargetError(f"cannot write {path}: it is a folder; name a file")
    if os.path.lexists(target) and not os.path.isfile(target):
        raise TargetError(f"cannot write {path}: it is not a regular file")
    sweep(target.parent)
    temporary = leftover_name(target, TEMPORARY)
    try:
        with _reported(path):
            file = open(temporary, "xb")  # noqa: SIM115 (closed by the with below)
        with _reported(path, only=_WRITE_FAILURES), file:  # closing it writes, too
            yield file
            file.flush()
            os.fsync(file.fileno())
        with _reported(path):
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def atomic_folder(path: str | os.PathLike[str], replaceable: Sequence[str] = ()) -> Iterator[Path]:
    """A new empty folder that takes the place of ``path`` when the block ends well.

    An existing folder is replaced only if every name in it matches one of the
    patterns (as of :mod:`fnmatch`) of ``replaceable``: the names an earlier artifact
    of the same kind consists of. Raises TargetError otherwise, and when the parent
    is missing or not writable or the disk is full.
    """
    target = resolved(path)
    sweep(target.parent)
    check_replaceable(target, replaceable, shown=path)
    temporary = leftover_name(target, TEMPORARY)
    try:
        with _reported(path):
            temporary.mkdir()
        with _reported(path, only=_WRITE_FAILURES):
            yield temporary
        with _reported(path):
            swap_in(temporary, target)
    except TargetError as error:  # of a file inside the new folder
        shutil.rmtree(temporary, ignore_errors=True)
        raise TargetError(str(error).replace(str(temporary), str(path))) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def make_folder(path: Path) -> None:
    """Makes a folder and its parents unless it exists. Raises TargetError."""
    with _reported(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def folder_made(path: Path) -> Iterator[None]:
    """Inside there is a folder ``path``. What had to be made for it and is still empty goes again.

    Raises TargetError.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    try:
        yield
    finally:
        with suppress(OSError):  # of the first folder that is not empty
            for folder in made:
                folder.rmdir()


def check_replaceable(
    path: str | os.PathLike[str], replaceable: Sequence[str], shown: str | os.PathLike[str] | None = None
) -> None:
    """Raises TargetError unless :func:`atomic_folder` may write ``path``; changes nothing."""
    target, shown = resolved(path), shown if shown is not None else path
    try:
        names = sorted(os.listdir(target))
    except FileNotFoundError:  # also for the moment in which another process replaces it
        return
    except NotADirectoryError:
        raise TargetError(f"cannot write {shown}: a file of that name exists; name a folder") from None
    except OSError as error:
        raise TargetError(f"cannot look into {shown}: {error.strerror}") from None
    if os.path.ismount(target) or _is_current(target):
        raise TargetError(f"cannot write {shown}: the folder is in use; name a new folder inside it")
    for name in names:
        if not is_abandoned(name) and not any(fnmatch.fnmatchcase(name, p) for p in replaceable):
            raise TargetError(
                f"cannot write {shown}: the folder holds '{name}', which would be lost; name a new folder"
            )


def swap_in(folder: Path, target: Path) -> None:
    """Lets ``folder`` take the place of ``target``, which goes last: a failure leaves it. Raises OSError."""
    with alone_in(target.parent):
        if not os.path.lexists(target):
            os.rename(folder, target)
            return
        aside = leftover_name(target, ASIDE)
        aside.mkdir()
        try:
            os.rename(target, aside / target.name)
            os.rename(folder, target)
        except BaseException:
            bring_back(aside)
            raise
        doomed = aside.with_suffix(TEMPORARY)
        os.rename(aside, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def discard(folder: Path) -> None:
    """Removes a folder at once, as others see it; of a link to one only the link.

    Raises OSError; what the system did not let go has its name again then, and can be removed once more.
    """
    sweep(folder.parent)
    doomed = leftover_name(folder, TEMPORARY)
    os.rename(folder, doomed)
    try:
        remove(doomed)
    except OSError:
        with suppress(OSError):  # a new one has taken its name
            os.rename(doomed, folder)
        raise


def resolved(path: str | os.PathLike[str]) -> Path:
    """Where an output lies, symbolic links followed: a link is kept and the file behind it replaced.

    Raises TargetError when the folder it would lie in does not exist.
    """
    try:
        target = Path(os.path.realpath(path))
    except FileNotFoundError:
        raise TargetError(
            f"cannot write {path}: the current folder no longer exists; change into another one"
        ) from None
    if not os.path.isdir(target.parent):
        raise TargetError(f"cannot write {path}: there is no folder {target.parent}; create it first")
    return target


def _is_current(folder: Path) -> bool:
    try:
        return folder == Path.cwd()
    except FileNotFoundError:  # the current folder was deleted
        return False


@contextmanager
def _reported(path: str | os.PathLike[str], only: frozenset[int] = frozenset()) -> Iterator[None]:
    """Turns what the system says about the target into a TargetError; ``only`` limits it to these errnos."""
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise TargetError(f"cannot write {path}: {error.strerror}; the target is unchanged") from None
