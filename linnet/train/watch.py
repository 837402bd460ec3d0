"""What a run shows and remembers: live progress, curves, validation, samples, the report."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console as RichConsole
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from linnet.display import visible
from linnet.formats.corpus import Corpus
from linnet.formats.report import Plot, Report, Text
from linnet.options import TrainOptions
from linnet.train.batches import packed
from linnet.train.loop import LossFunction, Progress, StepReport, diverged
from linnet.train.model import Decoder
from linnet.train.pretrain import Settings

_LINE_SECONDS = 10.0  # between lines of progress where there is no terminal
_PROMPT_TOKENS = 8
_SAMPLE_TOKENS = 64
_VALIDATION_ROWS = 8  # rows of a validation batch


@dataclass
class History:
    """The curves of a run; part of its state."""

    steps: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def add_step(self, report: StepReport, settings: Settings, bytes_per_token: float) -> None:
        """Remembers one update."""
        tokens = settings.batch.tokens
        self.steps.append(
            {
                "step": report.step,
                "loss": report.loss,
                "bits_per_byte": bits_per_byte(report.loss * report.supervised, tokens * bytes_per_token),
                "learning_rate": report.factor * settings.hyper.learning_rate,
                "gradient_norm": report.gradient_norm,
                "tokens_per_second": tokens / report.seconds,
            }
        )

    def add_validation(self, step: int, nats: float, bits: float) -> None:
        """Remembers one validation."""
        self.validation.append({"step": step, "loss": nats, "bits_per_byte": bits})

    @property
    def best_loss(self) -> float:
        """Lowest validation loss so far, infinite when there is none."""
        return min((row["loss"] for row in self.validation), default=math.inf)

    @property
    def best_step(self) -> int | None:
        """The step after which the validation loss was lowest."""
        best = min(self.validation, key=lambda row: row["loss"], default=None)
        return int(best["step"]) if best else None

    def as_table(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> History:
        """The inverse of :meth:`as_table`."""
        return cls(**table)


def bits_per_byte(nats: float, text_bytes: float) -> float:
    """``nats`` summed over a text of ``text_bytes`` UTF-8 bytes, in bits per byte; 0 without a text."""
    return nats / math.log(2) / text_bytes if text_bytes else 0.0


class Validation:
    """The loss on rows kept out of training."""

    def __init__(self, loss_of: LossFunction, windows: NDArray[np.int64], corpus: Corpus) -> None:
        special = corpus.bos_id, corpus.eos_id
        parts = [windows[i : i + _VALIDATION_ROWS] for i in range(0, len(windows), _VALIDATION_ROWS)]
        self._loss_of = loss_of
        self._batches = [packed(part, *special) for part in parts]
        self._supervised = sum(int((batch.targets >= 0).sum()) for batch in self._batches)
        self._text_bytes = sum(b.targets.numel() for b in self._batches) * corpus.bytes_per_token(
            "validation"
        )

    def measure(self) -> tuple[float, float] | None:
        """(nats per token, bits per byte), or None when the corpus has no validation text.

        Raises TrainingError where the loss is not finite.
        """
        if not self._supervised:
            return None
        nats = sum(self._loss_of(batch).item() for batch in self._batches)
        if not math.isfinite(nats):
            raise diverged("the validation loss is")
        return nats / self._supervised, bits_per_byte(nats, self._text_bytes)


class Sampler:
    """Continues the beginning of a validation document, the same chances every time."""

    def __init__(self, model: Decoder, corpus: Corpus, seed: int) -> None:
        from tokenizers import Tokenizer

        self._model, self._seed = model, seed
        self._eos = corpus.eos_id
        self._tokenizer = Tokenizer.from_str(corpus.tokenizer_json.decode("utf-8"))
        stream = corpus.split("validation")
        head = stream.read(0, min(_PROMPT_TOKENS, len(stream))).astype(np.int64).tolist()
        self._prompt = head or [corpus.bos_id]

    def sample(self, temperature: float = 0.8) -> str:
        """The prompt and what the model makes of it. Raises TrainingError where logits are not finite."""
        device = self._model.head_weight.device
        chance = torch.Generator().manual_seed(self._seed)
        ids = list(self._prompt)
        for _ in range(min(_SAMPLE_TOKENS, self._model.facts.max_seq_len - len(ids))):
            hidden = self._model(torch.tensor([ids], device=device))[0, -1]
            logits = (self._model.head_weight @ hidden).float().cpu()
            if not logits.isfinite().all():
                raise diverged("the logits of a sample are")
            following = int(torch.multinomial((logits / temperature).softmax(0), 1, generator=chance))
            if following == self._eos:
                break
            ids.append(following)
        text: str = self._tokenizer.decode(ids)
        return text


class Console:
    """Progress for people: a live line on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._rich = RichConsole(stderr=True, highlight=False)
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._shown = 0.0
        self._rate = 0.0
        self._progress: Progress | None = None
        self._settings: Settings | None = None

    def note(self, text: str) -> None:
        """One line."""
        if self._enabled:
            self._rich.print(visible(text), markup=False, soft_wrap=True)

    def table(self, title: str, values: Mapping[str, Any]) -> None:
        """Names and values on one line."""
        shown = "  ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in values.items())
        self.note(f"{title}: {shown}")

    def sample(self, text: str) -> None:
        """A text of the model."""
        if self._enabled:
            shown = visible(" ".join(text.split()))
            self._rich.print(f"  {shown}", style="dim", markup=False, soft_wrap=True)

    @contextmanager
    def following(self, progress: Progress, settings: Settings) -> Iterator[None]:
        """Inside, :meth:`step` draws."""
        self._progress, self._settings, self._shown = progress, settings, time.monotonic()
        if not (self._enabled and self._rich.is_terminal):
            yield
            return
        columns = (
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
        )
        with RichProgress(*columns, console=self._rich, transient=True) as self._bar:
            self._task = self._bar.add_task("", total=progress.n_steps, completed=progress.step)
            yield
        self._bar = None

    def step(self, report: StepReport, text_bytes: float) -> None:
        """One update; ``text_bytes`` is the UTF-8 text a step covers."""
        if not self._enabled or self._progress is None or self._settings is None:
            return
        speed = self._settings.batch.tokens / report.seconds
        self._rate = speed if not self._rate else 0.9 * self._rate + 0.1 * speed
        bits = bits_per_byte(report.loss * report.supervised, text_bytes)
        line = (
            f"step {report.step}/{self._progress.n_steps}  loss {report.loss:.4f}  {bits:.3f} bits/byte  "
            f"{self._rate:,.0f} tok/s  lr {report.factor * self._settings.hyper.learning_rate:.2e}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, description=line)
        elif time.monotonic() - self._shown >= _LINE_SECONDS or report.step in (1, self._progress.n_steps):
            left = (self._progress.n_steps - report.step) * self._settings.batch.tokens / self._rate
            self.note(f"{line}  {left / 60:.1f} min left")
            self._shown = time.monotonic()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def training_report(
    options: TrainOptions, settings: Settings, progress: Progress, history: History
) -> Report:
    """What a finished run has to say."""
    last, best = history.steps[-1], min(history.validation, key=lambda row: row["loss"], default=None)
    results: dict[str, Any] = {
        "train_loss": last["loss"],
        "steps": progress.n_steps,
        "tokens": progress.n_steps * settings.batch.tokens,
        "seconds": round(progress.seconds, 3),
        "tokens_per_second": progress.n_steps * settings.batch.tokens / progress.seconds,
        "parameters": settings.facts.n_params,
    }
    if best is not None:
        kept = {
            "nats_per_token": best["loss"],
            "bits_per_byte": best["bits_per_byte"],
            "kept_step": int(best["step"]),
        }
        results = {**kept, **results}
    return Report(
        verb="train",
        title=f"Training of {options.output.name}",
        results=results,
        settings={
            **settings.as_table(),
            "corpus": str(options.corpus),
            "corpus_fingerprint": settings.corpus,
        },
        plots=_plots(history, best["step"] if best else None),
        texts=[Text(f"After step {sample['step']:,}", sample["text"]) for sample in history.samples[-5:]],
    )


def _plots(history: History, kept: float | None) -> list[Plot]:
    def line(rows: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
        return [(row["step"], row[name]) for row in rows]

    def curves(name: str) -> dict[str, list[tuple[float, float]]]:
        validation = {"validation": line(history.validation, name)} if history.validation else {}
        return {"training": line(history.steps, name), **validation}

    return [
        Plot("Loss", "step", "nats per token", curves("loss"), mark=kept),
        Plot("Loss per byte of text", "step", "bits per byte", curves("bits_per_byte"), mark=kept),
        Plot("Learning rate", "step", "rate", {"rate": line(history.steps, "learning_rate")}),
        Plot("Speed", "step", "tokens per second", {"speed": line(history.steps, "tokens_per_second")}),
    ]
