"""An adapter in a GGUF file, as llama.cpp's ``convert_lora_to_gguf.py`` makes them.

``general.type`` is ``adapter`` and ``adapter.type`` ``lora``; of each matrix of the model that it changes
there are ``<tensor>.lora_a`` [rank, columns] and ``<tensor>.lora_b`` [rows, rank].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linnet.display import shown
from linnet.errors import FormatError, LinnetError, UnsupportedError
from linnet.formats.adapter import AdapterParts, low_rank
from linnet.formats.gguf import GgufFile, open_gguf, tensor_of
from linnet.formats.parts import Tensor

_MATRIX = re.compile(r"(.+)\.lora_([ab])")


def read_gguf_adapter(path: Path) -> AdapterParts:
    """The adapter in a GGUF file; its matrices are mapped, not read.

    Raises SourceError for a file that cannot be read, FormatError for a damaged one and
    UnsupportedError for an adapter that is more than low-rank changes.
    """
    file = open_gguf(path)
    try:
        return _parts(file)
    except LinnetError as error:
        raise type(error)(f"{path}: {error}") from None


def _parts(file: GgufFile) -> AdapterParts:
    metadata = file.metadata
    if metadata.get("general.type") != "adapter":
        raise UnsupportedError("it is not an adapter (general.type), it may be a model; name it with -m")
    if (kind := metadata.get("adapter.type")) != "lora":
        raise UnsupportedError(f"it is an adapter of type {shown(kind)}; known: lora")
    if np.size(metadata.get("adapter.alora.invocation_tokens", ())):
        raise UnsupportedError(
            "it is active from the middle of a text on only (aLoRA), which adapters cannot"
        )
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise FormatError("general.architecture is missing; which models is this adapter for?")
    pairs: dict[str, dict[str, Tensor]] = {}
    for stored in file.tensors:
        match = _MATRIX.fullmatch(stored.name)
        if match is None:
            raise UnsupportedError(
                f"the tensor '{stored.name}' is no low-rank matrix (lora_a, lora_b); "
                "merge such an adapter into its model with llama-export-lora"
            )
        pairs.setdefault(match[1], {})[match[2]] = tensor_of(stored)
    if not pairs:
        raise FormatError("it holds no low-rank matrices")
    alpha = _alpha(metadata)
    modules = tuple(
        low_rank(name, pair.get("a"), pair.get("b"), lambda rank: alpha / rank if alpha else 1.0)
        for name, pair in sorted(pairs.items())
    )
    name = metadata.get("general.base_model.0.name")
    return AdapterParts(modules, name if isinstance(name, str) else None, arch)


def _alpha(metadata: Mapping[str, Any]) -> float:
    """0 where there is none: then low-rank products are added as they are, as llama.cpp does."""
    alpha = metadata.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise FormatError(f"adapter.lora.alpha is {shown(alpha)}, not a number")
    return float(alpha)
