"""``linnet bench``: speed and memory of a model here, against the limit of this machine."""

from __future__ import annotations

import ctypes
import json
import mmap
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from linnet.engine.library import library
from linnet.engine.model import Model
from linnet.engine.processors import available_processors
from linnet.engine.session import PAGE_TOKENS, Session
from linnet.errors import UsageError
from linnet.options import BenchOptions
from linnet.progress import status_line
from linnet.run.meter import Energy, EnergyMeter, peak_rss_bytes
from linnet.run.model import BUNDLED_MODEL, LanguageModel
from linnet.run.text.timeline import Timeline

BANDWIDTH_SECONDS = 0.5


@dataclass(frozen=True)
class Roofline:
    """Speed with one number of threads, its energy, and the limit that memory sets to it.

    Every step of decode reads all the weights once, so its ceiling is the read bandwidth
    divided by the bytes of weights per token (Williams et al. 2009, "Roofline").
    """

    threads: int
    prefill_tok_s: float
    decode_tok_s: float
    read_bandwidth_bytes_s: float
    ceiling_tok_s: float
    share_of_ceiling: float
    prefill_joules_per_token: float | None
    decode_joules_per_token: float | None
    energy_source: str


@dataclass(frozen=True)
class _Speed:
    """What was measured of one number of threads: medians, and the energy of all tokens of a kind."""

    threads: int
    prefill_tok_s: float
    decode_tok_s: float
    prefill_energy: Energy
    decode_energy: Energy


def bench(options: BenchOptions) -> dict[str, object]:
    """Measures as ``options`` say, prints a table, and returns what ``--json`` prints.

    Without ``threads`` every sensible number of them is measured; the figures beside the
    table are those of the number that decodes fastest.
    """
    _check(options)
    started = time.perf_counter()
    n_ctx = options.prompt_tokens + options.decode_tokens + PAGE_TOKENS  # a fork copies the last page
    opened = Model.open(options.model if options.model is not None else BUNDLED_MODEL)
    opened.check_writes()
    model = LanguageModel(opened, n_ctx=n_ctx, threads=options.threads)
    load_s = time.perf_counter() - started
    counts = _thread_counts(available_processors()) if options.threads is None else [options.threads]
    with status_line(quiet=options.json) as show:
        speeds = [_measure(model, threads, options, show) for threads in counts]
    peak = peak_rss_bytes()  # before bandwidth is measured, which takes memory of its own
    rows = [_roofline(model.model, speed, options) for speed in speeds]
    result: dict[str, object] = {
        **asdict(max(rows, key=lambda row: row.decode_tok_s)),
        "bytes_per_token": model.model.bytes_per_token,
        "load_s": load_s,
        "peak_rss_bytes": peak,
        "isa": model.workspace.isa,
        "prompt_tokens": options.prompt_tokens,
        "decode_tokens": options.decode_tokens,
        "repeat": options.repeat,
        "table": [asdict(row) for row in rows],
    }
    if not options.json:
        _print(rows, result)
        print(json.dumps(result))
    return result


def read_bandwidth(n_bytes: int, threads: int, seconds: float = BANDWIDTH_SECONDS) -> float:
    """Bytes per second at which ``threads`` threads read ``n_bytes`` of memory, over and over.

    As many bytes as a model's weights take: one that stays in the cache is held to the
    cache's bandwidth. Raises LinnetError when nothing could be measured.
    """
    with mmap.mmap(-1, n_bytes) as pages:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)  # as the weights lie
        for at in range(0, n_bytes, mmap.PAGESIZE):
            pages[at] = 1  # untouched pages would all be one and the same page of zeros
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))  # kept, it could not be closed
        return float(library().ln_read_bandwidth(address, n_bytes, threads, seconds))


def _thread_counts(available: int) -> list[int]:
    """1, 2, 4, ... and all."""
    counts = [1]
    while counts[-1] * 2 < available:
        counts.append(counts[-1] * 2)
    return counts if available == 1 else [*counts, available]


