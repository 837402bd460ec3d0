"""Cross-encoders: the scores of transformers for pairs of texts, alone and in company."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_encoders import SPECIAL, WORDS

import linnet
from linnet.engine.model import Model
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import ContextFullError, FormatError, LinnetError, UnsupportedError, UsageError
from linnet.export.convert import convert
from linnet.formats.checkpoint import read_checkpoint
from linnet.formats.gguf import open_gguf, read_gguf, write_gguf
from linnet.formats.tokenizer_json import framing
from linnet.options import ConvertOptions, FitOptions, QuantizeOptions, ShowOptions
from linnet.quantize.quantize import quantize
from linnet.run.fit import fit
from linnet.run.show import show
from tests import parity
from tests.tiny_families import ENCODER_INPUT, FAMILIES, RANK_HEAD, VOCAB, write_family

pytest.importorskip("transformers", reason="transformers makes the models; pip install 'linnet[test]'")

QUERY = "the cat sat"
DOCUMENTS = ["a dog ran.", "on the mat the cat sat.", "", "unbelievable cats " * 5, "the cat"]
MARKED = {"cls": "<s>", "pad": "<pad>", "sep": "</s>"}


def _document(model: dict[str, Any], added: dict[str, int], **parts: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": None,
        "added_tokens": [{"id": i, "content": text, **flags} for text, i in added.items()],
        "model": model, **parts,
    }  # fmt: skip


def word_pieces() -> dict[str, Any]:
    """As BERT's and DistilBERT's makers write it."""
    words = [*SPECIAL, *WORDS, *(f"w{i}" for i in range(VOCAB - len(SPECIAL) - len(WORDS)))]
    vocab = {word: i for i, word in enumerate(words)}
    return _document(
        {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 100, "vocab": vocab},
        {text: vocab[text] for text in SPECIAL},
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                    "strip_accents": None, "lowercase": True},
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=framing(("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])),
    )  # fmt: skip


def byte_level() -> dict[str, Any]:
    """As RoBERTa's write it."""
    letters = {chr(97 + i): 4 + i for i in range(26)}
    return _document(
        {"type": "BPE", "merges": [], "unk_token": "<unk>",
         "vocab": {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **letters, "Ġ": 30, ".": 31}},
        {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3},
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                       "use_regex": True},
        post_processor={"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2],
                        "trim_offsets": True, "add_prefix_space": False},
    )  # fmt: skip


def unigram() -> dict[str, Any]:
    """As XLM-RoBERTa's and CamemBERT's write it."""
    pieces = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -3.0]]
    pieces += [[f"▁{word}", -4.0 - i / 8] for i, word in enumerate(("the", "cat", "sat", "mat", "dog"))]
    pieces += [[chr(97 + i), -9.0 - i / 8] for i in range(26)]
    doubled = framing(("<s>", 0), ("</s>", 2), doubled=True)
    return _document(
        {"type": "Unigram", "unk_id": 3, "vocab": pieces},
        {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3},
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        post_processor=doubled,
    )


TOKENIZERS: dict[str, Callable[[], dict[str, Any]]] = {
    "bert": word_pieces, "roberta": byte_level, "xlm-roberta": unigram, "camembert": unigram,
    "distilbert": word_pieces,
}  # fmt: skip


def write_reranker(name: str, path: Path) -> Any:
    """A folder of a tiny model of random weights; returns that of transformers."""
    model = parity.make_model(parity.CASES[f"{name}-rank"], path)
    document = TOKENIZERS[name]()
    (path / "tokenizer.json").write_text(json.dumps(document))
    texts = [entry["content"] for entry in document["added_tokens"]]
    named = {f"{text.strip('[]').lower()}_token": text for text in texts if text.startswith("[")} or {
        f"{key}_token": text for key, text in MARKED.items()
    }
    (path / "tokenizer_config.json").write_text(json.dumps(named))
    return model


