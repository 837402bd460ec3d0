"""``linnet show``: what a model, checkpoint or corpus consists of, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from linnet.display import one_line
from linnet.errors import LinnetError
from linnet.formats.checkpoint import read_checkpoint
from linnet.formats.corpus import MANIFEST, Corpus
from linnet.formats.gguf import GgufFile, model_in, open_gguf
from linnet.formats.gguf_keys import LEFT_OUT_KEY, TEMPLATE_KEY
from linnet.formats.inputs import check_regular
from linnet.formats.parts import ModelParts
from linnet.formats.store import locate
from linnet.options import ShowOptions
from linnet.types import TensorType

KV_TYPE = TensorType.F16  # the default of linnet run


def show(options: ShowOptions) -> dict[str, object]:
    """Describes ``options.source``; returns what ``--json`` prints.

    Raises SourceError when there is nothing to read and FormatError, with what is
    wrong, when it is damaged. A GGUF whose header is sound but that is no model this
    version can run is described as far as the format tells, with the reason under
    ``problem``.
    """
    path = locate(options.source)
    if not path.is_dir():
        check_regular(path)
    if (path / MANIFEST).exists():
        about = _describe_corpus(path)
    elif path.is_dir():
        about = {"kind": "checkpoint", **_describe_model(read_checkpoint(path))}
    else:
        about = _describe_gguf(path)
    about = {"path": str(path), **about}
    if not options.json:
        _print(about)
    return about


def _describe_gguf(path: Path) -> dict[str, object]:
    file = open_gguf(path)
    about: dict[str, object] = {"kind": "gguf", "gguf_version": file.version, "file_bytes": file.n_bytes}
    try:
        return {**about, **_describe_model(model_in(file, path))}
    except LinnetError as error:
        return {**about, **_describe_unknown(file), "problem": str(error)}


def _describe_model(parts: ModelParts) -> dict[str, object]:
    facts, vocabulary = parts.facts, parts.tokenizer.vocabulary
    return {
        "name": parts.name,
        **facts.described(),
        "n_params": parts.n_params,
        **_describe_tensors((t.type.label, t.n_elements, t.n_bytes) for t in parts.tensors),
        "kv_bytes_per_token": 2 * facts.n_kv_layers * KV_TYPE.bytes_for(facts.kv_dim),
        "tokenizer": {
            "kind": str(vocabulary.kind),
            "tokens": len(vocabulary),
            "pre": vocabulary.pre,
            "tokenizer_json": parts.tokenizer.json is not None,
            **asdict(parts.special),
        },
        "chat_template": parts.chat_template,
        "left_out": _text_of(parts.extra, LEFT_OUT_KEY) or "",
    }


def _describe_unknown(file: GgufFile) -> dict[str, object]:
    """What the format alone tells of a file whose architecture or types this version does not know."""
    sizes = ((t.type_name, math.prod(t.shape), 0 if t.raw is None else t.raw.size) for t in file.tensors)
    numbers = {key: value for key, value in file.metadata.items() if isinstance(value, (int, float))}
    small = {key: value for key, value in numbers.items() if math.isfinite(value)}
    return {
        "arch": _text_of(file.metadata, "general.architecture"),
        "name": _text_of(file.metadata, "general.name") or "",
        **_describe_tensors(sizes),
        "metadata": small,
        "chat_template": _text_of(file.metadata, TEMPLATE_KEY),
    }


def _text_of(metadata: Mapping[str, Any], key: str) -> str | None:
    """A text of the metadata; what is there instead is none, and ``problem`` says so."""
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _describe_tensors(sizes: Iterable[tuple[str, int, int]]) -> dict[str, object]:
    types: dict[str, dict[str, int]] = {}
    for label, n_elements, n_bytes in sizes:
        entry = types.setdefault(label, {"tensors": 0, "elements": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["elements"] += n_elements
        entry["bytes"] += n_bytes
    total, elements = (sum(entry[key] for entry in types.values()) for key in ("bytes", "elements"))
    return {
        "types": types,
        "weight_bytes": total,
        "bits_per_weight": 8 * total / elements if elements else None,
    }


def _describe_corpus(path: Path) -> dict[str, object]:
    manifest = Corpus.open(path).manifest
    return {
        "kind": "corpus",
        "vocab_size": manifest.vocab_size,
        "bos_id": manifest.bos_id,
        "eos_id": manifest.eos_id,
        "splits": {
            name: {"documents": split.documents, "tokens": split.tokens, "text_bytes": split.text_bytes}
            for name, split in manifest.splits.items()
        },
        "sources": len(manifest.sources),
        "fingerprint": manifest.fingerprint,
    }


def _print(about: dict[str, object]) -> None:
    """Keys and values may be those of a file that means harm."""
    for key, value in about.items():
        label = key.replace("_", " ")
        if key == "chat_template":
            print(f"{label:<20} {'yes' if value else 'none'}")
        elif isinstance(value, dict):
            print(label)
            for name, detail in value.items():
                print(f"  {one_line(name):<18} {one_line(_text(detail))}")
        elif value not in (None, ""):
            print(f"{label:<20} {one_line(_text(value))}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{detail:,} {name.replace('_', ' ')}" for name, detail in value.items())
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
