"""``linnet fit``: will a model fit, and with how much context, before it is loaded or even downloaded."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from linnet.engine.plan import Outline, Plan
from linnet.engine.precision import parse_type, type_choice
from linnet.engine.repack import with_types
from linnet.engine.session import PAGE_TOKENS
from linnet.errors import FormatError, SourceError, UnsupportedError, UsageError
from linnet.formats import hub, store
from linnet.formats.checkpoint import read_checkpoint, read_config
from linnet.formats.gguf import ALIGNMENT, open_gguf, read_gguf
from linnet.formats.hub import HubFile, Repository
from linnet.formats.parts import ModelParts, TokenizerParts
from linnet.formats.safetensors_file import read_safetensors
from linnet.formats.sentence_transformers import LIMITS
from linnet.formats.source import read_model, source_kind
from linnet.formats.store import CHECKPOINT, ModelName
from linnet.formats.vocabulary import TokenKind, Vocabulary, VocabularyKind
from linnet.options import DEFAULT_N_CTX, FitOptions

KV_TYPES = ("f16", "q8_0", "q4_0")  # in the order in which they are tried
LEAST_N_CTX = 512  # tokens; who wants fewer says so
_HEADER = 1 << 20  # bytes of a remote file asked for at first
_LARGEST_HEADER = {".gguf": 1 << 26, ".safetensors": 1 << 24, ".json": 1 << 24}  # and at most
_TOLD_BEFORE = ("config.json", "model.safetensors.index.json", LIMITS)  # files that say how large a model is
_PATIENCE = 900  # seconds for everything a server is asked
_BAR = 60  # characters


def fit(options: FitOptions) -> dict[str, object]:
    """Plans the memory of ``options.model``; returns what ``--json`` prints.

    With ``--ram`` the plan is one that fits into it. Raises UsageError, with the numbers, when there is none.
    """
    outline = open_outline(options.model, options.type)
    if options.ram is None:
        plan = outline.plan(_context(outline, options.n_ctx), options.kv_type or KV_TYPES[0], options.threads)
    else:
        plan = fitting(outline, options.ram, options.n_ctx, options.kv_type, options.threads)
    result: dict[str, object] = {**asdict(plan), "total": plan.total, "ram": options.ram}
    if not options.json:
        _print(plan, options.ram)
    return result


def fitting(outline: Outline, ram: int, n_ctx: int | None, kv_type: str | None, threads: int | None) -> Plan:
    """The plan with the most context, then the most precise keys and values, of at most ``ram`` bytes.

    What the caller names stays as it is. Raises UsageError where nothing fits.
    """
    kinds = [kv_type] if kv_type is not None else [kind for kind in KV_TYPES if _can_hold(outline, kind)]
    wanted = _context(outline, n_ctx)
    plans = [outline.plan(wanted, kind, threads) for kind in kinds]
    for plan in plans:
        if plan.total <= ram:
            return plan
    smallest = plans[-1]
    if n_ctx is None:
        least = outline.plan(min(LEAST_N_CTX, wanted), kinds[-1], threads)
        if least.total <= ram:
            return _longest(outline, ram, least, wanted, threads)
        smallest = least
    raise UsageError(
        f"the model needs {_mb(smallest.total)} with {smallest.n_ctx} tokens of context in "
        f"{smallest.kv_type} (weights {_mb(smallest.weights)}, keys and values {_mb(smallest.kv)}, "
        f"scratch {_mb(smallest.scratch)}, process {_mb(smallest.base)}) "
        f"and --ram is {_mb(ram)}; take a smaller --type or --n-ctx"
    )


def _longest(outline: Outline, ram: int, least: Plan, wanted: int, threads: int | None) -> Plan:
    """The longest context in whole pages; a longer one never takes less memory."""
    low, high = least.n_ctx // PAGE_TOKENS, wanted // PAGE_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        if outline.plan(middle * PAGE_TOKENS, least.kv_type, threads).total <= ram:
            low = middle
        else:
            high = middle - 1
    return outline.plan(max(low * PAGE_TOKENS, least.n_ctx), least.kv_type, threads)


def _context(outline: Outline, n_ctx: int | None) -> int:
    return n_ctx if n_ctx is not None else min(outline.longest_text, DEFAULT_N_CTX)


def _can_hold(outline: Outline, kv_type: str) -> bool:
    return kv_type == "f16" or outline.info.head_dim % 32 == 0


# ---- what is known of a model without its weights -----------------------------------------


def open_outline(model: Path, type: str | None = None, *, in_process: bool = False) -> Outline:
    """The header of a model that is here, or else of one on the Hub.

    ``in_process`` is for who then loads it in the same process, which holds more by then. Raises SourceError,
    FormatError, UnsupportedError, MissingExtraError.
    """
    if in_process or not _is_elsewhere(model):
        path = store.locate(model)
        as_it_is = not in_process and type is None and source_kind(path) == "gguf"
        return _outline(read_model(path), type, path.stat().st_size if as_it_is else None)
    with _remote(ModelName.parse(model.as_posix())) as (parts, n_bytes):
        return _outline(parts, type, n_bytes if type is None else None)


def _is_elsewhere(model: Path) -> bool:
    try:
        with suppress(SourceError):  # it is not here, or the store is closed
            if store.locate(model).exists():
                return False
        return "/" in ModelName.parse(model.as_posix()).repo
    except UsageError:
        return False  # several types of it are here, or it is no name: reading it says so


def _outline(parts: ModelParts, type: str | None, n_bytes: int | None) -> Outline:
    """``n_bytes`` is the size of a GGUF file that is run as it is."""
    weights = sum(-(-tensor.n_bytes // ALIGNMENT) * ALIGNMENT for tensor in parts.tensors)
    if type is not None:
        parts, _ = with_types(parts, type_choice(parts, parse_type(type)))
    header_bytes = max(0, n_bytes - weights) if n_bytes is not None else 0
    return Outline(parts, as_it_is=n_bytes is not None, header_bytes=header_bytes)


@contextmanager
def _remote(name: ModelName) -> Iterator[tuple[ModelParts, int | None]]:
    """A model on the Hub, as files of holes that begin with their headers; the size of a GGUF file."""
    deadline = time.monotonic() + _PATIENCE
    repository = hub.open_repository(name.repo)
    choice = hub.choose(repository, name.type)
    with tempfile.TemporaryDirectory(prefix="linnet-fit-") as temporary, _named(Path(temporary), name.repo):
        folder = Path(temporary)
        for file in choice.files:
            path = folder / file.stored_name
            if path.suffix in (".gguf", ".safetensors"):
                _write_header(repository, file, path, deadline)
            elif file.stored_name in _TOLD_BEFORE:
                path.write_bytes(hub.read_beginning(repository, file, _LARGEST_HEADER[".json"], deadline))
        if choice.name.type == CHECKPOINT:
            yield read_checkpoint(folder, _blank_tokenizer(folder)), None
        else:
            yield read_gguf(path), file.n_bytes


@contextmanager
def _named(folder: Path, name: str) -> Iterator[None]:
    """Errors that name the model instead of the folder in which its headers are for a moment."""
    try:
        yield
    except (SourceError, UnsupportedError) as error:
        raise type(error)(str(error).replace(str(folder), name)) from None


def _write_header(repository: Repository, file: HubFile, path: Path, deadline: float) -> None:
    """Asks for the beginning of a file until its header is whole; the rest is a hole."""
    n_bytes = _HEADER
    while True:
        beginning = hub.read_beginning(repository, file, n_bytes, deadline)
        path.write_bytes(beginning)
        os.truncate(path, file.n_bytes)
        try:
            open_gguf(path, len(beginning)) if path.suffix == ".gguf" else read_safetensors(path)
            return
        except FormatError:  # zeros where the header goes on
            if n_bytes >= min(file.n_bytes, _LARGEST_HEADER[path.suffix]):
                raise
            n_bytes *= 4


def _blank_tokenizer(folder: Path) -> TokenizerParts:
    """Tokens without text, as many as there are embeddings: a real tokenizer is large."""
    n = read_config(folder).get("vocab_size")
    if not isinstance(n, int) or not 0 < n < 1 << 24:
        raise FormatError("config.json names no possible vocab_size")
    kinds = (TokenKind.NORMAL,) * n
    return TokenizerParts(Vocabulary(VocabularyKind.BPE, ("",) * n, kinds, pre="gpt-2"))


# ---- for people ---------------------------------------------------------------------------


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _print(plan: Plan, ram: int | None) -> None:
    """A bar, and what its parts are."""
    from rich.console import Console
    from rich.text import Text

    out = Console(highlight=False, soft_wrap=True)
    parts = {
        "weights": (plan.weights, "cyan"),
        "keys and values": (plan.kv, "magenta"),
        "scratch": (max(plan.scratch, plan.loading - plan.kv), "yellow"),
        "process": (plan.base, "green"),
    }
    whole = max(plan.total, ram or 0)
    bar = Text()
    for name, (n_bytes, colour) in parts.items():
        bar.append("█" * round(_BAR * n_bytes / whole), colour)
        out.print(Text(f"{name:<16}", colour), Text(f"{_mb(n_bytes):>10}"))
    out.print(Text(f"{'peak':<16}"), Text(f"{_mb(plan.total):>10}"), end="")
    out.print(
        f"  with {plan.n_ctx:,} tokens of context in {plan.kv_type}" + (f", of {_mb(ram)}" if ram else "")
    )
    bar.append("░" * max(0, _BAR - len(bar)) if ram else "")
    out.print(bar)
