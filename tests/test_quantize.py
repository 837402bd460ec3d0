"""``linnet quantize``: the types chosen, the error they cost, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linnet import cli
from linnet.engine.quants import pack, unpack
from linnet.engine.repack import float_rows, repacked, with_types
from linnet.errors import FormatError, SourceError, UnsupportedError, UsageError
from linnet.export.convert import convert
from linnet.formats.gguf import as_written, open_gguf, read_gguf
from linnet.formats.parts import Tensor
from linnet.options import ConvertOptions, QuantizeOptions
from linnet.quantize.quantize import quantize, type_choice
from linnet.types import TensorType
from tests.tiny_families import FAMILIES, write_family


@pytest.fixture(scope="module")
def stories(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = shared / "weights" / "stories3M"
    output = tmp_path_factory.mktemp("stories") / "f32.gguf"
    convert(
        ConvertOptions(
            source=source / "stories3M_q80_g64.bin",
            output=output,
            tokenizer=source / "tok4096.bin",
            json=True,
        )
    )
    return output


def run(source: Path, output: Path, type: str) -> dict[str, object]:
    return quantize(QuantizeOptions(source=source, output=output, type=type, json=True))


def tensor_of(values: np.ndarray, name: str = "t") -> Tensor:
    return Tensor(name, TensorType.F32, values.shape, lambda: values.reshape(-1).view(np.uint8))


# ---- types ------------------------------------------------------------------------


@pytest.mark.parametrize("type", list(TensorType))
def test_repacking_is_what_the_core_packs(type: TensorType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a tensor is converted a few rows at a time."""
    values = np.random.default_rng(0).standard_normal((37, 256), dtype=np.float32)
    monkeypatch.setattr("linnet.engine.repack._CHUNK", 256 * 5)
    packed = repacked(tensor_of(values), type)
    assert packed.type is type
    assert packed.load().tobytes() == pack(type, values).tobytes()
    rows = np.concatenate([rows for _, rows in float_rows(packed)])
    assert np.array_equal(rows.reshape(-1), unpack(type, packed.load(), values.size))


def test_vectors_stay_and_odd_rows_fall_back(stories: Path) -> None:
    parts = read_gguf(stories)
    target, fallbacks = with_types(parts, lambda tensor: TensorType.Q4_0)
    assert fallbacks == []
    assert all((t.type is TensorType.F32) == (len(t.shape) == 1) for t in target.tensors)


