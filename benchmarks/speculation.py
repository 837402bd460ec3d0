"""What speculation gains and costs: the same texts with it and without it, in turn in one process.

    python benchmarks/speculation.py [--model MODEL] [--draft-model MODEL] [--threads N] [--rounds 9]

Texts: free stories, sampled and greedy; a list that repeats itself; a story to be told again. Then the same
with the bundled model made deeper by layers that add nothing: it writes the same texts, but its weights do
not fit the cache, as those of a large model do not; the guesses come from the text, then from the bundled
model in Q4_0. Every pair is checked to be the same text. Prints medians of tokens per second of decode. Last
line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import linnet
from linnet.formats.gguf import read_gguf, write_gguf
from linnet.formats.parts import ModelParts, Tensor
from linnet.options import QuantizeOptions
from linnet.quantize.quantize import quantize
from linnet.run.model import BUNDLED_MODEL, LanguageModel

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the sunshine. One "
    "day, she went to the park with her mom. They saw a big tree with lots of leaves."
)
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "free, sampled": ("Once upon a time", {"temperature": 0.8, "seed": 3}),
    "free, sampled again": ("Lily had a big red ball. She", {"temperature": 0.8, "seed": 3}),
    "free, greedy": ("Lily had a big red ball. She", {"temperature": 0}),
    "list": ("red, blue, green, red, blue, green, red, blue,", {"temperature": 0}),
    "copy": (f"{STORY} {STORY} {STORY[:60]}", {"temperature": 0}),
}
TOKENS = 300


def deepened(parts: ModelParts, n_layers: int) -> ModelParts:
    """The same function in ``n_layers`` layers: those added put nothing onto the residual stream."""
    n, last = parts.facts.n_layers, f"blk.{parts.facts.n_layers - 1}."
    pattern = [tensor for tensor in parts.tensors if tensor.name.startswith(last)]
    added = tuple(
        silenced(replace(tensor, name=tensor.name.replace(last, f"blk.{layer}.")))
        for layer in range(n, n_layers)
        for tensor in pattern
    )
    facts = replace(parts.facts, n_layers=n_layers)
    return replace(parts, facts=facts, tensors=(*parts.tensors, *added))


def silenced(tensor: Tensor) -> Tensor:
    """Zeros for the two matrices that end the halves of a layer; a block of zero bytes is zero in Q8_0."""
    if not tensor.name.endswith(("attn_output.weight", "ffn_down.weight")):
        return tensor
    n_bytes = len(memoryview(tensor.load()).cast("B"))
    return replace(tensor, load=lambda: np.zeros(n_bytes, np.uint8).data)


def measure(model: LanguageModel, rounds: int) -> dict[str, Any]:
    """Medians of decode speed of each text, with and without, and how many guesses were right."""
    found = {}
    for name, (prompt, options) in TEXTS.items():
        speeds: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(rounds):
            made = {}
            for speculate in (False, True) if turn % 2 else (True, False):
                made[speculate] = model.generate(prompt, max_tokens=TOKENS, speculate=speculate, **options)
                speeds[speculate].append(made[speculate].decode_tok_s or 0.0)
            if made[True].ids != made[False].ids:
                raise SystemExit(f"{name}: the text changed")
        plain, drafted = (statistics.median(speeds[key]) for key in (False, True))
        found[name] = {
            "tokens": len(made[True].ids),
            "plain_tok_s": plain,
            "speculation_tok_s": drafted,
            "ratio": statistics.median(b / a for a, b in zip(speeds[False], speeds[True], strict=True)),
            "drafted": made[True].drafted,
            "accepted": made[True].accepted,
        }
        print(
            f"  {name:<20} {plain:8,.0f} {drafted:8,.0f} tok/s   {found[name]['ratio']:.2f}x   "
            f"{made[True].accepted} of {made[True].drafted} guesses right"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="measure this model alone")
    parser.add_argument("--draft-model", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=400, help="layers of the deepened model")
    given = parser.parse_args()
    found: dict[str, Any] = {"rounds": given.rounds, "threads": given.threads}

    def run(title: str, model: Path, draft: Path | None = None) -> None:
        print(f"{title}   (tokens per second without, with)")
        loaded = linnet.load(model, draft_model=draft, threads=given.threads)
        found[title] = measure(loaded, given.rounds)

    if given.model is not None:
        run(given.model.name, given.model, given.draft_model)
    else:
        with tempfile.TemporaryDirectory() as folder:
            deep, small = Path(folder) / "deep.gguf", Path(folder) / "small.gguf"
            with deep.open("wb") as file:
                write_gguf(deepened(read_gguf(BUNDLED_MODEL), given.layers), file)
            quantize(QuantizeOptions(source=BUNDLED_MODEL, output=small, type="q4_0", json=True))
            run("bundled model", BUNDLED_MODEL)
            run(f"bundled model in {given.layers} layers", deep)
            run(f"bundled model in {given.layers} layers, drafted by it in q4_0", deep, small)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
