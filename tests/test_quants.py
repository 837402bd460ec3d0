"""The core's block formats: values and bytes of the ``gguf`` package, and what packing loses."""

from __future__ import annotations

import numpy as np
import pytest

from linnet.engine.quants import pack, unpack
from linnet.errors import LinnetError
from linnet.types import TensorType

BLOCKS = [type for type in TensorType if type.block_elements > 1]
SEARCHED = [  # no fixed recipe: the packer looks for scales, and the gguf package has none
    TensorType.Q2_K, TensorType.Q3_K, TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K,
    TensorType.IQ4_NL, TensorType.IQ4_XS,
]  # fmt: skip
SAME_BYTES = [TensorType.F16, TensorType.BF16, *(type for type in BLOCKS if type not in SEARCHED)]

# Root mean square error of packing, over that of the values: of bell-shaped and of heavy-tailed ones
# (Student's t, 3 degrees of freedom). These are the errors of ggml's quantizer without importances.
RELATIVE_ERROR = {
    TensorType.Q8_0: (0.0054, 0.0085), TensorType.Q6_K: (0.0177, 0.0253), TensorType.Q5_1: (0.0379, 0.0485),
    TensorType.Q5_K: (0.0361, 0.0471), TensorType.Q5_0: (0.0428, 0.0666), TensorType.Q4_1: (0.0781, 0.1010),
    TensorType.Q4_K: (0.0711, 0.0934), TensorType.IQ4_NL: (0.0758, 0.1023),
    TensorType.IQ4_XS: (0.0764, 0.1034), TensorType.Q4_0: (0.0859, 0.1295), TensorType.Q3_K: (0.1508, 0.1912),
    TensorType.Q2_K: (0.2968, 0.3553), TensorType.MXFP4: (0.1140, 0.1420),
    TensorType.TQ2_0: (0.81, 0.81), TensorType.TQ1_0: (0.81, 0.81),
}  # fmt: skip


F16_PLACES = {  # where the f16 numbers of a block begin
    TensorType.Q4_0: (0,), TensorType.Q4_1: (0, 2), TensorType.Q5_0: (0,), TensorType.Q5_1: (0, 2),
    TensorType.Q8_0: (0,), TensorType.Q2_K: (80, 82), TensorType.Q3_K: (108,), TensorType.Q4_K: (0, 2),
    TensorType.Q5_K: (0, 2), TensorType.Q6_K: (208,), TensorType.IQ4_NL: (0,), TensorType.IQ4_XS: (0,),
    TensorType.TQ1_0: (52,), TensorType.TQ2_0: (64,),
}  # fmt: skip


IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
GRIDS = {  # multiples of a group's scale; those with a minimum are shifted by it
    TensorType.Q2_K: (-1, 3), TensorType.Q3_K: (-4, 4), TensorType.Q4_K: (-5, 11), TensorType.Q5_K: (-9, 23),
    TensorType.Q6_K: (-32, 32),
}  # fmt: skip


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
@pytest.mark.parametrize("type", SAME_BYTES)
def test_bytes_equal_the_reference(type: TensorType, scale: float) -> None:
    gguf = pytest.importorskip("gguf")
    values = samples(scale).clip(-60000, 60000)  # what an f16 minimum can hold
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


@pytest.mark.parametrize("sane", [True, False])
@pytest.mark.parametrize("type", BLOCKS)
def test_any_block_unpacks_like_the_reference(type: TensorType, sane: bool) -> None:
    """Bit by bit, for random bytes; with scales of a usual size, and as they come."""
    gguf = pytest.importorskip("gguf")
    random = np.random.default_rng(3)
    blocks = random.integers(0, 256, (2048, type.block_bytes), dtype=np.uint8)
    if sane and type is TensorType.MXFP4:
        blocks[:, 0] = random.integers(100, 150, 2048)
    elif sane:
        for place in F16_PLACES[type]:
            scales = (random.standard_normal(2048) * 0.01).astype("<f2")
            blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(int(type))).ravel()
    found = unpack(type, blocks.ravel(), expected.size)
    number = ~np.isnan(expected)  # what a NaN carries along is not defined
    np.testing.assert_array_equal(found[number].view(np.uint32), expected[number].view(np.uint32))
    assert np.isnan(found[~number]).all()
    assert np.isfinite(found).all() or not sane


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


@pytest.mark.parametrize("type", [TensorType.Q8_0, TensorType.Q4_0, TensorType.TQ1_0, TensorType.TQ2_0])
def test_packing_again_only_rounds_the_scale_again(type: TensorType) -> None:
    """Unpacked values lie on their block's grid already."""
    once = round_trip(type, samples(1.0)).reshape(-1, type.block_elements)
    twice = round_trip(type, once)
    assert (np.abs(twice - once) <= np.abs(once).max(axis=1, keepdims=True) * 2.0**-10).all()


@pytest.mark.parametrize("scale", [1.0, 0.02, 3e-4])
@pytest.mark.parametrize("type", BLOCKS)
def test_error_of_packing(type: TensorType, scale: float) -> None:
    random = np.random.default_rng(11)
    kinds = (random.standard_normal((64, 1024)), random.standard_t(3, (64, 1024)))
    for values, bound in zip(kinds, RELATIVE_ERROR[type], strict=True):
        values = (values * scale).astype(np.float32)
        error = np.sqrt(np.mean((round_trip(type, values) - values) ** 2.0) / np.mean(values**2.0))
        # Recipes may lose more where the sample is unlucky, or a small f16 scale has few bits.
        assert bound * 0.5 < error < bound * (1.0 if type in SEARCHED else 1.2)


@pytest.mark.parametrize("type", SEARCHED)
def test_grids_are_found_again(type: TensorType) -> None:
    """Values that lie on a grid of the type come back, whatever its scale."""
    random = np.random.default_rng(5)
    step = random.uniform(0.01, 1.0, (256, 1)).astype(np.float32)
    levels = IQ4_LEVELS if "IQ4" in type.name else np.arange(*GRIDS[type])
    chosen = random.choice(levels, (256, 256))
    chosen[:, ::16] = levels[0]  # every group reaches both ends
    chosen[:, 1::16] = levels[-1]
    values = (step * chosen).astype(np.float32)
    error = np.abs(round_trip(type, values) - values)
    assert (error <= np.abs(values).max(axis=1, keepdims=True) * 0.012).all()


@pytest.mark.parametrize(
    ("type", "value", "words"),
    [
        (TensorType.Q4_0, np.nan, "element 37 is"),
        (TensorType.Q8_0, -np.inf, "element 37 is -inf"),
        (TensorType.Q4_0, 1e9, "finite values up to"),
        (TensorType.Q6_K, np.nan, "element 37 is"),
        (TensorType.MXFP4, np.inf, "element 37 is inf"),
        (TensorType.Q5_1, 65505.0, "finite values up to"),
    ],
)
def test_what_has_no_place_in_a_block_is_refused(type: TensorType, value: float, words: str) -> None:
    values = np.zeros((1, 256), np.float32)
    values[0, 37] = value
    with pytest.raises(LinnetError, match=words) as caught:
        pack(type, values)
    assert "\n" not in str(caught.value)
