"""Every family through every path: see tests/parity.py, which also prints the matrix of docs/families.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from linnet.errors import FormatError, UnsupportedError
from linnet.export.convert import convert
from linnet.formats import arch
from linnet.formats.arch.text_part import text_tensors
from linnet.formats.checkpoint import read_checkpoint, read_config
from linnet.options import ConvertOptions, RunOptions, ShowOptions
from linnet.run.show import show
from linnet.run.terminal.run import run
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
    alone = [case for case in parity.CASES.values() if not parity.is_part(case)]
    covered = {getattr(transformers, case.config).model_type for case in alone}
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


# ---- language models that are parts -------------------------------------------------------


def test_the_language_model_of_one_that_sees_is_used_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="transformers makes the models; pip install 'linnet[test]'")
    parity.make_model(parity.CASES["gemma3-vision"], tmp_path / "whole")
    left_out = "multi_modal_projector, vision_tower"
    template = {"chat_template": "{{ messages[0].content }}"}  # where models that also see have it
    (tmp_path / "whole" / "chat_template.json").write_text(json.dumps(template))
    convert(ConvertOptions(source=tmp_path / "whole", output=tmp_path / "text.gguf", json=True))
    for path in (tmp_path / "whole", tmp_path / "text.gguf"):
        about = show(ShowOptions(source=path, json=True))
        assert ", ".join(sorted(str(about["left_out"]).split(", "))) == left_out
        assert about["chat_template"] == template["chat_template"]
    tokenizer = tmp_path / "whole" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"t3"', '"t"'))
    run(RunOptions(model=tmp_path / "whole", prompt="t", max_tokens=2, json=True))
    assert "only the language model is used, without " in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["language_model.model.norm.weight", "model.language_model.norm.weight", "model.text_model.norm.weight"],
)
def test_every_name_of_the_tensors_of_a_part(name: str) -> None:
    stored = {name: 1, "lm_head.weight": 2, "model.vision_tower.x": 3, "vision_tower.y": 4, "connector.z": 5}
    assert text_tensors(stored) == (
        {"model.norm.weight": 1, "lm_head.weight": 2},
        ["vision_tower", "connector"],
    )
    assert text_tensors({"language_model.lm_head.weight": 1}) == ({"lm_head.weight": 1}, [])


def test_settings_of_a_part_may_be_silent_about_what_is_usual(tmp_path: Path) -> None:
    """As the config of Gemma 3 4B is written, which says of its text only what is not as in transformers."""
    text = {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    }  # fmt: skip
    config = {"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": text, "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_config(tmp_path)
    facts = arch.by_config(read).facts_from_config(read)
    assert (facts.n_heads, facts.n_kv_heads, facts.head_dim, facts.vocab_size) == (8, 4, 256, 262208)
    assert (facts.rope_theta, facts.rope_theta_local, facts.sliding_window) == (1e6, 1e4, 1024)
    assert facts.rope_scaling is not None
    assert facts.rope_scaling.factor == 8
    assert facts.tied_embeddings
    assert read["eos_token_id"] == [1, 106]
    for bad, message in (
        (5, "'text_config' is 5"),
        ({"model_type": "gemma3n_text"}, "'gemma3n_text' is not"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, "text_config": bad}))
        with pytest.raises((FormatError, UnsupportedError), match=message):
            read_config(tmp_path)
