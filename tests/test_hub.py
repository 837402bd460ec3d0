"""Hubs that lie or never stop: nothing is taken that cannot be verified, in bounded time and memory."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import LARGE, FakeHub, Repo, fake_hub

from linnet.errors import FormatError, LinnetError, SourceError, TargetError
from linnet.formats import hub, store
from linnet.formats.hub import HubFile, Repository, download, open_repository, read_beginning
from linnet.formats.store import ABOUT, ModelName, StoredModel
from linnet.options import FitOptions, PullOptions
from linnet.run import fit as fit_verb
from linnet.run.fit import fit
from linnet.store.pull import pull

huggingface_hub = pytest.importorskip("huggingface_hub")

DATA = bytes(range(256)) * 1024
ROOM = 1 << 25  # bytes that a server may have sent before it sees that the client has gone


@pytest.fixture
def repos() -> dict[str, Repo]:
    return {"o/m": Repo({"m-Q8_0.gguf": DATA, "config.json": b"{}"})}


@pytest.fixture
def server(repos: dict[str, Repo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "store"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with fake_hub(repos) as running:
        monkeypatch.setattr(hub, "_endpoint", lambda: running.url)
        yield running
        huggingface_hub.utils.close_session()


def first_file() -> tuple[Repository, HubFile]:
    repository = open_repository("o/m")
    return repository, repository.files[0]


def soon() -> float:
    return time.monotonic() + 20


# ---- downloads --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, -1, "12", 1.5, True, 1 << 60])
def test_a_size_that_cannot_be_is_refused(repos: dict[str, Repo], server: FakeHub, size: Any) -> None:
    repos["o/m"].claimed_size["m-Q8_0.gguf"] = size
    with pytest.raises(FormatError, match="which cannot be"):
        open_repository("o/m")


@pytest.mark.parametrize("size", [0, 10, len(DATA)])
def test_a_file_without_a_hash_is_not_taken(
    repos: dict[str, Repo], server: FakeHub, tmp_path: Path, size: int
) -> None:
    repos["o/m"].hashes = False
    repos["o/m"].claimed_size["m-Q8_0.gguf"] = size
    with pytest.raises(FormatError, match=r"no hash of m-Q8_0.gguf"):
        download(*first_file(), tmp_path / "m.gguf")
    assert server.transfers == []


@pytest.mark.parametrize("size", [0, 10, len(DATA) - 1, len(DATA) + 1])
def test_a_file_that_is_not_what_was_promised_is_deleted(
    repos: dict[str, Repo], server: FakeHub, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_PAUSE", 0)
    repos["o/m"].claimed_size["m-Q8_0.gguf"] = size
    with pytest.raises(LinnetError) as error:
        download(*first_file(), tmp_path / "m.gguf")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "m.gguf").exists()


def test_an_endless_file_is_read_as_far_as_it_was_promised(
    repos: dict[str, Repo], server: FakeHub, tmp_path: Path
) -> None:
    repos["o/m"].endless = True
    download(*first_file(), tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == DATA
    assert server.sent < ROOM


@pytest.mark.parametrize("ranges", [True, False])
def test_a_pull_goes_on_or_begins_anew_as_the_server_can(
    repos: dict[str, Repo], server: FakeHub, tmp_path: Path, ranges: bool
) -> None:
    repository, file = first_file()
    assert file.sha256 is not None
    (tmp_path / f"m.gguf.{file.sha256[:16]}.part").write_bytes(DATA[:1000])
    repos["o/m"].ranges = ranges
    told = []
    download(repository, file, tmp_path / "m.gguf", told.append)
    assert (tmp_path / "m.gguf").read_bytes() == DATA
    assert server.transfers == [("m-Q8_0.gguf", "bytes=1000-")]
    assert sum(told) == len(DATA)


def test_a_full_disk_is_told_from_a_bad_connection(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, file = first_file()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(TargetError, match=r"cannot write .*No space left; what has arrived stays"):
            download(repository, file, tmp_path / "m.gguf")
    if Path("/dev/full").exists():
        (tmp_path / f"m.gguf.{str(file.sha256)[:16]}.part").unlink()
        (tmp_path / f"m.gguf.{str(file.sha256)[:16]}.part").symlink_to("/dev/full")
        with pytest.raises(TargetError, match=r"cannot write .*No space left on device"):
            download(repository, file, tmp_path / "m.gguf")
    monkeypatch.setattr(hub, "_endpoint", lambda: "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(SourceError, match=r"cannot reach http://127.0.0.1:9"):
        download(repository, file, tmp_path / "m.gguf")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "//", "gopher:"])
def test_a_redirect_leads_to_another_server_at_most(
    repos: dict[str, Repo], server: FakeHub, tmp_path: Path, location: str
) -> None:
    repos["o/m"].location = location
    repository, file = first_file()
    with pytest.raises(SourceError) as error:
        download(repository, file, tmp_path / "m.gguf")
    assert "\n" not in str(error.value)
    with pytest.raises(SourceError):
        read_beginning(repository, file, 100, soon())


def test_redirects_in_a_circle_end(repos: dict[str, Repo], server: FakeHub) -> None:
    repository, file = first_file()
    repos["o/m"].location = f"{server.url}/o/m/resolve/main/m-Q8_0.gguf"
    with pytest.raises(SourceError, match="redirect"):
        read_beginning(repository, file, 100, soon())


@pytest.mark.parametrize(
    "name",
    ["../m.gguf", "/m.gguf", "a/../m.gguf", "C:m.gguf", "a\\m.gguf", "\x1b[2J.gguf", "a\nb.gguf", "./m"],
)
def test_names_that_lead_elsewhere_or_command_a_terminal_are_refused(
    repos: dict[str, Repo], server: FakeHub, name: str
) -> None:
    repos["o/m"].files[name] = DATA
    with pytest.raises(FormatError, match="which cannot be") as error:
        open_repository("o/m")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"sha": 1}', b"[" * 100_000, b"\xff", b"null"])
def test_a_list_of_files_that_makes_no_sense_is_one_line(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(hub, "_receive", lambda *_: text)
    with pytest.raises(FormatError, match="makes no sense"):
        open_repository("o/m")


# ---- the beginning of a file ------------------------------------------------------------------


@pytest.mark.parametrize(("ranges", "endless"), [(True, False), (False, False), (True, True), (False, True)])
def test_no_more_than_the_beginning_is_read(
    repos: dict[str, Repo], server: FakeHub, ranges: bool, endless: bool
) -> None:
    repos["o/m"].ranges, repos["o/m"].endless = ranges, endless
    repository, file = first_file()
    assert read_beginning(repository, file, 5000, soon()) == DATA[:5000]
    assert server.sent < ROOM


def test_a_server_that_is_too_slow_is_given_up(server: FakeHub) -> None:
    repository, file = first_file()
    with pytest.raises(SourceError, match="answers too slowly"):
        read_beginning(repository, file, len(DATA), time.monotonic() - 1)


# ---- fit ----------------------------------------------------------------------------------------


def gguf_header(n_tensors: int, n_pairs: int, rest: bytes = b"") -> bytes:
    return (
        b"GGUF" + b"".join(n.to_bytes(w, "little") for n, w in ((3, 4), (n_tensors, 8), (n_pairs, 8))) + rest
    )


LONG_ARRAY = b"\1" + bytes(7) + b"k" + b"".join(
    n.to_bytes(w, "little") for n, w in ((9, 4), (8, 4), (1 << 39, 8))  # an array of 2^39 texts
)  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        bytes(LARGE),
        gguf_header(1 << 40, 0) + bytes(LARGE),
        gguf_header(0, 1 << 40) + bytes(LARGE),
        gguf_header(0, 1, LONG_ARRAY) + bytes(LARGE),
    ],
)
@pytest.mark.parametrize("endless", [False, True])
def test_fit_of_a_server_that_lies_is_one_line(
    repos: dict[str, Repo], server: FakeHub, monkeypatch: pytest.MonkeyPatch, data: bytes, endless: bool
) -> None:
    monkeypatch.setitem(fit_verb._LARGEST_HEADER, ".gguf", 1 << 22)
    repos["o/m"] = Repo({"m-Q8_0.gguf": data}, claimed_size={"m-Q8_0.gguf": 1 << 42}, endless=endless)
    with pytest.raises(LinnetError) as error:
        fit(FitOptions(model=Path("o/m"), json=True))
    assert "\n" not in str(error.value)
    assert "linnet-fit-" not in str(error.value)
    assert server.sent < 3 * ROOM


def test_fit_of_a_folder_that_lies_is_one_line(repos: dict[str, Repo], server: FakeHub) -> None:
    shards = {f"model-{i:05}-of-00002.safetensors": b"\xff" * 7 + b"\0" + bytes(LARGE) for i in (1, 2)}
    repos["o/m"] = Repo({"config.json": b"{}", **shards})
    with pytest.raises(FormatError, match=r"o/m/model-00001-of-00002.safetensors is damaged"):
        fit(FitOptions(model=Path("o/m"), json=True))


# ---- pull -----------------------------------------------------------------------------------------


def pulled() -> StoredModel:
    result = pull(PullOptions(name="o/m", json=True))
    return StoredModel(ModelName.parse(str(result["name"])), Path(str(result["path"])).parent)


def test_a_model_whose_files_were_changed_is_pulled_again(
    server: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pulled()
    assert model.path.read_bytes() == DATA
    server.transfers.clear()
    pulled()
    assert server.transfers == []
    model.path.write_bytes(DATA[:-1])
    pulled()
    assert model.path.read_bytes() == DATA
    assert "o/m:q8_0 is damaged: m-Q8_0.gguf has 262,143 bytes, not 262,144" in capsys.readouterr().err
    model.path.unlink()
    pulled()
    assert "m-Q8_0.gguf is missing" in capsys.readouterr().err
    assert model.path.read_bytes() == DATA


def test_a_pull_that_fails_at_the_end_loses_neither_the_old_nor_the_new(
    repos: dict[str, Repo], server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pulled()
    (model.folder / ABOUT).unlink()  # it is to be pulled again
    rename = store.os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == model.folder and "partial" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", refuse)
        with pytest.raises(TargetError, match="Input/output error"):
            pulled()
    assert model.path.read_bytes() == DATA
    server.transfers.clear()
    pulled()
    assert server.transfers == []  # all of it had arrived
    assert json.loads((model.folder / ABOUT).read_text())["repository"] == "o/m"
    assert [entry.name for entry in model.folder.parent.iterdir()] == ["q8_0"]


def test_an_interrupted_pull_goes_on_and_leaves_nothing_else(
    repos: dict[str, Repo], server: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    partial = tmp_path / "store" / "partial"
    (partial / "o--m--q8_0--0123456789ab").mkdir(parents=True)  # of another commit
    with monkeypatch.context() as patch:
        patch.setattr(hub, "_verify", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pulled()
    server.transfers.clear()
    assert pulled().path.read_bytes() == DATA
    assert server.transfers == []
    assert list(partial.iterdir()) == []


def test_two_pulls_of_a_model_do_not_write_into_each_other(server: FakeHub, tmp_path: Path) -> None:
    with (
        hub.only_one(tmp_path / "store" / "partial" / ".o--m--q8_0--lock", "o/m:q8_0"),
        pytest.raises(LinnetError, match="another process is pulling o/m:q8_0"),
    ):
        pulled()
    assert pulled().path.exists()
