"""``linnet show`` describes sound artifacts and says what is wrong with broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linnet.engine.model import Model
from linnet.errors import FormatError, SourceError
from linnet.formats.gguf import read_gguf, write_gguf
from linnet.formats.gguf_keys import LEFT_OUT_KEY
from linnet.options import ShowOptions
from linnet.run.model import BUNDLED_MODEL
from linnet.run.show import show


def shown(path: Path) -> dict[str, object]:
    return show(ShowOptions(source=path, json=True))


def test_a_model_is_described_as_the_core_sees_it() -> None:
    about, model = shown(BUNDLED_MODEL), Model.open(BUNDLED_MODEL)
    for name in (
        "arch",
        "dim",
        "n_layers",
        "n_heads",
        "n_kv_heads",
        "ffn_dim",
        "vocab_size",
        "n_params",
        "weight_bytes",
    ):
        assert about[name] == getattr(model, name), name
    assert about["kv_bytes_per_token"] == 2 * 2 * model.n_layers * model.n_kv_heads * model.head_dim
    assert about["file_bytes"] == BUNDLED_MODEL.stat().st_size
    assert "problem" not in about


def test_the_command_prints_the_same_for_people_and_as_json() -> None:
    def command(*more: str) -> str:
        arguments = [sys.executable, "-P", "-m", "linnet", "show", str(BUNDLED_MODEL), *more]
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout

    assert json.loads(command("--json"))["arch"] == "llama"
    assert "kv bytes per token" in command()


def test_an_unknown_architecture_is_described_with_the_reason_why_it_cannot_run(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(BUNDLED_MODEL.read_bytes().replace(b"llama", b"lemur"))
    about = shown(path)
    assert about["arch"] == "lemur"
    assert "lemur" in str(about["problem"])
    assert about["weight_bytes"] == shown(BUNDLED_MODEL)["weight_bytes"]


@pytest.mark.parametrize(
    "key", ["general.architecture", "general.name", "tokenizer.chat_template", LEFT_OUT_KEY]
)
def test_numbers_in_the_place_of_a_text_are_none(key: str, tmp_path: Path) -> None:
    parts = read_gguf(BUNDLED_MODEL)
    with open(tmp_path / "m.gguf", "wb") as file:
        write_gguf(replace(parts, extra={**parts.extra, key: np.array([5], "<i4")}), file)
    about = shown(tmp_path / "m.gguf")
    assert json.loads(json.dumps(about)) == about
    assert not about.get({"general.architecture": "arch", "general.name": "name"}.get(key, "left_out"))
    assert ("problem" in about) == (key != LEFT_OUT_KEY)


@pytest.mark.parametrize("kept", [0, 3, 20, 1000, 0.5, 0.999])
def test_a_truncated_file_is_refused_with_one_line(tmp_path: Path, kept: float) -> None:
    data = BUNDLED_MODEL.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    with pytest.raises(FormatError) as error:
        shown(path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a hole may take room on the disk")
def test_a_file_of_holes_that_claims_endless_texts_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "holes.gguf"
    numbers = ((3, 4), (0, 8), (1, 8), (1, 8))  # version, tensors, keys, length of the key
    array = ((9, 4), (8, 4), (1 << 36, 8))  # an array of so many texts, all of them empty
    pack = [b"".join(n.to_bytes(size, "little") for n, size in part) for part in (numbers, array)]
    path.write_bytes(b"GGUF" + pack[0] + b"k" + pack[1])
    os.truncate(path, 1 << 40)
    with pytest.raises(FormatError, match="an array of 68719476736 texts"):
        shown(path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SourceError, match=r"nowhere\.gguf does not exist"):
        shown(Path("nowhere.gguf"))


@pytest.mark.skipif(os.name == "nt", reason="no such files there")
def test_what_is_no_file_is_said_as_the_system_says_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(SourceError, match="is not a regular file"):
            shown(path)
    with pytest.raises(SourceError, match=r"loop: .*symbolic link"):
        shown(tmp_path / "loop")
    with pytest.raises(SourceError, match="is not a checkpoint folder: it has no"):
        shown(tmp_path)
