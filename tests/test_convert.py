"""``linnet convert``: what goes in comes out, nothing wrong is kept, and errors are one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from linnet import cli
from linnet.engine import rewrite as rewriting
from linnet.engine.verify import verify
from linnet.errors import LinnetError, TargetError, UsageError, VerificationError
from linnet.export.convert import convert
from linnet.formats.arch import llama
from linnet.formats.checkpoint import read_checkpoint, save_checkpoint
from linnet.formats.gguf import read_gguf
from linnet.formats.pre_tokenizers import byte_level
from linnet.formats.safetensors_file import read_safetensors
from linnet.formats.source import read_model
from linnet.options import ConvertOptions
from linnet.types import ModelFacts, SpecialTokens, TensorType

FACTS = ModelFacts(
    arch="llama",
    dim=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    ffn_dim=96,
    vocab_size=272,
    max_seq_len=128,
    tied_embeddings=True,
)
SPECIAL = SpecialTokens(bos_id=256, eos_id=256, add_bos=True)


def byte_alphabet() -> list[str]:
    """The 256 printable characters byte-level BPE spells bytes with (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def byte_level_tokenizer() -> bytes:
    """A tokenizer.json with 256 bytes, one special token, and a few merges."""
    merges = [["t", "h"], ["th", "e"], ["\u0120", "the"], ["i", "n"], ["a", "n"], ["an", "d"], ["o", "n"]]
    tokens = [*byte_alphabet(), "<|end|>", *("".join(merge) for merge in merges)]
    end = {"id": 256, "content": "<|end|>", "special": True, "normalized": False}
    document = {
        "version": "1.0",
        "added_tokens": [{**end, "single_word": False, "lstrip": False, "rstrip": False}],
        "normalizer": None,
        "pre_tokenizer": byte_level(True),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges},
    }
    return json.dumps(document).encode()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a byte-level tokenizer, 272 embeddings for 264 tokens."""
    rng = np.random.default_rng(3)
    arrays = {
        name: (rng.standard_normal(shape) * 0.1).astype(np.float32)
        for name, shape in llama.FAMILY.checkpoint_shapes(FACTS)
    }
    folder = tmp_path_factory.mktemp("source") / "model"
    save_checkpoint(folder, FACTS, arrays, byte_level_tokenizer(), SPECIAL)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return folder


def run(source: Path, output: Path, **options: object) -> dict[str, object]:
    return convert(ConvertOptions(source=source, output=output, json=True, **options))  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, tuple[str, bytes]]:
    stored = read_safetensors(folder / "model.safetensors")
    return {name: (tensor.dtype, tensor.raw.tobytes()) for name, tensor in stored.items()}


# ---- round trips ------------------------------------------------------------------


@pytest.mark.parametrize("type", [None, "bf16", "f16"])
def test_checkpoint_to_gguf_and_back_is_exact(checkpoint: Path, tmp_path: Path, type: str | None) -> None:
    first, gguf, second = tmp_path / "first", tmp_path / "m.gguf", tmp_path / "second"
    run(checkpoint, first, type=type)
    about = run(first, gguf)
    run(gguf, second)
    assert weights(second) == weights(first)
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer_config.json", "generation_config.json"):
        assert (second / name).read_bytes() == (checkpoint / name).read_bytes()
    if type is None:
        assert weights(first) == weights(checkpoint)
        assert (second / "config.json").read_bytes() == (first / "config.json").read_bytes()
    assert about["verification"]["max_weight_error"] == 0.0  # type: ignore[index]
    assert about["verification"]["max_logit_delta"] == 0.0  # type: ignore[index]
    assert about["n_params"] == FACTS.n_params


def test_gguf_to_gguf_keeps_foreign_metadata(checkpoint: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    run(checkpoint, first)
    run(first, second)
    assert first.read_bytes() == second.read_bytes()


def test_quantised_gguf_to_checkpoint_is_dequantised(checkpoint: Path, tmp_path: Path) -> None:
    gguf, plain = tmp_path / "m.gguf", tmp_path / "plain"
    about = run(checkpoint, gguf, type="q8_0")
    assert about["types"] == {"q8_0": 15, "f32": 5}
    assert about["fallbacks"] == []
    run(gguf, plain)
    assert {tensor.dtype for tensor in read_safetensors(plain / "model.safetensors").values()} == {"F32"}
    assert verify(read_gguf(gguf), plain).max_weight_error == 0.0


def test_an_existing_gguf_is_replaced_and_other_folders_are_not(checkpoint: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"old")
    run(checkpoint, gguf)
    assert read_gguf(gguf).facts == FACTS
    folder = tmp_path / "folder"
    run(gguf, folder)
    run(gguf, folder, type="bf16")  # one of its own kind
    assert read_checkpoint(folder).tensors[0].type is TensorType.BF16
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(TargetError, match=r"thesis\.tex"):
        run(gguf, folder)
    assert (folder / "thesis.tex").read_text() == "mine"


def test_the_source_is_never_the_target(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(checkpoint, folder)
    gguf = tmp_path / "m.gguf"
    run(folder, gguf)
    (tmp_path / "link.gguf").symlink_to(gguf)
    for source, output in (
        (folder, folder),
        (gguf, gguf),
        (gguf, tmp_path / "link.gguf"),
        (folder, folder / "."),
    ):
        with pytest.raises(TargetError, match="it is the source"):
            run(source, output)


def test_block_types_do_not_fit_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="q4_0"):
        run(checkpoint, tmp_path / "out", type="q4_0")


# ---- llama2.c ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def stories(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stories260K as model.gguf and as the checkpoint hf."""
    source = shared / "weights" / "stories260K"
    folder = tmp_path_factory.mktemp("stories")
    run(source / "stories260K.bin", folder / "model.gguf", tokenizer=source / "tok512.bin")
    run(source / "stories260K.bin", folder / "hf", tokenizer=source / "tok512.bin")
    return folder


