"""Every architecture the core runs: the same bits however it is cut up, and the logits of llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from linnet.engine.model import Model
from linnet.engine.session import Session, Workspace
from linnet.errors import UsageError
from linnet.types import TensorType
from tests.tiny_families import CONTEXT, FAMILIES, VOCAB, write_family

N = 150
IDS = [int(i) for i in np.random.default_rng(7).integers(3, VOCAB, N)]


@pytest.fixture(scope="module", params=FAMILIES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    name = str(request.param)
    return name, write_family(FAMILIES[name], tmp_path_factory.mktemp("families") / f"{name}.gguf")


def test_the_same_bits_however_the_work_is_cut_up(path: tuple[str, Path]) -> None:
    model = Model.open(path[1])
    whole = Session(Workspace(model, n_threads=1), CONTEXT)
    expected = whole.eval_all(IDS)
    assert np.isfinite(expected).all() and expected.std() > 0.01
    workspace = Workspace(model, kv_tokens=1024, n_threads=3, n_batch=7)
    session = Session(workspace, CONTEXT)
    pieces = [session.eval_all(IDS[:1]), session.eval_all(IDS[1:90]), session.eval_all(IDS[90:])]
    np.testing.assert_array_equal(np.concatenate(pieces), expected)
    fork = session.fork(N - 60)
    session.truncate(N - 40)
    other = Session(workspace, CONTEXT)
    workspace.eval([(fork, IDS[N - 60 :]), (other, IDS[:31]), (session, IDS[N - 40 :])])
    np.testing.assert_array_equal(fork.logits, expected[-1])
    np.testing.assert_array_equal(other.logits, expected[30])
    np.testing.assert_array_equal(session.logits, expected[-1])


def test_every_instruction_set_gives_about_the_same_logits(path: tuple[str, Path]) -> None:
    model = Model.open(path[1])
    logits = {
        isa: Session(Workspace(model, n_threads=1, isa=isa, kv_type=TensorType.F32), CONTEXT).eval_all(IDS)
        for isa in ("scalar", "")
    }
    np.testing.assert_allclose(logits["scalar"], logits[""], atol=2e-4, rtol=0)


@pytest.mark.peers
def test_llama_cpp_computes_the_same_logits(path: tuple[str, Path]) -> None:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama.cpp is not installed; pip install 'linnet[peers]'"
    )
    name, file = path
    if not FAMILIES[name].llama_cpp:
        pytest.skip("llama.cpp does not run such a model, or without what makes it special")
    peer = llama_cpp.Llama(
        str(file),
        n_ctx=CONTEXT,
        logits_all=True,
        verbose=False,
        n_threads=1,
        type_k=0,
        type_v=0,
        flash_attn=False,
    )
    peer.eval(IDS)
    expected = np.array(peer.scores[:N, :VOCAB])
    session = Session(Workspace(Model.open(file), n_threads=1, kv_type=TensorType.F32), CONTEXT)
    tolerance = 5e-3 if FAMILIES[name].type == "F32" else 5e-2  # its GELU is a table of f16
    np.testing.assert_allclose(session.eval_all(IDS), expected, atol=tolerance, rtol=0)


def test_learned_positions_end_where_the_model_has_no_more(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    model = Model.open(write_family(FAMILIES["gpt2"], tmp_path / "gpt2.gguf"))
    with pytest.raises(UsageError, match=f"learned only {CONTEXT} positions"):
        Session(Workspace(model, kv_tokens=1024), CONTEXT + 1)