def scores_of_transformers(model: Any, path: Path) -> np.ndarray:
    """Of QUERY with each of DOCUMENTS, framed by the tokenizers library."""
    torch, tokenizers = pytest.importorskip("torch"), pytest.importorskip("tokenizers")
    split = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    typed = getattr(model.config, "type_vocab_size", 0) > 1
    scores = []
    for document in DOCUMENTS:
        pair = split.encode(QUERY, document)
        types = {"token_type_ids": torch.tensor([pair.type_ids])} if typed else {}
        with torch.no_grad():
            scores.append(float(model(torch.tensor([pair.ids]), **types).logits[0, 0]))
    return np.array(scores)


def scores_of(model: linnet.LanguageModel, **how: Any) -> np.ndarray:
    ranked = model.rerank(QUERY, DOCUMENTS, **how)
    assert [item.score for item in ranked] == sorted((item.score for item in ranked), reverse=True)
    return np.array([item.score for item in sorted(ranked, key=lambda item: item.index)])


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def reranker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("rerankers") / str(request.param)
    return path, write_reranker(str(request.param), path)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rerankers") / "bert"
    write_reranker("bert", path)
    return path


# ---- the same numbers -----------------------------------------------------------------


def test_scores_are_those_of_transformers(reranker: tuple[Path, Any], tmp_path: Path) -> None:
    """From the folder, the file made of it and the folder made of that, with and without a tokenizer.json."""
    transformers = pytest.importorskip("transformers")
    path, theirs = reranker
    expected = scores_of_transformers(theirs, path)
    assert np.ptp(expected) > 0.05
    convert(ConvertOptions(source=path, output=tmp_path / "m.gguf", json=True))
    convert(ConvertOptions(source=tmp_path / "m.gguf", output=tmp_path / "back", json=True))
    for source in (path, tmp_path / "m.gguf", tmp_path / "back"):
        np.testing.assert_allclose(scores_of(linnet.load(source, kv_type="f32")), expected, atol=1e-4, rtol=0)
    auto = transformers.AutoModelForSequenceClassification
    again = auto.from_pretrained(tmp_path / "back", attn_implementation="eager").eval()
    np.testing.assert_allclose(scores_of_transformers(again, tmp_path / "back"), expected, atol=1e-5, rtol=0)
    given = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")(
        QUERY, DOCUMENTS[0], return_tensors="pt"
    )
    assert float(again(**given).logits[0, 0].detach()) == pytest.approx(expected[0], abs=1e-5)


def test_what_is_around_a_pair_is_known_without_a_tokenizer_json(
    reranker: tuple[Path, Any], tmp_path: Path
) -> None:
    """As files of others are: GGUF's own keys say it."""
    path, _ = reranker
    convert(ConvertOptions(source=path, output=tmp_path / "m.gguf", json=True))
    whole, bare = read_gguf(tmp_path / "m.gguf"), tmp_path / "bare.gguf"
    bare_parts = replace(whole, tokenizer=replace(whole.tokenizer, json=None))
    with bare.open("wb") as file:
        write_gguf(bare_parts, file)
    expected, found = Tokenizer.open(path), Tokenizer.open(bare)
    one, two = [5, 6], [7, 8, 9]
    ids, types = found.pair(one, two)
    assert ids == expected.pair(one, two)[0]
    if Model.open(path).arch == "bert" and len(ids) == 8:  # BERT's own
        assert types == expected.pair(one, two)[1] == [0] * 4 + [1] * 4
    assert read_gguf(bare).special == whole.special == read_checkpoint(path).special
    if whole.tokenizer.vocabulary.kind != "bpe":  # whose way of splitting has no name here
        convert(ConvertOptions(source=bare, output=tmp_path / "back", json=True))
        assert Tokenizer.open(tmp_path / "back").pair(one, two)[0] == ids


