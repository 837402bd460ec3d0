"""Linnet beside llama.cpp and OpenVINO GenAI: the same models, the same machine, in turn.

    python benchmarks/compare.py                                      all figures; an hour or two
    python benchmarks/compare.py --shape 135m --type q4_0 --figure decode --threads 2 --repeat 5
    python benchmarks/compare.py --shape 1b --type q4_0,q4_k_m --figure decode,prefill \\
        --isa avx2 --llama-lib PEERS/avx2                             built alike: build_llama.sh PEERS avx2
    python benchmarks/compare.py --write-docs                         the table of docs/benchmarks.md

The models have random weights (shapes.py). Every engine is a process of its own with the same number of
threads (peers.py). A round measures each engine, the others stopped, then the read bandwidth of the machine;
the first round is not counted, the median of the others is the figure. Time to first token and memory are of
fresh processes. An engine that is missing, refuses a model or crashes is left out, with its reason. Each
figure goes into a file of benchmarks/results; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peers
import shapes
import tables
from peers import SkipError
from process import EngineProcess

from linnet.engine.processors import available_processors
from linnet.errors import LinnetError, UsageError
from linnet.formats.report import describe_machine
from linnet.run.bench import read_bandwidth
from linnet.types import ModelFacts

ROOT = Path(__file__).resolve().parent.parent
OURS = "linnet"
BANDWIDTH_SECONDS = 0.3
RSS_ALLOWANCE = 48e6  # bytes beyond the file and the cache


@dataclass(frozen=True)
class Figure:
    """One row of the table: what is evaluated, and for which models by default."""

    about: str
    unit: str
    n_prompt: int = 16
    n_new: int = 64
    n_sequences: int = 1
    fresh: bool = False  # every sample is of a new process
    shapes: tuple[str, ...] = ("135m", "1b")
    types: tuple[str, ...] = ("q4_0",)

    @property
    def n_ctx(self) -> int:
        """Tokens of context of each sequence, in the steps llama.cpp has."""
        return -(-(self.n_prompt + self.n_new) // 256) * 256

    @property
    def lower_is_better(self) -> bool:
        return self.unit != "tok/s"

    def measures(self, engine: str) -> bool:
        """How llama.cpp computes attention shows only where there is something to attend to."""
        return engine != "llama.cpp-plain" or (self.n_prompt >= 512 and not self.fresh)

    def bytes_per_step(self, facts: ModelFacts, weights: int) -> int:
        """Bytes read to decode one token of each sequence: the weights once, and the f16 keys and values."""
        context = self.n_prompt + self.n_new // 2
        return weights + self.n_sequences * context * cache_bytes(facts, 1)


FIGURES = {
    "decode": Figure("decode", "tok/s", shapes=("135m", "1b", "3b"), types=("q4_0", "q4_k_m", "q8_0")),
    "prefill": Figure("prefill, 512 tokens", "tok/s", n_prompt=512, n_new=0, types=("q4_0", "q4_k_m")),
    "batch8": Figure("decode, 8 sequences", "tok/s", n_sequences=8),
    "batch16": Figure("decode, 16 sequences", "tok/s", n_sequences=16),
    "context8192": Figure("decode at 8,192 tokens of context", "tok/s", n_prompt=8192, n_new=16),
    "load": Figure("process start to first token", "s", fresh=True),
    "rss": Figure("peak memory", "MB", n_prompt=512, fresh=True),
}


def cache_bytes(facts: ModelFacts, n_tokens: int) -> int:
    """Bytes of the keys and values of ``n_tokens`` in f16."""
    return n_tokens * facts.n_layers * 2 * facts.kv_dim * 2


# ---- one figure of one model -----------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What the command line chose for all figures."""

    models: Path
    results: Path
    engines: tuple[str, ...]
    threads: int
    repeat: int
    isa: str
    llama_lib: str
    openvino_python: str

    def start(self, name: str, model: Path, facts: ModelFacts, figure: Figure) -> EngineProcess:
        """Starts an engine. Raises SkipError."""
        request = peers.Request(
            engine=name, model=str(model), threads=self.threads, vocab_size=facts.vocab_size,
            n_ctx=figure.n_ctx, n_sequences=figure.n_sequences, isa=self.isa, library=self.llama_lib,
        )  # fmt: skip
        if name == "openvino" and self.isa:
            raise SkipError(f"OpenVINO cannot be held to {self.isa}")
        return EngineProcess(self.openvino_python if name == "openvino" else sys.executable, request)


