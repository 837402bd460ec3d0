"""What a process that was killed left beside its output: temporaries, which go, and what it had set aside,
which comes back.

Their names hold the process and the machine, so nothing of one that runs is touched. What is set aside, so
that something new can take its place, lies in a folder under its own name.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

TEMPORARY, ASIDE = ".tmp", ".aside"
# process, host, random digits, kind
_NAME = re.compile(r"\.linnet-(\d{1,9})-([0-9a-f]{8})[0-9a-f]{8}(\.\w+)")


def leftover_name(target: Path, kind: str) -> Path:
    """A new name beside ``target`` for what others may clear away when this process is gone."""
    return target.with_name(f".linnet-{os.getpid()}-{_host()}{os.urandom(4).hex()}{kind}")


def is_abandoned(name: str, kind: str = TEMPORARY) -> bool:
    """Is this a leftover of that kind, of a process that no longer runs?"""
    match = _NAME.fullmatch(name)
    if match is None or match[3] != kind or match[2] != _host() or os.name == "nt":
        return False  # on Windows os.kill would end the process
    try:
        os.kill(int(match[1]), 0)  # only asks
    except ProcessLookupError:
        return True
    except OSError:  # it runs and belongs to somebody else
        return False
    return False


def sweep(folder: Path) -> None:
    """Clears a folder of what killed processes left in it."""
    restore(folder)
    for path in _abandoned(folder, TEMPORARY):
        with suppress(OSError):
            remove(path)


def restore(folder: Path) -> None:
    """Brings back what killed processes had set aside in a folder."""
    for path in _abandoned(folder, ASIDE):
        with suppress(OSError), alone_in(folder):
            bring_back(path)


def bring_back(aside: Path) -> None:
    """What was set aside returns to its place, or goes where there is something new. Raises OSError."""
    for name in os.listdir(aside):
        if not os.path.lexists(aside.parent / name):
            os.rename(aside / name, aside.parent / name)
    remove(aside)


def remove(path: Path) -> None:
    """Removes a file, a folder or, of a link, only the link. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else sets anything aside in a folder, or brings it back, where its file system has locks."""
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            import fcntl  # not on Windows, where nothing is swept

            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _abandoned(folder: Path, kind: str) -> list[Path]:
    with suppress(OSError):
        return [folder / name for name in os.listdir(folder) if is_abandoned(name, kind)]
    return []


@cache
def _host() -> str:
    """8 hexadecimal digits for the machine and container: process numbers mean nothing outside of it."""
    import platform

    place = platform.node()
    with suppress(OSError):
        place += os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(place.encode('utf-8', 'surrogateescape')):08x}"
