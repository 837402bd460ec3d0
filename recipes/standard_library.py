"""From text to a small model in about five minutes, with text that is on every machine.

Trains a model on the sources of Python's own standard library, stores it in 8 bits,
measures it on files it has not seen, and lets it write a function:

    python recipes/standard_library.py

The same path with commands: linnet data, train, quantize, evaluate, run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from linnet.data.corpus import data
from linnet.errors import LinnetError
from linnet.evaluate.evaluate import evaluate
from linnet.options import (
    DataOptions,
    EvaluateOptions,
    QuantizeOptions,
    TrainOptions,
    count,
)
from linnet.quantize.quantize import quantize
from linnet.run.model import load
from linnet.train.pretrain import train

# Tests are mostly data, and the packages below hold other people's code or tables.
LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "site-packages",
    "dist-packages",
    "ensurepip",
    "pydoc_data",
    "encodings",
}
HELD_OUT = 20  # one file in this many is kept for the measurement
HELD_OUT_BYTES = 200_000
PROMPT = "def main():\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small model on the Python standard library.")
    parser.add_argument("--minutes", type=float, default=4.0, help="time for training (default: 4)")
    parser.add_argument("--params", type=count, default=count("1M"), help="size of the model (default: 1M)")
    parser.add_argument(
        "--vocab-size", type=count, default=2048, help="tokens of the vocabulary (default: 2048)"
    )
    parser.add_argument("--max-bytes", type=count, default=count("16M"), help="sources to use (default: 16M)")
    parser.add_argument("--workdir", type=Path, default=Path("standard-library-model"), help="a new folder")
    chosen = parser.parse_args()
    try:
        chosen.workdir.mkdir(parents=True)
    except FileExistsError:
        parser.exit(2, f"{chosen.workdir} exists; name a new folder with --workdir\n")
    try:
        tell_the_story(chosen)
    except LinnetError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def tell_the_story(chosen: argparse.Namespace) -> None:
    """All five steps; each reads what the one before wrote into the work folder."""
    work: Path = chosen.workdir
    learn, held_out = work / "learn.jsonl", work / "held_out.jsonl"
    print("1. The sources, one file one document")
    write_documents(learn, held_out, chosen.max_bytes)

    print("\n2. A tokenizer of its own, and the corpus")
    data(DataOptions(sources=(str(learn),), output=work / "corpus", vocab_size=chosen.vocab_size))

    print("\n3. Training")
    train(
        TrainOptions(
            corpus=work / "corpus", output=work / "checkpoint", params=chosen.params, minutes=chosen.minutes
        )
    )

    print("\n4. One file of 8-bit weights")
    model = work / "standard-library.gguf"
    quantize(QuantizeOptions(source=work / "checkpoint", output=model, type="q8_0"))

    print("\n5. How well it predicts files it has not seen")
    evaluate(EvaluateOptions(model=model, text=held_out))

    print("\n6. A sample")
    print(PROMPT + load(model).generate(PROMPT, max_tokens=120, seed=1).text)
    print(f'\nMore: linnet run -m {model} "class "')


def write_documents(learn: Path, held_out: Path, max_bytes: int) -> None:
    """Writes {"name", "text"} rows, about ``max_bytes`` in all, chosen by the hash of the name."""
    kept = {learn: 0, held_out: 0}
    limits = {learn: max_bytes, held_out: min(HELD_OUT_BYTES, max_bytes // HELD_OUT)}
    with learn.open("w", encoding="utf-8") as learned, held_out.open("w", encoding="utf-8") as measured:
        for rank, name, text in sorted(sources()):
            target, file = (held_out, measured) if rank % HELD_OUT == 0 else (learn, learned)
            if kept[target] == 0 or kept[target] + len(text) <= limits[target]:
                kept[target] += len(text)
                file.write(json.dumps({"name": name, "text": text}) + "\n")
    if not all(kept.values()):
        raise LinnetError("the sources of the standard library are not on this machine")
    print(f"{kept[learn]:,} characters to learn from, {kept[held_out]:,} kept out")


def sources() -> Iterator[tuple[int, str, str]]:
    """Hash of the name, name and text of every source file."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for folder, inside, files in os.walk(library):
        inside[:] = [name for name in inside if name not in LEFT_OUT]
        for path in (Path(folder, file) for file in files if file.endswith(".py")):
            name = path.relative_to(library).as_posix()
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                yield int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"), name, text


if __name__ == "__main__":
    main()