# Measures an engine in a round; returns the figure and the facts of the engine. Raises SkipError.
Sampler = Callable[[str, int], tuple[float, dict[str, Any]]]


@dataclass
class Samples:
    """What one engine showed."""

    values: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def take(self, sample: Sampler, engine: str, turn: int) -> None:
        """Measures once; an engine that fails once is out."""
        if self.skipped:
            return
        try:
            value, self.facts = sample(engine, turn)
        except SkipError as reason:
            self.values, self.skipped = [], str(reason)
        else:
            self.values += [value] if turn else []  # the first round warms up


def measure(shape: str, mix: str, name: str, settings: Settings) -> dict[str, Any]:
    """Measures one figure of one model with all engines; returns what its file holds."""
    figure, facts = FIGURES[name], shapes.SHAPES[shape]
    model = shapes.model_path(settings.models, shape, mix)
    found = {engine: Samples() for engine in settings.engines if figure.measures(engine)}
    weights, bandwidths = model.stat().st_size, []
    with ExitStack() as stack:
        start = functools.partial(settings.start, model=model, facts=facts, figure=figure)
        sample = _fresh_sampler(figure, start) if figure.fresh else _kept_sampler(figure, start, stack)
        for turn in range(settings.repeat + 1):
            for engine, samples in found.items():
                samples.take(sample, engine, turn)
            weights = found[OURS].facts.get("bytes_per_token", weights)
            if turn:
                step = figure.bytes_per_step(facts, weights)
                bandwidths.append(read_bandwidth(step, settings.threads, BANDWIDTH_SECONDS))
    row = {
        "benchmark": "compare", "shape": shape, "type": mix, "figure": name, "about": figure.about,
        "unit": figure.unit, "lower_is_better": figure.lower_is_better, "isa": settings.isa,
        "threads": settings.threads, "repeat": settings.repeat,
        "file_bytes": model.stat().st_size, "bytes_per_token": weights,
        "bytes_per_step": figure.bytes_per_step(facts, weights),
        "read_bandwidth_bytes_s": {"median": statistics.median(bandwidths), "samples": bandwidths},
        "engines": {
            engine: {"median": statistics.median(samples.values), "samples": samples.values, **samples.facts}
            for engine, samples in found.items() if samples.values
        },
        "skipped": {engine: samples.skipped for engine, samples in found.items() if samples.skipped},
        "date": time.strftime("%Y-%m-%d", time.gmtime()), "commit": _commit(), "machine": describe_machine(),
    }  # fmt: skip
    return {**row, **_conclusions(row, figure, facts)}


def _kept_sampler(figure: Figure, start: Callable[[str], EngineProcess], stack: ExitStack) -> Sampler:
    """Rates of engines that stay open from round to round."""
    processes: dict[str, EngineProcess] = {}

    def sample(engine: str, turn: int) -> tuple[float, dict[str, Any]]:
        if engine not in processes:
            processes[engine] = stack.enter_context(start(engine))
        process = processes[engine]
        with process.running():
            # A prompt that was evaluated before would come out of OpenVINO's memory.
            answer = process.ask(1 if figure.n_new else 1 + turn, figure.n_prompt, figure.n_new)
        if figure.n_new:
            return figure.n_sequences * figure.n_new / answer["decode_s"], process.facts
        return figure.n_prompt / answer["prefill_s"], process.facts

    return sample


def _fresh_sampler(figure: Figure, start: Callable[[str], EngineProcess]) -> Sampler:
    """Time to first token, or peak memory, of a new process each time."""

    def sample(engine: str, turn: int) -> tuple[float, dict[str, Any]]:
        with start(engine) as process:
            if figure.unit == "s":
                return process.first_token_s, process.facts
            process.ask(1, figure.n_prompt, figure.n_new)
            return process.peak_rss_bytes() / 1e6, process.facts

    return sample


