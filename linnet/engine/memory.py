"""The bytes of a model as the core wants them: one GGUF image that stays in memory."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from linnet.errors import FormatError, SourceError
from linnet.formats.inputs import check_regular

if TYPE_CHECKING:
    from linnet.formats.parts import ModelParts


class Image:
    """A GGUF image in memory: a mapped file, or one built from a checkpoint folder.

    ``address`` and ``size`` (bytes) stay valid as long as this object lives.
    """

    def __init__(self, pages: mmap.mmap) -> None:
        self._pages = pages  # a private mapping: writable in name, so that ctypes can take its address
        self.size = len(pages)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(pages))

    @classmethod
    def open(cls, path: Path) -> Image:
        """Maps a GGUF file, or builds the image of a checkpoint folder.

        Raises SourceError when ``path`` cannot be read and FormatError when it is
        damaged or neither of the two.
        """
        if path.is_dir():
            from linnet.formats.checkpoint import read_checkpoint  # numpy: not needed for a GGUF file

            return cls.of_parts(read_checkpoint(path))
        check_regular(path)
        if not path.stat().st_size:
            raise FormatError(f"{path} is empty; download or convert it again")
        try:
            with path.open("rb") as file:
                return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from None

    def forget(self, offset: int, size: int) -> None:
        """Gives the memory of ``size`` bytes from ``offset`` back; whoever reads them again gets the file's
        bytes, or zeros where the image was not a file."""
        first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (offset + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(self._pages, "madvise"):  # not on Windows
            self._pages.madvise(mmap.MADV_DONTNEED, first, last - first)

    @classmethod
    def of_parts(cls, parts: ModelParts) -> Image:
        """Builds the image of a model that was taken apart."""
        from linnet.formats.gguf import gguf_size, write_gguf

        pages = mmap.mmap(-1, gguf_size(parts))
        write_gguf(parts, pages)
        return cls(pages)
