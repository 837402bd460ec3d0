"""One run of pretraining, from the options to the checkpoint and the report."""

from __future__ import annotations

import copy
import os
import statistics
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from linnet.engine.processors import available_processors
from linnet.errors import SourceError, UsageError
from linnet.formats.checkpoint import save_checkpoint
from linnet.formats.corpus import Corpus
from linnet.formats.report import write_report
from linnet.options import TrainOptions
from linnet.train.batches import PackedBatches, validation_windows
from linnet.train.loop import (
    Callback,
    LossFunction,
    Progress,
    StepReport,
    diverged,
    stop_on_signals,
    train_steps,
)
from linnet.train.model import Decoder, initialise
from linnet.train.optim import Optimizer
from linnet.train.pretrain import Place, Settings, budget_minutes, budget_tokens, derive_settings
from linnet.train.schedule import SCHEDULES
from linnet.train.state import load_best, load_state, restore, save_best, save_state
from linnet.train.step import fastest_dtype, pretraining_loss
from linnet.train.watch import Console, History, Sampler, Validation, training_report
from linnet.types import SpecialTokens

SAVE_SECONDS = 10.0  # a state is written this often, or less often where writing takes more than 1/20 of it


def run(options: TrainOptions) -> dict[str, Any]:
    """See :func:`linnet.train.pretrain.train`."""
    place, rank = _join_processes(options)
    try:
        corpus = Corpus.open(options.corpus)
        state = load_state(options.output) if options.resume else None
        wanted = derive_settings(options, place, corpus.vocab_size, corpus.fingerprint)
        settings = _resumed_settings(options, wanted, state) if state else wanted
        return _Run(options, settings, corpus, rank).go(state)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class _Run:
    """The objects of one run, built once from the settings."""

    def __init__(self, options: TrainOptions, settings: Settings, corpus: Corpus, rank: int) -> None:
        self.options, self.settings, self.corpus, self.rank = options, settings, corpus, rank
        self.device = torch.device("cpu") if settings.device == "cpu" else torch.device("cuda", _local_rank())
        self.batches = PackedBatches(
            corpus.split("train"),
            (corpus.bos_id, corpus.eos_id),
            settings.batch,
            settings.seed,
            rank,
            settings.world,
        )
        self.model = Decoder(settings.facts, settings.hyper.dropout).to(self.device)
        initialise(self.model, settings.seed)
        self.optimizer = self._new_optimizer(self.model)
        self.console = Console(enabled=rank == 0)
        self.history = History()
        self.validation = Validation(self._loss_function(self.model), self._validation_windows(), corpus)
        self.sampler = Sampler(self.model, corpus, settings.seed)

    def go(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """Trains, then writes checkpoint and report; returns the results."""
        if state is None:
            self._describe()
            progress = Progress(n_steps=self._plan())
        else:
            progress = restore(state, self.model, self.optimizer)
            self.history = History.from_table(state["history"])
            self.console.note(f"resumed after step {progress.step} of {progress.n_steps}")
        bytes_per_token = self.corpus.bytes_per_token("train")
        callbacks = (*self._watchers(progress, bytes_per_token), self._saver(progress))
        with stop_on_signals(progress), self.console.following(progress, self.settings):
            if state is None:
                self._save(progress)
            train_steps(
                self.model,
                self._loss_function(self.model, compiled=self.settings.compile),
                self.batches,
                self.optimizer,
                SCHEDULES[self.settings.hyper.schedule](
                    self.settings.hyper.warmup, self.settings.hyper.decay
                ),
                progress,
                callbacks,
                self.settings.hyper.clip,
            )
        self._save(progress)
        if not progress.done:
            self.console.note(
                f"stopped in step {progress.step + 1} of {progress.n_steps}; "
                f"go on with: linnet train {self.options.corpus} -o {self.options.output} --resume"
            )
            raise SystemExit(128 + progress.stop)
        return self._finish(progress) if self.rank == 0 else {}

    # ---- before ----------------------------------------------------------------------

    def _new_optimizer(self, model: Decoder) -> Optimizer:
        hyper = self.settings.hyper
        return Optimizer(model, self.settings.optimizer, hyper.learning_rate, hyper.weight_decay)

    def _validation_windows(self) -> np.ndarray:
        stream = self.corpus.split("validation")
        return validation_windows(
            stream, self.settings.batch.length, limit=max(4, 32768 // self.settings.batch.length)
        )

    def _loss_function(self, model: Decoder, compiled: bool = False) -> LossFunction:
        return pretraining_loss(model, self.settings.dtype, compiled, self.settings.seed)

    def _describe(self) -> None:
        facts, batch, tokens = self.settings.facts, self.settings.batch, len(self.corpus.split("train"))
        self.console.table("model", {"parameters": facts.n_params, **facts.described()})
        self.console.table("batch", {**_fields(batch), "micro-batches per step": self.batches.micro_steps})
        self.console.table("recipe", {"optimizer": self.settings.optimizer, **_fields(self.settings.hyper)})
        names = ("device", "dtype", "compile", "threads", "world", "seed")
        self.console.table("run", {name: getattr(self.settings, name) for name in names})
        bits = self.corpus.bytes_per_token("train")
        self.console.table("corpus", {"training tokens": tokens, "bytes per token": round(bits, 3)})
        if not len(self._validation_windows()):
            self.console.note("no validation: what the corpus keeps out is shorter than one row")

    def _plan(self) -> int:
        """The number of steps; with a time budget, from the speed of a rehearsal that is thrown away."""
        step = self.settings.batch.tokens
        budget = budget_tokens(self.options, len(self.corpus.split("train")))
        steps = None if budget is None else max(1, -(-budget // step))
        short = budget is not None and budget < step
        minutes = budget_minutes(self.options)
        if minutes is not None:
            if self.options.minutes is None:
                self.console.note(
                    f"no --minutes, --tokens or --epochs given: training for {minutes:g} minutes"
                )
            seconds, spent = self._rehearse(minutes * 60)
            # The twentieth is for validation, samples and states.
            affordable = int((minutes * 60 * 0.95 - spent) / seconds)
            short = short or affordable < 1
            steps = max(1, min(steps, affordable) if steps is not None else affordable)
        assert steps is not None
        if short:
            self.console.note(
                f"the budget is below one step of {step:,} tokens, the least there is; --batch sets its size"
            )
        if dist.is_initialized():
            agreed = torch.tensor([steps], device=self.device)
            dist.broadcast(agreed, src=0)
            steps = int(agreed)
        tokens = steps * step
        epochs = tokens / len(self.corpus.split("train"))
        self.console.note(f"plan: {steps:,} steps, {tokens:,} tokens, {epochs:.2f} epochs")
        return steps

    def _rehearse(self, budget: float) -> tuple[float, float]:
        """Seconds per step, and seconds spent to find out, on a copy of the model."""
        started = time.perf_counter()
        model = copy.deepcopy(self.model)
        optimizer, times = self._new_optimizer(model), []
        loss_of = self._loss_function(model, compiled=self.settings.compile)
        progress = Progress(n_steps=1_000_000)

        def enough(report: StepReport) -> None:
            times.append(report.seconds)
            spent = time.perf_counter() - started
            # Several processes have to stop after the same step: they count, and do not look at the clock.
            if len(times) >= 8 or (self.settings.world == 1 and len(times) >= 2 and spent > 0.03 * budget):
                progress.n_steps = progress.step

        train_steps(model, loss_of, self.batches, optimizer, lambda _: 0.0, progress, (enough,))
        return statistics.median(times[1:]), time.perf_counter() - started

    # ---- meanwhile -------------------------------------------------------------------

    def _watchers(self, progress: Progress, bytes_per_token: float) -> tuple[Callback, ...]:
        evaluations = min(20, max(1, progress.n_steps // 20))
        every = -(-progress.n_steps // evaluations)
        keep = -(-progress.n_steps // 1000)  # points of the training curve

        def watch(report: StepReport) -> None:
            self.console.step(report, bytes_per_token * self.settings.batch.tokens)
            if report.step % keep == 0 or report.step in (1, progress.n_steps):
                self.history.add_step(report, self.settings, bytes_per_token)
            if report.step % every == 0 or report.step == progress.n_steps:
                self._look(report.step)

        return (watch,) if self.rank == 0 else ()

    def _look(self, step: int) -> None:
        """Validation loss and samples; keeps the weights when they are the best so far."""
        self.model.eval()
        with torch.no_grad():
            found = self.validation.measure()
            sample = self.sampler.sample()
        self.model.train()
        self.history.samples.append({"step": step, "text": sample})
        if found is not None:
            nats, bits = found
            if nats < self.history.best_loss:
                save_best(self.options.output, self.model)
            self.history.add_validation(step, nats, bits)
            self.console.note(f"step {step}: validation {nats:.4f} nats per token, {bits:.4f} bits per byte")
        self.console.sample(sample)

    def _saver(self, progress: Progress) -> Callback:
        saved, cost = time.monotonic(), 0.0

        def save(report: StepReport) -> None:
            nonlocal saved, cost
            if time.monotonic() - saved >= max(SAVE_SECONDS, 20 * cost):
                started = time.monotonic()
                self._save(progress)
                saved = time.monotonic()
                cost = saved - started

        return save

    def _save(self, progress: Progress) -> None:
        if self.rank == 0:
            table = self.settings.as_table()
            save_state(
                self.options.output, table, self.model, self.optimizer, progress, self.history.as_table()
            )

    # ---- after -----------------------------------------------------------------------

    def _finish(self, progress: Progress) -> dict[str, Any]:
        best_step = self.history.best_step
        if best_step not in (None, progress.n_steps):
            self.console.note(
                f"the validation loss was lowest after step {best_step}; these weights are kept"
            )
            self.model.load_state_dict(load_best(self.options.output))
        names = [name for name, _ in self.model.named_parameters()]
        weights = self.model.state_dict()
        if not all(weights[name].isfinite().all() for name in names):
            raise diverged("the weights after the last step are")
        save_checkpoint(
            self.options.output,
            self.settings.facts,
            {name: weights[name].float().cpu().numpy() for name in names},
            self.corpus.tokenizer_json,
            SpecialTokens(self.corpus.bos_id, self.corpus.eos_id),
        )
        report = training_report(self.options, self.settings, progress, self.history)
        write_report(report, self.options.output)
        self.console.table("results", dict(report.results))
        self.console.note(f"wrote {self.options.output}: a checkpoint, and report.html")
        return dict(report.results)


def _fields(value: Any) -> dict[str, Any]:
    return dict(vars(value))


def _resumed_settings(options: TrainOptions, wanted: Settings, state: dict[str, Any]) -> Settings:
    """The settings of the run to go on with; options left at their default follow the run."""
    settings = Settings.from_table(state["settings"])
    if settings.corpus != wanted.corpus:
        raise SourceError(f"{options.corpus} is not the corpus this run was started with")
    given = {"shape": "facts", "hyper": "hyper", "batch": "batch", "optimizer": "optimizer", "seed": "seed",
             "params": "facts", "dtype": "dtype", "device": "device", "compile": "compile"}  # fmt: skip
    defaults = TrainOptions(corpus=options.corpus, output=options.output)
    for name, part in given.items():
        changed = getattr(options, name) != getattr(defaults, name)
        if changed and getattr(wanted, part) != getattr(settings, part):
            raise UsageError(
                f"--{name} differs from the run in {options.output}; leave it away, or start a new run"
            )
    for name in ("minutes", "tokens", "epochs"):
        asked = getattr(options, name)
        if settings.budget and asked is not None and asked != getattr(settings.budget, name):
            raise UsageError(
                f"--{name} differs from the run in {options.output}, whose plan is made; "
                "leave it away, or start a new run"
            )
    if settings.world != wanted.world:
        raise UsageError(f"this run was started with {settings.world} processes; resume it with as many")
    if settings.device == "cpu":
        torch.set_num_threads(settings.threads)
    return settings


# ---- where ----------------------------------------------------------------------------


def _join_processes(options: TrainOptions) -> tuple[Place, int]:
    """Chooses device, precision and threads; joins the other processes when torchrun started this one."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    has_cuda = torch.cuda.is_available()
    if options.device == "cuda" and not has_cuda:
        raise UsageError("--device cuda: torch finds no CUDA device here; use --device cpu")
    device = "cuda" if has_cuda and options.device != "cpu" else "cpu"
    if device == "cuda":
        torch.cuda.set_device(_local_rank())
    threads = _usable_threads()
    torch.set_num_threads(threads)
    if world > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    dtype = options.dtype if options.dtype != "auto" else fastest_dtype(device)
    return Place(device, dtype, world, threads), rank


def _usable_threads() -> int:
    """One per processor this process may use, shared with the others here; OMP_NUM_THREADS wins."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, available_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
