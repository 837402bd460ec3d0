"""The same weights, the same tokens: what is equal, and how nearly, printed.

    python benchmarks/parity.py [--weights ../shared/data]

With the stories260K and stories3M weights of llama2.c in FOLDER/weights and the 40 reference stories in
FOLDER/text/tinystories: greedy text per kernel path, nats per token per type, and the largest difference
between the logits of torch and of the core. Without them, the last of these on the bundled model alone.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import linnet
from linnet.engine.library import library
from linnet.evaluate.evaluate import evaluate
from linnet.export.convert import convert
from linnet.formats.checkpoint import read_checkpoint
from linnet.options import ConvertOptions, EvaluateOptions
from linnet.run.model import BUNDLED_MODEL

MODELS = {  # name: (weights, tokenizer, nats per token by an independent forward pass)
    "stories260K": ("stories260K/stories260K.bin", "stories260K/tok512.bin", 1.2621),
    "stories3M": ("stories3M/stories3M_q80_g64.bin", "stories3M/tok4096.bin", 1.2134),
}
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")


def kernel_paths(model: Path, reference: str) -> dict[str, bool]:
    """Does greedy decoding from BOS write ``reference``, for every instruction set of this processor?"""
    paths = library().ln_isa_list().decode().split()
    return {
        isa: linnet.load(model, isa=isa, kv_type="f32")
        .generate("", max_tokens=120, temperature=0)
        .text.startswith(reference)
        for isa in paths
    }


def torch_difference(model: Path, folder: Path) -> dict[str, Any]:
    """Largest difference of a logit between torch and the core, and whether greedy tokens agree."""
    import torch
    from safetensors.torch import load_file

    from linnet.train.model import Decoder

    checkpoint = folder / f"{model.stem}-checkpoint"
    convert(ConvertOptions(source=model, output=checkpoint, json=True))
    core = linnet.load(checkpoint, kv_type="f32")
    ids = [core.tokenizer.bos_id or 0, *core.generate("", max_tokens=200, temperature=0).ids]
    core.session.truncate(0)
    ours = core.session.eval_all(ids)
    decoder = Decoder(read_checkpoint(checkpoint).facts)
    decoder.load_state_dict(load_file(checkpoint / "model.safetensors"))
    with torch.no_grad():
        theirs = decoder.logits(torch.tensor([ids]))[0].numpy()
    return {
        "max_logit_difference": float(np.abs(ours - theirs).max()),
        "same_greedy_tokens": ours[:-1].argmax(-1).tolist() == theirs[:-1].argmax(-1).tolist() == ids[1:],
        "tokens": len(ids),
    }


def measure(data: Path, folder: Path) -> dict[str, Any]:
    """Everything that needs the reference weights."""
    found: dict[str, Any] = {}
    for name, (weights, tokenizer, expected) in MODELS.items():
        rows: dict[str, Any] = {"expected_nats_per_token": expected}
        for label in TYPES:
            model = folder / f"{name}-{label}.gguf"
            source, vocabulary = data / "weights" / weights, data / "weights" / tokenizer
            convert(ConvertOptions(source=source, output=model, tokenizer=vocabulary, type=label, json=True))
            text = data / "text" / "tinystories" / "reference_40.jsonl"
            result = evaluate(EvaluateOptions(model=model, text=text, json=True))
            rows[label] = result["nats_per_token"]
            print(f"{name:<12} {label:<5} {rows[label]:.5f} nats per token over {result['tokens']:,} tokens")
        found[name] = rows
    reference = (
        (data / "weights" / "stories260K" / "greedy_reference.txt").read_text(encoding="utf-8").strip()
    )
    found["greedy_reference"] = kernel_paths(folder / "stories260K-f32.gguf", reference)
    print("greedy text of stories260K is the reference:", found["greedy_reference"])
    found["torch_stories260K"] = torch_difference(folder / "stories260K-f32.gguf", folder)
    print("stories260K, torch against the core:", found["torch_stories260K"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data"
    )
    data = parser.parse_args().weights
    with tempfile.TemporaryDirectory() as name:
        found = measure(data, Path(name)) if data.is_dir() else {}
        found["torch_bundled"] = torch_difference(BUNDLED_MODEL, Path(name))
    print("bundled model, torch against the core:", found["torch_bundled"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
