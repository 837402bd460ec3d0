"""Tiny random models with a chat template, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linnet.formats.arch import llama
from linnet.formats.checkpoint import save_checkpoint
from linnet.formats.pre_tokenizers import byte_level
from linnet.types import ModelFacts, SpecialTokens

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>")  # found in texts, but not special


def byte_alphabet() -> list[str]:
    """The 256 printable characters byte-level BPE spells bytes with (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {byte: chr(byte) for byte in printable}
    spelling |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [spelling[byte] for byte in range(256)]


def tokenizer_json(special: Sequence[str] = SPECIAL, added: Sequence[str] = ADDED) -> bytes:
    """A ``tokenizer.json`` whose token b is the byte b, then the special tokens, then the added ones."""
    texts = [*byte_alphabet(), *special, *added]
    entries = [
        {"id": index, "content": text, "special": text in special, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for index, text in enumerate(texts[256:], 256)
    ]  # fmt: skip
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": entries,
            "normalizer": None,
            "pre_tokenizer": byte_level(True),
            "post_processor": None,
            "decoder": {
                "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
            },
            "model": {"type": "BPE", "vocab": {text: i for i, text in enumerate(texts)}, "merges": []},
        }
    ).encode()  # fmt: skip


def write_chat_model(
    folder: Path,
    template: str | None = CHATML,
    *,
    special: Sequence[str] = SPECIAL,
    added: Sequence[str] = ADDED,
    generation: dict[str, Any] | None = None,
) -> Path:
    """A checkpoint folder of random weights that ends with ``special[0]``."""
    facts = ModelFacts(
        arch="llama", dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=96,
        vocab_size=256 + len(special) + len(added), max_seq_len=2048,
    )  # fmt: skip
    rng = np.random.default_rng(5)
    arrays = {
        name: (rng.standard_normal(shape) * 0.1).astype(np.float32)
        for name, shape in llama.FAMILY.checkpoint_shapes(facts)
    }
    tokens = SpecialTokens(bos_id=None, eos_id=256, add_bos=False)
    save_checkpoint(folder, facts, arrays, tokenizer_json(special, added), tokens)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder
