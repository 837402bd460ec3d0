"""``linnet evaluate``: the loss of a model on a text, with everything needed to repeat the measurement."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from linnet.engine.session import check_finite
from linnet.errors import SourceError, UsageError
from linnet.evaluate.perplexity import Score, score_texts
from linnet.formats import jsonl
from linnet.formats.inputs import check_regular
from linnet.options import EvaluateOptions
from linnet.run.model import LanguageModel, load

KV_TYPE = "f32"  # the reference; the text of `linnet run` is made with f16 keys and values by default


def evaluate(options: EvaluateOptions) -> dict[str, object]:
    """Measures as ``options`` say; returns what ``--json`` prints.

    ``nats_per_token, tokens, bytes, bits_per_byte, perplexity, tok_s`` (tokens of the
    text per second), ``texts, windowed_texts`` and ``settings``; ``perplexity`` is None
    where it overflows. Raises SourceError for a text that cannot be read or is empty,
    LinnetError for damaged weights, and what loading a model raises.
    """
    texts = read_texts(options.text, options.field)
    model = load(options.model, n_ctx=options.n_ctx, threads=options.threads, kv_type=KV_TYPE)
    model.model.check_writes()
    stride = options.stride if options.stride is not None else max(1, model.n_ctx // 2)
    if not 1 <= stride < model.n_ctx:
        raise UsageError(
            f"--stride {stride} does not fit {model.n_ctx} tokens of context; choose a smaller one"
        )
    encoded = [(_encode(model, text), len(text.encode("utf-8"))) for text in texts]
    started = time.perf_counter()
    with _progress(sum(len(ids) - 1 for ids, _ in encoded)) as advance:
        score = score_texts(model, encoded, model.n_ctx, stride, advance)
    if score.tokens == 0:
        raise SourceError(f"{options.text} gives no token to predict; name a longer text")
    check_finite(score.nats, "probability")
    result = _result(options, model, score, stride, time.perf_counter() - started)
    if not options.json:
        _print(result, score)
    return result


def read_texts(path: Path, field: str) -> list[str]:
    """The rows of a JSONL file, or the one text of any other file, empty ones left out. Raises SourceError.

    Ill-formed UTF-8 counts as U+FFFD.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            if _is_rows(path):
                texts = [row.text for row in jsonl.read_rows(file, field, str(path))]
            else:
                texts = [_decoded(file.read(), path)]
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
    found = [text for text in texts if text]
    if not found:
        raise SourceError(f"{path} holds no text; there is nothing to score")
    return found


def _decoded(data: bytes, path: Path) -> str:
    if b"\0" in data:
        raise SourceError(
            f"{path} is not text (it holds NUL bytes); evaluate reads UTF-8 text, or rows of "
            f"{', '.join(jsonl.SUFFIXES)} files, not compressed"
        )
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def _is_rows(path: Path) -> bool:
    return path.suffix.lower() in jsonl.SUFFIXES


def _encode(model: LanguageModel, text: str) -> list[int]:
    """Ids with BOS in front where the tokenizer has one; without, the first token is not predicted."""
    return model.tokenize(text, bos=model.tokenizer.bos_id is not None)


def _result(
    options: EvaluateOptions, model: LanguageModel, score: Score, stride: int, seconds: float
) -> dict[str, object]:
    return {
        "nats_per_token": score.nats_per_token,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "bits_per_byte": score.bits_per_byte,
        "perplexity": score.perplexity if math.isfinite(score.perplexity) else None,  # JSON has no infinity
        "tok_s": score.tokens / seconds,
        "texts": score.texts,
        "windowed_texts": score.windowed_texts,
        "settings": {
            "model": str(options.model),
            "text": str(options.text),
            "kind": "documents" if _is_rows(options.text) else "stream",
            "bos": model.tokenizer.bos_id is not None,
            "n_ctx": model.n_ctx,
            "stride": stride,
            "kv_type": KV_TYPE,
            "isa": model.workspace.isa,
            "threads": model.workspace.n_threads,
        },
    }


@contextmanager
def _progress(tokens: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("scoring", total=tokens)
        yield lambda done: progress.advance(task, done)


def _print(result: dict[str, Any], score: Score) -> None:
    console = Console(highlight=False, soft_wrap=True)
    settings = result["settings"]
    console.print(
        f"[bold]{score.bits_per_byte:.4f}[/] bits per byte, [bold]{score.nats_per_token:.4f}[/] nats "
        f"per token, perplexity {score.perplexity:.3f}"
    )
    console.print(f"{score.tokens:,} tokens, {score.bytes:,} bytes, {score.texts:,} {settings['kind']}")
    if score.windowed_texts:
        console.print(
            f"{score.windowed_texts:,} longer than the context, scored in windows of {settings['n_ctx']} "
            f"with a stride of {settings['stride']}"
        )
    console.print(
        f"BOS {'in front' if settings['bos'] else 'absent'}, context {settings['n_ctx']}, "
        f"{settings['kv_type']} keys and values, {settings['isa']}, {settings['threads']} threads, "
        f"{result['tok_s']:,.0f} tok/s"
    )
