"""Outputs that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from linnet.errors import SourceError, TargetError
from linnet.formats.atomic import atomic_file, atomic_folder, check_replaceable
from linnet.formats.corpus import Corpus
from linnet.formats.leftovers import restore
from linnet.formats.store import locate, stored_models


@contextmanager
def no_write_permission(folder: Path) -> Iterator[None]:
    """As an ordinary user who may not write ``folder``, even when the tests run as root."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_atomic_file_replaces_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with atomic_file(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_atomic_file_keeps_the_old_one_on_failure(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(failure), atomic_file(target) as file:
        file.write(b"half")
        raise failure
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


KILLED = """
import os, sys
from linnet.formats.atomic import atomic_file, atomic_folder
with atomic_folder(sys.argv[1] + "/folder") as folder, atomic_file(sys.argv[1] + "/file") as file:
    (folder / "part").write_bytes(b"half")
    print(flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(os.name == "nt", reason="nothing is swept there")
def test_what_a_killed_process_left_is_removed_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-P", "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == b"\n"
    (tmp_path / ".linnet-notes.tmp").write_text("of somebody else")
    with atomic_file(tmp_path / "a"):
        assert len(os.listdir(tmp_path)) == 4
    assert len(os.listdir(tmp_path)) == 4  # two of the living process
    with pytest.raises(TargetError, match="would be lost"):
        check_replaceable(tmp_path, ("a", ".linnet-notes.tmp"))
    other.communicate()
    assert other.returncode == -9
    assert len(os.listdir(tmp_path)) == 4
    check_replaceable(tmp_path, ("a", ".linnet-notes.tmp"))
    with atomic_folder(tmp_path / "b"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".linnet-notes.tmp", "a", "b"]


KILLED_BETWEEN = """
import os, sys
from pathlib import Path
from linnet.formats.atomic import atomic_folder
rename = os.rename
def killed(source, target):
    rename(source, target)
    if Path(target).name == sys.argv[2]:  # it is set aside, under its own name
        os.kill(os.getpid(), 9)
os.rename = killed
with atomic_folder(sys.argv[1], ("*",)) as folder:
    (folder / "part").write_bytes(b"new")
"""


def killed_between(target: Path) -> None:
    """What a process leaves that is killed when the old folder is set aside and the new not yet there."""
    target.mkdir(parents=True)
    (target / "part").write_bytes(b"old")
    command = [sys.executable, "-P", "-c", KILLED_BETWEEN, str(target), target.name]
    assert subprocess.run(command, check=False).returncode == -9
    assert not target.exists() and any(name.endswith(".aside") for name in os.listdir(target.parent))


@pytest.mark.skipif(os.name == "nt", reason="nothing is swept there")
def test_a_folder_that_was_about_to_be_replaced_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    killed_between(target)
    with atomic_file(tmp_path / "other"):
        assert (target / "part").read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    killed_between(tmp_path / "kept" / "out")
    with pytest.raises(TargetError, match="would be lost"), atomic_folder(tmp_path / "kept" / "out"):
        pytest.fail("it is not to be replaced by what asks for a new folder")
    killed_between(tmp_path / "model")  # readers bring it back, too, and remove nothing
    assert locate(tmp_path / "model") == tmp_path / "model" and (tmp_path / "model" / "part").exists()
    killed_between(tmp_path / "corpus")
    with pytest.raises(SourceError):
        Corpus.open(tmp_path / "corpus")
    assert (tmp_path / "corpus" / "part").exists()
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    killed_between(tmp_path / "home" / "models" / "bird" / "q8_0")
    assert [str(model.name) for model in stored_models()] == ["bird:q8_0"]


REPLACING = """
import os, sys, tempfile, time
from linnet.formats.atomic import atomic_folder
from linnet.formats.leftovers import ASIDE, leftover_name, restore
from pathlib import Path
target, gone, staging = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
rename = os.rename
def slow(source, place):
    rename(source, place)
    time.sleep(0.002)  # between the two renamings
os.rename = slow
for i in range(100):
    aside = Path(tempfile.mkdtemp(dir=staging))  # as if left by a process that is gone
    (aside / target.name).mkdir()
    (aside / target.name / "part").write_bytes(b"stale")
    os.rename(aside, str(leftover_name(target, ASIDE)).replace(f"-{os.getpid()}-", f"-{gone}-"))
    restore(target.parent)
    with atomic_folder(target, ("*",)) as folder:
        (folder / "part").write_bytes(b"new")
"""


@pytest.mark.skipif(os.name == "nt", reason="nothing is swept there")
def test_two_processes_may_replace_and_bring_back_at_once(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    target, staging = tmp_path / "here" / "out", tmp_path / "staging"
    target.mkdir(parents=True)
    staging.mkdir()
    command = [sys.executable, "-P", "-c", REPLACING, str(target), str(gone.pid), str(staging)]
    assert [process.wait() for process in [subprocess.Popen(command) for _ in range(2)]] == [0, 0]
    restore(target.parent)
    assert os.listdir(target.parent) == ["out"] and (target / "part").read_bytes() == b"new"


def test_an_error_in_a_new_folder_names_the_output(tmp_path: Path) -> None:
    with (
        pytest.raises(TargetError, match=r"cannot write .*/out/missing/part"),
        atomic_folder(tmp_path / "out") as folder,
        atomic_file(folder / "missing" / "part"),
    ):
        pytest.fail("there is no such folder")


def test_atomic_file_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_file(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "missing" / "a", tmp_path / "file" / "a", Path("/dev/full")):
        with pytest.raises(TargetError, match="cannot write"), atomic_file(path) as file:
            file.write(b"x")
    for path in (tmp_path, tmp_path / "missing" / "a", tmp_path / "file"):
        with pytest.raises(TargetError, match="cannot write"), atomic_folder(path):
            pass
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="permissions are different there")
def test_a_folder_without_write_permission() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with no_write_permission(folder):
            with pytest.raises(TargetError, match="Permission denied"), atomic_file(folder / "a"):
                pass
            with pytest.raises(TargetError, match="Permission denied"), atomic_folder(folder / "a"):
                pass
        assert os.listdir(folder) == []


def test_a_full_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # writing beyond fails as a full disk does
    try:
        with pytest.raises(TargetError, match="the target is unchanged"), atomic_file(tmp_path / "a") as file:
            file.write(bytes(10_000))
            file.flush()
        with pytest.raises(TargetError, match=r"cannot write .*a: "), atomic_file(tmp_path / "a") as file:
            file.write(bytes(2000))  # they wait in memory, also when the file is closed after the failure
        with pytest.raises(TargetError), atomic_folder(tmp_path / "b") as folder:
            (folder / "part").write_bytes(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_atomic_file_does_not_blame_the_target_for_a_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a"):
        (tmp_path / "source").read_bytes()


def test_atomic_folder_replaces_its_own_kind_only(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for content in ("one", "two"):
        with atomic_folder(target, ("*.txt",)) as folder:
            (folder / "a.txt").write_text(content)
    assert (target / "a.txt").read_text() == "two"
    (target / "notes.md").write_text("mine")
    with pytest.raises(TargetError, match=r"notes\.md"), atomic_folder(target, ("*.txt",)):
        pytest.fail("the block must not run")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "other") as folder:
        raise RuntimeError
    assert sorted(os.listdir(tmp_path)) == ["out"]
