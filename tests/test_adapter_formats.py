"""Adapters of every kind of matrix, from PEFT folders and GGUF files, against weights merged by hand.

And files that are damaged or made to do harm.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_families import FAMILIES, GPT2, HEADS, VOCAB, write_family

import linnet
from linnet.cli import main
from linnet.engine.adapter import Adapter
from linnet.engine.model import Model
from linnet.engine.session import Session, Workspace
from linnet.errors import LinnetError, SourceError, UsageError
from linnet.formats.adapter import (
    CONFIG,
    WEIGHTS,
    AdapterParts,
    LowRank,
    plain_tensor,
    read_adapter,
    write_adapter,
)
from linnet.formats.checkpoint import write_checkpoint
from linnet.formats.gguf import read_gguf, write_gguf
from linnet.types import TensorType

gguf = pytest.importorskip("gguf", reason="it writes the models; pip install 'linnet[test]'")

IDS = [int(i) for i in np.random.default_rng(7).integers(3, VOCAB, 40)]
SCALE, RANK = 0.5, 3
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def logits(path: Path, adapter: Path | None = None) -> np.ndarray:
    model = Model.open(path)
    adapters = ((Adapter(model, adapter), 1.0),) if adapter else ()
    workspace = Workspace(model, n_threads=1, kv_type=TensorType.F32)
    return Session(workspace, adapters=adapters).eval_all(IDS)


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, np.abs(expected).max()), rtol=0)


def random_pair(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, cols = shape
    a = rng.standard_normal((RANK, cols)).astype(np.float32) / cols**0.5
    return a, rng.standard_normal((rows, RANK)).astype(np.float32)


def write_lora(
    path: Path, pairs: Pairs, *, alpha: Any = SCALE * RANK, arch: str = "llama", **more: Any
) -> Path:
    """A GGUF adapter by the gguf package; ``more`` replaces or adds metadata, with _ for a dot."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {"general.type": "adapter", "adapter.type": "lora", **more}.items():
        if value is not None:
            adders = {list: writer.add_array, int: writer.add_uint32, str: writer.add_string}
            adders[type(value)](key, value)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def changed_matrices(model: Path) -> Pairs:
    """A pair for each matrix of attention and feed-forward of the layers."""
    rng = np.random.default_rng(1)
    return {
        tensor.name: random_pair(tensor.shape, rng)
        for tensor in read_gguf(model).tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2 and "norm" not in tensor.name
    }


# ---- what is added ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gemma3", "olmo2", "granite", "mobilellm", "bitnet", "phi2", "phi3", "gpt2",
             "gptneox", "opt"],
)  # fmt: skip
def test_a_gguf_adapter_is_as_if_it_were_merged(name: str, tmp_path: Path) -> None:
    path = write_family(FAMILIES[name], tmp_path / "m.gguf")
    pairs = changed_matrices(path)
    adapter = write_lora(tmp_path / "lora.gguf", pairs, arch=FAMILIES[name].arch)
    found = logits(path, adapter)
    agree(found, logits(write_merged(path, pairs, tmp_path / "merged.gguf")))
    assert np.abs(found - logits(path)).max() > 1e-2


