"""What drawing a token costs, for each way of doing it, in a vocabulary as large as those of today.

    python benchmarks/sampling.py [--vocab-size 128256] [--draws 100]

Logits are random: normal ones, and one in 400 tokens that stands out, as after a model's head. Every draw has
others. Prints the median of microseconds per draw. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

from linnet.engine.sampler import Sampler
from linnet.run.model import DEFAULT_SAMPLING

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "as linnet run": dict(DEFAULT_SAMPLING),
    "with a repetition penalty": {**DEFAULT_SAMPLING, "repetition_penalty": 1.1},
    "top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "min-p 0.05": {"temperature": 1.0, "min_p": 0.05},
    "top-k 40, top-p 0.95": {"temperature": 0.8, "top_k": 40, "top_p": 0.95},
    "top-n-sigma 1": {"temperature": 1.0, "top_n_sigma": 1.0},
    "typical 0.95": {"temperature": 1.0, "typical_p": 0.95},
    "mirostat": {"temperature": 1.0, "mirostat": 2},
    "all tokens": {"temperature": 1.0},
}


def logits_like(vocab_size: int, seed: int) -> np.ndarray:
    """float32 [vocab_size]."""
    dice = np.random.default_rng(seed)
    logits = dice.standard_normal(vocab_size) * 2.2
    standing_out = dice.integers(0, vocab_size, vocab_size // 400)
    logits[standing_out] += dice.exponential(4, len(standing_out))
    return logits.astype(np.float32)


def microseconds(options: dict[str, Any], rows: list[np.ndarray], draws: int) -> float:
    """The median of ``draws`` draws from ``rows`` in turn."""
    sampler, spent = Sampler(len(rows[0]), seed=1, **options), []
    for i in range(draws):
        row = rows[i % len(rows)]
        started = time.perf_counter()
        token = sampler.draw(row.ctypes.data)
        spent.append(time.perf_counter() - started)
        sampler.accept(token)
    return statistics.median(spent) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=128256)
    parser.add_argument("--draws", type=int, default=100)
    given = parser.parse_args()
    rows = [logits_like(given.vocab_size, seed) for seed in range(8)]
    found = {name: microseconds(options, rows, given.draws) for name, options in WAYS.items()}
    for name, value in found.items():
        print(f"{name:28} {value:8.0f} us")
    print(json.dumps({"vocab_size": given.vocab_size, "microseconds": found}))


if __name__ == "__main__":
    main()