@pytest.mark.parametrize("name", ["lfm2", "stablelm_parallel"])
def test_taps_and_norms_of_heads_stay_plain(name: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    parts = read_gguf(write_family(FAMILIES[name], tmp_path / "model.gguf"))
    plain = {t.name for t in parts.tensors if len(t.shape) == 2 and not t.is_matrix}
    assert {name.split(".")[2] for name in plain} in ({"shortconv"}, {"attn_q_norm", "attn_k_norm"})
    for type in (TensorType.Q4_0, TensorType.F16):
        small, _ = with_types(parts, lambda tensor, type=type: type)
        types = {tensor.name: tensor.type for tensor in small.tensors}
        assert {types[name] for name in plain} == {TensorType.F32}
        assert type in types.values()
    taps = next(tensor for tensor in parts.tensors if tensor.name in plain)
    assert as_written(repacked(taps, TensorType.F16)).type is TensorType.F32
    packed = replace(taps, type=TensorType.Q8_0, shape=(2, 32), load=lambda: np.zeros(68, np.uint8))
    (plain_again,) = with_types(replace(parts, tensors=(packed,)), lambda tensor: TensorType.Q8_0)[0].tensors
    assert plain_again.type is TensorType.F32
    assert len(plain_again.load()) == 4 * 64


@pytest.mark.parametrize(
    ("wanted", "columns", "taken"),
    [("q4_k", 512, "q4_k"), ("q4_k", 576, "q4_1"), ("q5_k", 576, "q5_1"), ("q6_k", 960, "q8_0")]
    + [("iq4_xs", 64, "iq4_nl"), ("q3_k", 64, "q4_0"), ("q2_k", 64, "q4_0"), ("q4_k", 48, "f16")]
    + [("mxfp4", 48, "f16"), ("tq2_0", 512, "tq2_0")],
)
def test_rows_that_are_no_whole_blocks(stories: Path, wanted: str, columns: int, taken: str) -> None:
    tensor = tensor_of(np.ones((3, columns), np.float32), "blk.0.ffn_up.weight")
    model = replace(read_gguf(stories), tensors=(tensor,))
    target, fallbacks = with_types(model, type_choice(model, TensorType.parse(wanted)))
    assert [tensor.type.label for tensor in target.tensors] == [taken]
    assert [(f.tensor, f.type) for f in fallbacks] == [(tensor.name, taken)] * (wanted != taken)
    assert len(target.tensors[0].load()) == TensorType.parse(taken).bytes_for(3 * columns)


def test_ternary_types_do_not_fall_back(stories: Path) -> None:
    model = replace(read_gguf(stories), tensors=(tensor_of(np.ones((3, 576), np.float32), "w"),))
    with pytest.raises(UnsupportedError, match="'w' has 576 columns, and tq1_0 stores whole blocks of 256"):
        with_types(model, lambda tensor: TensorType.TQ1_0)


@pytest.mark.parametrize(
    ("wanted", "output", "values"),
    [("q5_0", "q5_0", "q5_0"), ("q4_1", "q8_0", "q8_0"), ("mxfp4", "q8_0", "q8_0")]
    + [("q5_k", "q5_k", "q5_k"), ("q4_k", "q6_k", "q6_k"), ("tq1_0", "q6_k", "tq1_0")],
)
def test_sensitive_matrices_keep_more_bits(stories: Path, wanted: str, output: str, values: str) -> None:
    choose = type_choice(read_gguf(stories), TensorType.parse(wanted))
    matrix = np.ones((1, 256), np.float32)
    assert choose(tensor_of(matrix, "token_embd.weight")).label == output
    assert choose(tensor_of(matrix, "blk.1.attn_v.weight")).label == values
    assert choose(tensor_of(matrix, "blk.1.attn_k.weight")).label == wanted


def test_types_of_q8_0_and_q4_0(stories: Path, tmp_path: Path) -> None:
    sizes = {}
    kl = {}
    for type in ("f16", "q8_0", "q4_0"):
        output = tmp_path / f"{type}.gguf"
        about = run(stories, output, type)
        sizes[type] = output.stat().st_size
        assert about["bytes"] == sizes[type]
        kl[type] = about["verification"]["kl_divergence"]  # type: ignore[index]
    assert sizes["f16"] > sizes["q8_0"] > sizes["q4_0"]
    assert 0 <= kl["f16"] < kl["q8_0"] < 0.01 < kl["q4_0"] < 0.5
    types = {tensor.name: tensor.type_name for tensor in open_gguf(tmp_path / "q4_0.gguf").tensors}
    assert types["token_embd.weight"] == "q8_0"  # it makes the logits as well
    assert types["blk.0.attn_v.weight"] == "q8_0"
    assert types["blk.0.attn_q.weight"] == types["blk.5.attn_output.weight"] == "q4_0"
    assert types["output_norm.weight"] == "f32"


def test_a_checkpoint_is_quantised_as_its_gguf_is(stories: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    convert(ConvertOptions(source=stories, output=folder, json=True))
    run(stories, tmp_path / "a.gguf", "q8_0")
    run(folder, tmp_path / "b.gguf", "q8_0")
    a, b = read_gguf(tmp_path / "a.gguf"), read_gguf(tmp_path / "b.gguf")
    for x, y in zip(a.tensors, b.tensors, strict=True):
        assert x.load().tobytes() == y.load().tobytes()


# ---- refusals ---------------------------------------------------------------------


def test_refusals(stories: Path, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.gguf"):
        run(stories, tmp_path / "out", "q8_0")
    for type in ("q5_9", "f32"):
        with pytest.raises(UsageError, match=f"'{type}'; choose from f16, bf16, q8_0, q6_k"):
            run(stories, tmp_path / "out.gguf", type)
    with pytest.raises(SourceError, match="linnet convert"):
        run(shared / "weights" / "stories260K" / "stories260K.bin", tmp_path / "out.gguf", "q8_0")
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("type", ["q8_0", "q4_0"])
def test_a_damaged_scale_is_found_in_a_source_of_the_same_type(
    stories: Path, tmp_path: Path, type: str
) -> None:
    whole = tmp_path / "whole.gguf"
    run(stories, whole, type)
    data = bytearray(whole.read_bytes())
    block = bytes(next(t for t in open_gguf(whole).tensors if t.name == "blk.1.ffn_up.weight").raw[:18])
    data[data.index(block) : data.index(block) + 2] = np.float16(np.inf).tobytes()
    whole.write_bytes(data)
    message = r"the tensor 'blk\.1\.ffn_up\.weight' holds values that are not finite; the file is damaged"
    with pytest.raises(FormatError, match=message):
        run(whole, tmp_path / "out.gguf", type)
    assert os.listdir(tmp_path) == ["whole.gguf"]


@pytest.mark.parametrize("length", [0, 3, 24, 5000, 1_000_000])
def test_truncated_sources(
    stories: Path, tmp_path: Path, length: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "short.gguf"
    source.write_bytes(stories.read_bytes()[:length])
    assert cli.main(["quantize", str(source), "-o", str(tmp_path / "out.gguf")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("linnet quantize: ")
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == ["short.gguf"]
