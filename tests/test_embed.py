"""Embeddings, scores of continuations and reranking, against transformers and against their definitions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_models import write_chat_model

import linnet
from linnet.cli import main
from linnet.engine.session import PAGE_TOKENS, Session, Workspace
from linnet.errors import ContextFullError, LinnetError, UsageError
from linnet.export.convert import convert
from linnet.formats.gguf import read_gguf, write_gguf
from linnet.options import ConvertOptions
from linnet.run.model import BUNDLED_MODEL

_FRAME = {"<|im_start|>": 257, "<|im_end|>": 258}
TEXTS = [
    "Once upon a time there was a little girl named Lily. She loved to play outside. " * 5,
    "The dog",
    "Tom and Ben went to the park with a big red ball.",
    "",
    "Max",
]


@pytest.fixture(scope="module")
def model() -> linnet.LanguageModel:
    return linnet.load(kv_type="f32")


@pytest.fixture(scope="module")
def reference(model: linnet.LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """The last hidden states of each text in transformers, [n, dim]."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    checkpoint = tmp_path_factory.mktemp("m") / "checkpoint"
    convert(ConvertOptions(source=BUNDLED_MODEL, output=checkpoint, type="f32"))
    theirs = transformers.LlamaModel.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        hidden = [theirs(torch.tensor([model.tokenize(text)])).last_hidden_state[0] for text in TEXTS]
    return [states.numpy() for states in hidden]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> linnet.LanguageModel:
    """The bundled model with float weights."""
    path = tmp_path_factory.mktemp("m") / "f32.gguf"
    convert(ConvertOptions(source=BUNDLED_MODEL, output=path, type="f32"))
    return linnet.load(path, kv_type="f32")


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_embeddings_are_the_hidden_states_of_transformers(
    exact: linnet.LanguageModel, reference: list[np.ndarray], pooling: str
) -> None:
    pooled = {"mean": lambda h: h.mean(0), "cls": lambda h: h[0], "last": lambda h: h[-1]}[pooling]
    expected = np.array([pooled(states) for states in reference])
    found = exact.embed(TEXTS, pooling=pooling, normalize=False)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(exact.embed(TEXTS, pooling=pooling), expected / lengths, atol=1e-4, rtol=0)


def test_a_text_is_framed_as_the_makers_of_the_tokenizer_do(tmp_path: Path) -> None:
    folder = write_chat_model(tmp_path / "m")
    path = folder / "tokenizer.json"
    described = json.loads(path.read_bytes())
    parts = [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}]  # fmt: skip
    tokens = {text: {"id": text, "ids": [i], "tokens": [text]} for text, i in _FRAME.items()}
    described["post_processor"] = {
        "type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": tokens,
    }  # fmt: skip
    path.write_text(json.dumps(described))
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"add_bos_token": True}))
    model = linnet.load(folder)
    ids = [257, *b"hi", 258]
    (states,) = model.workspace.eval_hidden([(model.open_session(), ids)])
    np.testing.assert_array_equal(model.embed(["hi"], pooling="last", normalize=False)[0], states[-1])


def test_a_text_has_the_same_vector_alone_and_among_others(model: linnet.LanguageModel) -> None:
    texts = [text * 3 for text in TEXTS] * 16  # more than are evaluated together
    together = model.embed(texts)
    for i in (0, 1, 77, len(texts) - 1):
        np.testing.assert_array_equal(model.embed([texts[i]])[0], together[i])
    assert model.embed([]).shape == (0, model.model.dim)


def test_hidden_states_are_what_logits_come_from(model: linnet.LanguageModel) -> None:
    """The same bits, in passes of any size and beside spans that want logits; and no logits are left."""
    ids = model.tokenize(TEXTS[0])
    wide = Workspace(model.model, n_threads=1)
    (expected,) = wide.eval_hidden([(Session(wide), ids)])
    narrow = Workspace(model.model, n_batch=7, n_threads=2)
    sessions = [Session(narrow) for _ in range(3)]
    found = narrow.eval_hidden([(session, ids[: 50 + i]) for i, session in enumerate(sessions)])
    for i, states in enumerate(found):
        np.testing.assert_array_equal(states, expected[: 50 + i])
    with pytest.raises(UsageError, match="no logits"):
        _ = sessions[0].logits
    narrow.eval([(session, [ids[50 + i]]) for i, session in enumerate(sessions)])
    straight = Session(wide)
    straight.eval(ids[:51])
    np.testing.assert_array_equal(sessions[0].logits, straight.logits)


