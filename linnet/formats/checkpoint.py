"""A checkpoint: a folder in the layout of Hugging Face.

``config.json``, ``model.safetensors`` (or shards with an index), ``tokenizer.json``,
``tokenizer_config.json`` and, where there is one, ``chat_template.jinja``. Folders of
others are read; folders written here load in ``transformers``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import FormatError, SourceError, UnsupportedError
from linnet.formats import arch
from linnet.formats.arch.family import Family
from linnet.formats.arch.layouts import floats
from linnet.formats.arch.ternary import SCALE, Ternary, read_ternary
from linnet.formats.arch.text_part import has_text_part, text_settings, text_tensors
from linnet.formats.atomic import atomic_file, make_folder
from linnet.formats.gguf_keys import END_IDS_KEY, EOM_KEY, EOT_KEY, LEFT_OUT_KEY, TEMPLATE_KEY
from linnet.formats.inputs import read_bytes, read_json
from linnet.formats.parts import ModelParts, Tensor, TokenizerParts
from linnet.formats.safetensors_file import StoredTensor, read_safetensors, write_safetensors
from linnet.formats.sentence_transformers import embedding_files, embedding_metadata
from linnet.formats.sentencepiece import parse_sentencepiece
from linnet.formats.tiktoken import is_tiktoken, parse_ranks
from linnet.formats.tokenizer_json import (
    adds_bos,
    doubles_sep,
    frame_of,
    json_from_vocabulary,
    parse_tokenizer_json,
    token_id,
    vocabulary_from_json,
)
from linnet.formats.vocab_files import added_tokens, json_from_vocab_files
from linnet.formats.vocabulary import TokenKind, Vocabulary, check_size
from linnet.types import ModelFacts, SpecialTokens, TensorType

# What a checkpoint folder consists of; a folder with other names in it is not replaced.
CHECKPOINT_FILES = (
    "config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    "1_Pooling", "2_Normalize",
)  # fmt: skip

TEMPLATE_FOLDER = "additional_chat_templates"  # NAME.jinja
TRAINING_STATE = "state"  # where a training that can be resumed keeps what it needs

_DTYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
_PACKED = "U8"
_FILLERS = ("[PAD]", "<pad>")
_DTYPE_NAMES = {TensorType.F32: "float32", TensorType.F16: "float16", TensorType.BF16: "bfloat16"}


# ---- reading ----------------------------------------------------------------------


def read_checkpoint(path: Path, tokenizer: TokenizerParts | None = None) -> ModelParts:
    """The model in a checkpoint folder, or in a .safetensors file of one; weights are mapped, not read.

    ``tokenizer`` takes the place of the one in the folder. Raises SourceError for a
    missing or unreadable file, FormatError for a damaged one and UnsupportedError
    for a model this version does not know.
    """
    directory = path if path.is_dir() else path.parent
    config, is_part = _read_config(directory)
    family = arch.by_config(config)
    try:
        facts = family.facts_from_config(config)
    except FormatError as error:
        raise FormatError(f"{directory / 'config.json'}: {error}") from None
    stored = _stored_tensors(directory, path)
    stored, left_out = text_tensors(stored) if is_part else family.as_run(stored)
    sources = _Sources(stored, read_ternary(config), directory)
    tensors = _read_tensors(sources, family, facts)
    settings = read_json(directory / "tokenizer_config.json", optional=True)
    generation = read_json(directory / "generation_config.json", optional=True)
    if tokenizer is None:
        tokenizer = read_tokenizer(directory, facts.vocab_size)
    special = _special_tokens(tokenizer, settings, {**generation, **config}, frames=not facts.causal)
    templates = _chat_templates(directory, settings)
    ends = _end_ids(special, facts.vocab_size, generation, config)
    return ModelParts(
        facts=facts,
        special=special,
        tokenizer=tokenizer,
        tensors=tensors,
        name=_name(directory, config),
        chat_template=templates.pop("default", None),
        extra={
            **_named_templates(templates),
            **_end_keys(ends),
            **embedding_metadata(directory, facts),
            **({LEFT_OUT_KEY: ", ".join(left_out)} if left_out else {}),
        },
    )


def read_tokenizer(directory: Path, n_tokens: int) -> TokenizerParts:
    """The tokenizer of a checkpoint folder, for a model with ``n_tokens`` embeddings."""
    path = directory / "tokenizer.json"
    try:
        if path.exists():
            text: bytes | None = read_bytes(path)
        elif (path := directory / "tokenizer.model").exists():
            data = read_bytes(path)
            if is_tiktoken(data):
                return parse_ranks(data, n_tokens, added_tokens(directory))
            return TokenizerParts(_sentencepiece(data, directory, n_tokens))
        else:
            text = json_from_vocab_files(path := directory)
        if text is not None:
            return TokenizerParts(vocabulary_from_json(text, n_tokens), text)
    except (FormatError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None
    raise SourceError(f"{directory} has no tokenizer.json; add it, or pass one with --tokenizer")


def _sentencepiece(data: bytes, directory: Path, n_tokens: int) -> Vocabulary:
    """The pieces of a SentencePiece model, behind them the added tokens of the folder and unused ones."""
    vocabulary = parse_sentencepiece(data)
    if len(vocabulary) > n_tokens:
        raise FormatError(
            f"{len(vocabulary)} tokens, and the model has {n_tokens}; pass the right --tokenizer"
        )
    added = added_tokens(directory)
    check_size(n_tokens, len(vocabulary) + len(added))
    extra = range(len(vocabulary), n_tokens)
    texts = [added[index]["content"] if index in added else f"[PAD{index}]" for index in extra]
    kinds = [_added_kind(added.get(index)) for index in extra]
    scores = (0.0,) * len(texts)
    return replace(
        vocabulary,
        tokens=(*vocabulary.tokens, *texts),
        kinds=(*vocabulary.kinds, *kinds),
        scores=(*vocabulary.scores, *scores),
    )


def _added_kind(entry: Mapping[str, Any] | None) -> TokenKind:
    if entry is None:
        return TokenKind.UNUSED
    return TokenKind.CONTROL if entry.get("special") else TokenKind.USER_DEFINED


def read_config(directory: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint folder; of a model that also sees, what it says of its text part.

    Raises SourceError or FormatError.
    """
    return _read_config(directory)[0]


