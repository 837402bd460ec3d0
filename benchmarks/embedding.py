"""Texts embedded per second, beside transformers on the same processors.

    python benchmarks/embedding.py -m FOLDER [--threads 2] [--texts 256] [--rounds 5] [--type f32,q8_0,q4_0]

FOLDER is an encoder in the layout of Hugging Face, such as sentence-transformers/all-MiniLM-L6-v2. The texts
are sentences (about 20 tokens) and passages (about 150) of the docstrings of Python's standard library. Both
sides turn text into vectors, tokenizing included: transformers in f32 in batches of 32 texts, sorted by
length as sentence-transformers does, with its mean over all tokens; Linnet as ``model.embed`` does it, both
cut at the context. They take turns; the figures are medians. Prints a line per kind of text and type, with
the least cosine between the vectors of both. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import linnet

BATCH = 32
WORDS = {"sentences": 12, "passages": 80}

Vectors = np.ndarray[Any, np.dtype[np.float32]]


def texts_of(n_words: int, n: int) -> list[str]:
    """``n`` texts of half to one and a half times ``n_words`` words."""
    words: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                words += (ast.get_docstring(node) or "").split()
    lengths = np.random.default_rng(1).integers(n_words // 2, n_words + n_words // 2, n)
    ends = np.cumsum(lengths)
    return [" ".join(words[end - length : end]) for length, end in zip(lengths, ends, strict=True)]


def of_transformers(folder: Path, n_ctx: int) -> Callable[[list[str]], Vectors]:
    """Vectors as sentence-transformers makes them: the mean of at most ``n_ctx`` tokens, of length 1."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(texts: list[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        for begin in range(0, len(order), BATCH):
            some = order[begin : begin + BATCH]
            words = [texts[i] for i in some]
            given = tokenizer(words, padding=True, truncation=True, max_length=n_ctx, return_tensors="pt")
            with torch.inference_mode():
                states = model(**given).last_hidden_state
                mask = given["attention_mask"].unsqueeze(-1).float()
                mean = (states * mask).sum(1) / mask.sum(1)
                vectors[some] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return vectors

    return embed


def seconds(embed: Callable[[list[str]], Vectors], texts: list[str]) -> float:
    started = time.perf_counter()
    embed(texts)
    return time.perf_counter() - started


def compare(
    theirs: Callable[[list[str]], Vectors], model: linnet.LanguageModel, texts: list[str], rounds: int
) -> dict[str, float]:
    def ours(given: list[str]) -> Vectors:
        return model.embed(given, pooling="mean", cut=True)

    cosines = (theirs(texts) * ours(texts)).sum(axis=1)
    times = [(seconds(theirs, texts), seconds(ours, texts)) for _ in range(rounds)]
    medians = [statistics.median(side) for side in zip(*times, strict=True)]
    return {
        "transformers_texts_s": len(texts) / medians[0],
        "linnet_texts_s": len(texts) / medians[1],
        "ratio": medians[0] / medians[1],
        "least_cosine": float(cosines.min()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Texts embedded per second, beside transformers.")
    parser.add_argument("-m", "--model", type=Path, required=True, help="the folder of an encoder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--type", default="f32,q8_0,q4_0")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    theirs = of_transformers(given.model, linnet.load(given.model).n_ctx)
    rows = []
    for type in given.type.split(","):
        model = linnet.load(given.model, type=None if type == "f32" else type, threads=given.threads)
        for kind, n_words in WORDS.items():
            texts = texts_of(n_words, given.texts)
            n_tokens = sum(len(model.tokenizer.encode(text, framed=True)) for text in texts)
            row = compare(theirs, model, texts, given.rounds)
            rows.append({"type": type, "texts": kind, "tokens_per_text": n_tokens / len(texts), **row})
            size = f"{n_tokens / len(texts):.0f} tokens"
            print(
                f"{type:<5} {kind:<10} {size:>10}: {row['linnet_texts_s']:7.1f} texts/s, "
                f"transformers f32 {row['transformers_texts_s']:7.1f}, {row['ratio']:5.2f} x, "
                f"least cosine {row['least_cosine']:.5f}",
                flush=True,
            )
    about = {"model": given.model.name, "threads": given.threads, "isa": model.workspace.isa}
    print(json.dumps({"benchmark": "embedding", **about, "torch": torch.__version__, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
