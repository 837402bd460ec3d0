"""Packing floats into block types and back, by the core's own packers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from linnet.engine.library import call
from linnet.types import TensorType


def pack(type: TensorType, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The bytes of ``rows`` stored as ``type``, flat.

    ``rows`` is [r, c] with c a whole number of blocks. Raises UnsupportedError.
    """
    source = np.ascontiguousarray(rows, dtype=np.float32)
    packed = np.empty(rows.shape[0] * type.bytes_for(rows.shape[1]), dtype=np.uint8)
    call("ln_pack", int(type), source.ctypes.data, source.size, packed.ctypes.data)
    return packed


def unpack(type: TensorType, raw: NDArray[np.uint8], n: int) -> NDArray[np.float32]:
    """The ``n`` elements stored in ``raw`` as ``type``, [n]. Raises UnsupportedError."""
    source = np.ascontiguousarray(raw)
    values = np.empty(n, dtype=np.float32)
    call("ln_unpack", int(type), source.ctypes.data, n, values.ctypes.data)
    return values
