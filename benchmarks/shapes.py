"""GGUF files of real shape with random weights: speed does not depend on what the weights are.

    python benchmarks/shapes.py [--models FOLDER] [--shape 135m ...] [--type q4_0 ...]

The mixes of types are those llama-quantize makes, fallbacks for narrow rows included. Blocks are random bytes
under constant scales, so that a weight has the variance 1 / columns and every logit is finite; nothing is
quantized, and no more than one tensor is in memory. The vocabulary is made by random merges.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from linnet.errors import UsageError
from linnet.formats.arch import llama
from linnet.formats.gguf_tokenizer import metadata_from_tokenizer
from linnet.formats.parts import TokenizerParts
from linnet.formats.vocabulary import TokenKind, Vocabulary, VocabularyKind
from linnet.types import ModelFacts, SpecialTokens

DEFAULT_FOLDER = Path(tempfile.gettempdir()) / "linnet-models"

# 8,192 tokens of context and what is decoded behind them have to fit, so no shape has its own context length.
_LLAMA = ModelFacts("llama", dim=2048, n_layers=16, n_heads=32, n_kv_heads=8, head_dim=64, ffn_dim=8192,
                    vocab_size=128256, max_seq_len=16384, rope_theta=500000.0)  # fmt: skip
_SMOLLM = replace(_LLAMA, vocab_size=49152, rope_theta=100000.0)
SHAPES = {
    "tiny": replace(_SMOLLM, dim=288, n_layers=3, n_heads=9, n_kv_heads=3, head_dim=32, ffn_dim=512,
                    vocab_size=1024),
    "135m": replace(_SMOLLM, dim=576, n_layers=30, n_heads=9, n_kv_heads=3, ffn_dim=1536),
    "360m": replace(_SMOLLM, dim=960, n_layers=32, n_heads=15, n_kv_heads=5, ffn_dim=2560),
    "1b": _LLAMA,
    "3b": replace(_LLAMA, dim=3072, n_layers=28, n_heads=24, head_dim=128),
    "8b": replace(_LLAMA, dim=4096, n_layers=32, head_dim=128, ffn_dim=14336, tied_embeddings=False),
}  # fmt: skip


# ---- the mixes of llama-quantize -----------------------------------------------------


class Mix(NamedTuple):
    """``common`` for every matrix but the head; ``head`` and ``more`` where it pays to spend more bits."""

    file_type: gguf.LlamaFileType
    common: Type
    head: Type
    more: Type


MIXES = {
    "q4_0": Mix(gguf.LlamaFileType.MOSTLY_Q4_0, Type.Q4_0, head=Type.Q6_K, more=Type.Q4_0),
    "q4_k_m": Mix(gguf.LlamaFileType.MOSTLY_Q4_K_M, Type.Q4_K, head=Type.Q6_K, more=Type.Q6_K),
    "q8_0": Mix(gguf.LlamaFileType.MOSTLY_Q8_0, Type.Q8_0, head=Type.Q8_0, more=Type.Q8_0),
    "q2_k": Mix(gguf.LlamaFileType.MOSTLY_Q2_K, Type.Q2_K, head=Type.Q6_K, more=Type.Q2_K),
    "f16": Mix(gguf.LlamaFileType.MOSTLY_F16, Type.F16, head=Type.F16, more=Type.F16),
}
_NARROW = {
    Type.Q2_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q6_K: Type.Q8_0,
}  # for rows that are no multiple of 256


def tensor_types(facts: ModelFacts, mix: Mix) -> dict[str, Type]:
    """The type llama-quantize gives each tensor, without an importance matrix."""
    head = "token_embd.weight" if facts.tied_embeddings else "output.weight"
    types = {}
    for name, shape in llama.FAMILY.tensor_shapes(facts):
        kind = mix.common
        if len(shape) == 1:
            kind = Type.F32
        elif name == head:
            kind = mix.head
        elif name.endswith(("attn_v.weight", "ffn_down.weight")) and _wants_more_bits(name, facts.n_layers):
            kind = mix.more
        block_elements, _ = gguf.GGML_QUANT_SIZES[kind]
        types[name] = _NARROW[kind] if shape[-1] % block_elements else kind
    return types


def _wants_more_bits(name: str, n_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    layer, eighth = int(name.split(".")[1]), n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


# ---- random blocks -------------------------------------------------------------------


class Block(NamedTuple):
    """The fields of a block, and what its scales are when weights have a standard deviation of 1."""

    fields: np.dtype[Any]
    scales: dict[str, float]


# The standard deviations of a random block under unit scales: of the quants (and, in K-quants, of their
# product with the scales of the sub-blocks). Minima get the factor that makes the mean weight 0.
_BLOCKS = {
    Type.Q4_0: Block(np.dtype([("d", "<f2"), ("quants", "u1", 16)]), {"d": 1 / 4.61}),
    Type.Q5_0: Block(np.dtype([("d", "<f2"), ("quants", "u1", 20)]), {"d": 1 / 9.23}),
    Type.Q8_0: Block(np.dtype([("d", "<f2"), ("quants", "u1", 32)]), {"d": 1 / 73.9}),
    Type.Q2_K: Block(np.dtype([("scales_and_quants", "u1", 80), ("d", "<f2"), ("dmin", "<f2")]),
                     {"d": 1 / 13.9, "dmin": 1.5 / 13.9}),
    Type.Q4_K: Block(np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales_and_quants", "u1", 140)]),
                     {"d": 1 / 258, "dmin": 7.5 / 258}),
    Type.Q6_K: Block(np.dtype([("quants_and_scales", "u1", 208), ("d", "<f2")]), {"d": 1 / 1366}),
}  # fmt: skip


def random_tensor(kind: Type, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The bytes of a tensor whose weights have the variance 1 / columns; all ones for a vector."""
    if kind is Type.F32:
        return np.ones(shape, "<f4").view(np.uint8)
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n_bytes = prod(shape) // block_elements * block_bytes
    words = rng.integers(0, 1 << 64, -(-n_bytes // 8), dtype=np.uint64)
    data = words.view(np.uint8)[:n_bytes]
    deviation = 1 / sqrt(shape[-1])
    if kind is Type.F16:  # random sign and mantissa, one exponent: magnitudes from e to 2e, of RMS 1.53e
        bits, exponent = data.view("<u2"), np.float16(deviation / 1.53).view("<u2") & 0x7C00
        bits &= 0x83FF
        bits |= exponent
    else:
        block = _BLOCKS[kind]
        for name, scale in block.scales.items():
            data.view(block.fields)[name] = scale * deviation
    return data


# ---- the vocabulary ------------------------------------------------------------------


def random_vocabulary(n: int, pre: str) -> tuple[TokenizerParts, SpecialTokens]:
    """A byte-level BPE of ``n`` tokens: the bytes, tokens merged of two others, and two control tokens."""
    rng = random.Random(n)
    tokens, merges = [*_byte_alphabet()], []
    known = set(tokens)
    while len(tokens) < n - 2:
        left, right = rng.choice(tokens), rng.choice(tokens)
        if len(left + right) <= 16 and left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    kinds = (TokenKind.NORMAL,) * (n - 2) + (TokenKind.CONTROL,) * 2
    vocabulary = Vocabulary(VocabularyKind.BPE, (*tokens, "<|begin|>", "<|end|>"), kinds,
                            merges=tuple(merges), pre=pre)  # fmt: skip
    return TokenizerParts(vocabulary), SpecialTokens(bos_id=n - 2, eos_id=n - 1)


def _byte_alphabet() -> Iterator[str]:
    """The character GPT-2 spells each byte with: itself where it is printable, else one from U+0100 on."""
    unprintable = 0x100
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or (0xA1 <= byte <= 0xFF and byte != 0xAD):
            yield chr(byte)
        else:
            yield chr(unprintable)
            unprintable += 1


# ---- the file ------------------------------------------------------------------------


def model_path(folder: Path, shape: str, mix: str) -> Path:
    """The file of a shape and a mix in ``folder``, written unless it is there. Raises UsageError."""
    for what, name, known in (("shape", shape, SHAPES), ("type", mix, MIXES)):
        if name not in known:
            raise UsageError(f"unknown {what} '{name}'; choose from {', '.join(known)}")
    path = folder / f"{shape}-{mix}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{path.name}.{os.getpid()}.tmp"
        try:
            _write(temporary, SHAPES[shape], MIXES[mix], f"random {shape} {mix}")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _write(path: Path, facts: ModelFacts, mix: Mix, name: str) -> None:
    """Through the gguf package, which knows every type whether or not Linnet runs it."""
    writer = gguf.GGUFWriter(path, facts.arch)
    pre = "smollm" if facts.vocab_size < 100_000 else "llama-bpe"
    tokenizer, special = random_vocabulary(facts.vocab_size, pre)
    metadata = {
        "general.name": name,
        "general.file_type": int(mix.file_type),
        "general.quantization_version": 2,
        **llama.FAMILY.metadata_from_facts(facts),
        **metadata_from_tokenizer(tokenizer, special),
    }
    add: dict[type, Callable[[str, Any], None]] = {
        str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
        list: writer.add_array, np.ndarray: lambda key, value: writer.add_array(key, value.tolist()),
    }  # fmt: skip
    for key, value in metadata.items():
        add[type(value)](key, value)
    types, shapes = tensor_types(facts, mix), dict(llama.FAMILY.tensor_shapes(facts))
    for tensor, kind in types.items():
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = prod(shapes[tensor]) // block_elements * block_bytes
        writer.add_tensor_info(tensor, shapes[tensor], np.dtype(np.float32), n_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.Generator(np.random.SFC64(0))
    for tensor, kind in types.items():
        writer.write_tensor_data(random_tensor(kind, shapes[tensor], rng))
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help="folder the files are kept in")
    parser.add_argument("--shape", nargs="+", default=["135m", "1b"], choices=SHAPES)
    parser.add_argument("--type", nargs="+", default=["q4_0", "q4_k_m", "q8_0"], choices=MIXES)
    given = parser.parse_args()
    for shape in given.shape:
        for mix in given.type:
            path = model_path(given.models, shape, mix)
            print(f"{path}  {path.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
