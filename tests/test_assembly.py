"""Checkpoint folders run as they are: mapped, or quantized while they are loaded, never held twice."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import linnet
from linnet.engine import _bindings
from linnet.engine.assembly import Assembly
from linnet.engine.library import Handle, call
from linnet.engine.memory import Image
from linnet.errors import FormatError, SourceError, UsageError
from linnet.export.convert import convert
from linnet.formats.arch import llama
from linnet.formats.checkpoint import read_checkpoint, write_checkpoint
from linnet.formats.gguf import read_gguf
from linnet.formats.inputs import mapping_of
from linnet.formats.parts import ModelParts, RawBytes, Tensor
from linnet.formats.source import read_model
from linnet.options import ConvertOptions, QuantizeOptions
from linnet.quantize.quantize import quantize
from linnet.run.model import BUNDLED_MODEL
from linnet.types import TensorType


def random_model(type: TensorType = TensorType.BF16, n_layers: int = 2) -> ModelParts:
    """Random weights under the tokenizer of the bundled model; most matrices are large enough to map."""
    like = read_gguf(BUNDLED_MODEL)
    facts = replace(
        like.facts, dim=256, n_layers=n_layers, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512,
        tied_embeddings=False,
    )  # fmt: skip
    rng = np.random.default_rng(5)

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        values = (rng.standard_normal(shape) / 16).astype(np.float32)
        words = values.view(np.uint32) >> 16
        raw = words.astype(np.uint16) if type is TensorType.BF16 else values.astype(np.float16)
        return Tensor(name, type, shape, lambda: raw.reshape(-1).view(np.uint8))

    tensors = tuple(tensor(name, shape) for name, shape in llama.FAMILY.tensor_shapes(facts))
    return replace(like, facts=facts, tensors=tensors, extra={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folder")
    write_checkpoint(random_model(), path)
    return path


def logits(path: Path, type: str | None = None) -> np.ndarray:
    model = linnet.load(path, type=type, kv_type="f32")
    return model.open_session().eval_all(model.tokenize("Once upon a time"))


def shard(folder: Path, target: Path) -> Path:
    """The same model in two files of weights with an index."""
    target.mkdir()
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    names, weight_map = list(header), {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        body, entries = b"", {}
        for name in chosen:
            begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
            entries[name] = {**header[name], "data_offsets": [len(body), len(body) + end - begin]}
            body += data[begin:end]
            weight_map[name] = f"model-0000{part + 1}-of-00002.safetensors"
        text = json.dumps(entries).encode()
        path = target / f"model-0000{part + 1}-of-00002.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + body)  # tensors at any, even odd, offsets
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return target


# ---- the same model -------------------------------------------------------------------


@pytest.mark.parametrize("type", [TensorType.BF16, TensorType.F16])
def test_a_folder_gives_the_bits_of_the_file_converted_from_it(tmp_path: Path, type: TensorType) -> None:
    write_checkpoint(random_model(type), tmp_path)
    convert(ConvertOptions(source=tmp_path, output=tmp_path / "m.gguf", json=True))
    assert np.array_equal(logits(tmp_path), logits(tmp_path / "m.gguf"))


@pytest.mark.parametrize("type", ["q8_0", "q4_0", "q4_k", "q6_k", "f16"])
def test_quantized_at_load_is_what_quantize_writes(folder: Path, tmp_path: Path, type: str) -> None:
    quantize(QuantizeOptions(source=folder, output=tmp_path / "m.gguf", type=type, json=True))
    assert np.array_equal(logits(folder, type), logits(tmp_path / "m.gguf"))


def test_a_gguf_file_is_quantized_at_load_too(folder: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(source=folder, output=tmp_path / "m.gguf", json=True))
    assert np.array_equal(logits(folder, "q4_0"), logits(tmp_path / "m.gguf", "q4_0"))


def test_float_matrices_are_mapped_where_they_need_no_other_order(folder: Path) -> None:
    parts = read_checkpoint(folder)
    mapped = {tensor.name for tensor in parts.tensors if mapping_of(tensor.load()) is not None}
    reordered = {f"blk.{i}.attn_{which}.weight" for i in range(2) for which in "qk"}
    assert {tensor.name for tensor in parts.tensors} - mapped == reordered
    computed = {place.tensor.name for place in Assembly(parts)._computed}
    assert computed == {name for name in reordered if "_q." in name}  # those of keys are small


def test_shards_and_single_files_of_weights(folder: Path, tmp_path: Path) -> None:
    sharded = shard(folder, tmp_path / "sharded")
    expected = logits(folder)
    for path in (sharded, sharded / "model-00002-of-00002.safetensors", folder / "model.safetensors"):
        assert np.array_equal(logits(path), expected)
    assert np.array_equal(logits(sharded, "q4_0"), logits(folder, "q4_0"))


def test_a_snapshot_of_the_hub_is_a_folder_of_links(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "models--org--name" / "snapshots" / "c0ffee"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blobs / str(number))
    assert np.array_equal(logits(snapshot), logits(folder))
    config = snapshot / "config.json"
    text = json.loads(config.read_text())
    text.pop("_name_or_path", None)
    config.unlink()
    config.write_text(json.dumps(text))
    assert read_model(snapshot).name == "org/name"


# ---- what is wrong ----------------------------------------------------------------------


def test_a_missing_shard_is_one_line_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    sharded = shard(folder, tmp_path / "sharded")
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceError, match=r"lacks model-00002-of-00002\.safetensors"):
        linnet.load(sharded)


def test_weights_that_are_no_numbers_cannot_be_quantized(tmp_path: Path) -> None:
    parts = random_model()
    broken = np.full(parts.tensors[0].n_elements, 0x7FC0, np.uint16).view(np.uint8)
    tensors = (replace(parts.tensors[0], load=lambda: broken), *parts.tensors[1:])
    write_checkpoint(replace(parts, tensors=tensors), tmp_path)
    with pytest.raises(FormatError, match=r"token_embd\.weight' holds values that are not finite"):
        linnet.load(tmp_path, type="q4_0")


def test_an_unknown_type_names_those_there_are(folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot be stored as 'q9'; choose from f16, bf16, q8_0"):
        linnet.load(folder, type="q9")


def test_a_file_that_shrank_is_noticed(folder: Path, tmp_path: Path) -> None:
    write_checkpoint(random_model(), tmp_path)
    parts = read_checkpoint(tmp_path)
    (tmp_path / "short").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-8])
    (tmp_path / "short").rename(tmp_path / "model.safetensors")
    with pytest.raises(SourceError, match="changed while it was read"):
        Assembly(parts)


def test_the_core_is_told_of_no_more_than_there_is() -> None:
    image = Image.open(BUNDLED_MODEL)
    model = Handle("ln_model", "ln_model_open", image.address, image.size, uses=image)
    step = _bindings.ln_load_step(available=image.size + 1)
    with pytest.raises(UsageError, match="more available than there is"):
        call("ln_model_load", model, 1, ctypes.byref(step))
    step = _bindings.ln_load_step(available=1)
    call("ln_model_load", model, 1, ctypes.byref(step))
    assert step.bytes == 0
    assert step.bytes_left > 0


# ---- memory -----------------------------------------------------------------------------

PEAK = """
import sys
import linnet
from linnet.run.meter import peak_rss_bytes
path, type = sys.argv[1:]
model = linnet.load(path, type=type or None, n_ctx=64, threads=1)
model.generate("Once", max_tokens=2)
print(peak_rss_bytes(), model.model.weight_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process as Linux tells it")
@pytest.mark.parametrize("type", ["", "q4_0"])
def test_peak_memory_is_the_model_in_its_type_and_little_more(tmp_path: Path, type: str) -> None:
    parts = random_model(n_layers=1)
    facts = replace(parts.facts, ffn_dim=32768)  # 50 MB of bf16 in the three large matrices

    def zeros(shape: tuple[int, ...]) -> RawBytes:
        return np.zeros(2 * int(np.prod(shape)), np.uint8)

    tensors = tuple(
        Tensor(name, TensorType.BF16, shape, lambda shape=shape: zeros(shape))  # type: ignore[misc]
        for name, shape in llama.FAMILY.tensor_shapes(facts)
    )
    write_checkpoint(replace(parts, facts=facts, tensors=tensors), tmp_path)
    little = tmp_path / "little"
    little.mkdir()
    write_checkpoint(parts, little)
    peaks, sizes = [], []
    for path in (little, tmp_path):
        command = [sys.executable, "-P", "-c", PEAK, str(path), type]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, size = map(int, done.stdout.split())
        peaks.append(peak)
        sizes.append(size)
    assert peaks[1] - peaks[0] < sizes[1] - sizes[0] + (10 << 20)  # tokens in flight, and rows being packed