def _read_config(directory: Path) -> tuple[dict[str, Any], bool]:
    """And whether the language model is a part of a larger one."""
    path = directory / "config.json"
    if directory.is_dir() and not path.exists():
        if (directory / TRAINING_STATE).is_dir():
            raise SourceError(
                f"{directory} holds an unfinished training; "
                f"finish it with: linnet train CORPUS -o {directory} --resume"
            )
        if (directory / "adapter_config.json").exists():
            raise SourceError(f"{directory} is an adapter; use it on top of its model, with --adapter")
        raise SourceError(f"{directory} is not a checkpoint folder: it has no config.json")
    config = read_json(path)
    if not has_text_part(config):
        return config, False
    try:
        settings = text_settings(config)
        return {**arch.by_config(settings).defaults, **settings}, True
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _read_tensors(sources: _Sources, family: Family, facts: ModelFacts) -> tuple[Tensor, ...]:
    tensors = []
    for planned in family.tensors(facts):
        taken = [sources.take(name, planned.source_shape, family.prefix) for name in planned.sources]
        tensors.append(planned.gather(taken))
    rest = [name for name in sources.stored if not family.is_derived(name, facts)]
    if rest:
        raise UnsupportedError(
            f"{sources.directory}: the tensor '{rest[0]}' is not part of a {facts.arch} model as known here"
        )
    return tuple(tensors)


