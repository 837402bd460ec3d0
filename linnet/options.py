"""One frozen dataclass per verb: the single source of its flags, TOML keys and docs.

A field made with :func:`option` becomes a flag (or a positional argument), a key of
the ``--config`` TOML file and a line of the verb's help page. Values given on the
command line win over the file, and the file over the default written here.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from linnet.errors import SourceError, UsageError

Config = TypeVar("Config")

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGbB]?)")
_MOST_TEXT = 1 << 22  # characters of a file that an option names
CONFIG_HELP = "TOML file with any of these options; the command line wins"
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def count(text: str | int) -> int:
    """Reads ``3M``, ``2.5k`` or ``4096`` as a whole number. Raises ValueError."""
    match = _COUNT.fullmatch(str(text).strip())
    if not match:
        raise ValueError(f"'{text}' is not a count; write 4096, 300k or 3M")
    scale = _SCALE[match[2].lower()]
    if float(match[1]) * scale >= 2**63:
        raise ValueError(f"'{text}' is too large a count")
    whole, _, fraction = match[1].partition(".")
    number, rest = divmod(int(whole + fraction) * scale, 10 ** len(fraction))
    if rest:
        raise ValueError(f"'{text}' is not a whole number")
    return number


def memory(text: str | int) -> int:
    """Reads ``4G``, ``512MiB`` or ``4GB`` as bytes; K, M, G alone are powers of two. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kKmMgGtT])(i?[bB])?)?", str(text).strip())
    if not match:
        raise ValueError(f"'{text}' is not a size; write 4G, 512M or 4GB")
    base = 1000 if match[3] in ("b", "B") else 1024
    return int(float(match[1]) * base ** (1 + "kmgt".index(match[2].lower()) if match[2] else 0))


def positive(text: str | float) -> float:
    """Reads a number above zero. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"'{text}' is not a number above zero")
    return value


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    short: str = "",
    metavar: str = "",
    choices: tuple[str, ...] = (),
    positional: bool = False,
    read: Any = None,
) -> Any:
    """A dataclass field that is also a flag.

    ``short`` is a one-letter flag such as ``-o``; ``read`` turns the text into the
    value and raises ValueError (default: by the annotation); ``choices`` limits it.
    """
    about = {
        "help": help,
        "short": short,
        "metavar": metavar,
        "choices": choices,
        "positional": positional,
        "read": read,
    }
    return dataclasses.field(default=default, metadata=about)


def fields_of(config: type) -> list[dataclasses.Field[Any]]:
    """The options of a verb in the order people read them: its own, then those it shares with other verbs."""
    family = [kind for kind in config.__mro__ if dataclasses.is_dataclass(kind)]
    place = {
        name: depth for depth, kind in reversed(list(enumerate(family))) for name in kind.__annotations__
    }
    return sorted(dataclasses.fields(config), key=lambda field: place[field.name])


def add_arguments(parser: argparse.ArgumentParser, config: type) -> None:
    """Gives ``parser`` one argument per field of ``config``, and ``--config FILE``."""
    kinds = _plain_types(config)
    for field in fields_of(config):
        _add_argument(parser, field, kinds[field.name])
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=argparse.SUPPRESS,
        help=CONFIG_HELP,
    )


def from_arguments(config: type[Config], given: dict[str, Any]) -> Config:
    """Builds ``config`` from parsed arguments and, where given, the TOML file.

    Raises UsageError for an unknown key, a value of the wrong kind, or a required
    option that neither has.
    """
    path = given.get("config")
    merged = _read_toml(config, path) if path else {}
    for name, value in given.items():
        merged[name] = tuple(value) if isinstance(value, list) else value
    merged.pop("config", None)
    missing = [
        flags_of(field)[-1]
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.name not in merged
    ]
    if missing:
        raise UsageError(f"missing {', '.join(missing)}; give it here or in a --config file")
    return config(**merged)


def _add_argument(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], kind: Any) -> None:
    about = field.metadata
    keywords: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field)}
    if kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction  # --no-x takes back what the TOML file says
    else:
        keywords["type"] = _reader(field, kind)
        keywords["metavar"] = about["metavar"] or field.name.upper()
        if about["choices"]:
            keywords["choices"] = about["choices"]
            keywords["metavar"] = "|".join(about["choices"])
    if about["positional"]:  # optional here, even where required: the TOML file may have it
        keywords["nargs"] = "*" if _is_tuple(kind) else "?"
        parser.add_argument(field.name, **keywords)
        return
    if _is_tuple(kind):
        keywords["action"] = "append"
    parser.add_argument(*flags_of(field), dest=field.name, **keywords)


def flags_of(field: dataclasses.Field[Any]) -> list[str]:
    """What people type for an option: its flags, short first, or the name of a positional."""
    about = field.metadata
    if about["positional"]:
        return [about["metavar"] or field.name.upper()]
    long = "--" + field.name.replace("_", "-")
    return [about["short"], long] if about["short"] else [long]


def default_of(field: dataclasses.Field[Any]) -> str:
    """The default as people read it; empty where there is none or it goes without saying."""
    if field.default in (dataclasses.MISSING, None, (), "") or field.default is False:
        return ""
    return "on" if field.default is True else str(field.default)


def _help(field: dataclasses.Field[Any]) -> str:
    text, default = str(field.metadata["help"]).replace("%", "%%"), default_of(field)
    return f"{text} (default: {default})" if default else text


def _reader(field: dataclasses.Field[Any], kind: Any) -> Any:
    read = field.metadata["read"] or _element(kind)

    def convert(text: str) -> Any:
        if text is argparse.SUPPRESS:  # argparse reads the default of an absent positional as well
            return text
        try:
            value = read(text)
            if isinstance(value, Path) and "\0" in text:
                raise ValueError("no path holds the character zero")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"'{text}' is not a finite number")
            return value
        except ValueError as error:
            detail = str(error) if field.metadata["read"] else f"'{text}' is not {_kind_name(read)}"
            raise argparse.ArgumentTypeError(detail) from None

    return convert


def _kind_name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a text", Path: "a path"}[kind]


def _plain_types(config: type) -> dict[str, Any]:
    """The annotations of the fields with ``| None`` taken off. They are evaluated here, which takes time."""
    return {name: _without_none(kind) for name, kind in typing.get_type_hints(config).items()}


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _is_tuple(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _element(kind: Any) -> Any:
    return typing.get_args(kind)[0] if _is_tuple(kind) else kind


def read_text(path: Path) -> str:
    """What a file or a pipe says that an option names. Raises SourceError, also for one that never ends."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_TEXT + 1)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not valid UTF-8: {error}") from None
    if len(text) > _MOST_TEXT:
        raise SourceError(f"{path} has more than {_MOST_TEXT:,} characters; name a smaller file")
    return text


