"""Every family through every path: see tests/parity.py, which also prints the matrix of docs/families.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from linnet.export.convert import convert
from linnet.formats import arch
from linnet.formats.checkpoint import read_checkpoint
from linnet.options import ConvertOptions
from tests import parity

QUICK = ("llama3", "gemma3")
NOT_IN_TRANSFORMERS = {"mobilellm"}


def check(name: str, folder: Path) -> None:
    pytest.importorskip("transformers", reason="transformers makes the models; pip install 'linnet[test]'")
    row = parity.compare(name, folder)
    wrong = {column: row[column] for column in parity.COLUMNS if not parity.agrees(column, row[column])}
    assert not wrong


@pytest.mark.parametrize("name", QUICK)
def test_a_family_gives_the_same_tokens_everywhere(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in parity.CASES if name not in QUICK])
def test_every_family_gives_the_same_tokens_everywhere(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


def test_every_family_has_a_row() -> None:
    transformers = pytest.importorskip("transformers", reason="it knows what its classes are called")
    covered = {getattr(transformers, case.config).model_type for case in parity.CASES.values()}
    assert covered == {family.model_type for family in arch.FAMILIES} - NOT_IN_TRANSFORMERS


def test_the_page_has_a_line_for_every_row() -> None:
    page = parity.PAGE.read_text(encoding="utf-8")
    for case in parity.CASES.values():
        assert f"\n| {case.family} |" in page, "run: python -m tests.parity --write-docs"
    assert "DIFFERENT" not in page


def test_shared_layers_are_layers_used_twice(tmp_path: Path) -> None:
    """MobileLLM is Llama with each layer twice in succession, and stores it once."""
    pytest.importorskip("transformers", reason="transformers makes the models; pip install 'linnet[test]'")
    torch = pytest.importorskip("torch")
    case = parity.CASES["llama"]
    model = parity.make_model(case, tmp_path / "twice")
    for index in (1, 3):
        model.model.layers[index].load_state_dict(model.model.layers[index - 1].state_dict())
    ids = [int(i) for i in np.random.default_rng(3).integers(3, parity.VOCAB, 40)]
    expected = parity.of_transformers(model, ids)
    once = tmp_path / "once"
    once.mkdir()
    config = {**json.loads((tmp_path / "twice" / "config.json").read_text()), "model_type": "mobilellm"}
    config |= {"num_hidden_layers": 2, "layer_sharing": True, "share_embedding": False}
    (once / "config.json").write_text(json.dumps(config))
    (once / "tokenizer.json").write_bytes((tmp_path / "twice" / "tokenizer.json").read_bytes())
    kept = {
        name.replace("layers.2.", "layers.1."): value.clone()
        for name, value in model.state_dict().items()
        if "layers.1." not in name and "layers.3." not in name
    }
    with torch.no_grad():
        pytest.importorskip("safetensors.torch").save_file(kept, once / "model.safetensors")
    assert read_checkpoint(once).facts.block_repeat == 2
    np.testing.assert_allclose(
        parity.of_core(once, ids), expected, atol=1e-4 * np.abs(expected).max(), rtol=0
    )
    np.testing.assert_allclose(
        parity.of_torch(once, ids), expected, atol=1e-4 * np.abs(expected).max(), rtol=0
    )


def test_torch_reads_gguf_files_and_texts_longer_than_longrope_was_trained_with(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers makes the models; pip install 'linnet[test]'")
    model = parity.make_model(parity.CASES["phi3-longrope"], tmp_path / "source")
    convert(ConvertOptions(source=tmp_path / "source", output=tmp_path / "m.gguf", json=True))
    for length in (40, 300):  # trained with 256
        ids = [int(i) for i in np.random.default_rng(5).integers(3, parity.VOCAB, length)]
        expected = parity.of_transformers(model, ids)
        found = parity.of_torch(tmp_path / "m.gguf", ids)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", ["gemma2", "stablelm-12b", "qwen3moe", "lfm2"])
def test_every_weight_of_a_new_decoder_learns(name: str) -> None:
    """A decoder drawn from a seed: the same twice, near a uniform guess, and each weight has a gradient."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip(
        "transformers", reason="it knows the settings; pip install 'linnet[test]'"
    )
    from linnet.train.model import Decoder, initialise

    case = parity.CASES[name]
    config = getattr(transformers, case.config)(**case.settings).to_dict()
    facts = arch.by_config(config).facts_from_config(config)
    models = [Decoder(facts), Decoder(facts)]
    for model in models:
        initialise(model, 3)
    tokens = torch.randint(0, parity.VOCAB, (4, 33), generator=torch.Generator().manual_seed(0))
    losses = [
        torch.nn.functional.cross_entropy(model.logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        for model in models
    ]
    assert losses[0].item() == losses[1].item()
    assert losses[0].item() == pytest.approx(np.log(parity.VOCAB), rel=0.2)
    losses[0].backward()
    assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in models[0].parameters())
