"""What a model says beside its weights: chat templates, ids that end an answer, added tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_models import ADDED, SPECIAL, write_chat_model

import linnet
from linnet.engine.memory import Image
from linnet.engine.metadata import Metadata
from linnet.engine.model import Model
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import FormatError
from linnet.export.convert import convert
from linnet.formats.checkpoint import read_checkpoint
from linnet.formats.gguf_keys import END_IDS_KEY, EOT_KEY
from linnet.options import ConvertOptions
from linnet.run.model import BUNDLED_MODEL


def test_metadata_is_read_without_numpy_by_key() -> None:
    metadata = Metadata(Image.open(BUNDLED_MODEL))
    keys = list(metadata)
    assert keys == sorted(keys) and "tokenizer.ggml.tokens" in keys
    assert metadata.text("general.architecture") == "llama"
    assert metadata.integers("tokenizer.ggml.eos_token_id") == [linnet.load().tokenizer.eos_id]
    for absent in ("no.such.key", "tokenizer.ggml.token_type", "llama.rope.freq_base"):
        assert metadata.text(absent) is None
        assert metadata.integers(absent) == []


def test_metadata_of_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(BUNDLED_MODEL.read_bytes()[:200])
    with pytest.raises(FormatError):
        Metadata(Image.open(path))


def test_added_tokens_are_known_with_their_kind(tmp_path: Path) -> None:
    added = Model.open(write_chat_model(tmp_path / "m")).tokenizer.added_tokens
    assert added == {
        **{text: (256 + i, True) for i, text in enumerate(SPECIAL)},
        **{text: (256 + len(SPECIAL) + i, False) for i, text in enumerate(ADDED)},
    }


def test_a_text_that_goes_on_gets_no_space_in_front(shared: Path) -> None:
    tokenizer = Tokenizer.open(shared / "tokenizers/ggml-vocab/ggml-vocab-llama-spm.gguf")
    assert tokenizer.decode(tokenizer.encode("cat"), at_start=False) == b" cat"
    assert tokenizer.decode(tokenizer.encode("cat", at_start=False), at_start=False) == b"cat"


def test_templates_and_ends_of_a_folder_survive_conversion(tmp_path: Path) -> None:
    """In list form, in files, and with several ends, to GGUF and back."""
    folder = write_chat_model(tmp_path / "m", generation={"eos_token_id": [256, 258, 257]})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    forms = [{"name": "default", "template": "never read"}, {"name": "rag", "template": "R"}]
    settings["chat_template"] = forms
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("T")
    gguf, back = tmp_path / "m.gguf", tmp_path / "back"
    for source, output in ((folder, gguf), (gguf, back)):
        convert(ConvertOptions(source=source, output=output, json=True))
        model = Model.open(output)
        assert model.metadata.text("tokenizer.chat_template") == read_checkpoint(folder).chat_template
        assert model.metadata.text("tokenizer.chat_template.tool_use") == "T"
        assert model.metadata.text("tokenizer.chat_template.rag") == "R"
        assert model.metadata.integers(EOT_KEY) == [258]
        assert model.metadata.integers(END_IDS_KEY) == [258, 257]
    assert json.loads((back / "generation_config.json").read_text())["eos_token_id"] == [256, 258, 257]