def _read_toml(config: type, path: Path) -> dict[str, Any]:
    import difflib  # these two take time, which a start without a file need not pay
    import tomllib

    try:
        table = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SourceError(f"{path} is not valid TOML: {error}") from None
    fields, kinds = {field.name: field for field in dataclasses.fields(config)}, _plain_types(config)
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"{path}: unknown option '{key}'{hint}")
        values[name] = _from_toml(fields[name], kinds[name], value, f"{path}: {key}")
    return values


def _from_toml(field: dataclasses.Field[Any], kind: Any, value: Any, where: str) -> Any:
    try:
        if kind is bool:
            if not isinstance(value, bool):
                raise UsageError(f"{where}: write true or false")
            return value
        convert = _reader(field, kind)
        items = value if isinstance(value, list) and _is_tuple(kind) else [value]
        for item in items:
            if isinstance(item, (bool, list, dict)):
                raise UsageError(f"{where}: {item!r} is not {_kind_name(_element(kind))}")
        values = tuple(convert(str(item)) for item in items)
        if _is_tuple(kind):
            return values
        (value,) = values
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{where}: {error}") from None
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise UsageError(f"{where}: '{value}' is not one of {', '.join(choices)}")
    return value


# ---- the verbs, in the order of the path --------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VerbOptions:
    """What every verb understands."""

    json: bool = option(False, help="print one JSON object instead of text")


DEFAULT_N_CTX = 4096  # at most, unless asked for: a key/value cache for a model's whole context may not fit