def _check(options: BenchOptions) -> None:
    for name in ("prompt_tokens", "decode_tokens", "repeat"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")


def _measure(
    loaded: LanguageModel, threads: int, options: BenchOptions, show: Callable[[str], None]
) -> _Speed:
    """Repeats both measurements after a warm-up. All prefills come first, so that each kind has one meter."""
    model = LanguageModel(loaded.model, n_ctx=loaded.n_ctx, threads=threads)
    prompt = [i % model.model.vocab_size for i in range(options.prompt_tokens)]  # the tokens do not matter
    prefill_tok_s, prefill_energy = _repeated(
        lambda: _prefill_seconds(model.session, prompt),
        options.prompt_tokens,
        options,
        lambda run: show(f"threads {threads}: prefill, {run}"),
    )
    decode_tok_s, decode_energy = _repeated(
        lambda: _decode_seconds(model.session, options.decode_tokens),
        options.decode_tokens,
        options,
        lambda run: show(f"threads {threads}: decode, {run}"),
    )
    return _Speed(threads, prefill_tok_s, decode_tok_s, prefill_energy, decode_energy)


def _repeated(
    seconds: Callable[[], float], n_tokens: int, options: BenchOptions, begins: Callable[[str], None]
) -> tuple[float, Energy]:
    """Tokens per second, the median, and the energy of all repeats; one more before them warms up.

    Before each ``begins`` is told which it is, and nothing while it runs.
    """
    begins("warm-up")
    seconds()
    meter, taken = EnergyMeter(options.watts), list[float]()
    for run in range(1, options.repeat + 1):
        begins(f"run {run} of {options.repeat}")
        taken.append(seconds())
    return n_tokens / statistics.median(taken), meter.read()


def _prefill_seconds(session: Session, prompt: list[int]) -> float:
    session.truncate(0)
    started = time.perf_counter()
    Timeline(session).prefill(prompt)
    return time.perf_counter() - started


def _decode_seconds(prefilled: Session, n_tokens: int) -> float:
    """Seconds of tokens one after another behind the prompt."""
    with prefilled.fork() as session:
        started = time.perf_counter()
        for step in range(n_tokens):
            session.eval([step % session.model.vocab_size])
        return time.perf_counter() - started


def _roofline(model: Model, speed: _Speed, options: BenchOptions) -> Roofline:
    bandwidth = read_bandwidth(model.bytes_per_token, speed.threads)
    ceiling = bandwidth / model.bytes_per_token
    return Roofline(
        threads=speed.threads,
        prefill_tok_s=speed.prefill_tok_s,
        decode_tok_s=speed.decode_tok_s,
        read_bandwidth_bytes_s=bandwidth,
        ceiling_tok_s=ceiling,
        share_of_ceiling=speed.decode_tok_s / ceiling,
        prefill_joules_per_token=_each(speed.prefill_energy, options.repeat * options.prompt_tokens),
        decode_joules_per_token=_each(speed.decode_energy, options.repeat * options.decode_tokens),
        energy_source=speed.decode_energy.source,
    )


def _each(energy: Energy, tokens: int) -> float | None:
    return None if energy.joules is None else energy.joules / tokens


def _print(rows: list[Roofline], result: dict[str, object]) -> None:
    peak = result["peak_rss_bytes"]
    print("threads   prefill tok/s   decode tok/s   weights read GB/s   bandwidth GB/s   of the ceiling")
    for row in rows:
        reached = row.share_of_ceiling * row.read_bandwidth_bytes_s
        print(
            f"{row.threads:>7}   {row.prefill_tok_s:>13,.0f}   {row.decode_tok_s:>12,.1f}"
            f"   {reached / 1e9:>17.1f}   {row.read_bandwidth_bytes_s / 1e9:>14.1f}"
            f"   {row.share_of_ceiling:>13.0%}"
        )
    print(f"weights per token  {result['bytes_per_token']:,} bytes")
    print(f"load               {result['load_s']:.3f} s")
    print(f"peak memory        {f'{peak / 2**20:.1f} MB' if isinstance(peak, int) else 'not readable here'}")
    print(f"energy             {_energy_text(result)}")
    print(f"kernels            {result['isa']}; fastest with {result['threads']} threads")


def _energy_text(result: dict[str, object]) -> str:
    if result["prefill_joules_per_token"] is None or result["decode_joules_per_token"] is None:
        return str(result["energy_source"])
    return (
        f"{result['prefill_joules_per_token']:.3g} J/token of prefill, "
        f"{result['decode_joules_per_token']:.3g} of decode ({result['energy_source']})"
    )
