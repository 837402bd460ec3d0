"""How the model that comes with Linnet is made.

    python recipes/bundled_model.py --data FOLDER --workdir WORK

FOLDER holds the texts, all of which let the weights be given away:

    tinystories/train_a.jsonl train_b.jsonl    one TinyStories story per row
    tinystories/train_c.txt                    TinyStories stories, borders not marked
    tinystories/reference_40.jsonl             40 stories of train_b, kept for measuring
    children_books/*.md                        public-domain books, of which three are used

The stories of reference_40 and everything like them are left out of training. The
options of the training are in bundled_model.toml. At the end the model is measured and
its card is written with the numbers that came out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from string import Template
from typing import Any

from linnet.data.corpus import data
from linnet.errors import LinnetError, SourceError
from linnet.evaluate.evaluate import evaluate, read_texts
from linnet.options import (
    DataOptions,
    EvaluateOptions,
    QuantizeOptions,
    TrainOptions,
    count,
    from_arguments,
)
from linnet.quantize.quantize import quantize
from linnet.train.pretrain import train

MAX_BYTES = 6_000_000  # what the wheel has room for
REFERENCE = "reference_40.jsonl"
FIELD = "text"  # of the rows
STORIES = ("train_a.jsonl", "train_b.jsonl", "train_c.txt")
# Of the books, those whose sentences are nearest to the stories: all of them would be two
# thirds of the tokens, and the time for training is short.
BOOKS = ("Aesop_s_Fables.md", "Great_Big_Treasury_of_Beatrix_Potter.md", "The_Wonderful_Wizard_of_Oz.md")
CARD = Path(__file__).with_name("bundled_model_card.md")

# ---- the texts -----------------------------------------------------------------------

# How stories of TinyStories begin, and their other paragraphs rarely do.
OPENING = re.compile(
    r"Once upon a time|Once,? there (was|were|lived)|There once (was|were|lived)|There (was|were) once"
    r"|One ((sunny|bright|hot|cold|rainy|nice) )?(day|morning),? (a|an|there|two) "
    r"|[A-Z]\w+ and [A-Z]\w+ (are|were|like|liked|love|loved) "
)
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_GUTENBERG = re.compile(r"\*\*\* ?START OF.*?\*\*\*(?P<text>.*)\*\*\* ?END OF", re.DOTALL)
_WORDS = re.compile(r"[a-z0-9]+")
_OPENING_CHARS = 60
_RUN = 8  # words; runs of this length shared with a reference story count as copied
_COPIED = 0.1  # share of a reference story's runs that makes a text a near-copy of it


def collect(folder: Path, books: bool) -> tuple[list[str], dict[str, int]]:
    """The training documents and how many came from where; copies of reference stories are left out.

    Documents stay as they are, with the quotes and white space their makers wrote.
    """
    stories = folder / "tinystories"
    reference = read_texts(stories / REFERENCE, FIELD)
    is_copy = near_copies(reference)
    counts: Counter[str] = Counter()
    documents = []
    train_a, train_b, train_c = STORIES
    sources: dict[str, Iterable[str]] = {
        train_a: read_texts(stories / train_a, FIELD),
        train_b: read_texts(stories / train_b, FIELD),
        train_c: stories_of("\n\n".join(read_texts(stories / train_c, FIELD))),
    }
    if books:
        shelf = folder / "children_books"
        sources["children_books"] = (book(text) for name in BOOKS for text in read_texts(shelf / name, FIELD))
    for name, texts in sources.items():
        for text in texts:
            if is_copy(text):
                counts["left out"] += 1
            else:
                counts[name] += 1
                documents.append(text)
    if counts["left out"] < len(reference):
        raise SourceError(f"only {counts['left out']} of {len(reference)} reference stories are in the texts")
    return documents, dict(counts)


def near_copies(reference: list[str]) -> Callable[[str], bool]:
    """A test for texts that begin like a reference story or share a tenth of its runs of words."""
    openings = {opening(text) for text in reference}
    owners: dict[tuple[str, ...], set[int]] = {}
    for number, text in enumerate(reference):
        for run in runs(text):
            owners.setdefault(run, set()).add(number)
    limits = [_COPIED * len(runs(text)) for text in reference]

    def is_copy(text: str) -> bool:
        shared = Counter(number for run in runs(text) for number in owners.get(run, ()))
        return opening(text) in openings or any(times >= limits[number] for number, times in shared.items())

    return is_copy


def opening(text: str) -> str:
    """The first characters, with straight quotes, single spaces and small letters."""
    return " ".join(text.translate(_QUOTES).split())[:_OPENING_CHARS].lower()


def runs(text: str) -> set[tuple[str, ...]]:
    """All runs of words that follow each other."""
    words = _WORDS.findall(text.lower())
    return {tuple(words[at : at + _RUN]) for at in range(max(1, len(words) - _RUN + 1))}


def stories_of(text: str) -> Iterator[str]:
    """Parts a text before every paragraph that opens a story; what comes before the first is half a story."""
    story: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if OPENING.match(paragraph):
            if story:
                yield "\n\n".join(story)
            story = [paragraph]
        elif story:
            story.append(paragraph)
    yield "\n\n".join(story)


def book(text: str) -> str:
    """A book without Project Gutenberg's notices, the title page and the marks of Markdown."""
    text = text.replace("\r\n", "\n")
    if match := _GUTENBERG.search(text):
        text = match["text"]
    text = re.split(r"^-{5,}$", text, maxsplit=1, flags=re.MULTILINE)[-1]
    text = re.sub(r"^_(Translated|TRANSLATION) .*_$", "", text, flags=re.MULTILINE | re.IGNORECASE)
    text = re.sub(r"^#+ *(.*?) *$", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"_([^_]+)_", r"\1", text).strip()


