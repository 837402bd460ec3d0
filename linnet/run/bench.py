"""``linnet bench``: speed and memory of a model here, against the limit of this machine."""

from __future__ import annotations

import statistics
import time

from linnet.engine.library import library
from linnet.engine.session import Session
from linnet.errors import UsageError
from linnet.options import BenchOptions
from linnet.run.meter import peak_rss_bytes
from linnet.run.model import LanguageModel, load, prefill

BANDWIDTH_SECONDS = 0.5


def bench(options: BenchOptions) -> dict[str, object]:
    """Measures as ``options`` say; returns what ``--json`` prints.

    Every step of decode reads all the weights once, so the ceiling is the read
    bandwidth divided by the bytes of weights per token. Bandwidth is measured over the
    weights themselves: a model that stays in the cache is held to the cache's.
    """
    _check(options)
    started = time.perf_counter()
    model = load(options.model, n_ctx=options.prompt_tokens + options.decode_tokens, threads=options.threads)
    load_s = time.perf_counter() - started
    rows = [_measure(model, options) for _ in range(options.repeat + 1)][1:]  # the first warms up
    prefill = statistics.median(prefill for prefill, _ in rows)
    decode = statistics.median(decode for _, decode in rows)
    bandwidth = read_bandwidth(model)
    result: dict[str, object] = {
        "prefill_tok_s": prefill,
        "decode_tok_s": decode,
        "bytes_per_token": model.model.bytes_per_token,
        "read_bandwidth_bytes_s": bandwidth,
        "ceiling_tok_s": bandwidth / model.model.bytes_per_token,
        "share_of_ceiling": decode * model.model.bytes_per_token / bandwidth,
        "load_s": load_s,
        "peak_rss_bytes": peak_rss_bytes(),
        "isa": model.session.isa,
        "threads": model.session.n_threads,
        "prompt_tokens": options.prompt_tokens,
        "decode_tokens": options.decode_tokens,
        "repeat": options.repeat,
    }
    if not options.json:
        _print(result)
    return result


def read_bandwidth(model: LanguageModel) -> float:
    """Bytes per second at which the session's threads read the model's weights."""
    image = model.model.image
    return float(
        library().ln_read_bandwidth(image.address, image.size, model.session.n_threads, BANDWIDTH_SECONDS)
    )


def _check(options: BenchOptions) -> None:
    for name in ("prompt_tokens", "decode_tokens", "repeat"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")


def _measure(model: LanguageModel, options: BenchOptions) -> tuple[float, float]:
    """Tokens per second of one prefill and of the decode after it; the tokens do not matter."""
    session: Session = model.session
    prompt = [i % model.model.vocab_size for i in range(options.prompt_tokens)]
    session.truncate(0)
    started = time.perf_counter()
    prefill(session, prompt)
    prefilled = time.perf_counter()
    for step in range(options.decode_tokens):
        session.eval(prompt[step % len(prompt) :][:1])
    decoded = time.perf_counter()
    return options.prompt_tokens / (prefilled - started), options.decode_tokens / (decoded - prefilled)


def _print(result: dict[str, object]) -> None:
    peak = result["peak_rss_bytes"]
    memory = f"{peak / 2**20:.1f} MB" if isinstance(peak, int) else "not readable here"
    lines = (
        ("prefill", f"{result['prefill_tok_s']:,.0f} tok/s over {result['prompt_tokens']} tokens"),
        ("decode", f"{result['decode_tok_s']:,.0f} tok/s over {result['decode_tokens']} tokens"),
        ("weights per token", f"{result['bytes_per_token']:,} bytes"),
        ("read bandwidth", f"{result['read_bandwidth_bytes_s'] / 1e9:.1f} GB/s"),  # type: ignore[operator]
        ("ceiling", f"{result['ceiling_tok_s']:,.0f} tok/s; reached {result['share_of_ceiling']:.1%}"),
        ("load", f"{result['load_s']:.3f} s"),
        ("peak memory", memory),
        ("kernels", f"{result['isa']}, {result['threads']} threads"),
    )
    for label, value in lines:
        print(f"{label:<18} {value}")