def test_llama_cpp_gives_the_same_scores(tmp_path: Path) -> None:
    """Of RoBERTa's kin: of BERT's second type of tokens and of DistilBERT's relu it does not know."""
    pytest.importorskip("llama_cpp", reason="llama.cpp is compared; pip install 'linnet[peers]'")
    path = tmp_path / "m"
    write_reranker("xlm-roberta", path)
    convert(ConvertOptions(source=path, output=tmp_path / "m.gguf", json=True))
    metadata = open_gguf(tmp_path / "m.gguf").metadata
    assert metadata["bert.pooling_type"] == 4
    assert metadata["tokenizer.ggml.add_sep_token"] is True
    model = linnet.load(tmp_path / "m.gguf", kv_type="f32")
    ids, _ = model.tokenizer.pair(model.tokenizer.encode(QUERY), model.tokenizer.encode(DOCUMENTS[1]))
    theirs = parity.of_llama_cpp(tmp_path / "m.gguf", ids)
    assert float(theirs[0]) == pytest.approx(scores_of(model)[1], abs=parity.PEER_TOLERANCE)


def test_many_documents_have_the_scores_each_has_alone(bert: Path, tmp_path: Path) -> None:
    documents = [" ".join(WORDS[(i * j) % 13] for j in range(i % 40)) for i in range(150)]
    quantize(QuantizeOptions(source=bert, output=tmp_path / "q.gguf", type="q8_0", json=True))
    for source in (bert, tmp_path / "q.gguf"):
        for threads in (1, 3):
            model = linnet.load(source, threads=threads)
            together = {item.index: item.score for item in model.rerank(QUERY, documents)}
            for i in (0, 39, 77, 149):
                assert model.rerank(QUERY, [documents[i]])[0].score == together[i]


def test_fewer_bits_show_and_fit_work(bert: Path, tmp_path: Path) -> None:
    expected = scores_of(linnet.load(bert))
    quantize(QuantizeOptions(source=bert, output=tmp_path / "q.gguf", type="q8_0", json=True))
    for model in (linnet.load(tmp_path / "q.gguf"), linnet.load(bert, type="q8_0")):
        np.testing.assert_allclose(scores_of(model), expected, atol=0.1)
    types = {tensor.name: tensor.type_name for tensor in open_gguf(tmp_path / "q.gguf").tensors}
    assert (types["cls.weight"], types["cls.output.weight"]) == ("q8_0", "f32")
    for source in (bert, tmp_path / "q.gguf"):
        assert show(ShowOptions(source=source, json=True))["rank_head"] == "tanh"
        assert fit(FitOptions(model=source, json=True))["n_ctx"] == parity.CONTEXT


# ---- ways of using one -----------------------------------------------------------------


def test_a_reranker_ranks_by_itself_and_makes_vectors_only_if_told_how(bert: Path) -> None:
    model = linnet.load(bert)
    assert model.rerank(QUERY, DOCUMENTS) == model.rerank(QUERY, DOCUMENTS, method="pair")
    assert model.rerank(QUERY, []) == []
    with pytest.raises(UsageError, match=r"a query and a document as one text, .* choose a pooling"):
        model.embed(["the cat"])
    with pytest.raises(UsageError, match=r"a query and a document as one text, .*; leave out the method$"):
        model.rerank(QUERY, DOCUMENTS, method="embedding")
    assert model.embed(["the cat"], pooling="mean").shape == (1, 64)
    with pytest.raises(UnsupportedError, match=r"is an encoder: .*; rerank scores documents with it"):
        model.rerank(QUERY, DOCUMENTS, method="answer")


def test_other_models_have_no_head_for_pairs() -> None:
    with pytest.raises(UnsupportedError, match="no head that scores pairs; leave out the method"):
        linnet.load().rerank(QUERY, DOCUMENTS, method="pair")


def test_a_pair_that_does_not_fit_is_refused_with_the_counts(bert: Path) -> None:
    long = "the " * 200
    model = linnet.load(bert, n_ctx=100)
    with pytest.raises(
        ContextFullError,
        match=r"query with document 2 has 206 tokens and the context holds 100; .* raise n_ctx",
    ):
        model.rerank(QUERY, ["cat", long])
    (cut,) = model.rerank(QUERY, [long], cut=True)
    assert cut == model.rerank(QUERY, ["the " * 94])[0]  # 3 of the query, and what is around both
    with pytest.raises(ContextFullError, match="has 203 tokens"):
        model.rerank(long, [long], cut=True)