@dataclass(frozen=True, kw_only=True)
class EnergyOptions(VerbOptions):
    """How energy is told where nothing measures it."""

    watts: float | None = option(None, metavar="W", read=positive, help="what this machine draws, for an energy estimate where nothing measures it")


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(EnergyOptions):
    """The model that is used, and how it is held in memory."""

    model: Path | None = option(
        None,
        short="-m",
        metavar="MODEL",
        help="a GGUF file, a checkpoint folder, or a name that linnet list knows (default: the bundled model)",
    )
    type: str | None = option(
        None,
        metavar="TYPE",
        help="hold the weights as q8_0, q4_k, q4_0, ..., quantized while they are loaded (default: as they are)",
    )
    n_ctx: int | None = option(None, metavar="N", help=f"tokens of context (default: what the model was made for, at most {DEFAULT_N_CTX})")
    kv_type: str | None = option(
        None,
        choices=("f16", "q8_0", "q4_0", "f32"),
        help="precision of the key/value cache (default: f16, or what fits into --ram)",
    )
    ram: int | None = option(
        None,
        metavar="SIZE",
        read=memory,
        help="take no more memory than 4G, 512M, ...: less context, or refuse, with the numbers",
    )
    threads: int | None = option(None, metavar="N", help="threads to compute with (default: one per processor)")
    adapter: tuple[str, ...] = option((), metavar="PATH[=SCALE]", help="a LoRA adapter used on top of the model, a PEFT folder or a GGUF file; several add up")


