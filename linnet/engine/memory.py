"""The bytes of a model as the core wants them: one GGUF image that stays in memory."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from linnet.errors import FormatError, SourceError
from linnet.formats.inputs import check_regular, is_checkpoint
from linnet.formats.store import locate

if TYPE_CHECKING:
    from linnet.engine.assembly import Assembly
    from linnet.formats.parts import ModelParts


def _read_parts(path: Path, type: str | None) -> ModelParts:
    from linnet.engine.precision import parse_type, type_choice  # numpy: not needed for a GGUF file
    from linnet.engine.repack import with_types
    from linnet.formats.source import read_model

    if type is None:
        return read_model(path)
    wanted = parse_type(type)
    parts = read_model(path)
    return with_types(parts, type_choice(parts, wanted))[0]


class Image:
    """A GGUF image in memory: a mapped file, or one built from a checkpoint folder.

    ``address`` and ``size`` (bytes) stay valid as long as this object lives.
    """

    def __init__(self, pages: mmap.mmap, assembly: Assembly | None = None) -> None:
        self._pages = pages  # a private mapping: writable in name, so that ctypes can take its address
        self._assembly = assembly
        self._header_bytes = assembly.header_bytes if assembly is not None else 0
        self.size = len(pages)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(pages))

    @classmethod
    def open(cls, path: Path, type: str | None = None) -> Image:
        """Maps a GGUF file, or builds the image of a checkpoint folder; ``path`` may be a name of the store.

        ``type`` is how to store its weights instead, as ``linnet quantize`` would. Raises SourceError
        when ``path`` cannot be read and FormatError when it is damaged or neither of the two.
        """
        path = locate(path)
        if type is not None or is_checkpoint(path):
            return cls.of_parts(_read_parts(path, type))
        check_regular(path)
        if not path.stat().st_size:
            raise FormatError(f"{path} is empty; download or convert it again")
        try:
            with path.open("rb") as file:
                return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from None

    def fill(self) -> Iterator[int]:
        """Completes the image while it is used; yields how many bytes from its beginning are there."""
        if self._assembly is None:
            yield self.size
            return
        yield from self._assembly.fill()
        self._assembly = None  # and with it the files it was made of

    def forget(self, offset: int, size: int) -> None:
        """Gives the memory of ``size`` bytes from ``offset`` back; whoever reads them again gets the file's
        bytes, or zeros where the image was not a file."""
        first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (offset + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(self._pages, "madvise"):  # not on Windows
            self._pages.madvise(mmap.MADV_DONTNEED, first, last - first)

    def forget_header(self) -> None:
        """Gives the memory of a header that was made up back; the image is good for no other model then."""
        self.forget(0, self._header_bytes)

    @classmethod
    def of_parts(cls, parts: ModelParts) -> Image:
        """The image of a model that was taken apart; :meth:`fill` completes it."""
        from linnet.engine.assembly import Assembly

        assembly = Assembly(parts)
        return cls(assembly.pages, assembly)