def test_the_command_prints_the_best_first(bert: Path) -> None:
    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "linnet", "rerank", "-m", str(bert), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    ranked = linnet.load(bert).rerank(QUERY, DOCUMENTS)
    result = json.loads(run("--json", QUERY, *DOCUMENTS).stdout)
    assert [entry["index"] for entry in result["ranked"]] == [item.index for item in ranked]
    assert np.float32(result["ranked"][0]["score"]) == np.float32(ranked[0].score)
    assert (result["method"], result["cut"]) == ("pair", 0)
    done = run(QUERY, stdin="\n".join(DOCUMENTS) + "\n")
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == [DOCUMENTS[i.index] for i in ranked]
    assert "5 documents · " in done.stderr
    done = run("--n-ctx", "20", QUERY, *DOCUMENTS)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert (
        "1 of 5 documents were cut to fit 20 tokens"
        in run("--cut", "--n-ctx", "20", QUERY, *DOCUMENTS).stderr
    )


def test_types_that_do_not_fit_the_texts_are_refused(bert: Path) -> None:
    model = linnet.load(bert)
    ids = [[5, 6, 7], [8, 9]]
    for types in ([[0, 0, 0]], [[0, 0, 0], [1]], [[0, 0, 0], []], [[0, 0, 0], [1, 1], [1]], [[0] * 4, [1]]):
        spans = [(model.open_session(), each) for each in ids]
        with pytest.raises(UsageError, match="one for each token of each span"):
            model.workspace.eval_scores(spans, types)
        assert [len(session) for session, _ in spans] == [0, 0]


@pytest.mark.parametrize(
    "pair",
    [
        "[CLS] $A [SEP] $B [SEP]",  # all of one type
        "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        "$B:1 [SEP]:1 $A:0",
        "[CLS] [CLS] $A:1 [SEP]:0 [SEP]:1 $B:0",
    ],
)
def test_a_pair_is_framed_as_the_tokenizers_library_does(pair: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(word_pieces()))
    around = [(text, theirs.token_to_id(text)) for text in ("[CLS]", "[SEP]")]
    theirs.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", pair, around)
    ours = Tokenizer.from_json(theirs.to_str().encode())
    for first, second in (("the cat", "a dog."), ("", "the"), ("the", "")):
        expected = theirs.encode(first, second)
        assert ours.pair(ours.encode(first), ours.encode(second)) == (expected.ids, expected.type_ids)


def test_a_template_that_makes_no_sense_is_one_line() -> None:
    document = word_pieces()
    for type_id in (-1, "x", 1 << 40):
        document["post_processor"]["pair"][0]["SpecialToken"]["type_id"] = type_id
        with pytest.raises(FormatError, match="a type in the template of pairs makes no sense"):
            Tokenizer.from_json(json.dumps(document).encode())
    document["post_processor"]["pair"] = [{"Sequence": {"id": "A", "type_id": 0}}]  # without the other text
    assert Tokenizer.from_json(json.dumps(document).encode()).pair([5], [6])[0] == [2, 5, 3, 6, 3]
    document["post_processor"] = None
    assert Tokenizer.from_json(json.dumps(document).encode()).pair([5], [6]) == ([5, 6], [0, 1])


# ---- what they refuse ------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [{"id2label": {"0": "a", "1": "b", "2": "c"}}, {"id2label": None}])
def test_other_counts_of_labels_are_one_line(bert: Path, tmp_path: Path, labels: dict[str, Any]) -> None:
    path = shutil.copytree(bert, tmp_path / "m")
    config = json.loads((path / "config.json").read_bytes())
    (path / "config.json").write_text(json.dumps({**config, **labels}))
    n = len(labels["id2label"] or "ab")  # transformers takes silence for two
    with pytest.raises(UnsupportedError, match=f"BertForSequenceClassification with {n} labels") as caught:
        linnet.load(path)
    assert "\n" not in str(caught.value)


def test_a_folder_whose_scores_go_through_more_is_refused(bert: Path, tmp_path: Path) -> None:
    path = shutil.copytree(bert, tmp_path / "m")
    modules = [{"type": f"sentence_transformers.{kind}", "path": ""} for kind in ("Transformer", "Dense")]
    (path / "modules.json").write_text(json.dumps(modules[:1]))
    assert scores_of(linnet.load(path)).tolist() == scores_of(linnet.load(bert)).tolist()
    (path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        UnsupportedError, match=r"module 'Dense', which is not supported; supported: Transformer$"
    ):
        linnet.load(path)


