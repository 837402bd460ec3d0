"""Every architecture the core runs: the same bits however it is cut up, and the logits of llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnet.engine.model import Model
from linnet.engine.plan import Outline
from linnet.engine.session import Session, Workspace
from linnet.errors import FormatError, UnsupportedError, UsageError
from linnet.formats.source import read_model
from linnet.types import TensorType
from tests.tiny_families import (
    CONTEXT,
    DECODERS,
    DIM,
    EXPERT_FFN,
    EXPERTS,
    FAMILIES,
    FUSED_ATTENTION,
    LAYERS,
    LLAMA,
    RMS,
    USED,
    VOCAB,
    Family,
    write_family,
)

N = 150
IDS = [int(i) for i in np.random.default_rng(7).integers(3, VOCAB, N)]


@pytest.fixture(scope="module", params=DECODERS)
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


def logits_of(path: Path, isa: str = "") -> np.ndarray:
    return Session(
        Workspace(Model.open(path), n_threads=1, isa=isa, kv_type=TensorType.F32), CONTEXT
    ).eval_all(IDS)


def test_every_instruction_set_gives_about_the_same_logits(path: tuple[str, Path]) -> None:
    if FAMILIES[path[0]].type != "F32":
        pytest.skip("a last bit that differs may round an activation to another byte")
    np.testing.assert_allclose(logits_of(path[1], "scalar"), logits_of(path[1]), atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in DECODERS if FAMILIES[name].type != "F32"])
def test_packed_weights_give_about_the_logits_of_their_values(name: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    packed = logits_of(write_family(FAMILIES[name], tmp_path / "packed.gguf"))
    widened = logits_of(write_family(FAMILIES[name], tmp_path / "widened.gguf", widened=True))
    assert np.median(np.abs(packed - widened)) < 0.05 * widened.std()


@pytest.mark.peers
def test_llama_cpp_computes_the_same_logits(path: tuple[str, Path]) -> None:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama.cpp is not installed; pip install 'linnet[peers]'"
    )
    name, file = path
    if FAMILIES[name].type != "F32":
        pytest.skip("both round activations to bytes, each in its own way")
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
    # GELU is a table of f16 there.
    np.testing.assert_allclose(logits_of(file), expected, atol=5e-3, rtol=0)


def test_learned_positions_end_where_the_model_has_no_more(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    model = Model.open(write_family(FAMILIES["gpt2"], tmp_path / "gpt2.gguf"))
    with pytest.raises(UsageError, match=f"learned only {CONTEXT} positions"):
        Session(Workspace(model, kv_tokens=1024), CONTEXT + 1)


FFN_ONLY = ("ffn_gate", "ffn_up", "ffn_down")


@pytest.mark.parametrize(
    ("arch", "keys", "without", "message"),
    [
        ("gemma", {"expert_count": 4, "expert_used_count": 2}, FFN_ONLY, "experts in layer 0"),
        ("llama", {"expert_count": 4, "expert_used_count": 2}, FFN_ONLY, "ffn_gate_inp.weight' is missing"),
        ("llama", {"expert_count": 4, "expert_used_count": 5}, (), "choose 5 of 4"),
        (
            "llama",
            {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 2, 2, 2]},
            ("attn_q", "attn_k", "attn_v", "attn_output"),
            "is missing|convolution in layer 0",
        ),
        ("llama", {"attention.head_count_kv": [2, 2, 2, 2]}, (), "differs from layer to layer"),
        ("llama", {"attention.sliding_window_pattern": [True, False]}, (), "does not list 4 layers"),
        ("qwen2", {}, ("attn_v",), "attn_v.weight' is missing"),
        ("llama", {"rope.scaling.type": "yarn"}, (), "original_context_length' is missing"),
    ],
)
def test_metadata_that_cannot_be_is_refused(
    arch: str, keys: dict[str, Any], without: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    shapes = {name: shape for name, shape in LLAMA.items() if name.split(".")[0] not in without}
    family = Family(arch, {**RMS, **keys}, lambda _: shapes)
    with pytest.raises((FormatError, UnsupportedError), match=message):
        Model.open(write_family(family, tmp_path / "model.gguf"))


def test_two_lists_of_divisors_need_the_length_that_chooses(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    phi3 = FAMILIES["phi3_longrope"]
    keys = {key: value for key, value in phi3.keys.items() if "original_context_length" not in key}
    file = write_family(replace(phi3, keys=keys), tmp_path / "model.gguf")
    for reader in (Model.open, read_model):
        with pytest.raises(FormatError, match="original_context_length"):
            reader(file)


def test_a_model_of_convolutions_alone_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    lfm2 = FAMILIES["lfm2"]
    keys = {**lfm2.keys, "attention.head_count_kv": [0] * LAYERS}
    alone = replace(lfm2, keys=keys, layer=lambda _: lfm2.layer(0))
    file = write_family(alone, tmp_path / "model.gguf")
    for reader in (Model.open, read_model):
        with pytest.raises(UnsupportedError, match="every layer has a convolution"):
            reader(file)


def test_a_matrix_given_fused_and_apart_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = Family("qwen2", RMS, lambda _: {**LLAMA, **FUSED_ATTENTION})
    with pytest.raises(FormatError, match="holds what a fused tensor holds"):
        Model.open(write_family(family, tmp_path / "model.gguf"))


def test_decoding_reads_the_weights_of_the_chosen_experts_only(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = FAMILIES["mixtral"]
    model = Model.open(write_family(family, tmp_path / "model.gguf"))
    expert = 3 * EXPERT_FFN * DIM * 4
    idle = LAYERS * (EXPERTS - USED) * expert
    assert model.bytes_per_token == model.weight_bytes - idle - (VOCAB - 1) * DIM * 4


def test_a_size_that_no_tensor_has_costs_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = FAMILIES["qwen3moe"]
    scratch = []
    for dense in (64, 2**31 - 32):  # of blocks without experts, of which the model has none
        keys = {**family.keys, "feed_forward_length": dense}
        path = write_family(replace(family, keys=keys), tmp_path / f"{dense}.gguf")
        scratch.append(Outline(read_model(path), as_it_is=True).plan(CONTEXT, "f32").scratch)
    assert scratch[0] == scratch[1]