def test_adapters_make_vectors_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an encoder, as of a model that writes."""
    texts = ["t5 t7 t9", "t11", "t5 t8"]
    for name in ("bert", "llama"):
        path = write_family(FAMILIES[name], tmp_path / f"{name}.gguf")
        pairs = changed_matrices(path)
        adapter = write_lora(tmp_path / f"{name}-lora.gguf", pairs, arch=name)
        merged = linnet.load(write_merged(path, pairs, tmp_path / f"{name}-merged.gguf"), kv_type="f32")
        model = linnet.load(path, adapters={"a": adapter}, kv_type="f32")
        expected = merged.embed(texts)
        np.testing.assert_allclose(model.embed(texts, adapter="a"), expected, atol=1e-4)
        assert np.abs(model.embed(texts, adapter={"a": 0.0}) - expected).max() > 1e-2
        np.testing.assert_array_equal(model.embed(texts, adapter={"a": 0.0}), model.embed(texts))
        found = model.rerank(texts[0], texts[1:], adapter="a")
        assert [item.score for item in found] == pytest.approx(
            [item.score for item in merged.rerank(texts[0], texts[1:])], abs=1e-4
        )
        flags = ["-m", str(path), "--adapter", str(adapter), "--kv-type", "f32", "--json"]
        assert main(["embed", *flags, *texts]) == 0
        printed = json.loads(capsys.readouterr().out)["embeddings"]
        np.testing.assert_array_equal(np.float32(printed), model.embed(texts, adapter="a"))
        assert main(["rerank", *flags, *texts]) == 0
        printed = json.loads(capsys.readouterr().out)["ranked"]
        assert printed[0]["score"] == pytest.approx(found[0].score, abs=1e-6)
        with pytest.raises(UsageError, match="there is no adapter 'b'"):
            model.embed(texts, adapter="b")
    np.testing.assert_allclose(model.score(IDS, adapter="a")[1:], merged.score(IDS)[1:], atol=1e-3)
    (found,), (wanted,) = model.score(IDS[:9], [IDS[9:]], adapter="a"), merged.score(IDS[:9], [IDS[9:]])
    assert found.log_prob == pytest.approx(wanted.log_prob, abs=1e-2)
    assert abs(model.score(IDS[:9], [IDS[9:]])[0].log_prob - wanted.log_prob) > 1


def write_merged(path: Path, pairs: Pairs, target: Path) -> Path:
    """The model in ``path`` with the changes added to its weights."""
    parts = read_gguf(path)
    merged = []
    for tensor in parts.tensors:
        if tensor.name in pairs:
            a, b = pairs[tensor.name]
            weights = np.asarray(tensor.load()).view("<f4").reshape(tensor.shape)
            merged.append(plain_tensor(tensor.name, weights + SCALE * (b @ a)))
        else:
            merged.append(tensor)
    with target.open("wb") as file:
        write_gguf(replace(parts, tensors=tuple(merged)), file)
    return target


# A checkpoint of GPT-NeoX knows no groups of queries.
EVEN_NEOX = replace(
    FAMILIES["gptneox"],
    keys={**FAMILIES["gptneox"].keys, "attention.head_count_kv": HEADS},
    layer=lambda _: GPT2,
)


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "gptneox"])
def test_a_peft_adapter_of_fused_and_transposed_matrices_is_as_if_it_were_merged(
    name: str, tmp_path: Path
) -> None:
    """By checkpoints, whose rows are in another order, and whose matrices may be [inputs, outputs]."""
    safetensors = pytest.importorskip("safetensors.numpy")
    family = EVEN_NEOX if name == "gptneox" else FAMILIES[name]
    path, folder, merged = write_family(family, tmp_path / "m.gguf"), tmp_path / "a", tmp_path / "b"
    for target in (folder, merged):
        target.mkdir()
        write_checkpoint(read_gguf(path), target)
    weights = safetensors.load_file(merged / "model.safetensors")
    rng, modules = np.random.default_rng(2), []
    for key, matrix in weights.items():
        if (".layers." in key or ".h." in key) and matrix.ndim == 2:
            is_transposed = name == "gpt2"
            a, b = random_pair(matrix.T.shape if is_transposed else matrix.shape, rng)
            weights[key] = matrix + SCALE * ((b @ a).T if is_transposed else b @ a)
            module = key.removesuffix(".weight")
            modules.append(LowRank(module, plain_tensor("a", a), plain_tensor("b", b), SCALE))
    safetensors.save_file(weights, merged / "model.safetensors")
    write_adapter(AdapterParts(tuple(modules)), tmp_path / "adapter")
    if name == "gpt2":
        edit_config(tmp_path / "adapter", fan_in_fan_out=True)
    expected = logits(merged)
    for source in (path, folder):
        agree(logits(source, tmp_path / "adapter"), expected)
    assert np.abs(expected - logits(path)).max() > 1e-2


@pytest.mark.parametrize("type", [np.float16, "bf16", "q8_0"])
def test_matrices_of_other_types_are_those_values(type: Any, tmp_path: Path) -> None:
    path = write_family(FAMILIES["llama_q8_0"], tmp_path / "m.gguf")
    exact = {name: pair for name, pair in changed_matrices(path).items() if "attn_v" in name}
    if type == "q8_0":  # a row of B is too short for a block, so the converter leaves it wider
        kind = gguf.GGMLQuantizationType.Q8_0
        narrow = {n: (gguf.quants.quantize(a, kind), b) for n, (a, b) in exact.items()}
        wide = {n: (gguf.quants.dequantize(a, kind), b) for n, (a, b) in narrow.items()}
    elif type == "bf16":
        kind = gguf.GGMLQuantizationType.BF16
        narrow = {n: tuple(gguf.quants.quantize(m, kind) for m in pair) for n, pair in exact.items()}
        wide = {n: tuple(gguf.quants.dequantize(m, kind) for m in pair) for n, pair in narrow.items()}
    else:
        narrow = {n: (a.astype(type), b.astype(type)) for n, (a, b) in exact.items()}
        wide = {n: (a.astype(np.float32), b.astype(np.float32)) for n, (a, b) in narrow.items()}
    adapter = tmp_path / "narrow.gguf"
    writer_types = {"q8_0": "Q8_0", "bf16": "BF16"}
    write_typed(adapter, narrow, writer_types.get(type) if isinstance(type, str) else None)
    np.testing.assert_array_equal(
        logits(path, adapter), logits(path, write_lora(tmp_path / "wide.gguf", wide))
    )


def write_typed(path: Path, pairs: Any, type: str | None) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", SCALE * RANK)
    for name, pair in pairs.items():
        for letter, matrix in zip("ab", pair, strict=True):
            packed = gguf.GGMLQuantizationType[type] if type and matrix.dtype == np.uint8 else None
            writer.add_tensor(f"{name}.lora_{letter}", matrix, raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_without_alpha_the_product_is_added_as_it_is(tmp_path: Path) -> None:
    path = write_family(FAMILIES["llama"], tmp_path / "m.gguf")
    pairs = changed_matrices(path)
    expected = logits(path, write_lora(tmp_path / "one.gguf", pairs, alpha=float(RANK)))
    for alpha in (None, 0.0):
        found = logits(path, write_lora(tmp_path / "none.gguf", pairs, alpha=alpha))
        np.testing.assert_array_equal(found, expected)


# ---- what is refused ------------------------------------------------------------------------


def refused(model: Model, adapter: Path) -> str:
    with pytest.raises(LinnetError) as caught:
        Adapter(model, adapter)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 2500
    return message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"general.type": "model"}, "not an adapter"),
        ({"general.type": None}, "not an adapter"),
        ({"adapter.type": "ia3"}, "type 'ia3'"),
        ({"adapter.type": ["lora"]}, "adapter of type"),
        ({"arch": "phi3"}, "architecture 'phi3' and this is a llama model"),
        ({"arch": "x\n" * 100}, "architecture 'x\\nx\\n"),
        ({"adapter.alora.invocation_tokens": [1, 2]}, "aLoRA"),
        ({"adapter.alora.invocation_tokens": 7}, "aLoRA"),
        ({"alpha": None, "adapter.lora.alpha": [1] * 900}, "not a number"),
        ({"alpha": float("nan")}, "is nan"),
        ({"alpha": float("inf")}, "is inf"),
    ],
)
def test_gguf_files_that_are_no_such_adapter_are_refused(
    change: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = write_family(FAMILIES["llama"], tmp_path / "m.gguf")
    adapter = write_lora(tmp_path / "lora.gguf", changed_matrices(path), **change)
    assert problem in refused(Model.open(path), adapter)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def stored_pair(a: np.ndarray, b: np.ndarray, name: str = "blk.0.attn_q.weight") -> dict[str, np.ndarray]:
    return {f"{name}.lora_a": a, f"{name}.lora_b": b}


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({}, "no low-rank matrices"),
        ({"blk.0.attn_q.weight.lora_a": ones(2, 64)}, "only lora_A is there; get or save the adapter again"),
        ({"blk.0.attn_q.weight.lora_b": ones(64, 2)}, "only lora_B"),
        ({"blk.0.attn_norm.weight": ones(64)}, "no low-rank matrix"),
        (stored_pair(ones(2, 64), ones(64, 2), "q"), "does not have"),
        (stored_pair(ones(2, 64), ones(64, 2), "\x1b[2J"), "changes '\\x1b[2J'"),
        (stored_pair(ones(2, 64), ones(64, 2), "blk.9.attn_q.weight"), "does not have"),
        (stored_pair(ones(2, 64), ones(64, 2), "blk.0.attn_q.bias"), "does not have"),
        (stored_pair(ones(2, 64), ones(96, 2), "token_embd.weight"), "adapters cannot"),
        (stored_pair(ones(2, 64), ones(64, 3)), "rank 2"),
        (stored_pair(ones(2, 65), ones(64, 2)), "(64, 65)"),
        (stored_pair(ones(2, 64), ones(64, 2), "blk.0.attn_k.weight"), "(64, 64)"),
        (stored_pair(ones(64), ones(64, 1)), "not a matrix"),
        (stored_pair(ones(1, 2, 64), ones(64, 2)), "not a matrix"),
        (stored_pair(ones(0, 64), ones(64, 0)), "not a matrix"),
        (stored_pair(ones(1025, 64), ones(64, 1025)), "at most 1024"),
        (stored_pair(np.inf * ones(2, 64), ones(64, 2)), "not finite"),
        (stored_pair(np.float16(np.nan) * ones(2, 64).astype("f2"), ones(64, 2).astype("f2")), "not finite"),
        (stored_pair(ones(2, 64).astype(np.int32), ones(64, 2)), "i32"),
    ],
)
def test_gguf_adapters_that_do_not_fit_are_refused(
    tensors: dict[str, np.ndarray], problem: str, tmp_path: Path
) -> None:
    path = write_family(FAMILIES["llama"], tmp_path / "m.gguf")
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert problem in refused(Model.open(path), tmp_path / "lora.gguf")


def test_experts_are_refused_for_what_they_are(tmp_path: Path) -> None:
    path = write_family(FAMILIES["qwen3moe"], tmp_path / "m.gguf")
    pair = ones(2, 64), ones(32, 2)
    names = {
        "peft": "model.layers.0.mlp.experts.0.gate_proj",
        "lora.gguf": "blk.0.ffn_gate_exps.weight",
    }
    modules = LowRank(names["peft"], plain_tensor("a", pair[0]), plain_tensor("b", pair[1]), 1.0)
    write_adapter(AdapterParts((modules,)), tmp_path / "peft")
    write_lora(tmp_path / "lora.gguf", {names["lora.gguf"]: pair}, arch="qwen3moe")
    for file in names:
        assert "adapters cannot" in refused(Model.open(path), tmp_path / file)


# ---- damaged files ----------------------------------------------------------------------------


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, **changes}), encoding="utf-8")


def peft_file(tmp_path: Path, model: Path) -> Path:
    """The weights of a PEFT folder for ``model``, whose queries it changes."""
    a, b = plain_tensor("a", ones(2, 64)), plain_tensor("b", ones(64, 2))
    modules = [LowRank(f"model.layers.{i}.self_attn.q_proj", a, b, SCALE) for i in range(2)]
    write_adapter(AdapterParts(tuple(modules)), tmp_path / "peft")
    return tmp_path / "peft" / WEIGHTS


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


_NUMBERS = [0, 1, -1, 2, 63, 65, 1 << 31, 1 << 32, 1 << 62, 1 << 64, 10**400, 1.5, None, True, "64", [64], {}]
_NAMES = ["", "lora_A", "base_model.model.x.lora_A.weight", "a\nb.lora_B.weight", "\x1b[2J", "x" * 5000]


def mutated(header: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """One or two things of a safetensors header are something else."""
    entries: dict[str, Any] = json.loads(json.dumps(header))
    for _ in range(random.integers(1, 3)):
        name = list(entries)[random.integers(len(entries))]
        entry = entries[name]
        number = _NUMBERS[random.integers(len(_NUMBERS))]
        if not isinstance(entry, dict):
            continue
        match random.integers(6):
            case 0:
                entries[_NAMES[random.integers(len(_NAMES))]] = entries.pop(name)
            case 1:
                del entries[name]
            case 2:
                entry["dtype"] = ["BF16", "F16", "F64", "I8", "", None, 7][random.integers(7)]
            case 3 if isinstance(entry.get("shape"), list):
                entry["shape"] = [*entry["shape"][: random.integers(3)], number]
            case 4 if isinstance(entry.get("data_offsets"), list):
                entry["data_offsets"][random.integers(len(entry["data_offsets"]))] = number
            case _:
                entries[name] = number
        if not entries:
            break
    return entries


def opened_or_refused(model: Model, adapter: Path) -> bool:
    try:
        Adapter(model, adapter)
    except LinnetError as error:
        assert str(error).isprintable() and len(str(error)) < 2500
        return False
    return True


def test_altered_headers_of_safetensors_are_one_line_or_an_adapter(tmp_path: Path) -> None:
    model = Model.open(write_family(FAMILIES["llama"], tmp_path / "m.gguf"))
    file = peft_file(tmp_path, tmp_path / "m.gguf")
    header, body = header_of(file)
    whole = file.read_bytes()
    random = np.random.default_rng(3)
    for _ in range(150):
        text = json.dumps(mutated(header, random)).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + body)
        opened_or_refused(model, file.parent)
    for length in random.integers(0, len(whole), 40):
        file.write_bytes(whole[:length])
        assert not opened_or_refused(model, file.parent)
    file.write_bytes(whole)
    assert opened_or_refused(model, file.parent)


def test_altered_configs_are_one_line_or_an_adapter(tmp_path: Path) -> None:
    model = Model.open(write_family(FAMILIES["llama"], tmp_path / "m.gguf"))
    folder = peft_file(tmp_path, tmp_path / "m.gguf").parent
    good = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    odd = [
        None,
        True,
        -1,
        0,
        1e300,
        float("nan"),
        "16",
        [1],
        {"q_proj": "x"},
        {"q_proj": float("inf")},
        "x\n" * 99,
    ]
    for key in (
        "lora_alpha",
        "alpha_pattern",
        "use_rslora",
        "peft_type",
        "bias",
        "use_dora",
        "modules_to_save",
        "r",
    ):
        for value in odd:
            (folder / CONFIG).write_text(json.dumps({**good, key: value}), encoding="utf-8")
            opened_or_refused(model, folder)
    for text in ("", "[]", "{", "null", '{"peft_type": "LORA"}', "[" * 100_000, '{"a":1,"a":2}'):
        (folder / CONFIG).write_text(text, encoding="utf-8")
        assert not opened_or_refused(model, folder)
    (folder / CONFIG).write_text(json.dumps(good), encoding="utf-8")
    edit_config(folder, lora_alpha=1e300)
    assert "not a number of f32" in refused(model, folder)


def test_a_matrix_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """PEFT has written both spellings, with and without the name of the adapter."""
    model = Model.open(write_family(FAMILIES["llama"], tmp_path / "m.gguf"))
    file = peft_file(tmp_path, tmp_path / "m.gguf")
    content = file.read_bytes().replace(
        b"layers.1.self_attn.q_proj.lora_A.weight", b"layers.0.self_attn.q_proj.lora_A.default.weight"
    )
    grown = len(content) - file.stat().st_size
    length = int.from_bytes(content[:8], "little") + grown
    file.write_bytes(length.to_bytes(8, "little") + content[8:])
    assert "lora_A twice" in refused(model, file.parent)


def test_altered_gguf_adapters_are_one_line_or_an_adapter(tmp_path: Path) -> None:
    path = write_family(FAMILIES["llama"], tmp_path / "m.gguf")
    model = Model.open(path)
    pairs = {name: pair for name, pair in changed_matrices(path).items() if "attn_q" in name}
    file = write_lora(tmp_path / "lora.gguf", pairs)
    whole = file.read_bytes()
    assert opened_or_refused(model, file)
    random = np.random.default_rng(4)
    header = whole.index(b"blk.3.attn_q.weight.lora_b") + 60
    for _ in range(200):
        damaged = bytearray(whole)
        for at in random.integers(0, header, size=2):
            damaged[at] = random.integers(256)
        file.write_bytes(damaged)
        opened_or_refused(model, file)
    for length in random.integers(0, len(whole) - 1, 40):
        file.write_bytes(whole[:length])
        assert not opened_or_refused(model, file)


def test_an_adapter_named_as_a_model_is_called_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_family(FAMILIES["llama"], tmp_path / "m.gguf")
    file = write_lora(tmp_path / "lora.gguf", changed_matrices(path))
    for adapter in (file, peft_file(tmp_path, path).parent):
        for verb in (["run", "t5", "--model"], ["fit"]):
            assert main([*verb, str(adapter)]) == 2
            told = capsys.readouterr().err
            assert told.count("\n") == 1 and "is an adapter" in told and "--adapter" in told


def test_a_path_that_leads_nowhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="none does not exist"):
        read_adapter(tmp_path / "none")
    with pytest.raises(SourceError, match="is not an adapter: it has no adapter_config"):
        read_adapter(tmp_path)
