"""The store as others find it: odd names, links that lead out of it, what cannot be removed or copied."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from linnet.errors import SourceError, TargetError, UsageError
from linnet.formats import atomic
from linnet.formats.store import ABOUT, ModelName, find_stored, folder_of, locate, stored_models
from linnet.options import CpOptions, ListOptions, RmOptions
from linnet.run.fit import open_outline
from linnet.run.model import BUNDLED_MODEL
from linnet.store.cp import cp
from linnet.store.list import list_models
from linnet.store.rm import rm

MODEL = BUNDLED_MODEL.read_bytes()


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "store"))
    return tmp_path / "store"


def put(name: str, data: bytes = MODEL) -> Path:
    folder = folder_of(ModelName.parse(name))
    folder.mkdir(parents=True)
    (folder / "m.gguf").write_bytes(data)
    return folder


def names() -> list[str]:
    return [str(model.name) for model in stored_models()]


def copy(source: object, target: object) -> str:
    return str(cp(CpOptions(source=str(source), target=str(target), json=True))["target"])


def remove(*which: str) -> dict[str, object]:
    return rm(RmOptions(names=which, json=True))


def test_folders_that_are_called_as_no_model_can_be_are_left_alone(store: Path) -> None:
    put("a/b:q4_0")
    for odd in ("a$(x)", "a b", "\x1b[2J", "-m", "a--b--c", ".hidden"):
        (store / "models" / odd / "q4_0").mkdir(parents=True)
    (store / "models" / "a--b" / "Q 8").mkdir()
    assert names() == ["a/b:q4_0"]
    with pytest.raises(UsageError):
        remove("a--b--c")


def test_names_that_differ_in_their_case_can_both_be_named(store: Path) -> None:
    put("org/model:q4_0")
    try:
        put("ORG/model:q4_0")
    except FileExistsError:
        pytest.skip("the file system does not tell them apart")
    assert find_stored(ModelName.parse("ORG/model")).folder == folder_of(ModelName.parse("ORG/model:q4_0"))
    with pytest.raises(UsageError, match="there are several"):
        find_stored(ModelName.parse("Org/Model"))


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_rm_follows_no_link_out_of_the_store(store: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "m.gguf").write_bytes(MODEL)
    folder = put("a/linked:q8_0")
    shutil.rmtree(folder)
    folder.symlink_to(outside)
    (put("a/file:q8_0") / "other.gguf").symlink_to(outside / "m.gguf")
    (put("a/loop:q8_0") / "loop").symlink_to(".")
    assert len(names()) == 3
    remove("a/linked", "a/file", "a/loop")
    assert names() == []
    assert (outside / "m.gguf").read_bytes() == MODEL
    assert list((store / "models").iterdir()) == []


def test_what_rm_could_not_remove_is_still_there_and_is_removed_later(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing takes room that no list tells of: a folder may be read-only."""
    put("a/b:q4_0")
    put("a/b:q8_0")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.shutil, "rmtree", refuse)
        with pytest.raises(TargetError, match=r"cannot remove .*Permission denied"):
            remove("a/b:q4_0")
    assert names() == ["a/b:q4_0", "a/b:q8_0"]
    remove("a/b:q4_0", "a/b:q8_0")
    assert list((store / "models").iterdir()) == []


def test_a_store_that_cannot_be_looked_into_is_not_an_empty_one(store: Path) -> None:
    """A link to itself stands for a folder without permission, which root does not know."""
    store.mkdir()
    (store / "models").symlink_to("models")
    asks = [lambda name=name: locate(Path(name)) for name in ("a/b", "a/b:q4_0", "gpt2")]
    for ask in (names, lambda: remove("a/b"), lambda: open_outline(Path("gpt2")), *asks):
        with pytest.raises(
            SourceError, match=r"cannot look into the store .*; mend that, or set LINNET_HOME$"
        ):
            ask()


def test_a_model_in_the_cache_of_the_hub_needs_no_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "models--a--b" / "snapshots" / "c0ffee" / "m-q8_0.gguf"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(MODEL)
    (cached.parents[2] / "refs").mkdir()
    (cached.parents[2] / "refs" / "main").write_text("c0ffee")
    store.mkdir()
    (store / "models").symlink_to("models")
    assert locate(Path("a/b")) == cached


def test_a_model_named_twice_is_removed_once() -> None:
    put("a/b:q4_0")
    assert remove("a/b", "a/b:q4_0") == {"removed": ["a/b:q4_0"], "bytes": len(MODEL)}


def test_list_lives_with_models_that_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a/b:q4_0")
    models = list(stored_models())
    remove("a/b")
    monkeypatch.setattr("linnet.store.list.stored_models", lambda: models)
    assert list_models(ListOptions(json=True))["models"][0]["bytes"] == 0  # type: ignore[index]


# ---- cp -------------------------------------------------------------------------------------


def test_cp_takes_what_a_checkpoint_consists_of(tmp_path: Path, store: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / "state").mkdir()
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "secret.txt", "state/x",
                 "additional_chat_templates/tool_use.jinja"):  # fmt: skip
        (folder / name).write_text("{}")
    assert copy(folder, "mine") == "mine:safetensors"
    for copied in (folder_of(ModelName.parse("mine:safetensors")), Path(copy("mine", tmp_path / "out"))):
        found = {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()}
        assert found - {ABOUT} == {
            "config.json",
            "model.safetensors",
            "additional_chat_templates/tool_use.jinja",
        }
    with pytest.raises(TargetError, match="exists; choose another name"):
        copy("mine", tmp_path / "out")


def test_cp_of_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"MZ" + bytes(5000))
    with pytest.raises(SourceError, match="neither a GGUF file"):
        copy(tmp_path / "x.gguf", "mine")
    (tmp_path / "m.GGUF").write_bytes(MODEL)
    assert copy(tmp_path / "m.GGUF", "mine:q8_0") == "mine:q8_0"
    assert locate(Path("mine")).read_bytes() == MODEL


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_copy_that_fails_leaves_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr("shutil.copyfile", fail)
    for target in ("mine", tmp_path / "out"):
        with pytest.raises((TargetError, KeyboardInterrupt)) as raised:
            copy(folder, target)
        assert "None" not in str(raised.value)
    assert not (tmp_path / "out").exists()
    assert [path for path in store.rglob("*") if path.is_file()] == []
    assert sorted(path.name for path in tmp_path.iterdir()) in (["folder"], ["folder", "store"])


# ---- the cache of the Hub ---------------------------------------------------------------------


@pytest.mark.parametrize("commit", [b"../../../outside", b"\xff\xfe", b"a\0b", b"", b"/etc"])
def test_a_cache_that_names_no_commit_holds_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: bytes
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "m-Q8_0.gguf").write_bytes(MODEL)
    refs = tmp_path / "models--org--m" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_bytes(commit)
    with pytest.raises(SourceError, match="there is no model 'org/m'"):
        locate(Path("org/m"))


def test_what_tells_where_a_model_came_from_may_be_nonsense() -> None:
    folder = put("a/b:q4_0")
    for text in ("[" * 100_000, "null", "\0", json.dumps({"repository": ["\x1b"]})):
        (folder / ABOUT).write_text(text)
        assert isinstance(find_stored(ModelName.parse("a/b")).about, dict)
        list_models(ListOptions(json=True))