def test_what_cannot_be_embedded_is_refused(model: linnet.LanguageModel) -> None:
    small = linnet.load(n_ctx=PAGE_TOKENS)
    with pytest.raises(ContextFullError, match=f"context holds {PAGE_TOKENS}"):
        small.embed(["short", TEXTS[0]])
    with pytest.raises(UsageError, match="pooling is 'max'; choose from mean, cls, last"):
        model.embed(["x"], pooling="max")


# ---- scores ---------------------------------------------------------------------------


def test_scores_are_those_of_the_whole_text(model: linnet.LanguageModel) -> None:
    prompt, continuations = TEXTS[0].strip(), [" Lily was happy.", " The", "!", "s and then some"]
    scores = model.score(prompt, continuations)
    for continuation, score in zip(continuations, scores, strict=True):
        ids = model.tokenize(prompt + continuation)
        assert ids[len(ids) - len(score.ids) :] == score.ids
        expected = model.score(ids)[-len(score.ids) :]
        np.testing.assert_array_equal(np.float32(score.log_probs), expected)
        assert score.log_prob == pytest.approx(expected.sum(), abs=1e-4)
        assert ids[: len(ids) - len(score.ids)] == model.tokenize(prompt)[: len(ids) - len(score.ids)]
    before = model.tokenize(prompt)
    by_ids = model.score(before, [model.tokenize(" Lily was happy.", bos=False), " The"])
    assert (by_ids[0], by_ids[1]) == (scores[0], scores[1])


def test_impossible_continuations_are_refused(model: linnet.LanguageModel) -> None:
    with pytest.raises(UsageError, match="continuation is empty"):
        model.score("The cat", [" sat", ""])
    with pytest.raises(UsageError, match="no token before it"):
        model.score([], [[5, 6]])
    assert model.score("The cat", []) == []


# ---- reranking ------------------------------------------------------------------------


def test_documents_come_by_their_cosine(model: linnet.LanguageModel) -> None:
    documents = ["The sun is hot.", "Lily had a small dog called Max.", "A boat."]
    ranked = model.rerank("Lily has a little dog.", documents)
    vectors = model.embed(["Lily has a little dog.", *documents])
    assert [item.index for item in ranked] == list(np.argsort(-(vectors[1:] @ vectors[0])))
    assert ranked[0].index == 1
    assert ranked[0].score == pytest.approx(vectors[2] @ vectors[0], abs=1e-6)
    assert model.rerank("x", []) == []


def test_documents_come_by_the_answer_of_the_model(model: linnet.LanguageModel) -> None:
    documents = ["The sun is hot.", "Lily had a dog. " * 20, "A boat."] * 7
    ranked = model.rerank("Lily?", documents, method="answer")
    yes, no = (model.tokenize(answer, bos=False)[0] for answer in (" yes", " no"))
    for item in ranked[:3]:
        text = (
            "Decide whether the document answers the query.\nQuery: Lily?\n"
            f"Document: {documents[item.index]}\nAnswer (yes or no):"
        )
        with model.open_session() as session:
            session.eval(model.tokenize(text))
            logits = session.logits.astype(np.float64)
        assert item.score == pytest.approx(1 / (1 + np.exp(logits[no] - logits[yes])), abs=1e-12)
    scores = [item.score for item in ranked]
    assert scores == sorted(scores, reverse=True)
    assert sorted(item.index for item in ranked) == list(range(len(documents)))
    with pytest.raises(UsageError, match="choose from embedding, answer"):
        model.rerank("x", ["y"], method="guess")


def test_a_query_or_document_that_does_not_fit_is_named(model: linnet.LanguageModel) -> None:
    small, long = linnet.load(n_ctx=PAGE_TOKENS, kv_type="f32"), TEXTS[0] * 2
    n_long = len(model.tokenize(long))
    with pytest.raises(ContextFullError, match=f"^document 1 has {n_long} tokens and the context holds"):
        small.rerank("Lily", [long, "Max"])
    for cut in (False, True):
        with pytest.raises(ContextFullError, match=f"^the query has {n_long} tokens and the context holds"):
            small.rerank(long, ["Max"], cut=cut)
    (cut_one,) = small.rerank("Lily", [long], cut=True)
    query, document = small.embed(["Lily", long], cut=True)
    assert cut_one.score == pytest.approx(query @ document, abs=1e-6)
    with pytest.raises(ContextFullError, match=f"^the query with document 2 has .*holds {PAGE_TOKENS}; "):
        small.rerank("Lily", ["Max", long], method="answer")
    with pytest.raises(UsageError, match="answer cuts no document; leave out cut"):
        small.rerank("Lily", ["Max"], method="answer", cut=True)


