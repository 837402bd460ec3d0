"""Every family through every path: see tests/parity.py, which also prints the matrix of docs/families.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from linnet.formats import arch
from linnet.formats.checkpoint import read_checkpoint
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
