"""``linnet pull``, ``list``, ``rm`` and ``cp`` against a hub on this machine, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, Repo, fake_hub

from linnet.errors import SourceError, UnsupportedError, UsageError
from linnet.formats.gguf import read_gguf
from linnet.formats.hub import HubFile, Repository, choose
from linnet.formats.store import ModelName, type_in_file_name
from linnet.run.model import BUNDLED_MODEL

pytest.importorskip("huggingface_hub")

MODEL = BUNDLED_MODEL.read_bytes()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a checkpoint folder: the bundled model's first layer."""
    from dataclasses import replace

    from linnet.engine.repack import repacked
    from linnet.formats.checkpoint import write_checkpoint
    from linnet.types import TensorType

    parts = read_gguf(BUNDLED_MODEL)
    few = tuple(
        repacked(tensor, TensorType.F16) if len(tensor.shape) > 1 else tensor
        for tensor in parts.tensors
        if not tensor.name.startswith("blk.") or tensor.name.startswith("blk.0.")
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(replace(parts, facts=replace(parts.facts, n_layers=1), tensors=few), folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def hub(checkpoint: dict[str, bytes]) -> Iterator[FakeHub]:
    repos = {
        "org/small": Repo({"README.md": b"hi", "small-Q8_0.gguf": MODEL, "small-Q4_K_M.gguf": MODEL[:8192]}),
        "org/folder": Repo({**checkpoint, "pytorch_model.bin": bytes(5000)}),
        "org/pickle": Repo({"config.json": b"{}", "pytorch_model.bin": bytes(5000)}),
        "org/gated": Repo({"m-Q8_0.gguf": MODEL}, gated=True),
        "org/broken": Repo({"m-Q8_0.gguf": MODEL}, claimed_sha256={"m-Q8_0.gguf": "0" * 64}),
    }
    with fake_hub(repos) as running:
        yield running


class Shell:
    """Runs ``linnet`` with a store of its own, and a hub or none."""

    def __init__(self, folder: Path, url: str) -> None:
        self.store = folder / "store"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "HF_ENDPOINT": url, "HF_HOME": str(folder / "hf"), "LINNET_HOME": str(self.store),
            "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1,localhost",
        }  # fmt: skip

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "linnet", *arguments],
            env={**self.environment, **more}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def json(self, *arguments: str) -> dict[str, object]:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        result: dict[str, object] = json.loads(done.stdout)
        return result

    def fails(self, *arguments: str, **more: str) -> str:
        done = self.run(*arguments, **more)
        assert done.returncode == 2, done.stdout
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr


@pytest.fixture
def shell(tmp_path: Path, hub: FakeHub) -> Shell:
    return Shell(tmp_path, hub.url)


# ---- pull -------------------------------------------------------------------------------


