"""Outputs that appear whole or not at all.

Everything is written under a temporary name in the folder of the target and renamed
over it at the end, so a reader never sees half an artifact and a failure leaves the
target as it was.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from linnet.errors import TargetError

# What a full or failing disk raises while data is written, as opposed to a source
# that cannot be read inside the same with-block.
_WRITE_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new binary file that replaces ``path`` when the block ends without an exception.

    Raises TargetError when the folder is missing or not writable, ``path`` is a
    folder, or the disk is full. The old file, if any, stays until the very end.
    """
    target = _resolved(path)
    if os.path.isdir(target):
        raise TargetError(f"cannot write {path}: it is a folder; name a file")
    if os.path.lexists(target) and not os.path.isfile(target):
        raise TargetError(f"cannot write {path}: it is not a regular file")
    temporary = _temporary_name(target)
    try:
        with _reported(path):
            file = open(temporary, "xb")  # noqa: SIM115 (closed by the with below)
        with file, _reported(path, only=_WRITE_FAILURES):
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
    target = _resolved(path)
    check_replaceable(target, replaceable, shown=path)
    temporary = _temporary_name(target)
    try:
        with _reported(path):
            temporary.mkdir()
        with _reported(path, only=_WRITE_FAILURES):
            yield temporary
        with _reported(path):
            _swap_in(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def make_folder(path: Path) -> None:
    """Makes a folder and its parents unless it exists. Raises TargetError."""
    with _reported(path):
        path.mkdir(parents=True, exist_ok=True)


def check_replaceable(
    path: str | os.PathLike[str], replaceable: Sequence[str], shown: str | os.PathLike[str] | None = None
) -> None:
    """Raises TargetError unless :func:`atomic_folder` may write ``path``; changes nothing."""
    target, shown = _resolved(path), shown if shown is not None else path
    if not os.path.lexists(target):
        return
    if not os.path.isdir(target):
        raise TargetError(f"cannot write {shown}: a file of that name exists; name a folder")
    if os.path.ismount(target) or target == Path.cwd():
        raise TargetError(f"cannot write {shown}: the folder is in use; name a new folder inside it")
    try:
        names = sorted(entry.name for entry in os.scandir(target))
    except OSError as error:
        raise TargetError(f"cannot look into {shown}: {error.strerror}") from None
    for name in names:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in replaceable):
            raise TargetError(
                f"cannot write {shown}: the folder holds '{name}', which would be lost; name a new folder"
            )


def _swap_in(temporary: Path, target: Path) -> None:
    if not os.path.lexists(target):
        os.rename(temporary, target)
        return
    old = _temporary_name(target)
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _resolved(path: str | os.PathLike[str]) -> Path:
    # Through symbolic links, so that a link is kept and the file behind it replaced.
    target = Path(os.path.realpath(path))
    if not os.path.isdir(target.parent):
        raise TargetError(f"cannot write {path}: there is no folder {target.parent}; create it first")
    return target


def _temporary_name(target: Path) -> Path:
    return target.with_name(f".linnet-{secrets.token_hex(6)}.tmp")


@contextmanager
def _reported(path: str | os.PathLike[str], only: frozenset[int] = frozenset()) -> Iterator[None]:
    """Turns what the system says about the target into a TargetError; ``only`` limits it to these errnos."""
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise TargetError(f"cannot write {path}: {error.strerror}; the target is unchanged") from None
