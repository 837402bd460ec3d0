"""``linnet fit`` and ``--ram``: plans that hold, budgets that are kept, models that are elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_hub import LARGE, Repo, fake_hub
from test_assembly import random_model

import linnet
from linnet.engine.plan import Plan
from linnet.errors import UsageError
from linnet.formats.checkpoint import write_checkpoint
from linnet.formats.gguf import write_gguf
from linnet.options import FitOptions, memory
from linnet.run.fit import fit, fitting, open_outline
from linnet.run.model import BUNDLED_MODEL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit")
    write_checkpoint(random_model(), path)
    return path


def plan_of(**options: Any) -> dict[str, Any]:
    return fit(FitOptions(json=True, **options))


# ---- the arithmetic is the core's ----------------------------------------------------------


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0", "q4_0"])
def test_pages_are_those_of_a_workspace(folder: Path, kv_type: str) -> None:
    model = linnet.load(folder, n_ctx=256, kv_type=kv_type)
    plan = open_outline(folder).plan(256, kv_type)
    assert plan.kv == 4 * model.workspace.page_bytes
    assert 0 < plan.scratch < model.workspace.bytes
    assert open_outline(folder).plan(257, kv_type).kv == 5 * model.workspace.page_bytes


def test_weights_are_those_of_the_loaded_model(folder: Path) -> None:
    as_stored, small = open_outline(folder).info, open_outline(folder, "q4_0").info
    assert as_stored.packed_bytes == 0
    assert as_stored.in_place_bytes == pytest.approx(as_stored.weight_bytes, rel=0.01)
    assert small.in_place_bytes == 0
    loaded = linnet.load(folder, type="q4_0").model
    assert small.weight_bytes == loaded.weight_bytes
    assert small.packed_bytes == pytest.approx(loaded.weight_bytes, rel=0.05)


MEASURE = """
import sys
from linnet.run.terminal import run
from linnet.run.meter import peak_rss_bytes
from linnet.run.model import load
path, ram = sys.argv[1], int(sys.argv[2]) or None
model = load(path, n_ctx=None if ram else 512, threads=1, ram=ram)
ids = [i % 300 for i in range(model.n_ctx - 1)]
for at in range(0, len(ids), 256):
    model.session.eval(ids[at : at + 256])
print(peak_rss_bytes(), model.n_ctx)
"""


def peak_of(path: Path, ram: int = 0) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEASURE, str(path), str(ram)], capture_output=True, text=True, check=True
    )
    peak, n_ctx = map(int, done.stdout.split())
    return peak, n_ctx


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process as Linux tells it")
def test_a_plan_is_near_what_a_process_takes() -> None:
    """Within 3 % for models worth planning (benchmarks/fit.py); a small one is mostly the interpreter."""
    peak, _ = peak_of(BUNDLED_MODEL)
    assert abs(open_outline(BUNDLED_MODEL).plan(512, "f16", 1).total - peak) < 6e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process as Linux tells it")
def test_a_budget_is_kept() -> None:
    ram = memory("60MB")
    peak, n_ctx = peak_of(BUNDLED_MODEL, ram)
    assert peak <= ram
    assert n_ctx >= 512


# ---- choosing --------------------------------------------------------------------------------


class Ladder:
    """100 bytes of weights, 4 bytes of context a token in f16, half and a quarter of that in others."""

    class info:
        max_seq_len = 8192
        head_dim = 64

    longest_text = info.max_seq_len

    def plan(self, n_ctx: int, kv_type: str, threads: int | None = None) -> Plan:
        kv = n_ctx * {"f16": 4, "q8_0": 2, "q4_0": 1}[kv_type]
        return Plan(n_ctx, kv_type, weights=100, kv=kv, scratch=10, loading=5, base=20)


@pytest.mark.parametrize(
    ("ram", "n_ctx", "kv_type", "expected"),
    [
        (130 + 4 * 4096, None, None, (4096, "f16")),
        (129 + 4 * 4096, None, None, (4096, "q8_0")),
        (129 + 2 * 4096, None, None, (4096, "q4_0")),
        (129 + 4096, None, None, (4032, "q4_0")),
        (130 + 512, None, None, (512, "q4_0")),
        (129 + 4 * 4096, None, "f16", (4032, "f16")),
        (130 + 100, 100, None, (100, "q4_0")),
        (130 + 4 * 8000, 8000, None, (8000, "f16")),
    ],
)
def test_what_a_budget_chooses(
    ram: int, n_ctx: int | None, kv_type: str | None, expected: tuple[int, str]
) -> None:
    plan = fitting(Ladder(), ram, n_ctx, kv_type, None)  # type: ignore[arg-type]
    assert (plan.n_ctx, plan.kv_type) == expected
    assert plan.total <= ram


@pytest.mark.parametrize(("n_ctx", "kv_type"), [(None, None), (1000, None), (1000, "f16")])
def test_what_cannot_fit_is_refused_with_the_numbers(n_ctx: int | None, kv_type: str | None) -> None:
    with pytest.raises(UsageError, match=r"the model needs .* and --ram is 0 MB"):
        fitting(Ladder(), 300, n_ctx, kv_type, None)  # type: ignore[arg-type]


def test_run_refuses_before_it_loads(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", "linnet", "run", "-m", str(folder), "--ram", "20M", "hi"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("linnet run: the model needs")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "n"), [("4G", 4 << 30), ("512MiB", 512 << 20), ("4GB", 4 * 10**9), ("1.5k", 1536), ("7", 7)]
)
def test_sizes_are_read_as_people_write_them(text: str, n: int) -> None:
    assert memory(text) == n


@pytest.mark.parametrize("text", ["", "4X", "-1G", "G", "4 G B", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        memory(text)


# ---- elsewhere ---------------------------------------------------------------------------------


def test_a_model_on_the_hub_is_planned_from_its_headers(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    path = tmp_path / "m-BF16.gguf"
    with path.open("wb") as file:
        write_gguf(random_model(), file)
    files = {item.name: item.read_bytes() for item in folder.iterdir()}
    assert len(files["model.safetensors"]) > LARGE
    repos = {"org/gguf": Repo({path.name: path.read_bytes()}), "org/folder": Repo(files)}
    with fake_hub(repos) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "LINNET_HOME": str(tmp_path)}
        for name, local in (("org/gguf", path), ("org/folder", folder)):
            command = [sys.executable, "-P", "-m", "linnet", "fit", name, "--n-ctx", "100", "--json"]
            done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == plan_of(model=local, n_ctx=100)
        whole = [file for file, wanted in hub.transfers if wanted is None]
        assert whole == []
        assert "tokenizer.json" not in {file for file, _ in hub.transfers}


def test_people_get_a_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(FitOptions(model=folder, ram=memory("1G")))
    shown = capsys.readouterr().out
    for word in ("weights", "keys and values", "scratch", "process", "peak", "█", "░"):
        assert word in shown