@pytest.mark.parametrize("missing", ["pooler.dense.weight", "pooler.dense.bias", "classifier.weight"])
def test_folders_without_a_part_of_the_head_are_one_line(bert: Path, tmp_path: Path, missing: str) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = shutil.copytree(bert, tmp_path / "m")
    weights = safetensors.load_file(path / "model.safetensors")
    name = missing if missing.startswith("classifier") else f"bert.{missing}"
    safetensors.save_file({k: w for k, w in weights.items() if k != name}, path / "model.safetensors")
    with pytest.raises(FormatError, match=f"the tensor '{name}' is missing"):
        linnet.load(path)
    weights[name] = weights[name][..., :1].copy() if weights[name].ndim > 1 else weights[name][:1].copy()
    safetensors.save_file(weights, path / "model.safetensors")
    with pytest.raises(FormatError, match=f"'{name}' is .*, expected"):
        linnet.load(path)


def test_damaged_weights_give_no_score(bert: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = shutil.copytree(bert, tmp_path / "m")
    weights = safetensors.load_file(path / "model.safetensors")
    weights["classifier.weight"][0, 5] = np.nan
    safetensors.save_file(weights, path / "model.safetensors")
    with pytest.raises(LinnetError, match="its weights are damaged"):
        linnet.load(path).rerank(QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    ("head", "keys", "message"),
    [
        ({}, {"pooling_type": 4}, "cls.weight' is missing"),  # rank, and no head
        ({"cls.weight": None}, {"pooling_type": 4}, "cls.weight' is missing"),
        ({"cls.output.weight": None}, {"pooling_type": 1}, "cls.output.weight' is missing"),
        ({"cls.weight": (1, 64)}, {}, "cls.weight' is "),
        ({"cls.bias": (63,)}, {}, "cls.bias' is "),
        ({"cls.output.weight": (3, 64), "cls.output.bias": (3,)}, {}, r"3 classes|is \(3, 64\), expected"),
        ({"cls.norm.weight": (64,)}, {}, "cls.norm.weight'"),  # of another model's head
    ],
)  # fmt: skip
def test_files_with_another_head_are_one_line_in_both_readers(
    tmp_path: Path, head: dict[str, Any], keys: dict[str, Any], message: str
) -> None:
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = FAMILIES["bert_rank"]
    shapes = {**RANK_HEAD, **head} if head else {}
    outside = {**ENCODER_INPUT, **{name: shape for name, shape in shapes.items() if shape is not None}}
    odd = replace(family, keys={**family.keys, **keys}, outside=outside)
    path = write_family(odd, tmp_path / "odd.gguf")
    for read in (read_gguf, Model.open):
        with pytest.raises(LinnetError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_head_counts_whatever_the_file_says_of_pooling(tmp_path: Path) -> None:
    """Files of others may not name it, and hold a matrix of one row as a vector."""
    pytest.importorskip("gguf", reason="gguf writes the models of this test; pip install 'linnet[test]'")
    family = FAMILIES["bert_rank"]
    named = write_family(family, tmp_path / "a.gguf")
    keys = {key: value for key, value in family.keys.items() if key != "pooling_type"}
    outside = {**family.outside, "cls.output.weight": (64,)}
    silent = write_family(replace(family, keys=keys, outside=outside), tmp_path / "b.gguf")
    assert Model.open(silent).ranks and Model.open(named).ranks
    assert read_gguf(silent).facts == read_gguf(named).facts
    convert(ConvertOptions(source=silent, output=tmp_path / "c.gguf", json=True))
    ids = [[5, 6, 7]]
    first, second = (linnet.load(path) for path in (silent, tmp_path / "c.gguf"))
    scores = [m.workspace.eval_scores([(m.open_session(), i) for i in ids]) for m in (first, second)]
    assert scores[0] == scores[1]