@dataclass(frozen=True)
class _Sources:
    """The tensors of a folder that nothing was made of yet, and how those of three values are held."""

    stored: dict[str, StoredTensor]
    ternary: Ternary | None
    directory: Path

    def take(self, name: str, shape: tuple[int, ...], prefix: str) -> Tensor:
        """The tensor ``name``, with or without ``prefix``. Raises FormatError, UnsupportedError."""
        known = (name, name.removeprefix(prefix), prefix + name)
        own = next((variant for variant in known if variant in self.stored), None)
        if own is None:
            raise FormatError(f"{self.directory}: the tensor '{name}' is missing")
        entry = self.stored.pop(own)
        if self.ternary is None:
            return self._tensor(name, shape, entry)
        if entry.dtype == _PACKED:
            return self._unpacked(name, shape, entry, self.stored.pop(own + SCALE, None))
        plain = self._tensor(name, shape, entry)
        return self.ternary.rounded(plain) if self.ternary.rounds(plain) else plain

    def _unpacked(
        self, name: str, shape: tuple[int, ...], entry: StoredTensor, scale: StoredTensor | None
    ) -> Tensor:
        assert self.ternary is not None
        if scale is None:
            raise FormatError(f"{self.directory}: the tensor '{name}{SCALE}' is missing")
        if len(shape) != 2 or entry.shape != (-(-shape[0] // 4), shape[1]):
            raise FormatError(
                f"{self.directory}: the tensor '{entry.name}' is {entry.shape}; "
                f"{shape} are not packed like that"
            )
        value = floats(self._tensor(scale.name, (1,), scale))
        return self.ternary.unpacked(name, shape, np.asarray(entry.raw), float(value[0]))

    def _tensor(self, name: str, shape: tuple[int, ...], entry: StoredTensor) -> Tensor:
        if entry.shape != shape:
            raise FormatError(
                f"{self.directory}: the tensor '{entry.name}' is {entry.shape}, expected {shape}; "
                "get the files again"
            )
        if entry.dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise UnsupportedError(
                f"{self.directory}: the tensor '{entry.name}' is stored as {entry.dtype}; supported: {known}"
            )
        return Tensor(name, _DTYPES[entry.dtype], shape, lambda: entry.raw)


def _stored_tensors(directory: Path, path: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder; of the file ``path`` alone, where that is no shard of the folder's index."""
    index = directory / "model.safetensors.index.json"
    shards = _shards(index) if index.exists() else []
    if path != directory and path.name not in shards:
        return read_safetensors(path)
    if not shards:
        _refuse_pickles(directory)
        return read_safetensors(directory / "model.safetensors")
    missing = [file for file in shards if not (directory / file).exists()]
    if missing:
        which = missing[0] + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise SourceError(f"{directory} lacks {which} of its {len(shards)} files of weights; get it again")
    stored: dict[str, StoredTensor] = {}
    for file in shards:
        stored.update(read_safetensors(directory / file))
    return stored


def _refuse_pickles(directory: Path) -> None:
    """Raises UnsupportedError for a folder whose weights are there, but as programs that torch would run."""
    if (directory / "model.safetensors").exists():
        return
    pickles = sorted(directory.glob("pytorch_model*.bin"))
    if pickles:
        raise UnsupportedError(
            f"{directory} holds its weights as {pickles[0].name}, a Python pickle, which can run any program "
            "when it is opened; Linnet reads safetensors: open it in transformers and save_pretrained it"
        )


def _shards(index: Path) -> list[str]:
    """The files an index names, in order."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise FormatError(f"{index} has no weight_map")
    shards = sorted(set(weight_map.values()))
    for file in shards:
        if Path(file).name != file:  # an index must not point out of its folder
            raise FormatError(f"{index} names the file '{file}', which is not in the folder")
    return shards


def _special_tokens(
    tokenizer: TokenizerParts, settings: Mapping[str, Any], config: Mapping[str, Any], *, frames: bool
) -> SpecialTokens:
    """``frames``: CLS and SEP, which an encoder has around every text, are its BOS and EOS."""
    document = parse_tokenizer_json(tokenizer.json) if tokenizer.json is not None else None
    ids, n_tokens = {}, len(tokenizer.vocabulary)
    around = frame_of(document) if document is not None else (None, None)
    for key, framing in zip(("bos", "eos"), around, strict=True):
        text = framing if frames and framing is not None else token_text(settings.get(f"{key}_token"))
        named = token_id(document, text) if document is not None and text is not None else None
        found = _first_id(named, n_tokens)
        ids[key] = found if found is not None else _first_id(config.get(f"{key}_token_id"), n_tokens)
    add_bos = settings.get("add_bos_token")
    if not isinstance(add_bos, bool):
        bos = tokenizer.vocabulary.tokens[ids["bos"]] if ids["bos"] is not None else None
        add_bos = adds_bos(document, bos) if document is not None else True
    add_eos = ids["eos"] is not None and tokenizer.vocabulary.tokens[ids["eos"]] == around[1]
    add_sep = frames and add_eos and document is not None and doubles_sep(document)
    return SpecialTokens(
        bos_id=ids["bos"], eos_id=ids["eos"], add_bos=add_bos, add_eos=add_eos, add_sep=add_sep
    )


def token_text(value: Any) -> str | None:
    """A token of ``tokenizer_config.json``, which is written as text or as a table with its ``content``."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _first_id(value: Any, n_tokens: int) -> int | None:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) and 0 <= first < n_tokens else None


def _end_ids(special: SpecialTokens, n_tokens: int, *configs: Mapping[str, Any]) -> list[int]:
    """The tokens that end an answer, apart from EOS."""
    ends: list[Any] = []
    for config in configs:
        value = config.get("eos_token_id")
        ends += value if isinstance(value, list) else [value]
    known = [end for end in ends if isinstance(end, int) and 0 <= end < n_tokens and end != special.eos_id]
    return list(dict.fromkeys(known))


def _end_keys(ends: Sequence[int]) -> dict[str, Any]:
    """The metadata keys that hold them: the first under the name other readers of GGUF know."""
    keys: dict[str, Any] = {EOT_KEY: ends[0]} if ends else {}
    return {**keys, END_IDS_KEY: np.array(ends, dtype="<i4")} if len(ends) > 1 else keys


def _chat_templates(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; the one that is used when no other is asked for is ``default``.

    A file goes before ``tokenizer_config.json``, which holds a text or a list of tables
    with ``name`` and ``template``.
    """
    apart = read_json(directory / "chat_template.json", optional=True)  # of models that also see
    given = settings.get("chat_template", apart.get("chat_template"))
    tables = given if isinstance(given, list) else [{"name": "default", "template": given}]
    templates = {
        table["name"]: table["template"]
        for table in tables
        if isinstance(table, dict)
        and isinstance(table.get("name"), str)
        and isinstance(table.get("template"), str)
    }
    folder = directory / TEMPLATE_FOLDER
    files = {path.stem: path for path in sorted(folder.glob("*.jinja"))} if folder.is_dir() else {}
    path = directory / "chat_template.jinja"
    files |= {"default": path} if path.exists() else {}
    return templates | {name: read_bytes(path).decode("utf-8", "replace") for name, path in files.items()}


def _named_templates(templates: Mapping[str, str]) -> dict[str, Any]:
    """Templates beside the default one, as the metadata of GGUF holds them."""
    named: dict[str, Any] = {f"{TEMPLATE_KEY}.{name}": text for name, text in templates.items()}
    return {"tokenizer.chat_templates": list(templates), **named} if named else {}


def _name(directory: Path, config: Mapping[str, Any]) -> str:
    name = config.get("_name_or_path")
    if isinstance(name, str) and name:
        return name
    folder = directory.absolute()
    if folder.parent.name == "snapshots":  # of the Hub's cache: models--ORG--NAME/snapshots/COMMIT
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return directory.resolve().name


# ---- writing ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Document:
    """What goes into the JSON files of a checkpoint."""

    facts: ModelFacts
    special: SpecialTokens
    tokenizer_json: bytes
    dtype: TensorType
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    end_ids: Sequence[int] = ()
    embedding: Mapping[str, bytes] = field(default_factory=dict)  # files that say how vectors are made
    extra: Mapping[str, Any] | None = None


def write_checkpoint(parts: ModelParts, directory: Path) -> None:
    """Writes a model whose tensors are plain (f32, f16, bf16) into an existing folder."""
    plans = {planned.name: planned for planned in arch.by_facts(parts.facts).tensors(parts.facts)}
    named = [source for tensor in parts.tensors for source in plans[tensor.name].scatter(tensor)]
    text = parts.tokenizer.json
    document = _Document(
        facts=parts.facts,
        special=parts.special,
        tokenizer_json=text
        if text is not None
        else json_from_vocabulary(parts.tokenizer.vocabulary, parts.special),
        dtype=max(parts.tensors, key=lambda tensor: tensor.n_elements).type,
        chat_templates=_templates_of(parts),
        end_ids=_end_ids_of(parts),
        embedding=embedding_files(parts.facts, parts.extra),
        extra={"_name_or_path": parts.name} if parts.name else None,
    )
    _write(document, named, directory)


def _templates_of(parts: ModelParts) -> dict[str, str]:
    prefix = f"{TEMPLATE_KEY}."
    named = {key.removeprefix(prefix): text for key, text in parts.extra.items() if key.startswith(prefix)}
    default = {"default": parts.chat_template} if parts.chat_template is not None else {}
    return {
        name: text
        for name, text in (default | named).items()
        if isinstance(text, str) and re.fullmatch(r"\w[\w.-]*", name)  # a file in the folder itself
    }


def _end_ids_of(parts: ModelParts) -> list[int]:
    ends = [parts.extra.get(key) for key in (EOT_KEY, EOM_KEY)]
    more = parts.extra.get(END_IDS_KEY)
    if isinstance(more, np.ndarray):
        ends += more.tolist()
    return _end_ids(parts.special, parts.facts.vocab_size, {"eos_token_id": ends})


def save_checkpoint(
    directory: Path,
    facts: ModelFacts,
    tensors: Mapping[str, NDArray[np.float32]],
    tokenizer_json: bytes,
    special: SpecialTokens,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a trained model into ``directory``, which is made when it does not exist.

    ``tensors`` maps Hugging Face names to f32 arrays, [rows, columns] or [n]; all of
    the architecture have to be there. ``extra`` goes into ``config.json``. Each file
    is replaced atomically, the weights last. Raises TargetError.
    """
    plain = []
    for name, shape in arch.by_facts(facts).checkpoint_shapes(facts):
        array = tensors[name]
        if array.shape != shape:
            raise ValueError(f"{name} is {array.shape}, expected {shape}")
        plain.append(_from_array(name, array))
    make_folder(directory)
    document = _Document(facts, special, tokenizer_json, TensorType.F32, extra=extra)
    _write(document, plain, directory)


def _from_array(name: str, array: NDArray[np.float32]) -> Tensor:
    def load() -> NDArray[np.uint8]:
        return np.ascontiguousarray(array, dtype="<f4").reshape(-1).view(np.uint8)

    return Tensor(name, TensorType.F32, array.shape, load)


def _write(document: _Document, tensors: Iterable[Tensor], directory: Path) -> None:
    files = {
        "config.json": _dump(_config(document)),
        "generation_config.json": _dump(_generation_config(document)),
        "tokenizer.json": document.tokenizer_json,
        "tokenizer_config.json": _dump(_tokenizer_config(document)),
    }
    for name, template in document.chat_templates.items():
        path = "chat_template.jinja" if name == "default" else f"{TEMPLATE_FOLDER}/{name}.jinja"
        files[path] = template.encode("utf-8", "surrogateescape")
    files.update(document.embedding)
    for name, content in files.items():
        make_folder((directory / name).parent)
        with atomic_file(directory / name) as file:
            file.write(content)
    with atomic_file(directory / "model.safetensors") as file:
        write_safetensors(list(tensors), file)


def _config(document: _Document) -> dict[str, Any]:
    return {
        **arch.by_facts(document.facts).config_from_facts(document.facts),
        **_token_ids(document.special),
        "pad_token_id": None,  # some architectures have one by default, which may not be in the vocabulary
        "torch_dtype": _DTYPE_NAMES[document.dtype],
        **(document.extra or {}),
    }


def _token_ids(special: SpecialTokens) -> dict[str, Any]:
    return {"bos_token_id": special.bos_id, "eos_token_id": special.eos_id}


def _generation_config(document: _Document) -> dict[str, Any]:
    ids = _token_ids(document.special)
    if not document.end_ids:
        return ids
    eos = document.special.eos_id
    return ids | {"eos_token_id": [*([] if eos is None else [eos]), *document.end_ids]}


def _tokenizer_config(document: _Document) -> dict[str, Any]:
    vocabulary = vocabulary_from_json(document.tokenizer_json, document.facts.vocab_size)
    first, last = ("bos", "eos") if document.facts.causal else ("cls", "sep")
    ids = {first: document.special.bos_id, last: document.special.eos_id, "unk": vocabulary.unk_id}
    inputs: dict[str, Any] = {}
    if not document.facts.causal:  # several texts in one pass of transformers need a filler
        ids["pad"] = next((i for i, token in enumerate(vocabulary.tokens) if token in _FILLERS), None)
        typed = ["token_type_ids"] if document.facts.n_token_types > 1 else []
        inputs["model_input_names"] = ["input_ids", *typed, "attention_mask"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": document.special.add_bos,
        "add_eos_token": document.special.add_eos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": document.facts.max_seq_len,
        **{f"{name}_token": vocabulary.tokens[index] for name, index in ids.items() if index is not None},
        **inputs,
    }


def _dump(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
