"""Weights of three values, -d, 0 and d, as checkpoints of BitNet hold them.

``quantization_config`` says how (Ma et al. 2025; BitNetQuantConfig in transformers). ``offline``: four
rows of a matrix share a row of bytes, two bits each, and ``weight_scale`` lies beside it. ``online``:
weights are plain, and rounded to the three values whenever they are used. Both become ``tq2_0``, which
takes no more bits than the packed ones, or f32 where rows are no whole number of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from linnet.display import shown
from linnet.errors import FormatError, UnsupportedError
from linnet.formats.arch.layouts import floats
from linnet.formats.arch.values import Table, choice, listed, nested, refuse
from linnet.formats.parts import RawBytes, Tensor
from linnet.types import TensorType

SCALE = "_scale"  # what follows the name of a packed tensor in that of its scale
_PER_BYTE = 4
_CHUNK = 1 << 20  # weights converted at a time
_SHARED = (-1, 2, 4, 32)  # of a block of tq2_0: elements m, m + 32, m + 64 and m + 96 of a half share a byte
_SMALLEST, _LARGEST = 6.2e-5, 65504.0  # of the normal numbers of f16, which tq2_0 has for d
_LEAST_MEAN = 1e-5

_Number = TypeVar("_Number", np.uint8, np.float32)
Codes = Iterator[NDArray[np.uint8]]  # some rows of a matrix at a time, values plus one


@dataclass(frozen=True)
class Ternary:
    """How a checkpoint holds them. ``divides``: the values are divided by the scale beside them."""

    online: bool
    divides: bool
    plain_modules: tuple[str, ...]  # ends of the names of modules that stay as they are

    def rounds(self, tensor: Tensor) -> bool:
        """Is a plain tensor of the checkpoint rounded when it is used? Linear maps of the layers are."""
        module = tensor.name.removesuffix(".weight")
        is_linear = len(tensor.shape) == 2 and ".layers." in tensor.name and module != tensor.name
        return self.online and is_linear and not module.endswith(self.plain_modules)

    def unpacked(self, name: str, shape: tuple[int, ...], packed: RawBytes, scale: float) -> Tensor:
        """The tensor of ``shape`` in ``packed`` bytes, flat. Raises FormatError for an impossible scale."""
        if not (np.isfinite(scale) and scale > 0):
            raise FormatError(f"'{name}{SCALE}' is {scale:g}, which cannot be a scale")
        d = 1 / scale if self.divides else scale
        rows = packed.reshape(-1, shape[1])

        def codes() -> Codes:
            for part in range(_PER_BYTE):
                for piece in _in_chunks(rows[: max(0, shape[0] - part * len(rows))]):
                    found = (piece >> np.uint8(2 * part)) & np.uint8(3)
                    if found.max(initial=0) > 2:
                        raise FormatError(f"the tensor '{name}' holds a value that is none of three")
                    yield found

        fits = shape[1] % TensorType.TQ2_0.block_elements == 0 and _SMALLEST <= d <= _LARGEST
        return _tensor(name, TensorType.TQ2_0 if fits else TensorType.F32, shape, lambda: (d, codes()))

    def rounded(self, tensor: Tensor) -> Tensor:
        """The values of a plain tensor rounded to three, d being the mean of their sizes."""

        def made() -> tuple[float, Codes]:
            values = floats(tensor).reshape(tensor.shape)
            d = np.float32(max(float(np.abs(values).mean(dtype=np.float64)), _LEAST_MEAN))
            if not np.isfinite(d):
                raise FormatError(f"the tensor '{tensor.name}' holds values that are not finite")
            return float(d), (_codes_of(rows, d) for rows in _in_chunks(values))

        fits = tensor.n_columns % TensorType.TQ2_0.block_elements == 0
        return _tensor(tensor.name, TensorType.TQ2_0 if fits else TensorType.F32, tensor.shape, made)


def read_ternary(config: Table) -> Ternary | None:
    """What ``config.json`` says of them; None for plain weights. Raises UnsupportedError, FormatError."""
    table = nested(config, "quantization_config")
    if not table:
        return None
    if table.get("quant_method") != "bitnet":
        method = shown(table.get("quant_method"))
        raise UnsupportedError(
            f"config.json has a quantization_config, of {method}; convert the original checkpoint instead"
        )
    refuse(table, {"use_rms_norm": (False,)})
    modules = listed(table, "modules_to_not_convert") or []
    if not all(isinstance(module, str) and module for module in modules):
        raise FormatError("'modules_to_not_convert' is not a list of names")
    divides = choice(table, "linear_class", "bitlinear", {"bitlinear": "/", "autobitlinear": "*"}) == "/"
    mode = choice(table, "quantization_mode", "offline", {"online": "online", "offline": "offline"})
    return Ternary(mode == "online" and not divides, divides, tuple(modules))


def _in_chunks(rows: NDArray[_Number]) -> Iterator[NDArray[_Number]]:
    step = max(1, _CHUNK // rows.shape[1])
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _codes_of(rows: NDArray[np.float32], d: np.float32) -> NDArray[np.uint8]:
    return np.clip(np.round(rows / d) + 1, 0, 2).astype(np.uint8)


def _tensor(
    name: str, type: TensorType, shape: tuple[int, ...], made: Callable[[], tuple[float, Codes]]
) -> Tensor:
    pack = _as_tq2_0 if type is TensorType.TQ2_0 else _as_f32

    def stream() -> Iterator[RawBytes]:
        d, codes = made()
        return (pack(rows, d) for rows in codes)

    tensor = Tensor(name, type, shape, lambda: np.concatenate(list(stream())))
    return replace(tensor, stream=stream)


def _as_f32(codes: NDArray[np.uint8], d: float) -> RawBytes:
    return ((codes.astype(np.float32) - 1) * np.float32(d)).reshape(-1).view(np.uint8)


def _as_tq2_0(codes: NDArray[np.uint8], d: float) -> RawBytes:
    """Blocks of 64 bytes of codes, and d in f16."""
    shared = codes.reshape(_SHARED)
    packed = np.bitwise_or.reduce(shared << np.array([[0], [2], [4], [6]], np.uint8), axis=2)
    blocks = np.empty((len(packed), TensorType.TQ2_0.block_bytes), np.uint8)
    blocks[:, :-2] = packed.reshape(len(packed), -1)
    blocks[:, -2:] = np.array([d], "<f2").view(np.uint8)
    return blocks.reshape(-1)
