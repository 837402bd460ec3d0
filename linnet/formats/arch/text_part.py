"""The language model in a checkpoint of a model that also sees or hears.

Such a ``config.json`` has the settings of the language model under ``text_config``, written as what
differs from the defaults of transformers; its tensors have names of their own, beside those of the
other parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from linnet.formats.arch.values import Table, nested

_KEY = "text_config"
# What the whole model says of its language model too, and then says last.
_OF_THE_WHOLE = (
    "bos_token_id", "eos_token_id", "quantization_config", "tie_word_embeddings", "_name_or_path",
)  # fmt: skip
# What its tensors are called, before and after transformers 4.52, and in Idefics 3 and SmolVLM.
_PREFIXES = ("language_model.", "model.language_model.", "model.text_model.")
_HEAD = "lm_head."
_BASE = "model."

Stored = TypeVar("Stored")


def has_text_part(config: Table) -> bool:
    """Are these the settings of a model of which the language model is a part?"""
    return config.get(_KEY) is not None


def text_settings(config: Table) -> dict[str, Any]:
    """The settings of the language model alone. Raises FormatError."""
    whole = {key: config[key] for key in _OF_THE_WHOLE if config.get(key) is not None}
    return {**nested(config, _KEY), **whole}


def name_alone(name: str) -> str | None:
    """What a tensor is called where the language model is alone; None for those of other parts."""
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
    if prefix is None:
        return name if name.startswith(_HEAD) else None
    own = name.removeprefix(prefix)
    return own if own.startswith((_BASE, _HEAD)) else _BASE + own


def text_tensors(stored: Mapping[str, Stored]) -> tuple[dict[str, Stored], list[str]]:
    """The tensors of the language model under the names it has alone, and the names of the other parts."""
    kept: dict[str, Stored] = {}
    others: dict[str, None] = {}
    for name, tensor in stored.items():
        own = name_alone(name)
        if own is not None:
            kept[own] = tensor
        else:
            others[name.removeprefix(_BASE).split(".")[0]] = None
    return kept, list(others)