@pytest.fixture(scope="module")
def damaged(exact: linnet.LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights in which one is not a number."""
    assert exact.model.path is not None
    parts = read_gguf(exact.model.path)
    down = next(tensor for tensor in parts.tensors if tensor.name == "blk.0.ffn_down.weight")
    weights = np.asarray(down.load()).view("<f4").copy()
    weights[5] = np.nan
    damaged = replace(down, load=lambda: weights.view(np.uint8))
    path = tmp_path_factory.mktemp("m") / "damaged.gguf"
    with path.open("wb") as file:
        write_gguf(replace(parts, tensors=tuple(damaged if t is down else t for t in parts.tensors)), file)
    return path


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.embed(["The dog"]),
        lambda model: model.rerank("dog", ["The dog", "Max"]),
        lambda model: model.rerank("dog", ["The dog", "Max"], method="answer"),
        lambda model: model.score("The dog"),
        lambda model: model.score("The dog", [" sat"]),
    ],
)
def test_damaged_weights_give_no_vector_and_no_score(
    damaged: Path, use: Callable[[linnet.LanguageModel], object]
) -> None:
    with pytest.raises(LinnetError, match="its weights are damaged"):
        use(linnet.load(damaged))


# ---- the command ----------------------------------------------------------------------


def linnet_embed(*arguments: str, stdin: str = "") -> str:
    command = [sys.executable, "-P", "-m", "linnet", "embed", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_prints_the_vectors(tmp_path: Path) -> None:
    model = linnet.load()
    result: dict[str, Any] = json.loads(linnet_embed("--json", "--pooling", "last", "The dog", "Max"))
    np.testing.assert_array_equal(
        np.float32(result["embeddings"]), model.embed(["The dog", "Max"], pooling="last")
    )
    assert (result["dim"], result["pooling"]) == (model.model.dim, "last")
    result = json.loads(linnet_embed("--json", "--watts", "5", "The dog"))
    assert result["energy"]["joules"] > 0 and result["energy"]["source"]
    result = json.loads(linnet_embed("--json", "--cut", "--n-ctx", "4", "The dog ran far away", "Max"))
    assert (result["cut"], result["tokens"]) == (1, 4 + len(model.tokenize("Max")))
    lines = linnet_embed("--no-normalize", stdin="The dog\nMax\n").splitlines()
    found = np.array([line.split() for line in lines], dtype=np.float32)
    np.testing.assert_allclose(found, model.embed(["The dog", "Max"], normalize=False), rtol=1e-5)


def test_the_query_counts_and_documents_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    model = linnet.load()
    n_query, n_max = (len(model.tokenize(text)) for text in ("Lily", "Max"))
    assert main(["rerank", "--json", "--watts", "5", "Lily", "Max"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["tokens"], result["cut"]) == (n_query + n_max, 0)
    energy = result["energy"]
    assert energy["joules_per_token"] == pytest.approx(energy["joules"] / (n_query + n_max), rel=1e-3)
    assert main(["rerank", "--json", "--cut", "--n-ctx", "4", "Lily", "The dog ran far away", "Max"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["tokens"], result["cut"]) == (n_query + n_max + 4, 1)


def test_documents_are_printed_whole_and_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    documents = ["The dog\tran\x1b. " * 300, "Max\r\nsat.\n"]
    assert main(["rerank", "--cut", "Lily", *documents]) == 0
    printed = capsys.readouterr().out
    found = [line.split("\t", 1)[1] for line in printed.removesuffix("\n").split("\n")]
    assert sorted(found) == sorted([documents[0], "Max\\r\\nsat.\\n"])


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_damaged_weights_are_one_line(
    damaged: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", "-m", str(damaged), "The dog", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "weights are damaged" in printed.err


def test_a_line_of_standard_input_ends_as_in_files(model: linnet.LanguageModel) -> None:
    """What else Unicode calls the end of a line is part of a text, as for everything that counts lines."""
    texts = ["The\x0cdog\u2028ran", "", "Max\x85\x1c."]
    found = json.loads(linnet_embed("--json", "--kv-type", "f32", stdin="\n".join(texts) + "\n"))
    np.testing.assert_array_equal(np.float32(found["embeddings"]), model.embed(texts))
