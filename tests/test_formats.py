"""Readers and writers of files: exact round trips, other people's files, hostile files, failing disks."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linnet.errors import FormatError, LinnetError, SourceError, UnsupportedError
from linnet.formats.arch import llama
from linnet.formats.atomic import atomic_folder
from linnet.formats.checkpoint import (
    CHECKPOINT_FILES,
    read_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from linnet.formats.gguf import open_gguf, parse_gguf, read_gguf, write_gguf
from linnet.formats.parts import ModelParts, Tensor
from linnet.formats.safetensors_file import read_safetensors, write_safetensors
from linnet.formats.tokenizer_json import adds_bos, json_from_vocabulary, vocabulary_from_json
from linnet.formats.vocabulary import TokenKind, Vocabulary, VocabularyKind
from linnet.types import ModelFacts, SpecialTokens, TensorType

FACTS = ModelFacts(
    arch="llama",
    dim=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    ffn_dim=64,
    vocab_size=40,
    max_seq_len=64,
    norm_eps=1e-6,
    rope_theta=50000.0,
    tied_embeddings=False,
)
SPECIAL = SpecialTokens(bos_id=1, eos_id=2, add_bos=True)


def small_vocabulary() -> Vocabulary:
    """40 SentencePiece pieces: three special ones, letters, and a few joined ones."""
    pieces = ["<unk>", "<s>", "</s>", "\u2581", *"abcdefghijklmnopqrstuvwxyz", "th", "the", "\u2581the", "in"]
    pieces += ["an", "and", "\u2581a", "er", "on", "ing"]
    kinds = [TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.CONTROL] + [TokenKind.NORMAL] * 37
    scores = tuple(float(-i) for i in range(40))
    return Vocabulary(VocabularyKind.SPM, tuple(pieces), tuple(kinds), scores, unk_id=0)


def small_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights by Hugging Face name."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in llama.FAMILY.checkpoint_shapes(FACTS)
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    text = json_from_vocabulary(small_vocabulary(), SPECIAL)
    save_checkpoint(folder, FACTS, small_arrays(), text, SPECIAL, {"made_by": "a test"})
    return folder


def gguf_bytes(parts: ModelParts) -> bytes:
    buffer = io.BytesIO()
    write_gguf(parts, buffer)
    return buffer.getvalue()


def same_tensors(left: ModelParts, right: ModelParts) -> bool:
    return [t.name for t in left.tensors] == [t.name for t in right.tensors] and all(
        a.type == b.type and a.shape == b.shape and np.array_equal(a.load(), b.load())
        for a, b in zip(left.tensors, right.tensors, strict=True)
    )


# ---- inputs -----------------------------------------------------------------------


def test_a_file_is_checked_without_numpy() -> None:
    """The loader of GGUF files does so, and starts fast."""
    code = "import sys, linnet.formats.inputs; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- safetensors ------------------------------------------------------------------


def test_safetensors_agrees_with_the_reference_library(tmp_path: Path) -> None:
    numpy_io = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, dtype=np.float16)}
    theirs = tmp_path / "theirs.safetensors"
    numpy_io.save_file(arrays, theirs)
    found = read_safetensors(theirs)
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F16", (5,)),
    }
    assert found["a"].raw.tobytes() == arrays["a"].tobytes()
    ours = tmp_path / "ours.safetensors"
    types = {"F32": TensorType.F32, "F16": TensorType.F16}
    with open(ours, "wb") as file:
        write_safetensors(
            [Tensor(t.name, types[t.dtype], t.shape, lambda t=t: t.raw) for t in found.values()], file
        )
    reloaded = numpy_io.load_file(ours)
    assert all(np.array_equal(reloaded[name], arrays[name]) for name in arrays)


def safetensors_bytes(header: object, body: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(begin: int = 0, end: int = 8, dtype: str = "F32", shape: object = (2,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", 50) + b"{}",
        safetensors_bytes(b"{not json"),
        safetensors_bytes(b"[" * 100_000),
        safetensors_bytes([]),
        safetensors_bytes(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}'),
        safetensors_bytes({"a": entry(end=4)}),
        safetensors_bytes({"a": entry(end=12)}, bytes(8)),
        safetensors_bytes({"a": entry(begin=8, end=0)}),
        safetensors_bytes({"a": entry(begin=-8, end=0)}),
        safetensors_bytes({"a": entry(shape=[1 << 62, 1 << 62])}),
        safetensors_bytes({"a": entry(shape=[-2])}),
        safetensors_bytes({"a": entry(shape=[True, 2])}),
        safetensors_bytes({"a": entry(shape="2")}),
        safetensors_bytes({"a": entry(dtype="F33")}),
        safetensors_bytes({"a": entry(), "b": entry()}),
        safetensors_bytes({"a": entry(0, 4, shape=[1]), "b": entry(8, 12, shape=[1])}, bytes(12)),
        safetensors_bytes({"a": entry()}, bytes(9)),
        safetensors_bytes({"a": 7}),
        safetensors_bytes({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}),
    ],
)
def test_hostile_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError) as error:
        read_safetensors(path)
    assert "\n" not in str(error.value)


# ---- GGUF -------------------------------------------------------------------------


def test_gguf_round_trip(checkpoint: Path, tmp_path: Path) -> None:
    parts = replace(
        read_checkpoint(checkpoint),
        chat_template="{{ messages }}",
        extra={
            "general.author": "a",
            "x.list": ["p", "q"],
            "x.small": -3,
            "x.large": 2**64 - 1,
            "x.double": 1e300,
            "x.n": np.arange(3, dtype="<u8"),
        },
    )
    data = gguf_bytes(parts)
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    again = read_gguf(path)
    assert again.facts == parts.facts
    assert again.special == parts.special
    assert again.chat_template == parts.chat_template
    assert again.tokenizer == parts.tokenizer
    assert again.name == parts.name
    assert same_tensors(parts, again)
    assert gguf_bytes(again) == data


def test_the_gguf_package_reads_ours(checkpoint: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "m.gguf"
    parts = read_checkpoint(checkpoint)
    path.write_bytes(gguf_bytes(parts))
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.attention.head_count_kv"].contents() == 2
    assert reader.fields["tokenizer.ggml.tokens"].contents() == list(small_vocabulary().tokens)
    found = {tensor.name: tensor for tensor in reader.tensors}
    for tensor in parts.tensors:
        theirs = found.pop(tensor.name)
        assert theirs.shape.tolist() == list(tensor.shape[::-1])
        assert theirs.data.tobytes() == tensor.load().tobytes()
    assert not found


def test_vocabulary_files_of_llama_cpp(shared: Path) -> None:
    folder = shared / "tokenizers" / "ggml-vocab"
    sizes = {"llama-spm": 32000, "phi-3": 32064, "gpt-2": 50257, "bert-bge": 30522}
    for name, n in sizes.items():
        file = open_gguf(folder / f"ggml-vocab-{name}.gguf")
        assert len(file.metadata["tokenizer.ggml.tokens"]) == n
        assert file.tensors == ()
    for name in ("llama-spm", "bert-bge"):
        with pytest.raises(UnsupportedError, match="no weights"):
            read_gguf(folder / f"ggml-vocab-{name}.gguf")


def test_truncated_and_altered_gguf_never_surprise(checkpoint: Path, tmp_path: Path) -> None:
    data = gguf_bytes(read_checkpoint(checkpoint))
    path = tmp_path / "m.gguf"
    header = len(data) - sum(tensor.n_bytes for tensor in read_checkpoint(checkpoint).tensors)
    lengths = [*range(0, 300, 3), *range(300, header, 97), header, len(data) // 2, len(data) - 32]
    for length in lengths:
        path.write_bytes(data[:length])
        with pytest.raises(LinnetError) as error:
            read_gguf(path)
        assert "\n" not in str(error.value)
    rng = random.Random(0)
    for _ in range(400):
        altered = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            altered[rng.randrange(header)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        path.write_bytes(altered)
        try:
            parts = read_gguf(path)
        except LinnetError as error:
            assert "\n" not in str(error)
            continue
        for tensor in parts.tensors:
            assert len(tensor.load()) == tensor.n_bytes


def raw_gguf(
    pairs: list[bytes], tensors: list[bytes], body: bytes = b"", counts: tuple[int, int] | None = None
) -> bytes:
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + body


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def index_entry(name: str, dims: tuple[int, ...], type: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type, offset)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"GGML" + bytes(40), "not a GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (raw_gguf([], [], counts=(1 << 63, 0)), "too short"),
        (raw_gguf([], [], counts=(0, (1 << 64) - 1)), "too short"),
        (raw_gguf([struct.pack("<Q", 1 << 62)], []), "truncated"),
        (raw_gguf([text("a") + struct.pack("<I", 99)], []), "type 99"),
        (raw_gguf([text("a") + struct.pack("<IIQ", 9, 4, 1 << 61)], []), "too short"),
        (raw_gguf([text("a") + struct.pack("<IIQ", 9, 8, 1 << 61)], []), "too short"),
        (raw_gguf([text("a") + struct.pack("<IIQ", 9, 9, 1)], []), "array of type 9"),
        (raw_gguf([text("a") + struct.pack("<II", 4, 7)] * 2, []), "occurs twice"),
        (raw_gguf([text("general.alignment") + struct.pack("<II", 4, 24)], []), "alignment"),
        (raw_gguf([], [index_entry("t", (4, 4))] * 2, bytes(64)), "occurs twice"),
        (raw_gguf([], [index_entry("t", (4, 4)), index_entry("u", (4,))], bytes(64)), "overlap"),
        (raw_gguf([], [index_entry("t", (4, 4), offset=8)], bytes(96)), "aligned"),
        (raw_gguf([], [index_entry("t", (4, 5))], bytes(64)), "ends 16 bytes after"),
        (raw_gguf([], [index_entry("t", (1 << 40, 1 << 40))], bytes(64)), "impossible shape"),
        (raw_gguf([], [index_entry("t", (4,), offset=1 << 63)], bytes(64)), "after the file"),
        (raw_gguf([], [index_entry("t", (33,), type=8)], bytes(96)), "whole number of q8_0"),
        (raw_gguf([], [text("t") + struct.pack("<I", 5) + bytes(60)], bytes(64)), "5 dimensions"),
    ],
)
def test_hostile_gguf(content: bytes, problem: str) -> None:
    with pytest.raises((FormatError, UnsupportedError), match=problem):
        parse_gguf(np.frombuffer(content, dtype=np.uint8))


def test_unknown_types_can_still_be_described() -> None:
    tensors = [index_entry("k", (256,), type=12), index_entry("new", (256,), type=77, offset=160)]
    file = parse_gguf(np.frombuffer(raw_gguf([], tensors, bytes(192)), dtype=np.uint8))
    assert [(t.type_name, t.raw is None) for t in file.tensors] == [("q4_k", False), ("type 77", True)]


# ---- checkpoints and the Llama family ---------------------------------------------


def test_checkpoint_round_trip(checkpoint: Path, tmp_path: Path) -> None:
    parts = read_checkpoint(checkpoint)
    assert parts.facts == FACTS
    assert parts.special == SPECIAL
    stored = read_safetensors(checkpoint / "model.safetensors")
    for name, array in small_arrays().items():
        assert stored[name].raw.tobytes() == array.tobytes()
    again = tmp_path / "again"
    again.mkdir()
    write_checkpoint(parts, again)
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert (again / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    assert same_tensors(read_checkpoint(again), parts)
    assert json.loads((checkpoint / "config.json").read_text())["made_by"] == "a test"


def test_sharded_checkpoint(checkpoint: Path) -> None:
    whole = read_checkpoint(checkpoint)
    expected = [tensor.load().tobytes() for tensor in whole.tensors]
    stored = list(read_safetensors(checkpoint / "model.safetensors").values())
    shards = {"model-00001-of-00002.safetensors": stored[:5], "model-00002-of-00002.safetensors": stored[5:]}
    for name, part in shards.items():
        with open(checkpoint / name, "wb") as file:
            write_safetensors(
                [Tensor(t.name, TensorType.F32, t.shape, lambda t=t: t.raw) for t in part], file
            )
    (checkpoint / "model.safetensors").unlink()
    weight_map = {t.name: name for name, part in shards.items() for t in part}
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert [tensor.load().tobytes() for tensor in read_checkpoint(checkpoint).tensors] == expected
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(FormatError, match="not in the folder"):
        read_checkpoint(checkpoint)


def edited(checkpoint: Path, file: str, **changes: object) -> Path:
    path = checkpoint / file
    document = json.loads(path.read_text())
    for key, value in changes.items():
        document[key] = value
        if value is None:
            del document[key]
    path.write_text(json.dumps(document))
    return checkpoint


def test_both_ways_of_writing_rope_theta(checkpoint: Path) -> None:
    edited(checkpoint, "config.json", rope_parameters=None)
    assert read_checkpoint(checkpoint).facts.rope_theta == 50000.0
    edited(
        checkpoint,
        "config.json",
        rope_theta=None,
        rope_parameters={"rope_theta": 7.0, "rope_type": "default"},
    )
    assert read_checkpoint(checkpoint).facts.rope_theta == 7.0


@pytest.mark.parametrize(
    ("changes", "error", "problem"),
    [
        ({"attention_bias": True}, FormatError, "q_proj.bias' is missing"),
        ({"mlp_bias": True}, FormatError, "gate_proj.bias' is missing"),
        ({"hidden_act": "tanh"}, UnsupportedError, "tanh"),
        ({"model_type": "gpt9"}, UnsupportedError, "gpt9"),
        ({"model_type": None}, FormatError, "model_type"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, UnsupportedError, "dynamic"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 0.0}}, FormatError, "factor"),
        ({"quantization_config": {"bits": 4}}, UnsupportedError, "quantization_config"),
        ({"hidden_size": None}, FormatError, "hidden_size"),
        ({"hidden_size": 1 << 40}, FormatError, "hidden_size"),
        ({"num_attention_heads": 0}, FormatError, "num_attention_heads"),
        ({"num_attention_heads": "4"}, FormatError, "num_attention_heads"),
        ({"num_key_value_heads": 3}, FormatError, "evenly"),
        ({"head_dim": 7}, FormatError, "in pairs"),
        ({"rms_norm_eps": -1.0}, FormatError, "rms_norm_eps"),
        ({"num_hidden_layers": 2_000_000_000}, FormatError, "is missing"),
        ({"num_hidden_layers": 1}, UnsupportedError, "not part of"),
        ({"vocab_size": 41}, FormatError, "expected"),
    ],
)
def test_configs_that_cannot_be_used(
    checkpoint: Path, changes: dict[str, object], error: type[LinnetError], problem: str
) -> None:
    with pytest.raises(error, match=problem) as raised:
        read_checkpoint(edited(checkpoint, "config.json", **changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_checkpoints_with_broken_files(checkpoint: Path, file: str) -> None:
    content = (checkpoint / file).read_bytes()
    for broken in (b"", content[:50], content[: len(content) // 2], b"\xff\xfe\x00"):
        (checkpoint / file).write_bytes(broken)
        with pytest.raises(FormatError, match=file):
            read_checkpoint(checkpoint)
    (checkpoint / file).unlink()
    with pytest.raises(SourceError, match=file):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("merges", 5), ("merges", {"a": "b"}), ("vocab", ["a"]), ("vocab", {"a": "1"}), ("vocab", None),
        ("added_tokens", 5), ("added_tokens", [5]), ("model", "BPE"), ("model", None),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": 5}),
    ],
)  # fmt: skip
def test_a_tokenizer_json_of_wrong_kinds(checkpoint: Path, part: str, value: object) -> None:
    document = json.loads((checkpoint / "tokenizer.json").read_bytes())
    (document["model"] if part in ("merges", "vocab") else document)[part] = value
    with pytest.raises(FormatError, match=r"tokenizer\.json") as raised:
        vocabulary_from_json(json.dumps(document).encode(), 10)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("single", [5, [], [5], [{"SpecialToken": 5}], {"SpecialToken": {"id": "<s>"}}])
def test_a_post_processor_of_wrong_kinds_adds_nothing(single: object) -> None:
    assert not adds_bos({"post_processor": {"type": "TemplateProcessing", "single": single}}, "<s>")


def test_bf16_stays_as_it_is_and_vectors_are_widened(checkpoint: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch_io = pytest.importorskip("safetensors.torch")
    arrays = {name: torch.from_numpy(array).to(torch.bfloat16) for name, array in small_arrays().items()}
    torch_io.save_file(arrays, checkpoint / "model.safetensors")
    parts = read_checkpoint(checkpoint)
    assert {tensor.type for tensor in parts.tensors} == {TensorType.BF16}
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(parts))
    tensors = {tensor.name: tensor for tensor in read_gguf(path).tensors}
    assert tensors["blk.1.ffn_up.weight"].type is TensorType.BF16
    norm = arrays["model.norm.weight"].to(torch.float32).numpy()
    assert tensors["output_norm.weight"].load().tobytes() == norm.tobytes()


def test_queries_and_keys_are_reordered_so_that_scores_stay() -> None:
    """A rotate-half score with checkpoint rows equals an interleaved-pair score with GGUF rows."""
    rng = np.random.default_rng(1)
    half = FACTS.head_dim // 2
    arrays = small_arrays()
    x, y = rng.standard_normal((2, FACTS.dim))

    plans = {plan.name: plan for plan in llama.FAMILY.tensors(FACTS)}

    def rows(name: str) -> np.ndarray:
        (source,) = plans[name].sources
        array = arrays[source]
        tensor = Tensor(source, TensorType.F32, array.shape, lambda: array.reshape(-1).view(np.uint8))
        moved = plans[name].gather([tensor])
        (back,) = plans[name].scatter(moved)
        assert (back.name, back.shape) == (source, array.shape)
        assert back.load().tobytes() == array.tobytes()
        return moved.load().view(np.float32).reshape(array.shape)

    def rotate_half(vector: np.ndarray, position: int) -> np.ndarray:
        angle = position * FACTS.rope_theta ** (-np.arange(half) / half)
        a, b = vector[:half], vector[half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)])

    def rotate_pairs(vector: np.ndarray, position: int) -> np.ndarray:
        angle = position * FACTS.rope_theta ** (-np.arange(half) / half)
        turned = (vector[0::2] + 1j * vector[1::2]) * np.exp(1j * angle)
        return np.stack([turned.real, turned.imag], axis=1).reshape(-1)

    q_name, k_name = "blk.1.attn_q.weight", "blk.1.attn_k.weight"
    for head in range(FACTS.n_heads):
        q_rows = slice(head * FACTS.head_dim, (head + 1) * FACTS.head_dim)
        kv = head * FACTS.n_kv_heads // FACTS.n_heads
        k_rows = slice(kv * FACTS.head_dim, (kv + 1) * FACTS.head_dim)
        q, k = arrays[plans[q_name].sources[0]][q_rows], arrays[plans[k_name].sources[0]][k_rows]
        expected = rotate_half(q @ x, 11) @ rotate_half(k @ y, 4)
        found = rotate_pairs(rows(q_name)[q_rows] @ x, 11) @ rotate_pairs(rows(k_name)[k_rows] @ y, 4)
        assert found == pytest.approx(expected, rel=1e-6)


def test_own_files_match_the_patterns_of_a_checkpoint(checkpoint: Path) -> None:
    with atomic_folder(checkpoint, CHECKPOINT_FILES) as folder:
        (folder / "config.json").write_text("{}")
    assert os.listdir(checkpoint) == ["config.json"]
