"""Encoding speed of every kind of tokenizer beside the tokenizers library, on one thread.

    python benchmarks/encoding.py [--shared DIR] [--megabytes 2] [--rounds 3]

Texts: English, code and Chinese, in documents of about 5 kB. Both encode the same documents in turn, and the
ids are compared. The unigram model is trained by the library from the same texts: no large one may be had.
Prints a line per kind. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the library is loaded

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from linnet.engine.tokenizer import Tokenizer
from linnet.formats.source import open_tokenizer

FILES = {
    "byte-level BPE (GPT-2)": ("gpt2/tokenizer.json", 50257),
    "byte-level BPE (SmolLM2)": ("smollm2/tokenizer.json", 49153),
    "byte-level BPE (Qwen2.5)": ("qwen2.5", 151936),
    "byte-level BPE (Llama 3)": ("llama3/tokenizer.model", 128256),
    "SentencePiece BPE (Phi-3)": ("phi3/tokenizer.json", 32064),
    "WordPiece (BERT)": ("bert/bert-base-uncased.tokenizer.json", 30522),
}


def documents(shared: Path, n_bytes: int) -> list[str]:
    texts = []
    for name in ("wikipedia", "github", "c4", "stackexchange"):
        with (shared / "text" / "redpajama_sample" / f"{name}.jsonl").open(encoding="utf-8") as lines:
            texts.append("".join(json.loads(line)["text"] for line in lines)[: n_bytes // 5])
    poems = (shared / "weights" / "zh_poem750K" / "poetry_corpus_5000.jsonl").read_text(encoding="utf-8")
    texts.append(poems[: n_bytes // 15])  # three bytes a character
    return [text[i : i + 5000] for text in texts for i in range(0, len(text), 5000)]


def unigram(texts: list[str]) -> bytes:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=16000, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(texts[::4], trainer)
    return tokenizer.to_str().encode()


def compare(name: str, document: bytes, texts: list[str], rounds: int) -> dict[str, Any]:
    reference, ours = tokenizers.Tokenizer.from_str(document.decode()), Tokenizer.from_json(document)
    reference.no_truncation()
    reference.no_padding()
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        start = time.process_time()
        theirs = [reference.encode(text, add_special_tokens=False).ids for text in texts]
        middle = time.process_time()
        found = [ours.encode(text, special=True) for text in texts]
        times[0].append(middle - start)
        times[1].append(time.process_time() - middle)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    speeds = [megabytes / min(seconds) for seconds in times]
    row = {"library_mb_s": speeds[0], "linnet_mb_s": speeds[1], "ratio": speeds[1] / speeds[0]}
    same = theirs == found
    print(
        f"{name:<28} {speeds[1]:6.2f} MB/s, library {speeds[0]:5.2f}, {row['ratio']:5.2f} x, same ids: {same}"
    )
    return {key: round(value, 3) for key, value in row.items()} | {"same_ids": same}


def main() -> int:
    parser = argparse.ArgumentParser(description="Encoding speed beside the tokenizers library.")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    texts = documents(given.shared, int(given.megabytes * 1e6))
    rows = {}
    for name, (file, n_tokens) in FILES.items():
        document = open_tokenizer(given.shared / "tokenizers" / file, n_tokens).json
        assert document is not None
        rows[name] = compare(name, document, texts, given.rounds)
    rows["unigram (trained here)"] = compare("unigram (trained here)", unigram(texts), texts, given.rounds)
    print(json.dumps({"benchmark": "encoding", "library": tokenizers.__version__, "kinds": rows}))
    return 0 if all(row["same_ids"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
