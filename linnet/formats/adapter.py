"""An adapter: a folder in the layout of PEFT, low-rank changes of the matrices of a model (LoRA).

``adapter_config.json`` and ``adapter_model.safetensors``. What would change a model in another way than
``y += scale * B (A x)`` is refused, with the reason. Folders written here load in ``peft``. The other
format of adapters, which becomes the same :class:`AdapterParts`, is in ``gguf_adapter.py``.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import FormatError, SourceError, UnsupportedError
from linnet.formats.atomic import atomic_file, make_folder
from linnet.formats.inputs import read_json
from linnet.formats.parts import Tensor
from linnet.formats.safetensors_file import NAMES, StoredTensor, read_safetensors, write_safetensors
from linnet.types import TensorType

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MATRIX = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_LARGEST = sys.float_info.max  # a whole number in JSON may be larger
_LARGEST_F32 = float(np.finfo(np.float32).max)
_TYPES = {name: type for type, name in NAMES.items()}
_PLAIN_NAME = re.compile(r"\^?[\w.]+\$?")  # of a pattern: other regular expressions are not evaluated

# Settings under which a module does something else, and what that is.
_REFUSED = {
    "use_dora": "DoRA, which rescales whole matrices",
    "modules_to_save": "modules_to_save, whole matrices that replace those of the model",
    "lora_bias": "biases of low-rank matrices",
    "trainable_token_indices": "new embeddings of tokens",
    "target_parameters": "changes of bare parameters",
    "alora_invocation_tokens": "an activation in the middle of a text (aLoRA)",
    "megatron_config": "matrices divided among machines",
}


@dataclass(frozen=True)
class LowRank:
    """What is added to one module: ``scale * b @ a``; a [rank, columns], b [rows, rank].

    b has a row for each output, also where the module holds its matrix as [inputs, outputs]
    (``fan_in_fan_out``, Conv1D of GPT-2).
    """

    module: str  # its name in the checkpoint, such as "model.layers.0.self_attn.q_proj"
    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class AdapterParts:
    """An adapter taken apart; ``base_model`` is what its makers called the model it is for.

    With an ``arch`` it is a GGUF file for models of that architecture: its modules are tensors of
    GGUF, their rows in the order of GGUF.
    """

    modules: tuple[LowRank, ...]
    base_model: str | None = None
    arch: str | None = None


# ---- reading ----------------------------------------------------------------------


def read_adapter(directory: Path) -> AdapterParts:
    """The adapter in a PEFT folder.

    Raises SourceError for a missing file, FormatError for a damaged one and
    UnsupportedError for an adapter that is more than low-rank changes.
    """
    if not (directory / CONFIG).is_file():
        missing = f"is not an adapter: it has no {CONFIG}" if directory.exists() else "does not exist"
        raise SourceError(f"{directory} {missing}; check the spelling")
    if not (directory / WEIGHTS).exists():
        raise SourceError(f"{directory} has no {WEIGHTS}; save the adapter with save_pretrained")
    config = read_json(directory / CONFIG)
    _refuse_unsupported(config, directory)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, stored in read_safetensors(directory / WEIGHTS).items():
        match = _MATRIX.fullmatch(name)
        if match is None:
            raise UnsupportedError(
                f"{directory}: the tensor '{name}' is no low-rank matrix (lora_A, lora_B); "
                "merge such an adapter into its model with peft"
            )
        if match[2] in pairs.setdefault(match[1], {}):
            raise FormatError(f"{directory}: '{match[1]}' has lora_{match[2]} twice")
        pairs[match[1]][match[2]] = _matrix(stored, directory)
    if not pairs:
        raise FormatError(f"{directory / WEIGHTS} holds no low-rank matrices")
    scales = {name: _scale(name, config, directory) for name in pairs}
    try:
        modules = tuple(
            low_rank(name, pair.get("A"), pair.get("B"), scales[name]) for name, pair in sorted(pairs.items())
        )
    except FormatError as error:
        raise FormatError(f"{directory}: {error}") from None
    base = config.get("base_model_name_or_path")
    return AdapterParts(modules, base if isinstance(base, str) else None)


def _refuse_unsupported(config: Mapping[str, Any], directory: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(f"{directory} is an adapter of type {config.get('peft_type')!r}; known: LORA")
    for key, what in _REFUSED.items():
        if config.get(key):
            raise UnsupportedError(
                f"{directory} has {what} ({key}); merge it into its model with peft, and use that"
            )
    if config.get("bias", "none") != "none":
        raise UnsupportedError(f"{directory} changes biases (bias={config['bias']!r}); merge it with peft")


def _matrix(stored: StoredTensor, directory: Path) -> Tensor:
    if stored.dtype not in _TYPES:
        known = ", ".join(_TYPES)
        raise UnsupportedError(f"{directory}: '{stored.name}' is {stored.dtype}; known: {known}")
    return Tensor(stored.name, _TYPES[stored.dtype], stored.shape, lambda: stored.raw)


def low_rank(module: str, a: Tensor | None, b: Tensor | None, scale_of: Callable[[int], float]) -> LowRank:
    """The pair of a module, if it is one; ``scale_of`` its rank. Raises FormatError."""
    if a is None or b is None:
        there = "lora_B" if a is None else "lora_A"
        raise FormatError(f"of '{module}' only {there} is there; get or save the adapter again")
    for matrix in (a, b):
        if len(matrix.shape) != 2 or 0 in matrix.shape:
            raise FormatError(f"the tensor '{matrix.name}' is {matrix.shape}, not a matrix")
    if a.shape[0] != b.shape[1]:
        raise FormatError(f"of '{module}' lora_A has rank {a.shape[0]} and lora_B rank {b.shape[1]}")
    scale = scale_of(a.shape[0])
    if not abs(scale) <= _LARGEST_F32:
        raise FormatError(f"the scale of '{module}' is {scale}, not a number of f32")
    return LowRank(module, a, b, scale)


def _scale(module: str, config: Mapping[str, Any], directory: Path) -> Callable[[int], float]:
    alpha, is_rslora = _alpha(module, config, directory), bool(config.get("use_rslora"))
    return lambda rank: alpha / (math.sqrt(rank) if is_rslora else rank)


def _alpha(module: str, config: Mapping[str, Any], directory: Path) -> float:
    """Of the module: the first pattern that names it or the end of its name, else that of all."""
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(_PLAIN_NAME.fullmatch(name) for name in patterns):
        raise UnsupportedError(f"{directory}: alpha_pattern holds more than names of modules")
    alpha = config.get("lora_alpha")
    for name, value in patterns.items():
        plain = name.removesuffix("$")
        whole = plain.startswith("^")
        plain = plain.removeprefix("^")
        if module == plain or (not whole and module.endswith(f".{plain}")):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) <= _LARGEST:
        raise FormatError(
            f"{directory / CONFIG}: lora_alpha of '{module}' is {str(alpha)[:40]}, not a number"
        )
    return float(alpha)


# ---- writing ----------------------------------------------------------------------


def write_adapter(parts: AdapterParts, directory: Path) -> None:
    """Writes a PEFT folder, made where there is none; matrices are f32, f16 or bf16. Raises TargetError."""
    ranks = {low.module: low.a.shape[0] for low in parts.modules}
    alphas = {low.module: low.scale * ranks[low.module] for low in parts.modules}
    rank, alpha = max(ranks.values()), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": parts.base_model,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {f"^{name}": own for name, own in alphas.items() if own != alpha},
        "target_modules": sorted(ranks),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
    make_folder(directory)
    with atomic_file(directory / CONFIG) as file:
        file.write((json.dumps(config, indent=2) + "\n").encode())
    with atomic_file(directory / WEIGHTS) as file:
        write_safetensors(_tensors(parts.modules), file)


def _tensors(modules: Sequence[LowRank]) -> list[Tensor]:
    return [
        replace(matrix, name=f"{_PREFIX}{low.module}.lora_{letter}.weight")
        for low in modules
        for letter, matrix in (("A", low.a), ("B", low.b))
    ]


def plain_tensor(name: str, matrix: NDArray[np.float32]) -> Tensor:
    """``matrix`` as a tensor of f32."""
    rows = np.ascontiguousarray(matrix, dtype="<f4")
    return Tensor(name, TensorType.F32, rows.shape, lambda: rows.reshape(-1).view(np.uint8))
