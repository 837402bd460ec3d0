"""The shared library of the core: found, loaded once, its errors made ours."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linnet.engine import _bindings
from linnet.errors import ContextFullError, FormatError, LinnetError, UnsupportedError, UsageError

_NAMES = ("liblinnet.so", "liblinnet.dylib", "linnet.dll")

_ERRORS: dict[int, type[LinnetError]] = {
    _bindings.LN_BAD_FILE: FormatError,
    _bindings.LN_UNSUPPORTED: UnsupportedError,
    _bindings.LN_BAD_ARGUMENT: UsageError,
    _bindings.LN_CONTEXT_FULL: ContextFullError,
}


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded core. Raises LinnetError when the package was installed without it or with another one."""
    folder = Path(__file__).parent
    problem = "is missing from this installation"
    for path in (folder / name for name in _NAMES if (folder / name).exists()):
        try:
            return _bindings.load(path)
        except (OSError, AttributeError) as error:
            problem = f"cannot be loaded ({error})"
    raise LinnetError(f"the compiled core {problem}; run: pip install --force-reinstall linnet")


def call(function: str, *arguments: Any) -> None:
    """Calls ``function`` of the core, whose last parameter is the error, and raises what it reports."""
    error = _bindings.ln_error()
    status = getattr(library(), function)(*arguments, ctypes.byref(error))
    if status != _bindings.LN_OK:
        message = error.message.decode("utf-8", "replace") or f"the core failed with status {status}"
        raise _ERRORS.get(status, LinnetError)(message)


def digest(data: bytes | ctypes.Array[ctypes.c_char], before: int = 0) -> int:
    """64 bits that stand for ``data``, after others with the digest ``before``."""
    return int(library().ln_digest(data, len(data), before))


def int32_array(ids: Sequence[int]) -> ctypes.Array[ctypes.c_int32]:
    """Token ids as the core takes them. Raises UsageError for one that is no number, or too large a one."""
    try:
        return (ctypes.c_int32 * len(ids)).from_buffer(array("i", ids))
    except OverflowError:
        raise UsageError("a token id is not in the vocabulary: it does not fit 32 bits") from None
    except TypeError:
        raise UsageError("a token id is not a whole number; tokenize gives those of a text") from None


class Handle:
    """Owns one object of the core, made by ``function(*arguments, out, err)``; closed with this object.

    Can be passed wherever the core wants a pointer to ``kind``. ``uses`` is what the
    object of the core refers to: it stays alive until that is closed, even where the
    garbage collector, which ends cyclic garbage in any order (PEP 442), ends it first.
    """

    def __init__(self, kind: str, function: str, *arguments: Any, uses: object = None) -> None:
        self._uses = uses
        self._n_users = 0  # handles whose objects refer to this one's
        self.ended = False
        self._as_parameter_ = ctypes.POINTER(getattr(_bindings, kind))()
        call(function, *arguments, ctypes.byref(self._as_parameter_))
        self._close = getattr(library(), f"{kind}_close")  # kept: at exit library() may be gone
        if isinstance(uses, Handle):
            uses._n_users += 1

    def __del__(self) -> None:
        if hasattr(self, "_close"):
            self.ended = True
            self._close_unused()

    def _close_unused(self) -> None:
        if not self.ended or self._n_users:
            return
        self._close(self._as_parameter_)
        if isinstance(self._uses, Handle):
            self._uses._n_users -= 1
            self._uses._close_unused()


def describe(kind: str, handle: Handle) -> Any:
    """The ``<kind>_info`` structure of ``handle``."""
    info = getattr(_bindings, f"{kind}_info")()
    getattr(library(), f"{kind}_describe")(handle, ctypes.byref(info))
    return info
