"""The recipes run: quickly where they can, and to the end where that takes a while."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from string import Template
from types import ModuleType

import pytest

from linnet.data.tokenize import open_encoder
from linnet.errors import SourceError
from linnet.evaluate.evaluate import read_texts
from linnet.formats.corpus import Corpus

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RECIPES / name), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


# ---- the standard library ------------------------------------------------------------


def test_the_standard_library_is_found_and_parted_by_name(tmp_path: Path) -> None:
    made = recipe("standard_library")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        made.write_documents(tmp_path / folder / "learn", tmp_path / folder / "held_out", 400_000)
    rows = {
        name: [json.loads(row) for row in (tmp_path / "one" / name).read_text("utf-8").splitlines()]
        for name in ("learn", "held_out")
    }
    names = {name: {row["name"] for row in found} for name, found in rows.items()}
    assert len(names["learn"]) > 5
    assert names["held_out"] and not names["held_out"] & names["learn"]
    assert 200_000 < sum(len(row["text"]) for row in rows["learn"]) < 500_000
    assert not any(name.startswith(("test/", "idlelib/", "site-packages/")) for name in names["learn"])
    for name in ("learn", "held_out"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_work_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = run("standard_library.py", "--workdir", "mine", folder=tmp_path)
    assert done.returncode == 2
    assert "mine exists" in done.stderr
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.slow
def test_the_standard_library_story_from_text_to_sample(tmp_path: Path) -> None:
    small = ("--minutes", 0.1, "--params", "100k", "--vocab-size", 512, "--max-bytes", "200k")
    done = run("standard_library.py", *small, "--workdir", "work", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for sign in ("bytes per token", "bits per byte", "def main():", "More: linnet run"):
        assert sign in done.stdout
    model = tmp_path / "work" / "standard-library.gguf"
    assert model.stat().st_size > 50_000
    # The tokenizer goes along unchanged: the next corpus may be made with that of the model.
    corpus = Corpus.open(tmp_path / "work" / "corpus")
    for carrier in (model, tmp_path / "work" / "checkpoint"):
        encoder = open_encoder(carrier)
        assert (encoder.json, encoder.bos_id, encoder.eos_id) == (corpus.tokenizer_json, 0, 0)


# ---- the bundled model ---------------------------------------------------------------


def test_copies_of_the_reference_are_left_out_and_others_stay() -> None:
    story = "Once upon a time there was a wren. " + " ".join(f"It saw tree number {n}." for n in range(40))
    is_copy = recipe("bundled_model").near_copies([f"She said, \u201c{story}\u201d"])
    assert is_copy(f'She  said,\n"{story}"')
    assert is_copy("A new beginning. " + story[200:])
    assert not is_copy("Once upon a time there was a bear who saw nothing at all. " + "It slept. " * 40)


def test_stories_and_books_are_taken_apart_as_they_are_written() -> None:
    made = recipe("bundled_model")
    first = "Once upon a time, a.\n\nOne day, Tim left."
    text = f"end of a story.\n\n{first}\n\nOnce there was b.\n\nTom and Mia like c."
    assert list(made.stories_of(text)) == [
        first,
        "Once there was b.",
        "Tom and Mia like c.",
    ]
    head = "# Title: T\n\n## Author: A\n\n-------\n_Translated by B_\n\n"
    page = f"{head}## I. One \r\n\r\nA _very_ small\nbook.\n"
    assert made.book(page) == "I. One\n\nA very small\nbook."
    notice = "Licence\n*** START OF THE EBOOK T ***\nText.\n*** END OF THE EBOOK T ***\nMore licence"
    assert made.book(notice) == "Text."


def test_the_reference_is_not_in_the_corpus_of_the_bundled_model(shared: Path, tmp_path: Path) -> None:
    made = recipe("bundled_model")
    documents, counts = made.collect(shared / "text", books=True)
    assert counts["children_books"] == len(made.BOOKS)
    reference = read_texts(shared / "text" / "tinystories" / "reference_40.jsonl", "text")
    assert len(reference) == 40
    assert not {made.opening(text) for text in reference} & {made.opening(text) for text in documents}
    runs = set().union(*map(made.runs, documents))
    assert all(len(made.runs(text) & runs) < 0.3 * len(made.runs(text)) for text in reference)
    assert counts["left out"] < 100
    assert sum(counts.values()) - counts["left out"] == len(documents) > 2800
    # Documents are those of the files, not cleaned: the reference has such quotes and spaces too.
    assert sum("\u201c" in text for text in documents) > 20


def test_missing_texts_are_one_line(tmp_path: Path) -> None:
    done = run("bundled_model.py", "--data", "nowhere", "--workdir", "work", folder=tmp_path)
    assert done.returncode == 2
    assert "nowhere/tinystories/reference_40.jsonl does not exist" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    stories = tmp_path / "tinystories"
    stories.mkdir()
    for name in ("train_a.jsonl", "train_b.jsonl", "train_c.txt"):
        (stories / name).write_text('{"text": "A story."}\n')
    (stories / "reference_40.jsonl").write_text('{"text": "Another one."}\n')
    with pytest.raises(SourceError, match="only 0 of 1 reference stories"):
        recipe("bundled_model").collect(tmp_path, books=False)


@pytest.mark.slow
def test_the_bundled_model_is_made_and_its_card_is_filled_in(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text('params = "200k"\ntokens = "40k"\n')
    done = run(
        "bundled_model.py", "--data", shared / "text", "--workdir", "work", "--no-books", "--vocab-size", 512,
        "--train-options", "quick.toml", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "work" / "linnet-stories.md").read_text("utf-8")
    assert "$" not in card
    assert "None" not in card
    assert "29,341" in card
    assert Template((RECIPES / "bundled_model_card.md").read_text("utf-8")).get_identifiers()
    assert Corpus.open(tmp_path / "work" / "corpus").vocab_size == 512
