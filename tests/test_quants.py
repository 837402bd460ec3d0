"""The core's block formats: byte for byte those of the ``gguf`` package, and properties of a round trip."""

from __future__ import annotations

import numpy as np
import pytest

from linnet.engine.quants import pack, unpack
from linnet.errors import LinnetError
from linnet.types import TensorType

BLOCKS = [TensorType.Q8_0, TensorType.Q4_0]


def round_trip(type: TensorType, values: np.ndarray) -> np.ndarray:
    return unpack(type, pack(type, values), values.size).reshape(values.shape)


def samples(scale: float) -> np.ndarray:
    """float32 [256][512]: bell-shaped, heavy-tailed, constant, on half steps, lone values."""
    random = np.random.default_rng(7)
    values = random.standard_normal((256, 512)).astype(np.float32)
    values[:64] *= np.exp(random.standard_normal((64, 512)) * 3).astype(np.float32)
    values[64] = 0.75
    values[65] = -0.75
    values[66:130] = random.integers(-16, 17, (64, 512)) / 2.0
    values[66:130, ::32] = random.choice([-8.0, 8.0], (64, 16))
    values[130, np.arange(512) % 32 != 9] = 0.0
    return values * np.float32(scale)


@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-6, 1e-30, 4.0])
@pytest.mark.parametrize("type", [TensorType.F16, TensorType.BF16, *BLOCKS])
def test_bytes_equal_the_reference(type: TensorType, scale: float) -> None:
    gguf = pytest.importorskip("gguf")
    values = samples(scale)
    kind = gguf.GGMLQuantizationType(int(type))
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(values, kind)
    packed = pack(type, values)
    different = np.flatnonzero(packed != expected.view(np.uint8).ravel())
    assert different.size == 0, f"{different.size} bytes differ, the first at {different[0]}"
    reference = gguf.quants.dequantize(expected, kind).astype(np.float32).ravel()
    np.testing.assert_array_equal(
        unpack(type, packed, values.size).view(np.uint32), reference.view(np.uint32)
    )


@pytest.mark.parametrize("type", BLOCKS)
def test_any_block_unpacks_like_the_reference(type: TensorType) -> None:
    gguf = pytest.importorskip("gguf")
    size = {TensorType.Q8_0: 34, TensorType.Q4_0: 18}[type]
    blocks = np.random.default_rng(3).integers(0, 256, (4096, size), dtype=np.uint8)
    blocks[:, 1] &= 0xBF  # a finite scale: an infinite one times zero is a NaN of no defined payload
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(int(type)))
    np.testing.assert_array_equal(unpack(type, blocks.ravel(), 4096 * 32), expected.ravel())


def test_zero_block_is_that_of_ggml() -> None:
    """ggml's C code gives zeros a q4_0 scale of -0 (0 / -8); the gguf package goes by the zeros' own sign."""
    zeros = np.zeros((1, 32), np.float32)
    assert pack(TensorType.Q4_0, zeros).tobytes() == b"\x00\x80" + b"\x88" * 16
    assert pack(TensorType.Q8_0, zeros).tobytes() == bytes(34)


@pytest.mark.parametrize("type", [TensorType.F16, TensorType.BF16])
def test_every_16_bit_number_returns(type: TensorType) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    values = unpack(type, patterns.view(np.uint8), patterns.size)
    again = pack(type, values.reshape(1, -1)).view(np.uint16)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(again[number], patterns[number])


def test_f32_is_kept_as_it_is() -> None:
    values = samples(1.0)
    np.testing.assert_array_equal(round_trip(TensorType.F32, values), values)


@pytest.mark.parametrize("type", BLOCKS)
def test_packing_again_only_rounds_the_scale_again(type: TensorType) -> None:
    """Unpacked values lie on their block's grid already."""
    once = round_trip(type, samples(1.0)).reshape(-1, 32)
    twice = round_trip(type, once)
    assert (np.abs(twice - once) <= np.abs(once).max(axis=1, keepdims=True) * 2.0**-10).all()


@pytest.mark.parametrize(("type", "step"), [(TensorType.Q8_0, 0.5 / 127), (TensorType.Q4_0, 1.0 / 8)])
def test_error_is_within_the_step(type: TensorType, step: float) -> None:
    """Half a step for q8_0; a whole one for q4_0, whose range ends at +7."""
    values = samples(1.0).reshape(-1, 32)
    error = np.abs(round_trip(type, values) - values)
    largest = np.abs(values).max(axis=1, keepdims=True)
    assert (error <= largest * (step * 1.001 + 2.0**-11) + 1e-6).all()


@pytest.mark.parametrize(
    ("type", "value", "words"),
    [
        (TensorType.Q4_0, np.nan, "element 37 is"),
        (TensorType.Q8_0, -np.inf, "element 37 is -inf"),
        (TensorType.Q4_0, 1e9, "finite values up to"),
    ],
)
def test_what_has_no_place_in_a_block_is_refused(type: TensorType, value: float, words: str) -> None:
    values = np.zeros((1, 64), np.float32)
    values[0, 37] = value
    with pytest.raises(LinnetError, match=words) as caught:
        pack(type, values)
    assert "\n" not in str(caught.value)
