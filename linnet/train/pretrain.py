"""``linnet train``: a corpus becomes a checkpoint.

Here are the settings of a run, derived from the options without torch; :mod:`linnet.train.run` runs them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from linnet.errors import MissingExtraError, UsageError
from linnet.options import TrainOptions, count
from linnet.train.output import check_output, exclusive
from linnet.train.shape import BatchShape, Hyper, derive_batch, derive_hyper, derive_shape
from linnet.types import ModelFacts

_NEEDED = ("torch", "tokenizers", "matplotlib")
DEFAULT_MINUTES = 10.0


def train(options: TrainOptions) -> dict[str, Any]:
    """Trains a model on ``options.corpus`` and writes the checkpoint ``options.output``.

    Returns the results that also stand in report.json: loss (nats per token), bits per byte, steps,
    tokens, seconds. Raises UsageError, SourceError, FormatError, TargetError, TrainingError and
    MissingExtraError; on SIGINT or SIGTERM saves the state and raises SystemExit with 128 + the number
    of the signal.
    """
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "train")
    _check_budget(options)
    check_output(options)
    first = int(os.environ.get("RANK", "0")) == 0  # of the processes of a run, the one that writes
    with exclusive(options.output) if first else nullcontext():
        from linnet.train.run import run

        return run(options)


@dataclass(frozen=True)
class Budget:
    """What was asked to limit a run; the plan is made from it once."""

    minutes: float | None
    tokens: int | None
    epochs: float | None


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes, except for the plan (the number of steps)."""

    facts: ModelFacts
    hyper: Hyper
    batch: BatchShape
    optimizer: str
    device: str
    dtype: str
    compile: bool
    seed: int
    world: int  # processes
    threads: int  # how a sum is split among threads decides its last bits
    corpus: str  # fingerprint
    budget: Budget | None = None  # None: the run is older than this field

    def as_table(self) -> dict[str, Any]:
        """Plain values by name, one level deep."""
        return dataclasses.asdict(self)

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Settings:
        """The inverse of :meth:`as_table`."""
        parts = {
            "facts": ModelFacts(**{**table["facts"], "conv_layers": ()}),  # of the Llama family
            "hyper": Hyper(**table["hyper"]),
            "batch": BatchShape(**table["batch"]),
            "budget": Budget(**table["budget"]) if table.get("budget") else None,
        }
        return cls(**{**table, **parts})


@dataclass(frozen=True)
class Place:
    """Where a run computes."""

    device: str  # cpu or cuda
    dtype: str  # bf16 or f32
    world: int
    threads: int


def derive_settings(options: TrainOptions, place: Place, vocab_size: int, fingerprint: str) -> Settings:
    """The settings of a new run. Raises UsageError."""
    if not 0 <= options.seed < 1 << 63:
        raise UsageError(f"--seed {options.seed} is not within 0 and 2^63 - 1")
    facts = derive_shape(options.params, vocab_size, _pairs("shape", options.shape, count))
    hyper = derive_hyper(facts, _hyper(options.hyper))
    batch = derive_batch(facts, _pairs("batch", options.batch, count), place.device, place.world)
    return Settings(
        facts=facts,
        hyper=hyper,
        batch=batch,
        optimizer=options.optimizer,
        device=place.device,
        dtype=place.dtype,
        compile=options.compile,
        seed=options.seed,
        world=place.world,
        threads=place.threads,
        corpus=fingerprint,
        budget=Budget(options.minutes, options.tokens, options.epochs),
    )


def _check_budget(options: TrainOptions) -> None:
    for limit in (options.minutes, options.tokens, options.epochs):
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise UsageError("--minutes, --tokens and --epochs must be above 0")


def budget_tokens(options: TrainOptions, corpus_tokens: int) -> int | None:
    """Tokens that --tokens and --epochs allow, the smaller of the two; None when neither is given."""
    limits = []
    if options.tokens is not None:
        limits.append(options.tokens)
    if options.epochs is not None:
        limits.append(round(options.epochs * corpus_tokens))
    return min(limits) if limits else None


def budget_minutes(options: TrainOptions) -> float | None:
    """Minutes the run may take: what was asked for, or the default when nothing limits it."""
    if options.minutes is None and options.tokens is None and options.epochs is None:
        return DEFAULT_MINUTES
    return options.minutes


def _hyper(text: str) -> dict[str, Any]:
    given: dict[str, Any] = _pairs("hyper", text, str)
    kinds = {field.name: str if field.name == "schedule" else float for field in dataclasses.fields(Hyper)}
    for key, value in given.items():
        if key not in kinds:
            raise UsageError(f"unknown part of --hyper '{key}'; choose from {', '.join(kinds)}")
        try:
            given[key] = kinds[key](value)
        except ValueError:
            given[key] = math.nan
        if kinds[key] is float and not math.isfinite(given[key]):
            raise UsageError(f"--hyper {key}: '{value}' is not a number")
    if given.get("schedule", "wsd") not in ("wsd", "cosine"):
        raise UsageError(f"--hyper schedule: '{given['schedule']}' is not wsd or cosine")
    return given


def _pairs(flag: str, text: str, read: Any) -> dict[str, Any]:
    """Reads ``K=V,K=V``."""
    pairs = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"--{flag}: '{part}' is not of the form NAME=VALUE")
        if key.strip() in pairs:
            raise UsageError(f"--{flag}: {key.strip()} is given twice")
        try:
            pairs[key.strip()] = read(value.strip())
        except ValueError as error:
            raise UsageError(f"--{flag} {key}: {error}") from None
    return pairs