def test_stories_as_gguf(stories: Path, shared: Path) -> None:
    reader = pytest.importorskip("gguf").GGUFReader(stories / "model.gguf")
    assert len(reader.tensors) == 47
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["token_embd.weight"] == [64, 512]
    assert shapes["blk.4.ffn_down.weight"] == [172, 64]
    assert reader.fields["tokenizer.ggml.model"].contents() == "llama"
    source = read_model(
        *(shared / "weights" / "stories260K" / name for name in ("stories260K.bin", "tok512.bin"))
    )
    found = read_gguf(stories / "model.gguf")
    for a, b in zip(source.tensors, found.tensors, strict=True):
        assert a.load().tobytes() == b.load().tobytes()


def test_stories_in_transformers(stories: Path, shared: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(stories / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(stories / "hf")
    assert type(model).__name__ == "LlamaForCausalLM"
    ids = model.generate(torch.tensor([[tokenizer.bos_token_id]]), max_new_tokens=90, do_sample=False)
    reference = (shared / "weights" / "stories260K" / "greedy_reference.txt").read_text(encoding="utf-8")
    assert tokenizer.decode(ids[0], skip_special_tokens=True).startswith(reference.strip())
    assert tokenizer("Once").input_ids == [1, *tokenizer("Once", add_special_tokens=False).input_ids]


def test_stories_in_a_type_that_does_not_fit(shared: Path, tmp_path: Path) -> None:
    source = shared / "weights" / "stories260K"
    output = tmp_path / "m.gguf"
    about = run(source / "stories260K_v1.bin", output, tokenizer=source / "tok512.bin", type="q8_0")
    fallbacks = about["fallbacks"]
    assert [f["tensor"] for f in fallbacks] == [f"blk.{i}.ffn_down.weight" for i in range(5)]  # type: ignore[index]
    assert all(f["type"] == "f16" and "172 columns" in f["reason"] for f in fallbacks)  # type: ignore[index]
    assert 0 < about["verification"]["kl_divergence"] < 0.01  # type: ignore[index]


# ---- failures ---------------------------------------------------------------------


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line the command prints before it exits with code 2."""
    assert cli.main(["convert", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_sources_that_are_no_models(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole.gguf"
    run(checkpoint, whole)
    data = whole.read_bytes()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text.txt").write_text("This is a text, not a model. " * 50)
    (tmp_path / "short.gguf").write_bytes(data[: len(data) // 2])
    (tmp_path / "folder").mkdir()
    before = sorted(os.listdir(tmp_path))
    output = tmp_path / "out.gguf"
    assert "does not exist" in fails(capsys, tmp_path / "missing", "-o", output)
    assert "is empty" in fails(capsys, tmp_path / "empty", "-o", output)
    assert "neither a GGUF" in fails(capsys, tmp_path / "text.txt", "-o", output)
    assert "truncated" in fails(capsys, tmp_path / "short.gguf", "-o", output)
    assert "folder is not a checkpoint folder: it has no config.json" in fails(
        capsys, tmp_path / "folder", "-o", output
    )
    assert "name its folder" in fails(capsys, checkpoint / "config.json", "-o", output)
    assert "unknown type 'q9'" in fails(capsys, whole, "-o", output, "--type", "q9")
    assert "has 512 tokens" in fails(capsys, whole, "-o", output, "--tokenizer", vocabulary(tmp_path, 512))
    assert "there is no folder" in fails(capsys, whole, "-o", tmp_path / "missing" / "out.gguf")
    assert "is a folder" in fails(capsys, whole, "-o", directory(tmp_path / "taken.gguf"))
    assert whole.read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "taken.gguf", "tokens.vocab"])


def test_an_unfinished_training_is_no_checkpoint_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder" / "state").mkdir(parents=True)
    assert "linnet train CORPUS -o" in fails(capsys, tmp_path / "folder", "-o", tmp_path / "out.gguf")


def test_in_a_folder_that_was_deleted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory(tmp_path / "gone"))
    (tmp_path / "gone").rmdir()
    assert "the current folder no longer exists" in fails(capsys, checkpoint, "-o", "out.gguf")
    run(checkpoint, tmp_path / "out")
    run(checkpoint, tmp_path / "out")  # looks whether it replaces the current folder
    assert "does not exist" in fails(capsys, "source.gguf", "-o", tmp_path / "out.gguf")


def vocabulary(folder: Path, n: int) -> Path:
    path = folder / "tokens.vocab"
    path.write_text("".join(f"piece{i}\t{-i}\n" for i in range(n)))
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["out.gguf", "out"])
def test_a_full_disk_leaves_nothing(checkpoint: Path, tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(TargetError, match="cannot write") as raised:
            run(checkpoint, tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)
        assert ".linnet-" not in str(raised.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_weights_that_are_not_numbers(checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    data = bytearray((broken / "model.safetensors").read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    (broken / "model.safetensors").write_bytes(data)
    for type in (None, "q8_0", "f16"):
        with pytest.raises(LinnetError, match="holds values that are not finite; the file is damaged"):
            run(broken, tmp_path / "out.gguf", type=type)
    assert os.listdir(tmp_path) == ["broken"]


def test_weights_too_large_for_f16(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(checkpoint, folder)
    arrays = {
        name: tensor.raw.view(np.float32).reshape(tensor.shape) * np.float32(1e6)
        for name, tensor in read_safetensors(checkpoint / "model.safetensors").items()
    }
    save_checkpoint(folder, FACTS, arrays, byte_level_tokenizer(), SPECIAL)
    with pytest.raises(LinnetError, match="choose bf16 or f32"):
        run(folder, tmp_path / "out.gguf", type="f16")


def test_a_wrong_result_is_not_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that spoils one weight, one token or one fact is found out."""
    good = tmp_path / "good.gguf"
    run(checkpoint, good)
    data = good.read_bytes()
    weight = data[-64:-60]
    spoilt = {
        "differs": (weight, np.nextafter(np.frombuffer(weight, np.float32), np.float32(9)).tobytes()),
        "splits text": (b'"add_prefix_space": false', b'"add_prefix_space":  true'),
        "facts changed": (np.float32(FACTS.rope_theta).tobytes(), np.float32(FACTS.rope_theta + 1).tobytes()),
        "chat template changed": (b"messages[0]", b"messages[1]"),
    }
    output = tmp_path / "out.gguf"
    output.write_bytes(b"old")
    for problem, (right, other) in spoilt.items():
        assert right in data
        wrong = data.replace(right, other, 1)
        monkeypatch.setattr(rewriting, "write_gguf", lambda parts, file, wrong=wrong: file.write(wrong))
        with pytest.raises(VerificationError, match=problem):
            run(checkpoint, output)
        assert output.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["good.gguf", "out.gguf"]
