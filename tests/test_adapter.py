"""Adapters on top of a model, against peft; and folders that are damaged, or are for another model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linnet
from linnet.cli import main
from linnet.engine.adapter import Adapter
from linnet.engine.model import Model
from linnet.engine.session import Session, Workspace
from linnet.errors import FormatError, LinnetError, SourceError, UnsupportedError, UsageError
from linnet.export.convert import convert
from linnet.formats.adapter import (
    CONFIG,
    WEIGHTS,
    AdapterParts,
    LowRank,
    plain_tensor,
    read_adapter,
    write_adapter,
)
from linnet.formats.parts import Tensor
from linnet.options import ConvertOptions
from linnet.run.model import BUNDLED_MODEL
from linnet.run.terminal.run import adapter_scales
from linnet.types import TensorType
from tests import parity

PROMPT = "Once upon a time there was a little girl named Lily. She had a red ball."
LAYER = "model.layers.1"


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("m") / "f32.gguf"
    convert(ConvertOptions(source=BUNDLED_MODEL, output=path, type="f32"))
    return path


@pytest.fixture(scope="module")
def checkpoint(exact: Path) -> Path:
    folder = exact.parent / "checkpoint"
    convert(ConvertOptions(source=exact, output=folder))
    return folder


def shapes(model: linnet.LanguageModel) -> dict[str, tuple[int, int]]:
    m = model.model
    query, key = m.n_heads * m.head_dim, m.n_kv_heads * m.head_dim
    return {
        "self_attn.q_proj": (query, m.dim),
        "self_attn.k_proj": (key, m.dim),
        "self_attn.v_proj": (key, m.dim),
        "self_attn.o_proj": (m.dim, query),
        "mlp.gate_proj": (m.ffn_dim, m.dim),
        "mlp.up_proj": (m.ffn_dim, m.dim),
        "mlp.down_proj": (m.dim, m.ffn_dim),
    }


def random_adapter(model: linnet.LanguageModel, seed: int, rank: int = 4, only: str = "") -> AdapterParts:
    random = np.random.default_rng(seed)
    modules = []
    for layer in range(model.model.n_layers):
        for name, (rows, cols) in shapes(model).items():
            if only in name:
                a = random.normal(size=(rank, cols)) / cols**0.5
                b = random.normal(size=(rows, rank))
                module = f"model.layers.{layer}.{name}"
                modules.append(LowRank(module, plain_tensor("a", a), plain_tensor("b", b), 0.5))
    return AdapterParts(tuple(modules), "bundled")


def values(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.load()).view("<f4").reshape(tensor.shape)


def logits(
    model: linnet.LanguageModel, adapters: tuple[tuple[Adapter, float], ...], ids: list[int]
) -> np.ndarray:
    workspace = Workspace(model.model, kv_type=TensorType.F32)
    return Session(workspace, adapters=adapters).eval_all(ids)


# ---- against peft ---------------------------------------------------------------------


def peft_logits(checkpoint: Path, folder: Path, ids: list[int]) -> np.ndarray:
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    base = transformers.LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        return theirs(torch.tensor([ids])).logits[0].numpy()


def peft_folder(checkpoint: Path, folder: Path, **config: Any) -> Path:
    """A folder that peft itself writes, with random matrices."""
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    base = transformers.LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    made = peft.get_peft_model(
        base, peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **config)
    )
    made.save_pretrained(folder)
    return folder


@pytest.mark.slow  # importing peft takes seconds
@pytest.mark.parametrize(
    "config",
    [
        {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        {"r": 4, "lora_alpha": 3, "target_modules": ["q_proj"], "use_rslora": True},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["k_proj", "down_proj"],
            "rank_pattern": {"layers.1.self_attn.k_proj": 6},
            "alpha_pattern": {"down_proj": 2, "layers.0.self_attn.k_proj": 5},
        },
    ],
    ids=["all", "rslora", "patterns"],
)
def test_logits_are_those_of_peft(
    exact: Path, checkpoint: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = peft_folder(checkpoint, tmp_path / "adapter", **config)
    for source in (exact, checkpoint):
        model = linnet.load(source)
        ids = model.tokenize(PROMPT)
        expected = peft_logits(checkpoint, folder, ids)
        found = logits(model, ((Adapter(model.model, folder), 1.0),), ids)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
        assert np.abs(found - logits(model, (), ids)).max() > 1e-2


OF_THE_TEXT = r".*(language_model|text_model).*\.(q|k|v|o|gate|up|down)_proj"
SOME_OF_THEM: dict[str, Any] = {  # the other matrices are experts, convolutions, or of what sees
    "mixtral": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "qwen3moe": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "lfm2": ["q_proj", "k_proj", "v_proj", "w1", "w2", "w3"],
    "llama-vision": OF_THE_TEXT,
    "mistral-vision": OF_THE_TEXT,
    "gemma3-vision": OF_THE_TEXT,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(parity.CASES))
def test_every_family_computes_what_peft_does(name: str, tmp_path: Path) -> None:
    """Fused matrices, interleaved heads and transposed ones among them."""
    peft = pytest.importorskip("peft", reason="peft makes the adapters; pip install 'linnet[test]'")
    torch = pytest.importorskip("torch")
    base = parity.make_model(parity.CASES[name], tmp_path / "source")
    ids = [int(i) for i in np.random.default_rng(7).integers(3, parity.VOCAB, parity.N_TOKENS)]
    torch.manual_seed(1)
    targets = SOME_OF_THEM.get(name, "all-linear")
    more = {"task_type": "CAUSAL_LM"}
    if parity.CASES[name].encodes:  # whose head stays as it is
        more = {"task_type": "FEATURE_EXTRACTION", "exclude_modules": r".*(pooler|classifier).*"}
    config = peft.LoraConfig(init_lora_weights=False, r=4, lora_alpha=2, target_modules=targets, **more)
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    expected = parity.of_transformers(theirs, ids)
    convert(ConvertOptions(source=tmp_path / "source", output=tmp_path / "m.gguf", json=True))
    for path in (tmp_path / "source", tmp_path / "m.gguf"):
        model = Model.open(path)
        workspace = Workspace(model, n_threads=1, kv_type=TensorType.F32)
        chosen = ((Adapter(model, tmp_path / "adapter"), 1.0),)
        found = parity.of_session(Session(workspace, parity.CONTEXT, chosen), ids)
        assert np.abs(found - expected).max() < parity.TOLERANCE * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(
    "module", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
)
def test_each_matrix_is_changed_as_if_it_were_merged(
    exact: Path, checkpoint: Path, tmp_path: Path, module: str
) -> None:
    """By weights merged by hand, in the file's own order of rows."""
    from safetensors.numpy import load_file, save_file

    model = linnet.load(exact)
    parts = random_adapter(model, 3, only=module)
    write_adapter(parts, tmp_path / "adapter")
    merged = tmp_path / "merged"
    merged.mkdir()
    for file in checkpoint.iterdir():
        (merged / file.name).write_bytes(file.read_bytes())
    weights = load_file(merged / "model.safetensors")
    for low in parts.modules:
        weights[f"{low.module}.weight"] += np.float32(low.scale) * (values(low.b) @ values(low.a))
    save_file(weights, merged / "model.safetensors")
    ids = model.tokenize(PROMPT)
    found = logits(model, ((Adapter(model.model, tmp_path / "adapter"), 1.0),), ids)
    np.testing.assert_allclose(found, logits(linnet.load(merged), (), ids), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_peft_reads_what_is_written(checkpoint: Path, exact: Path, tmp_path: Path) -> None:
    model = linnet.load(exact)
    parts = random_adapter(model, 5)
    varied = tuple(
        replace(
            low,
            a=plain_tensor("a", values(low.a)[:2]),
            b=plain_tensor("b", values(low.b)[:, :2]),
            scale=0.25,
        )
        if "v_proj" in low.module
        else low
        for low in parts.modules
    )
    write_adapter(AdapterParts(varied, "bundled"), tmp_path)
    again = read_adapter(tmp_path)
    assert {low.module: low.scale for low in again.modules} == {low.module: low.scale for low in varied}
    ids = model.tokenize(PROMPT)
    found = logits(model, ((Adapter(model.model, tmp_path), 1.0),), ids)
    np.testing.assert_allclose(found, peft_logits(checkpoint, tmp_path, ids), atol=1e-4, rtol=0)


# ---- chosen per session ---------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> linnet.LanguageModel:
    folder = tmp_path_factory.mktemp("adapters")
    model = linnet.load(threads=2)
    for seed, name in enumerate(("a", "b")):
        write_adapter(random_adapter(model, seed, rank=3 + seed), folder / name)
        model.add_adapter(name, folder / name)
    write_adapter(random_adapter(model, 9, only="q_proj"), folder / "q")
    model.add_adapter("q", folder / "q")
    return model


def test_a_batch_that_mixes_adapters_gives_the_bits_of_each_alone(adapted: linnet.LanguageModel) -> None:
    a, b, q = (adapted.adapters[name] for name in "abq")
    choices: list[tuple[tuple[Adapter, float], ...]] = [
        ((a, 1.0),), (), ((a, 1.0),), ((b, 0.5), (q, 1.0)), ((q, -1.0),), (), ((a, 0.5),),
    ]  # fmt: skip
    texts = [adapted.tokenize(f"{PROMPT} {number}" * (1 + number % 3)) for number in range(len(choices))]
    for n_batch in (16, 256):
        workspace = Workspace(adapted.model, n_batch=n_batch, kv_tokens=2048)
        sessions = [Session(workspace, adapters=choice) for choice in choices]
        workspace.eval(list(zip(sessions, texts, strict=True)))
        for _ in range(2):
            workspace.eval([(session, [77]) for session in sessions])
        forks = [session.fork() for session in sessions]
        workspace.eval([(session, [78]) for session in forks])
        for session, choice, ids in zip(forks, choices, texts, strict=True):
            alone = Session(Workspace(adapted.model, n_threads=1), adapters=choice)
            alone.eval([*ids, 77, 77, 78])
            np.testing.assert_array_equal(session.logits, alone.logits)
    plain = Session(Workspace(adapted.model))
    plain.eval([*texts[1], 77, 77, 78])
    np.testing.assert_array_equal(forks[1].logits, plain.logits)


def test_calls_choose_their_adapter_and_do_not_share_what_others_evaluated(
    adapted: linnet.LanguageModel,
) -> None:
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
    wanted: list[Any] = [None, "a", "b", {"a": 0.5, "q": 1.0}]
    first = [adapted.generate(PROMPT, adapter=adapter, **options) for adapter in wanted]
    assert all(made.cached_tokens == 0 for made in first)
    again = [adapted.generate(PROMPT, adapter=adapter, **options) for adapter in wanted]
    assert [made.ids for made in again] == [made.ids for made in first]
    assert all(made.cached_tokens == made.prompt_tokens - 1 for made in again)
    assert len({tuple(made.ids) for made in first}) == len(wanted)
    nothing = adapted.generate(PROMPT, adapter={"a": 0.0}, **options)
    assert nothing.ids == first[0].ids


def test_impossible_choices_are_refused(adapted: linnet.LanguageModel) -> None:
    with pytest.raises(UsageError, match="no adapter 'c'; known: a, b, q"):
        adapted.generate("x", adapter="c")
    for scale in (float("nan"), 1e39, -1e39):  # the core holds scales as f32
        with pytest.raises(
            UsageError, match=re.escape(f"the scale of adapter 'q' is {scale}; give a number")
        ):
            adapted.generate("x", adapter={"a": 1.0, "q": scale})
    with pytest.raises(LinnetError, match="an adapter has too large a scale"):
        adapted.generate("x", adapter={"a": 3e38})
    a = adapted.adapters["a"]
    with pytest.raises(UsageError, match="at most 8"):
        Session(adapted.workspace, adapters=((a, 1.0),) * 9)
    with pytest.raises(UsageError, match="the model it was opened for"):
        Session(linnet.load().workspace, adapters=((a, 1.0),))


# ---- what is not for this model, or no adapter ------------------------------------------


def changed(parts: AdapterParts, of: str, /, **fields: Any) -> AdapterParts:
    return AdapterParts(tuple(replace(low, **fields) if low.module == of else low for low in parts.modules))


def test_an_adapter_of_another_model_is_refused_with_what_differs(
    adapted: linnet.LanguageModel, tmp_path: Path
) -> None:
    good = random_adapter(adapted, 1)
    q, down = f"{LAYER}.self_attn.q_proj", f"{LAYER}.mlp.down_proj"
    rows, cols = shapes(adapted)["self_attn.q_proj"]
    ones = plain_tensor("a", np.ones((4, cols + 8))), plain_tensor("b", np.ones((rows + 8, 4)))
    for parts, problem in (
        (changed(good, q, module="model.layers.99.self_attn.q_proj"), r"layers\.99.*does not have"),
        (changed(good, q, module="transformer.h.0.attn.c_attn"), r"c_attn.*does not have"),
        (changed(good, q, module="lm_head", a=ones[0], b=ones[1]), "lm_head"),
        (changed(good, q, module="model.embed_tokens"), "embed_tokens.*adapters cannot"),
        (changed(good, q, b=ones[1]), rf"as \({rows + 8}, {cols}\) and the model's is \({rows}, {cols}\)"),
        (changed(good, q, a=ones[0]), rf"as \({rows}, {cols + 8}\) and the model's is \({rows}, {cols}\)"),
        (changed(good, down, b=ones[1]), r"down_proj.* and the model.* another model"),
    ):
        write_adapter(parts, tmp_path)
        with pytest.raises(LinnetError, match=problem) as caught:
            Adapter(adapted.model, tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("use_dora", True, "DoRA"),
        ("modules_to_save", ["lm_head"], "replace those of the model"),
        ("bias", "all", "biases"),
        ("peft_type", "IA3", "IA3"),
        ("lora_alpha", "16", "lora_alpha"),
        ("lora_alpha", None, "lora_alpha"),
        ("lora_alpha", float("inf"), "lora_alpha"),
        ("lora_alpha", 10**400, "lora_alpha"),
        ("alpha_pattern", {"(a+)+b": 1}, "alpha_pattern"),
        ("alpha_pattern", [1], "alpha_pattern"),
    ],
)
def test_what_is_more_than_low_rank_is_refused(
    adapted: linnet.LanguageModel, tmp_path: Path, key: str, value: Any, problem: str
) -> None:
    write_adapter(random_adapter(adapted, 1, only="q_proj"), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    (tmp_path / CONFIG).write_text(json.dumps({**config, key: value}), encoding="utf-8")
    with pytest.raises((UnsupportedError, FormatError), match=problem):
        read_adapter(tmp_path)


def test_damaged_folders_are_refused_with_one_line(adapted: linnet.LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no adapter_config"):
        read_adapter(tmp_path)
    write_adapter(random_adapter(adapted, 1, only="q_proj"), tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    nan = whole[:-4] + b"\xff\xff\xff\x7f"
    odd = whole.replace(b"1.self_attn.q_proj.lora_A", b"1.self_attn.q_proj.lora_C")
    lost = whole.replace(b"1.self_attn.q_proj.lora_A", b"2.self_attn.q_prox.lora_A")
    for damaged in (b"", whole[:7], whole[:200], whole[:-1], nan, odd, lost):
        (tmp_path / WEIGHTS).write_bytes(damaged)
        with pytest.raises(LinnetError) as caught:
            Adapter(adapted.model, tmp_path)
        assert "\n" not in str(caught.value)
    random = np.random.default_rng(0)
    for _ in range(150):  # anything may be wrong in the header: an error or an adapter, never anything else
        damaged = bytearray(whole)
        for at in random.integers(0, 700, size=3):
            damaged[at] = random.integers(256)
        (tmp_path / WEIGHTS).write_bytes(damaged)
        try:
            Adapter(adapted.model, tmp_path)
        except LinnetError as error:
            assert "\n" not in str(error)


def test_the_command_takes_adapters(
    adapted: linnet.LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("a", "b")):
        write_adapter(random_adapter(adapted, seed, rank=3 + seed), tmp_path / name)
    arguments = ["run", "--json", "-n", "8", "--temperature", "0", PROMPT]
    assert main([*arguments, "--adapter", str(tmp_path / "a"), "--adapter", f"{tmp_path / 'b'}=0.5"]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    assert text == adapted.generate(PROMPT, max_tokens=8, temperature=0, adapter={"a": 1.0, "b": 0.5}).text
    assert main([*arguments, "--adapter", f"{tmp_path / 'a'}=x"]) == 2
    assert "'x' is not a number" in capsys.readouterr().err


def test_scales_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lr=1e-4", "a=b"):
        (tmp_path / name).mkdir()
    named = ["x", "x=0.5", "y=-1", "lr=1e-4", "a=b", "a=b=0.25"]
    assert adapter_scales(named) == {"x": 1.5, "y": -1.0, "lr=1e-4": 1.0, "a=b": 1.25}
    with pytest.raises(UsageError, match="'strong' is not a number"):
        adapter_scales(["x=strong"])
