"""``benchmarks/compare.py``: random models that engines open, fair rounds, results that can be read again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

COMPARE = ROOT / "benchmarks" / "compare.py"


def compare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, COMPARE, "--threads", "1", "--repeat", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of benchmarks/, whose files import each other by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name: str) -> ModuleType:
        return __import__(name)

    return load


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_ours_is_measured_and_a_peer_is_left_out_with_its_reason(tmp_path: Path, models: Path) -> None:
    found = last_line(
        compare(
            "--shape", "tiny", "--type", "q8_0", "--figure", "decode,prefill,load,rss", "--models", models,
            "--results", tmp_path, "--peers", "llama.cpp", "--llama-lib", tmp_path,
        )
    )  # fmt: skip
    rows = {row["figure"]: row for row in found["rows"]}
    assert list(rows) == ["decode", "prefill", "load", "rss"]
    for row in rows.values():
        assert row["medians"]["linnet"] > 0
        assert list(row["skipped"]) == ["llama.cpp"]  # an empty folder is no library
        assert "ratio" not in row
    assert 0 < rows["decode"]["share_of_ceiling"]["linnet"] < 1
    assert rows["rss"]["medians"]["linnet"] < rows["rss"]["limit"]
    record = json.loads((tmp_path / rows["decode"]["file"]).read_text())
    samples = record["engines"]["linnet"]["samples"]
    assert len(samples) == record["repeat"] == 2
    assert record["engines"]["linnet"]["median"] == pytest.approx(np.median(samples))
    assert record["bytes_per_token"] < record["file_bytes"]
    assert record["commit"] and record["machine"]["processor"]


def test_an_engine_that_crashes_is_a_reason_not_the_end(module: Any, models: Path) -> None:
    path = module("shapes").model_path(models, "tiny", "q8_0")
    request = module("peers").Request("linnet", str(path), threads=1, vocab_size=1024, n_ctx=256)
    with module("process").EngineProcess(sys.executable, request) as engine:
        with engine.running():
            assert engine.ask(1, 16, 4)["decode_s"] > 0
        assert engine.first_token_s > 0
        engine._process.kill()
        with pytest.raises(module("peers").SkipError, match="linnet"), engine.running():
            engine.ask(1, 16, 4)


@pytest.mark.parametrize("option", ["--shape", "--type", "--figure", "--peers"])
def test_an_unknown_name_is_one_line(option: str) -> None:
    done = compare(option, "q1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'q1'; choose from" in done.stderr


def test_mixes_are_those_of_llama_quantize(module: Any) -> None:
    shapes = module("shapes")

    def types(shape: str, mix: str) -> dict[str, str]:
        found = shapes.tensor_types(shapes.SHAPES[shape], shapes.MIXES[mix])
        return {name: kind.name for name, kind in found.items()}

    wide = types("1b", "q4_k_m")
    assert wide["token_embd.weight"] == "Q6_K"  # it is the head too
    assert wide["blk.0.attn_q.weight"] == wide["blk.3.attn_v.weight"] == "Q4_K"
    # of 16 layers: the first and last two, and every third between
    more = [layer for layer in range(16) if wide[f"blk.{layer}.ffn_down.weight"] == "Q6_K"]
    assert more == [0, 1, 4, 7, 10, 13, 14, 15]
    narrow = types("135m", "q4_k_m")  # 576 columns are no multiple of 256, 1,536 are
    assert narrow["blk.0.attn_v.weight"] == narrow["token_embd.weight"] == "Q8_0"
    assert narrow["blk.0.attn_q.weight"] == "Q5_0"
    assert narrow["blk.0.ffn_down.weight"] == "Q6_K"
    untied = types("8b", "q4_0")
    assert (untied["token_embd.weight"], untied["output.weight"]) == ("Q4_0", "Q6_K")


def test_random_blocks_have_the_variance_of_a_trained_layer(module: Any) -> None:
    import gguf

    shapes = module("shapes")
    kinds = [*shapes._BLOCKS, shapes.Type.F16]
    for kind in kinds:
        data = shapes.random_tensor(kind, (64, 2048), np.random.Generator(np.random.SFC64(1)))
        weights = gguf.dequantize(data.view(np.float16) if kind.name == "F16" else data, kind)
        assert np.isfinite(weights).all()
        assert 0.45 < weights.std() * 2048**0.5 < 1.1, kind
        assert abs(weights.mean()) < 0.12 * weights.std(), kind  # Q4_0 counts from -8 to 7


def test_the_table_shows_the_newest_result(module: Any, tmp_path: Path) -> None:
    tables = module("tables")
    row = {
        "shape": "1b", "type": "q4_0", "figure": "decode", "about": "decode", "unit": "tok/s", "isa": "",
        "engines": {"linnet": {"median": 30.0}, "openvino": {"median": 20.0}}, "skipped": {}, "ratio": 1.5,
        "share_of_ceiling": {"linnet": 0.93}, "date": "2026-01-02", "commit": "abc", "threads": 2,
        "machine": {"processor": "P", "system": "S"},
    }  # fmt: skip
    tables.write_result(row, tmp_path / "results")
    older = row | {"date": "2026-01-01", "engines": {"linnet": {"median": 10.0}}}
    tables.write_result(older, tmp_path / "results")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.write_docs(tmp_path / "results", page)
    text = page.read_text()
    assert "| decode, tok/s | 1b q4_0 | 30 | - | - | 20 | 1.50x | 93% | 2026-01-02, abc |" in text
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    tables.write_docs(tmp_path / "results", page)
    assert page.read_text() == text


@pytest.mark.peers
@pytest.mark.parametrize("mix", ["q4_0", "q4_k_m"])
def test_llama_cpp_is_measured_beside_ours(tmp_path: Path, models: Path, mix: str) -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed; pip install 'linnet[peers]'")
    found = last_line(
        compare(
            "--shape", "tiny", "--type", mix, "--figure", "decode,prefill,batch8", "--models", models,
            "--results", tmp_path, "--peers", "llama.cpp,llama.cpp-plain",
        )
    )  # fmt: skip
    decode, prefill, batch = found["rows"]
    assert not decode["skipped"] and not prefill["skipped"]
    assert "llama.cpp" not in batch["skipped"]
    assert set(decode["medians"]) == {"linnet", "llama.cpp"}
    assert set(prefill["medians"]) == {"linnet", "llama.cpp", "llama.cpp-plain"}
    assert decode["ratio"] == pytest.approx(decode["medians"]["linnet"] / decode["medians"]["llama.cpp"])
