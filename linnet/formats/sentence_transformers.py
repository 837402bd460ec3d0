"""What a folder of sentence-transformers says beside its model: how hidden states become one vector.

``modules.json`` lists what a text goes through: the model, ``Pooling`` and perhaps ``Normalize``. It
travels as metadata of GGUF, of which other readers know ``{arch}.pooling_type``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnet.errors import FormatError, UnsupportedError
from linnet.formats.arch.values import count, text
from linnet.formats.gguf_keys import (
    MAX_TEXT_KEY,
    NORMALIZE_KEY,
    POOLING_KEY,
    POOLING_MODE_KEY,
    POOLING_TYPES,
)
from linnet.formats.inputs import read_json, read_json_list
from linnet.types import ModelFacts

MODULES, LIMITS, POOLING_FOLDER = "modules.json", "sentence_bert_config.json", "1_Pooling"

_NUMBERS = {mode: number for number, mode in POOLING_TYPES.items()}
_FLAG = "pooling_mode_"
# The ways of pooling by their names in the folder: flags of earlier versions, a text in later ones.
_MODES = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "last"}


def embedding_metadata(directory: Path, facts: ModelFacts) -> dict[str, Any]:
    """What a folder says about its vectors, as metadata of GGUF; {} where it says nothing.

    Raises FormatError, UnsupportedError for a module that would make other vectors, or other scores.
    """
    keys: dict[str, Any] = {}
    known = ("Transformer",) if facts.rank_head else ("Transformer", "Pooling", "Normalize")
    for kind, name in _modules(directory / MODULES):
        if kind not in known:
            raise UnsupportedError(
                f"{directory}: its texts go through a module '{kind[:60]}', which is not supported; "
                f"supported: {', '.join(known)}"
            )
        if kind == "Pooling":
            keys |= _pooling(_inside(directory, name), facts.arch)
        elif kind == "Normalize":
            keys[NORMALIZE_KEY] = True
    limit = _limit(directory / LIMITS, facts.max_seq_len)
    return {**keys, MAX_TEXT_KEY: limit} if limit < facts.max_seq_len else keys


def _modules(path: Path) -> list[tuple[str, str]]:
    """What a text goes through: the kind of each module and its folder."""
    modules = read_json_list(path)
    try:
        return [(text(entry, "type", "").rpartition(".")[2], text(entry, "path", "")) for entry in modules]
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _limit(path: Path, positions: int) -> int:
    """Tokens at which texts are cut."""
    settings = read_json(path, optional=True)
    try:
        return count(settings, "max_seq_length", positions)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _inside(directory: Path, name: str) -> Path:
    """The folder of a module, which must not point out of that of the model."""
    if name in ("", "..") or Path(name).name != name:
        raise FormatError(f"{directory / MODULES} names the folder '{name[:60]}', which is not in it")
    return directory / name


def _pooling(folder: Path, arch: str) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    named = config.get("pooling_mode")
    if named is None:
        named = [key.removeprefix(_FLAG) for key, value in config.items() if key.startswith(_FLAG) and value]
    modes = named if isinstance(named, list) else [named]
    if not modes or not all(isinstance(mode, str) for mode in modes):
        raise FormatError(f"{folder / 'config.json'} does not say how hidden states become one vector")
    mode = "+".join(_MODES.get(mode, mode) for mode in modes)
    return {f"{arch}.{POOLING_KEY}": _NUMBERS[mode]} if mode in _NUMBERS else {POOLING_MODE_KEY: mode}


def embedding_files(facts: ModelFacts, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a folder that say the same, by their names in it."""
    number = metadata.get(f"{facts.arch}.{POOLING_KEY}")
    mode = POOLING_TYPES.get(number) if isinstance(number, int) else None
    if mode is None:
        return {}
    known = {name: flag for flag, name in _MODES.items()}
    modules = [("Transformer", ""), ("Pooling", POOLING_FOLDER)]
    modules += [("Normalize", "2_Normalize")] if metadata.get(NORMALIZE_KEY) is True else []
    documents: dict[str, Any] = {
        MODULES: [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ],
        f"{POOLING_FOLDER}/config.json": {
            "word_embedding_dimension": facts.dim,
            **{_FLAG + flag: name == mode for name, flag in known.items()},
        },
        LIMITS: {"max_seq_length": longest_text(metadata, facts.max_seq_len)},
    }
    return {name: (json.dumps(document, indent=2) + "\n").encode() for name, document in documents.items()}


def longest_text(metadata: Mapping[str, Any], n_positions: int) -> int:
    """Tokens of the longest text that the makers of a model meant, at most those it has positions for."""
    meant = metadata.get(MAX_TEXT_KEY)
    return min(meant, n_positions) if isinstance(meant, int) and meant > 0 else n_positions
