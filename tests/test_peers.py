"""llama.cpp opens our files and computes the same logits: ``pytest -m peers``, with the ``[peers]`` extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_adapter_formats import IDS, changed_matrices, logits, write_lora
from tiny_families import FAMILIES, VOCAB, write_family

import linnet
from linnet.options import QuantizeOptions
from linnet.quantize.quantize import quantize
from linnet.run.model import BUNDLED_MODEL

pytestmark = pytest.mark.peers

F32 = 0  # ggml's number of the type of the key/value cache
TEXT = "Once upon a time, there was a little girl named Lily. She had 12 red balls."


def llama_cpp_logits(path: Path, ids: list[int], vocab_size: int, adapter: Path | None = None) -> np.ndarray:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama.cpp is not installed; pip install 'linnet[peers]'"
    )
    peer = llama_cpp.Llama(
        str(path),
        n_ctx=256,
        logits_all=True,
        verbose=False,
        n_threads=2,
        type_k=F32,
        type_v=F32,
        flash_attn=False,
        lora_path=str(adapter) if adapter else None,
    )
    peer.eval(ids)
    return np.array(peer.scores[: len(ids), :vocab_size])


@pytest.mark.parametrize(
    ("type", "tolerance"),
    [
        ("f16", 2e-2),  # llama.cpp rounds the activations to f16 as well
        ("bf16", 2e-1),  # and here to bf16
        ("q8_0", 5e-2),  # both round activations to int8, with scales of f16 there and f32 here
        ("q4_0", 5e-2),
    ],
)
def test_llama_cpp_computes_the_same_logits(tmp_path: Path, type: str, tolerance: float) -> None:
    path = tmp_path / "model.gguf"
    quantize(QuantizeOptions(source=BUNDLED_MODEL, output=path, type=type, json=True))
    model = linnet.load(path, kv_type="f32")
    ids = model.tokenize(TEXT)
    expected = llama_cpp_logits(path, ids, model.model.vocab_size)
    model.session.truncate(0)
    np.testing.assert_allclose(model.session.eval_all(ids), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3"])
def test_llama_cpp_adds_the_same_of_a_gguf_adapter(name: str, tmp_path: Path) -> None:
    path = write_family(FAMILIES[name], tmp_path / "m.gguf")
    pairs = changed_matrices(path)
    adapter = write_lora(tmp_path / "lora.gguf", pairs, alpha=7.0, arch=FAMILIES[name].arch)
    found = logits(path, adapter)
    expected = llama_cpp_logits(path, IDS, VOCAB, adapter)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    assert np.abs(expected - logits(path)).max() > 1e-2


def test_llama_cpp_splits_text_into_the_same_tokens() -> None:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama.cpp is not installed; pip install 'linnet[peers]'"
    )
    peer = llama_cpp.Llama(str(BUNDLED_MODEL), vocab_only=True, verbose=False)
    for text in (TEXT, "  a  b\n\n\tc 3.14159 naïve 漢字 🐦", "It's I'LL don't"):
        assert peer.tokenize(text.encode(), add_bos=True) == linnet.load().tokenize(text)
