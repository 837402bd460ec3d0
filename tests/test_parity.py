"""The same weights give the same tokens everywhere: in every kernel path, in torch, and by the references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import linnet
from linnet.engine.library import library
from linnet.engine.model import Model
from linnet.engine.session import Session, Workspace
from linnet.evaluate.evaluate import evaluate
from linnet.export.convert import convert
from linnet.formats.checkpoint import read_checkpoint
from linnet.options import ConvertOptions, EvaluateOptions
from linnet.run.model import BUNDLED_MODEL
from linnet.types import TensorType

ISAS = ("scalar", "avx2", "avx512", "dotprod", "neon")


@pytest.fixture(scope="session")
def weights(shared: Path) -> Path:
    return shared / "weights"


def converted(source: Path, tokenizer: Path, output: Path, type: str | None = None) -> Path:
    convert(ConvertOptions(source=source, output=output, tokenizer=tokenizer, type=type))
    return output


@pytest.fixture(scope="session")
def stories260k(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = weights / "stories260K"
    return converted(
        folder / "stories260K.bin", folder / "tok512.bin", tmp_path_factory.mktemp("m") / "f32.gguf"
    )


def greedy(model: linnet.LanguageModel, n: int) -> list[int]:
    return model.generate("", max_tokens=n, temperature=0).ids


@pytest.mark.parametrize("isa", ISAS)
def test_every_kernel_path_writes_the_reference_text(weights: Path, stories260k: Path, isa: str) -> None:
    if isa not in library().ln_isa_list().decode().split():
        pytest.skip(f"this processor has no {isa}")
    reference = (weights / "stories260K" / "greedy_reference.txt").read_text(encoding="utf-8")
    for threads in (1, 2):
        model = linnet.load(stories260k, isa=isa, threads=threads, kv_type="f32")
        text = model.generate("", max_tokens=120, temperature=0).text
        assert text.startswith(reference.strip())


@pytest.mark.parametrize(
    ("source", "tokenizer", "type", "expected", "tolerance"),
    [
        ("stories260K/stories260K.bin", "stories260K/tok512.bin", "f32", 1.2621, 0.001),
        ("stories260K/stories260K.bin", "stories260K/tok512.bin", "q8_0", 1.263, 0.002),
        ("stories260K/stories260K_v1.bin", "stories260K/tok512.bin", None, 1.2621, 0.001),
        ("stories260K/stories260K_q80_g32.bin", "stories260K/tok512.bin", None, 1.2627, 0.001),
        ("stories3M/stories3M_q80_g64.bin", "stories3M/tok4096.bin", None, 1.2134, 0.002),
    ],
)
def test_nats_per_token_are_those_of_the_independent_reference(
    shared: Path,
    weights: Path,
    tmp_path: Path,
    source: str,
    tokenizer: str,
    type: str | None,
    expected: float,
    tolerance: float,
) -> None:
    model = converted(weights / source, weights / tokenizer, tmp_path / "m.gguf", type)
    text = shared / "text" / "tinystories" / "reference_40.jsonl"
    result = evaluate(EvaluateOptions(model=model, text=text, json=True))
    assert result["nats_per_token"] == pytest.approx(expected, abs=tolerance)
    assert result["bytes"] == 29341
    assert result["tokens"] == (14299 if "260K" in source else 7468)


def test_threads_and_batches_do_not_change_a_bit(stories260k: Path) -> None:
    model = Model.open(stories260k)
    ids = [1, *range(3, 200)]
    reference = Session(Workspace(model, n_threads=1, n_batch=1)).eval_all(ids)
    for threads, batch in ((2, 1), (1, 64), (2, 7), (2, 64)):
        logits = Session(Workspace(model, n_threads=threads, n_batch=batch)).eval_all(ids)
        np.testing.assert_array_equal(logits, reference)


def torch_logits(checkpoint: Path, ids: list[int]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from linnet.train.model import Decoder

    decoder = Decoder(read_checkpoint(checkpoint).facts)
    decoder.load_state_dict(load_file(checkpoint / "model.safetensors"))
    with torch.no_grad():
        return decoder.logits(torch.tensor([ids]))[0].numpy()


@pytest.mark.parametrize("name", ["stories260K", "bundled"])
def test_torch_and_core_compute_the_same_logits_and_tokens(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    source = request.getfixturevalue("stories260k") if name == "stories260K" else BUNDLED_MODEL
    checkpoint = tmp_path / "checkpoint"
    convert(ConvertOptions(source=source, output=checkpoint))
    core = linnet.load(checkpoint, kv_type="f32")
    bos = core.tokenizer.bos_id
    assert bos is not None
    ids = [bos, *greedy(core, 100)]
    expected = torch_logits(checkpoint, ids)
    session = Session(Workspace(core.model, kv_type=TensorType.F32))
    np.testing.assert_allclose(session.eval_all(ids), expected, atol=1e-4, rtol=0)
    assert ids[1:] == expected[:-1].argmax(-1).tolist()