def write_rows(path: Path, texts: Iterable[str]) -> None:
    """Documents as JSONL."""
    path.write_text("".join(json.dumps({FIELD: text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")


# ---- the model -----------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the model that comes with Linnet.")
    parser.add_argument("--data", type=Path, required=True, help="folder with tinystories and children_books")
    parser.add_argument("--workdir", type=Path, required=True, help="a new folder for everything in between")
    parser.add_argument(
        "--vocab-size", type=count, default=2048, help="tokens of the vocabulary (default: 2048)"
    )
    parser.add_argument(
        "--books", action=argparse.BooleanOptionalAction, default=True, help="train on the books"
    )
    parser.add_argument("--type", default="q8_0", help="type of the weights (default: q8_0)")
    parser.add_argument("--params", type=count, help="size of the model (default: as in --train-options)")
    parser.add_argument("--minutes", type=float, help="time for training (default: as in --train-options)")
    parser.add_argument(
        "--train-options",
        type=Path,
        default=Path(__file__).with_suffix(".toml"),
        help="options of linnet train",
    )
    parser.add_argument(
        "--output", type=Path, help="the model (default: linnet-stories.gguf in the work folder)"
    )
    parser.add_argument("--card", type=Path, help="its card (default: linnet-stories.md in the work folder)")
    parser.add_argument("--only-data", action="store_true", help="stop when the corpus is made")
    parser.add_argument(
        "--trained", action="store_true", help="take the checkpoint that is in the work folder"
    )
    chosen = parser.parse_args()
    try:
        make(chosen)
    except LinnetError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def make(chosen: argparse.Namespace) -> None:
    """From the texts to the measured model and its card."""
    work: Path = chosen.workdir
    work.mkdir(parents=True, exist_ok=True)
    documents, counts = collect(chosen.data, chosen.books)
    print(", ".join(f"{name}: {number:,}" for name, number in counts.items()))
    write_rows(work / "documents.jsonl", documents)
    corpus = data(
        DataOptions(
            sources=(str(work / "documents.jsonl"),), output=work / "corpus", vocab_size=chosen.vocab_size
        )
    )
    if chosen.only_data:
        return
    if not chosen.trained:
        train(_train_options(chosen))
    model = chosen.output or work / "linnet-stories.gguf"
    packed = quantize(QuantizeOptions(source=work / "checkpoint", output=model, type=chosen.type))
    if model.stat().st_size > MAX_BYTES:
        raise LinnetError(f"{model} has {model.stat().st_size:,} bytes; the wheel has room for {MAX_BYTES:,}")
    reference = chosen.data / "tinystories" / REFERENCE
    measured = evaluate(EvaluateOptions(model=model, text=reference))
    report = json.loads((work / "checkpoint" / "report.json").read_text("utf-8"))
    text = card(
        model, {"corpus": corpus, "counts": counts, "packed": packed, "measured": measured, "report": report}
    )
    (chosen.card or work / "linnet-stories.md").write_text(text, "utf-8")


def _train_options(chosen: argparse.Namespace) -> TrainOptions:
    work: Path = chosen.workdir
    given = {"corpus": work / "corpus", "output": work / "checkpoint", "config": chosen.train_options}
    named = {name: getattr(chosen, name) for name in ("params", "minutes")}
    return from_arguments(
        TrainOptions, given | {name: value for name, value in named.items() if value is not None}
    )


def card(model: Path, made: dict[str, Any]) -> str:
    """The model card: bundled_model_card.md with the numbers of this run."""
    counts, measured, report = made["counts"], made["measured"], made["report"]
    settings, results = report["settings"], report["results"]
    corpus_tokens = made["corpus"]["train_tokens"]
    shown = {name: value for name, value in measured["settings"].items() if name not in ("model", "text")}
    values = {
        **settings["facts"],
        **{name: settings[name] for name in ("device", "dtype", "optimizer", "seed")},
        "schedule": settings["hyper"]["schedule"],
        "parameters": f"{results['parameters']:,}",
        "file": model.name,
        "file_bytes": f"{model.stat().st_size:,}",
        "bits_per_weight": f"{made['packed']['bits_per_weight']:.2f}",
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "tokens": f"{results['tokens']:,}",
        "corpus_tokens": f"{corpus_tokens:,}",
        "epochs": f"{results['tokens'] / corpus_tokens:.1f}",
        "minutes": f"{results['seconds'] / 60:.0f}",
        "stories": f"{sum(counts.get(name, 0) for name in STORIES):,}",
        "book_row": _book_row(counts.get("children_books", 0)),
        "texts": measured["texts"],
        "run_words": _RUN,
        "left_out": counts["left out"],
        "bits_per_byte": f"{measured['bits_per_byte']:.4f}",
        "nats_per_token": f"{measured['nats_per_token']:.4f}",
        "measured_tokens": f"{measured['tokens']:,}",
        "measured_bytes": f"{measured['bytes']:,}",
        "settings": ", ".join(f"{name} {value}" for name, value in shown.items()),
    }
    return Template(CARD.read_text("utf-8")).substitute(values)


def _book_row(books: int) -> str:
    if not books:
        return ""
    return f"| children's classics (Gutenberg) | {books} books | public domain in the United States |\n"


if __name__ == "__main__":
    main()
