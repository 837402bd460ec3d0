"""The same weights, the same tokens: what is equal, and how nearly, printed.

    python benchmarks/parity.py [--weights ../shared/data]

With the stories260K and stories3M weights of llama2.c in FOLDER/weights and the 40 reference stories in
FOLDER/text/tinystories: greedy text per kernel path, nats per token per type, the largest difference
between the logits of torch and of the core, and each type against f32 weights of the same values, in a
model widened so that every type fits. Without them, the difference from torch on the bundled model alone.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from widen import widened

import linnet
from linnet.engine.library import library
from linnet.engine.memory import Image
from linnet.engine.model import Model
from linnet.engine.repack import with_types
from linnet.evaluate.evaluate import evaluate, read_texts
from linnet.evaluate.perplexity import score_texts
from linnet.export.convert import convert
from linnet.formats.checkpoint import read_checkpoint
from linnet.formats.parts import ModelParts, Tensor
from linnet.formats.source import read_model
from linnet.options import ConvertOptions, EvaluateOptions
from linnet.run.model import BUNDLED_MODEL, LanguageModel
from linnet.types import TensorType

MODELS = {  # name: (weights, tokenizer, nats per token by an independent forward pass)
    "stories260K": ("stories260K/stories260K.bin", "stories260K/tok512.bin", 1.2621),
    "stories3M": ("stories3M/stories3M_q80_g64.bin", "stories3M/tok4096.bin", 1.2134),
}
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
WIDENED = "stories3M"  # its rows have 192 columns
N_GREEDY = 200
FIRST_TOKENS = range(300, 332)  # each alone in front of its own timeline
SAME_LOGITS = 1e-4  # further apart than other orders of the same sums bring them, nearer than anything else


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


# ---- every type against f32 weights of the same values ---------------------------------


@dataclass(frozen=True)
class TypeParity:
    """A model with all matrices of one type (the packed one), and f32 weights of the very same values.

    What is between them is what the kernels of the type do, which for block types includes rounding
    activations to 8 bits; what the type itself costs is in both.
    """

    nats_per_token: float  # of the packed model
    float_nats_per_token: float
    logit_error: float  # root mean square, over the standard deviation of the logits
    same_greedy_tokens: int  # of N_GREEDY tokens the packed model wrote, those the other would have taken
    same_on_isa: dict[str, int]  # FIRST_TOKENS with logits within SAME_LOGITS of those of the best ISA


def compare_type(parts: ModelParts, type: TensorType, texts: Sequence[str]) -> TypeParity:
    """Stores every matrix of ``parts`` as ``type``, without exceptions, and measures. Its rows must fit."""
    stored, fallbacks = with_types(parts, lambda _: type)
    assert not fallbacks, f"not of {type.label}: {fallbacks}"
    stored = _held(stored)
    floats, _ = with_types(stored, lambda _: TensorType.F32)
    packed, unpacked = ready(stored), ready(floats)
    error, same = greedy_difference(packed, unpacked)
    return TypeParity(nats(packed, texts), nats(unpacked, texts), error, same, same_on_isa(packed.model))


def ready(parts: ModelParts) -> LanguageModel:
    """The model in memory, with keys and values that round nothing."""
    return LanguageModel(Model(Image.of_parts(parts)), n_ctx=None, threads=None, kv_type="f32", isa=None)


def nats(model: LanguageModel, texts: Sequence[str]) -> float:
    """Nats per token over ``texts``."""
    encoded = [(model.tokenize(text, bos=True), len(text.encode())) for text in texts]
    return score_texts(model, encoded, model.n_ctx, model.n_ctx // 2).nats_per_token


def greedy_difference(packed: LanguageModel, unpacked: LanguageModel) -> tuple[float, int]:
    """``logit_error`` and ``same_greedy_tokens`` of :class:`TypeParity`, along the packed model's text.

    The text goes on behind the end of a story: the models have to agree there too.
    """
    ids, logits = [packed.tokenizer.bos_id or 0], []
    with packed.open_session() as session:
        for _ in range(N_GREEDY):
            session.eval(ids[-1:])
            logits.append(session.logits)
            ids.append(int(logits[-1].argmax()))
    with unpacked.open_session() as session:
        expected = session.eval_all(ids[:-1])
    error = np.sqrt(np.mean((np.array(logits) - expected) ** 2.0)) / np.std(expected)
    return float(error), int((expected.argmax(-1) == ids[1:]).sum())


def same_on_isa(model: Model) -> dict[str, int]:
    """``same_on_isa`` of :class:`TypeParity`.

    Products of block types are the same bits on every instruction set; norms and attention are sums in
    another order. Where their last bit moves an activation over the border between two 8-bit values, the
    logits change as by any rounding to 8 bits: after a single token that is rare, in a long text certain.
    """
    reference: list[np.ndarray] = []
    same = {}
    for isa in library().ln_isa_list().decode().split():
        runner = LanguageModel(model, n_ctx=None, threads=None, kv_type="f32", isa=isa)
        found = []
        for token in FIRST_TOKENS:
            with runner.open_session() as session:
                session.eval([token])
                found.append(session.logits)
        reference = reference or found
        difference = np.abs(np.array(found) - np.array(reference)).max(axis=1)
        same[isa] = int((difference < SAME_LOGITS).sum())
    return same


def _held(parts: ModelParts) -> ModelParts:
    """The same model, its tensors loaded now and once."""

    def held(tensor: Tensor) -> Tensor:
        raw = tensor.load()
        return replace(tensor, load=lambda: raw)

    return replace(parts, tensors=tuple(map(held, parts.tensors)))


def measure_types(data: Path) -> dict[str, Any]:
    """A row of :class:`TypeParity` for every type, printed as it is found."""
    weights, tokenizer, _ = MODELS[WIDENED]
    parts = widened(read_model(data / "weights" / weights, data / "weights" / tokenizer))
    texts = read_texts(data / "text" / "tinystories" / "reference_40.jsonl", "text")
    isas = library().ln_isa_list().decode().split()
    print(f"\n{WIDENED} widened to {parts.facts.dim} columns: each type, and the same values in f32")
    print(f"{'type':<8}{'bits':>7}{'nats':>10}{'in f32':>10}{'difference':>12}{'logit error':>13}", end="")
    print(f"{'greedy':>9}", *(f"{isa:>8}" for isa in isas))
    found = {}
    for type in sorted(TensorType, key=lambda type: (-type.bits, type)):
        row = compare_type(parts, type, texts)
        found[type.label] = asdict(row)
        difference = row.nats_per_token - row.float_nats_per_token
        print(
            f"{type.label:<8}{type.bits:>7.4g}{row.nats_per_token:>10.5f}{row.float_nats_per_token:>10.5f}"
            f"{difference:>+12.5f}{row.logit_error:>13.5f}{row.same_greedy_tokens:>5}/{N_GREEDY}",
            *(f"{n:>5}/{len(FIRST_TOKENS)}" for n in row.same_on_isa.values()),
            flush=True,
        )
    return found


# ---- all of it -------------------------------------------------------------------------


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
    found["types"] = measure_types(data)
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