def test_pull_run_list_cp_rm(shell: Shell, hub: FakeHub, tmp_path: Path) -> None:
    pulled = shell.json("pull", "org/small:q8_0")
    assert pulled["name"] == "org/small:q8_0"
    assert Path(str(pulled["path"])).read_bytes() == MODEL
    assert {name for name, _ in hub.transfers} == {"small-Q8_0.gguf"}
    hub.transfers.clear()
    assert shell.json("pull", "org/small:Q8_0")["downloaded"] is False
    assert hub.transfers == []

    made = shell.json("run", "-m", "org/small", "-n", "4", "--temperature", "0", "Once")
    assert made["tokens"] == 4
    assert shell.json("show", "ORG/small:q8_0")["kind"] == "gguf"

    assert shell.run("cp", "org/small", "mine").returncode == 0
    assert "already" in shell.fails("cp", "org/small", "mine")
    assert shell.json("cp", "mine", str(tmp_path / "out.gguf"))["target"] == str(tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == MODEL
    names = [model["name"] for model in shell.json("list")["models"]]  # type: ignore[attr-defined]
    assert names == ["mine:q8_0", "org/small:q8_0"]
    assert shell.run("completion", "names").stdout.split() == names

    assert "there is no model 'gone'" in shell.fails("rm", "mine", "gone")
    assert shell.json("rm", "org/small")["bytes"] > len(MODEL)  # type: ignore[operator]
    assert [model["name"] for model in shell.json("list")["models"]] == ["mine:q8_0"]  # type: ignore[attr-defined]
    assert shell.json("run", "-m", "mine", "-n", "4", "--temperature", "0", "Once")["text"] == made["text"]
    assert "'linnet pull org/small' gets it" in shell.fails("run", "-m", "org/small", "hi")


def test_a_store_that_cannot_be_written_has_what_it_has(shell: Shell) -> None:
    """Files in the place of its folders stand for folders without permission, which root does not know."""
    assert shell.json("pull", "org/small:q8_0")["downloaded"] is True
    (shell.store / "partial").rmdir()
    (shell.store / "partial").touch()
    assert shell.json("pull", "org/small:q8_0")["downloaded"] is False
    assert "cannot write" in shell.fails("pull", "org/small:q4_k_m")
    (shell.store / "partial").unlink()
    shutil.rmtree(shell.store / "models")
    (shell.store / "models").touch()
    told = shell.fails("pull", "org/small:q8_0")
    assert f"cannot write {shell.store / 'models'}" in told and "pull again to go on" in told


def test_a_checkpoint_is_pulled_without_what_is_not_needed(shell: Shell, hub: FakeHub) -> None:
    pulled = shell.json("pull", "org/folder")
    assert pulled["name"] == "org/folder:safetensors"
    assert "pytorch_model.bin" not in {name for name, _ in hub.transfers}
    assert shell.json("run", "-m", "org/folder", "-n", "2", "hi")["tokens"] == 2


def test_how_vectors_are_made_is_pulled_along(tmp_path: Path, checkpoint: dict[str, bytes]) -> None:
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    beside: dict[str, Any] = {
        "modules.json": modules,
        "1_Pooling/config.json": {"pooling_mode_lasttoken": True},
        "sentence_bert_config.json": {"max_seq_length": 100},
    }
    files = {**checkpoint, **{name: json.dumps(value).encode() for name, value in beside.items()}}
    with fake_hub({"org/vectors": Repo({**files, "onnx/model.onnx": bytes(5000)})}) as hub:
        shell = Shell(tmp_path, hub.url)
        assert shell.json("fit", "org/vectors")["n_ctx"] == 100
        shell.json("pull", "org/vectors")
        assert "onnx/model.onnx" not in {name for name, _ in hub.transfers}
    made = shell.json("embed", "-m", "org/vectors", "hi")
    assert made["pooling"] == "last"
    assert shell.run("cp", "org/vectors", str(tmp_path / "copy")).returncode == 0
    assert shell.json("embed", "-m", str(tmp_path / "copy"), "hi")["embeddings"] == made["embeddings"]


def test_a_pull_that_was_cut_off_goes_on(shell: Shell, hub: FakeHub) -> None:
    large = hub.repos["org/small"].files["large-Q8_0.gguf"] = MODEL * 8  # it comes in pieces of 10 MB
    del hub.repos["org/small"].files["small-Q8_0.gguf"]
    hub.repos["org/small"].break_after = 11_000_000
    done = shell.run("pull", "org/small:q8_0")
    for _ in range(2):  # it may try again by itself, too
        done = done if done.returncode == 0 else shell.run("pull", "org/small:q8_0")
    assert done.returncode == 0, done.stderr
    begins = [int(wanted[6:].partition("-")[0]) for _, wanted in hub.transfers if wanted]
    assert begins[0] >= 10_000_000
    (path,) = (model["path"] for model in shell.json("list")["models"])  # type: ignore[attr-defined]
    assert Path(path).read_bytes() == large


def test_an_interrupted_pull_is_listed_goes_on_and_can_be_removed(shell: Shell, hub: FakeHub) -> None:
    hub.repos["org/small"].files["small-Q8_0.gguf"] = MODEL * 8
    hub.repos["org/small"].break_after = 1_000_000  # and a second passes before it is asked for the next
    command = [sys.executable, "-P", "-m", "linnet", "pull", "org/small:q8_0"]
    process = subprocess.Popen(command, env=shell.environment, stderr=subprocess.PIPE, text=True)
    while not any(file.stat().st_size for file in shell.store.rglob("*.part")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1].endswith("\nstopped; linnet pull org/small:q8_0 goes on from here\n")
    assert process.returncode == 130
    assert shell.json("list")["models"] == []
    (partial,) = shell.json("list")["partial"]  # type: ignore[misc]
    assert partial["name"] == "org/small:q8_0" and 0 < partial["bytes"] < len(MODEL) * 8
    assert "bytes so far; linnet pull goes on" in shell.run("list").stdout
    assert shell.json("rm", "org/small") == {"removed": ["org/small:q8_0"], "bytes": partial["bytes"]}
    assert shell.json("list")["partial"] == []


def test_names_of_files_may_hold_spaces(shell: Shell, hub: FakeHub) -> None:
    hub.repos["org/spaces"] = Repo({"sub dir/my model Q8_0.gguf": MODEL, "my model Q4_0.gguf": MODEL})
    assert shell.json("pull", "org/spaces")["name"] == "org/spaces:q4_0"
    assert shell.json("pull", "org/spaces:q8_0")["downloaded"]
    assert shell.json("show", "org/spaces:q8_0")["kind"] == "gguf"


def test_a_wrong_hash_is_refused_and_the_file_deleted(shell: Shell) -> None:
    assert "arrived damaged" in shell.fails("pull", "org/broken")
    assert shell.json("list")["models"] == []
    assert not list(shell.store.rglob("*.gguf"))


def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(shell: Shell, hub: FakeHub) -> None:
    assert f"accept its terms at {hub.url}/org/gated, then set HF_TOKEN" in shell.fails("pull", "org/gated")
    assert shell.run("pull", "org/gated", HF_TOKEN="right").returncode == 0
    assert "the Hub has no model 'org/nothing', or it is private" in shell.fails("pull", "org/nothing")
    assert "did you mean org/small:q4_k_m" in shell.fails("pull", "org/small:q4_k_n")
    assert "a Python pickle" in shell.fails("pull", "org/pickle")
    assert "is not the name of a model" in shell.fails("pull", "../../etc/passwd")
    shell.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens there
    assert "cannot reach http://127.0.0.1:9" in shell.fails("pull", "org/small")


def test_a_model_in_the_cache_of_the_hub_runs_where_it_lies(shell: Shell, tmp_path: Path) -> None:
    repo = tmp_path / "hf" / "hub" / "models--org--cached"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc" / "m-Q8_0.gguf").symlink_to(BUNDLED_MODEL)
    for name in ("org/cached", "org/cached:q8_0", str(repo)):
        assert shell.json("run", "-m", name, "-n", "2", "hi")["tokens"] == 2


# ---- choosing ------------------------------------------------------------------------------


def repository(*names: str) -> Repository:
    return Repository("o/r", "c", tuple(HubFile(name, 1, None, None) for name in names))


GGUFS = ("m-Q8_0.gguf", "m.Q4_K_S.gguf", "m-Q4_K_M.gguf", "m-IQ4_XS.gguf", "mmproj-f16.gguf", "m-f16.gguf")


@pytest.mark.parametrize(
    ("wanted", "file"),
    [
        (None, "m-Q4_K_M.gguf"),
        ("q8_0", "m-Q8_0.gguf"),
        ("q4_k", "m-Q4_K_M.gguf"),
        ("iq4_xs", "m-IQ4_XS.gguf"),
    ],
)
def test_the_type_chooses_the_file(wanted: str | None, file: str) -> None:
    (chosen,) = choose(repository(*GGUFS), wanted).files
    assert chosen.name == file


def test_files_that_cannot_be_chosen() -> None:
    with pytest.raises(SourceError, match="has no type 'q2_k', but q8_0, q4_k_s, q4_k_m"):
        choose(repository(*GGUFS), "q2_k")
    with pytest.raises(UnsupportedError, match="comes in 2 pieces"):
        choose(repository("m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"), None)
    with pytest.raises(UnsupportedError, match="neither a GGUF file nor a safetensors checkpoint"):
        choose(repository("README.md"), None)


def test_types_are_read_from_file_names() -> None:
    assert type_in_file_name("SmolLM2-135M-Instruct.Q4_K_M.gguf") == "q4_k_m"
    assert type_in_file_name("gemma-3-1b-it-qat-q4_0.gguf") == "q4_0"
    assert type_in_file_name("Q8_0.gguf") == "q8_0"
    assert type_in_file_name("my model Q8_0.gguf") == "q8_0"
    assert type_in_file_name("qwen3.gguf") is None


@pytest.mark.parametrize(
    "text", ["", "a/b/c", "../x", "a:b:c", "-m", "a--b", "a b", "/abs", "a/..", "x" * 9 + "\n"]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(UsageError):
        ModelName.parse(text)