@dataclass(frozen=True, kw_only=True)
class DataOptions(VerbOptions):
    """Turn text into a corpus: token shards with a manifest."""

    sources: tuple[str, ...] = option(
        positional=True,
        metavar="SOURCE",
        help="text, Markdown, JSONL or Parquet files, directories, or - for standard input",
    )
    output: Path = option(short="-o", metavar="DIR", help="the corpus to write")
    tokenizer: Path | None = option(None, metavar="FILE", help="use this tokenizer.json (or a folder or GGUF that holds one)")
    vocab_size: int = option(4096, metavar="N", read=count, help="train a byte-level BPE of this size when no tokenizer is given")
    field: str = option("text", metavar="NAME", help="the column or key of JSONL and Parquet rows that holds the text")
    validation: float = option(0.01, metavar="SHARE", help="share of the documents kept out for validation")
    seed: int = option(0, metavar="N", help="chooses which documents are kept out")
    shard_tokens: int = option(100_000_000, metavar="N", read=count, help="tokens per shard file")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(VerbOptions):
    """Train a model from scratch on a corpus."""

    corpus: Path = option(positional=True, metavar="CORPUS", help="a corpus made by linnet data")
    output: Path = option(short="-o", metavar="DIR", help="the checkpoint to write")
    params: int = option(3_000_000, metavar="N", read=count, help="size of the model; width and depth are derived from it")
    shape: str = option("", metavar="K=V,...", help="set parts of the shape yourself: dim, n_layers, n_heads, n_kv_heads, ffn_dim, max_seq_len")
    minutes: float | None = option(None, metavar="M", help="train for this long")
    tokens: int | None = option(None, metavar="N", read=count, help="train on this many tokens")
    epochs: float | None = option(None, metavar="E", help="go over the corpus this many times")
    batch: str = option("", metavar="K=V,...", help="tokens per step and its parts: tokens, sequences, length")
    optimizer: str = option("muon", choices=("muon", "adamw"), help="update rule of the weight matrices; embeddings and norms use AdamW")
    hyper: str = option(
        "",
        metavar="K=V,...",
        help="set parts of the recipe yourself: learning_rate, schedule (wsd or cosine), warmup, decay, weight_decay, dropout, clip",
    )
    device: str = option("auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    dtype: str = option("auto", choices=("auto", "bf16", "f32"), help="precision of the matrix products")
    compile: bool = option(False, help="let torch.compile fuse the model; pays off in long runs, needs a C++ compiler")
    seed: int = option(0, metavar="N", help="seed of weights and data order")
    resume: bool = option(False, help="go on from the last state in the output, bit for bit")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(VerbOptions):
    """Convert between checkpoints, GGUF and llama2.c files."""

    source: Path = option(positional=True, metavar="MODEL", help="a checkpoint folder, a GGUF or a llama2.c .bin file, or a name")
    output: Path = option(short="-o", metavar="OUT", help="a file ending in .gguf, or a folder for a checkpoint")
    tokenizer: Path | None = option(
        None,
        metavar="FILE",
        help="tokenizer of the model: tokenizer.json, a llama2.c tokenizer .bin or a SentencePiece .vocab",
    )
    type: str | None = option(None, metavar="TYPE", help="store weights as f32, f16, q8_0, q4_k, q4_0, ... (default: as they are)")


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(VerbOptions):
    """Store the weights of a model in fewer bits."""

    source: Path = option(positional=True, metavar="SOURCE", help="a GGUF file, a checkpoint folder, or a name that linnet list knows")
    output: Path = option(short="-o", metavar="OUT.gguf", help="the GGUF file to write")
    type: str = option("q8_0", metavar="TYPE", help="how to store them: f16, q8_0, q6_k, q4_k, q4_0, ...")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(VerbOptions):
    """Measure how well a model predicts a text."""

    model: Path = option(short="-m", metavar="MODEL", help="a GGUF file, a checkpoint folder, or a name that linnet list knows")
    text: Path = option(metavar="FILE", help="a text file is one stream; each row of a .jsonl file is a document")
    field: str = option("text", metavar="NAME", help="the key of JSONL rows that holds the text")
    n_ctx: int | None = option(None, metavar="N", help=f"tokens of context (default: what the model was made for, at most {DEFAULT_N_CTX})")
    stride: int | None = option(None, metavar="N", help="new tokens scored per window of a stream (default: half the context)")
    threads: int | None = option(None, metavar="N", help="threads to compute with (default: one per processor)")


MAX_TOKENS = 256  # of a text that is continued, unless asked for others
OVERFLOWS = ("error", "slide", "turns")  # what happens to a text that does not fit into the context


@dataclass(frozen=True, kw_only=True)
class DrawingOptions(MemoryOptions):
    """How tokens are drawn, and where a text ends."""

    temperature: float = option(0.8, metavar="T", help="0 always takes the most probable token")
    top_k: int = option(0, metavar="K", help="sample from the K most probable tokens; 0 = off")
    top_p: float = option(0.95, metavar="P", help="sample from the smallest set of tokens with this probability; 1 = off")
    min_p: float = option(0.05, metavar="P", help="drop tokens less probable than P times the best; 0 = off")
    repetition_penalty: float = option(1.0, metavar="X", help="make tokens of the recent text less probable; 1 = off")
    sampling: tuple[str, ...] = option(
        (),
        metavar="NAME=VALUE",
        help="any other way of drawing tokens, such as top_n_sigma=1 or banned_strings=TEXT; see docs/run.md",
    )
    stop: tuple[str, ...] = option((), metavar="TEXT", help="end before this text")
    logprobs: int | None = option(None, metavar="N", help="tell the probability of each token, and those of the N best")
    seed: int | None = option(None, metavar="N", help="the same seed gives the same text (default: a new one each time)")
    best_of: int = option(1, metavar="N", help="make N texts and take the one with the most probable tokens")


@dataclass(frozen=True, kw_only=True)
class RunOptions(DrawingOptions):
    """Generate text with a model, offline."""

    prompt: str | None = option(
        None,
        positional=True,
        metavar="PROMPT",
        help="text to continue, or a question to a model made for conversations (default: ask on a terminal, else standard input)",
    )
    system: str = option("", metavar="TEXT", help="what a model made for conversations is told before the first message")
    raw: bool = option(False, help="continue the text, also with a model made for conversations")
    max_tokens: int | None = option(
        None,
        short="-n",
        metavar="N",
        help=f"stop after this many tokens (default: {MAX_TOKENS}; in a conversation when the context is full)",
    )
    speculate: bool = option(True, help="guess tokens and check several at once where that is faster; the text stays the same")
    draft_model: Path | None = option(
        None,
        metavar="MODEL",
        help="a smaller model with the same tokenizer that guesses (default: what the text itself suggests)",
    )
    json_schema: Path | None = option(None, metavar="FILE", help="answer with JSON that this schema allows")
    regex: str | None = option(None, metavar="REGEX", help="answer with a text this matches as a whole")
    choice: tuple[str, ...] = option((), metavar="TEXT", help="answer with one of these; several times")
    grammar: Path | None = option(None, metavar="FILE", help="answer with a text of this Lark or GBNF grammar")
    overflow: str = option(
        "error",
        choices=OVERFLOWS,
        help="a text longer than the context: stop, leave out its middle and go on, or (in a conversation) its oldest turns",
    )
    n_keep: int = option(0, metavar="N", help="first tokens that are never left out; that of the beginning always stays")
    prompt_cache: Path | None = option(
        None, metavar="FILE", help="go on from what this file holds of an earlier prompt, and leave the last one there"
    )
    prompt_cache_limit: int | None = option(
        None,
        metavar="SIZE",
        read=memory,
        help="keep at most 1G, 500M, ... of earlier texts, in memory and in the file (default: as much as one context takes)",
    )


POOLINGS = ("mean", "cls", "last")  # how hidden states become one vector


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(MemoryOptions):
    """Turn texts into vectors that are near each other when the texts are alike."""

    texts: tuple[str, ...] = option((), positional=True, metavar="TEXT", help="the texts (default: each line of standard input)")
    pooling: str | None = option(
        None,
        choices=POOLINGS,
        help="the mean of all tokens, or that of the first or last (default: as the model says, else mean)",
    )
    normalize: bool = option(True, help="scale each vector to length 1")
    cut: bool = option(False, help="leave out the end of a text that is longer than the context (default: refuse the text)")


RANKINGS = ("embedding", "answer", "pair")  # how documents are scored


@dataclass(frozen=True, kw_only=True)
class RerankOptions(MemoryOptions):
    """Sort documents by how well they answer a query."""

    query: str = option(positional=True, metavar="QUERY", help="what is asked")
    documents: tuple[str, ...] = option((), positional=True, metavar="DOCUMENT", help="the documents (default: each line of standard input)")
    method: str | None = option(
        None,
        choices=RANKINGS,
        help="compare embeddings, ask the model whether it answers, or read the pair with a model made for it (default: pair where the model was, else embedding)",
    )
    cut: bool = option(False, help="leave out the end of a document that does not fit the context, but for the method answer (default: refuse it)")


@dataclass(frozen=True, kw_only=True)
class ShowOptions(VerbOptions):
    """Describe a model, checkpoint or corpus, and say what is wrong with a broken one."""

    source: Path = option(positional=True, metavar="MODEL", help="a GGUF file, a checkpoint folder, a corpus, or a name that linnet list knows")


@dataclass(frozen=True, kw_only=True)
class FitOptions(VerbOptions):
    """Plan the memory a model takes, before it is loaded or downloaded."""

    model: Path = option(
        positional=True,
        metavar="MODEL",
        help="a GGUF file, a checkpoint folder, a name that linnet list knows, or ORG/NAME[:TYPE] on the Hub",
    )
    ram: int | None = option(None, metavar="SIZE", read=memory, help="find a context that fits into 4G, 512M, ..., or refuse")
    type: str | None = option(None, metavar="TYPE", help="with the weights held as q8_0, q4_k, q4_0, ... (default: as they are)")
    n_ctx: int | None = option(None, metavar="N", help=f"tokens of context (default: what the model was made for, at most {DEFAULT_N_CTX})")
    kv_type: str | None = option(
        None,
        choices=("f16", "q8_0", "q4_0", "f32"),
        help="precision of the key/value cache (default: f16, or what fits into --ram)",
    )
    threads: int | None = option(None, metavar="N", help="threads to compute with (default: one per processor)")


@dataclass(frozen=True, kw_only=True)
class PullOptions(VerbOptions):
    """Get a model from the Hugging Face Hub."""

    name: str = option(positional=True, metavar="ORG/NAME[:TYPE]", help="the repository, and the type where it has several (q4_k_m, ...)")


@dataclass(frozen=True, kw_only=True)
class ListOptions(VerbOptions):
    """Name the models that were pulled."""


@dataclass(frozen=True, kw_only=True)
class RmOptions(VerbOptions):
    """Remove models that were pulled."""

    names: tuple[str, ...] = option(positional=True, metavar="MODEL", help="names, as linnet list has them")


@dataclass(frozen=True, kw_only=True)
class CpOptions(VerbOptions):
    """Copy a model to another name, or to a file."""

    source: str = option(positional=True, metavar="MODEL", help="a name, a GGUF file or a checkpoint folder")
    target: str = option(positional=True, metavar="TARGET", help="a new name; a path begins with . or / or ends in .gguf")


@dataclass(frozen=True, kw_only=True)
class CompletionOptions(VerbOptions):
    """Print what makes a shell complete verbs, options and names of models."""

    shell: str = option(
        positional=True,
        metavar="SHELL",
        choices=("bash", "zsh", "fish", "names"),
        help="bash, zsh or fish; names: those of the models, which the scripts ask for",
    )


@dataclass(frozen=True, kw_only=True)
class BenchOptions(EnergyOptions):
    """Measure speed and memory, and how near they come to the limit of this machine."""

    model: Path | None = option(
        None,
        short="-m",
        metavar="MODEL",
        help="a GGUF file, a checkpoint folder, or a name that linnet list knows (default: the bundled model)",
    )
    prompt_tokens: int = option(128, metavar="N", help="tokens of the prefill measurement")
    decode_tokens: int = option(64, metavar="N", help="tokens of the decode measurement")
    repeat: int = option(5, metavar="N", help="measurements of each kind; the median is reported")
    threads: int | None = option(None, metavar="N", help="measure this number of threads only (default: a table of several)")