def _conclusions(row: dict[str, Any], figure: Figure, facts: ModelFacts) -> dict[str, Any]:
    """How far ours is from the best peer, and every engine from what memory allows."""
    medians = {engine: found["median"] for engine, found in row["engines"].items()}
    rivals = {engine: median for engine, median in medians.items() if engine != OURS}
    found: dict[str, Any] = {}
    if rivals and OURS in medians:
        best = (min if figure.lower_is_better else max)(rivals, key=lambda engine: rivals[engine])
        ours, theirs = medians[OURS], rivals[best]
        found |= {"best_peer": best, "ratio": theirs / ours if figure.lower_is_better else ours / theirs}
    if figure.unit == "MB":
        allowed = row["file_bytes"] + cache_bytes(facts, figure.n_ctx) + RSS_ALLOWANCE
        found["limit"] = allowed / 1e6
    elif figure.unit == "tok/s" and figure.n_new:
        steps = row["read_bandwidth_bytes_s"]["median"] / row["bytes_per_step"]
        found["ceiling"] = steps * figure.n_sequences
        found["share_of_ceiling"] = {engine: median / found["ceiling"] for engine, median in medians.items()}
    return found


def _commit() -> str:
    """The commit of this checkout, marked when files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# ---- the command -----------------------------------------------------------------------


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=names, help=f"of {', '.join(shapes.SHAPES)} (default: as the figure)")
    parser.add_argument("--type", type=names, help=f"of {', '.join(shapes.MIXES)} (default: as the figure)")
    parser.add_argument("--figure", type=names, default=list(FIGURES), help=f"of {', '.join(FIGURES)}")
    rivals = [name for name in peers.ENGINES if name != OURS]
    parser.add_argument("--peers", type=names, default=rivals, help=f"of {', '.join(rivals)}")
    parser.add_argument("--threads", type=int, default=available_processors())
    parser.add_argument("--repeat", type=int, default=5, help="counted rounds")
    parser.add_argument("--isa", default="", help="instruction set Linnet is held to")
    parser.add_argument("--llama-lib", default="", help="folder of another llama.cpp library")
    parser.add_argument("--openvino-python", default=sys.executable, help="a Python with openvino-genai")
    parser.add_argument("--models", type=Path, default=shapes.DEFAULT_FOLDER, help="folder of the models")
    parser.add_argument("--results", type=Path, default=tables.RESULTS, help="folder of the results")
    parser.add_argument("--write-docs", action="store_true", help="only write docs/benchmarks.md")
    return parser.parse_args()


def _check(given: argparse.Namespace) -> None:
    for what, chosen, known in (
        ("shape", given.shape or [], shapes.SHAPES),
        ("type", given.type or [], shapes.MIXES),
        ("figure", given.figure, FIGURES),
        ("peer", given.peers, peers.ENGINES),
    ):
        for name in chosen:
            if name not in known:
                raise UsageError(f"unknown {what} '{name}'; choose from {', '.join(known)}")
    for what in ("threads", "repeat"):
        if getattr(given, what) < 1:
            raise UsageError(f"--{what} must be at least 1")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measures everything asked for; prints a table row and writes a file for each figure."""
    _check(given)
    settings = Settings(
        models=given.models, results=given.results, engines=(OURS, *given.peers), threads=given.threads,
        repeat=given.repeat, isa=given.isa, llama_lib=given.llama_lib, openvino_python=given.openvino_python,
    )  # fmt: skip
    print(tables.heading(settings.engines))
    summary = []
    for name in given.figure:
        for shape in given.shape or FIGURES[name].shapes:
            for mix in given.type or FIGURES[name].types:
                row = measure(shape, mix, name, settings)
                print(tables.line(row, settings.engines), flush=True)
                file = tables.write_result(row, settings.results)
                summary.append({**tables.summary(row), "file": file.name})
    return {"benchmark": "compare", "threads": settings.threads, "repeat": settings.repeat, "rows": summary}


def main() -> int:
    given = _arguments()
    try:
        if given.write_docs:
            tables.write_docs(given.results)
        else:
            print(json.dumps(run(given)))
    except LinnetError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
