"""The one training loop. Pretraining, distillation and fine-tuning give it another loss and other batches.

Everything the loop changes is in the model, the optimizer and :class:`Progress`; whoever saves those
three, and the gradients when a step is half done, can go on bit for bit.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from linnet.errors import SourceError, TrainingError
from linnet.train.batches import Batch
from linnet.train.optim import Optimizer
from linnet.train.schedule import Schedule


@dataclass
class Progress:
    """Where a run is. Mutable; the loop is its only writer, except for ``stop``."""

    n_steps: int  # the plan
    step: int = 0  # finished updates
    micro_step: int = 0  # finished micro-batches of the step under way
    nats: float = 0.0  # loss summed over those micro-batches of this process
    seconds: float = 0.0  # spent in finished steps
    supervised: int = 0  # tokens that carried loss in finished steps, over all processes
    stop: int = 0  # number of the signal that asked to stop; 0 = none

    @property
    def done(self) -> bool:
        """True when the plan is fulfilled."""
        return self.step >= self.n_steps


@dataclass(frozen=True)
class StepReport:
    """What one update was like."""

    step: int  # updates finished, this one included
    loss: float  # nats per supervised token, over all processes
    supervised: int  # tokens that carried loss
    seconds: float
    factor: float  # of the peak learning rate
    gradient_norm: float  # before clipping


class Batches(Protocol):
    """Where the loop gets its data; a function of the step, so that the step is the cursor."""

    micro_steps: int

    def read(self, step: int, micro_step: int) -> Batch:
        """The micro-batch of this process."""
        ...

    def supervised(self, step: int) -> int:
        """Tokens of the step that carry loss, over all processes."""
        ...


LossFunction = Callable[[Batch], Tensor]  # -> nats summed over the supervised tokens of the batch
Callback = Callable[[StepReport], None]


def train_steps(
    model: nn.Module,
    loss_of: LossFunction,
    batches: Batches,
    optimizer: Optimizer,
    schedule: Schedule,
    progress: Progress,
    callbacks: Iterable[Callback] = (),
    clip: float = 1.0,
) -> None:
    """Trains until the plan is fulfilled or ``progress.stop`` is set.

    A step sums the loss of its micro-batches over all processes and divides by the number of
    supervised tokens once, so how a step is cut does not change its meaning. Alone, the loop stops
    after a micro-batch and leaves its gradients in place; among several processes, after a
    step, on which all agree. Raises SourceError for a step without a supervised token and
    TrainingError, before the weights are touched, where loss or gradient is no longer finite.
    """
    while not progress.done:
        started = time.perf_counter()
        supervised = batches.supervised(progress.step)
        if supervised == 0:
            raise SourceError(
                f"no token of step {progress.step + 1} carries loss; nothing can be learned from this data"
            )
        while progress.micro_step < batches.micro_steps:
            if progress.stop and world_size() == 1:
                return
            loss = loss_of(batches.read(progress.step, progress.micro_step))
            (loss / supervised).backward()
            progress.nats += loss.item()
            progress.micro_step += 1
        nats, stop = _sum_over_processes(model, progress)
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip))
        if not math.isfinite(nats + norm):
            raise diverged(f"loss or gradient of step {progress.step + 1} is")
        factor = schedule((progress.step + 0.5) / progress.n_steps)
        optimizer.step(factor)
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
        progress.step, progress.micro_step, progress.nats = progress.step + 1, 0, 0.0
        progress.seconds += seconds
        progress.supervised += supervised
        report = StepReport(progress.step, nats / supervised, supervised, seconds, factor, norm)
        for callback in callbacks:
            callback(report)
        if stop:
            progress.stop = stop
            return


def diverged(what: str) -> TrainingError:
    """The error for a run in which ``what`` ("... is" or "... are") not finite."""
    return TrainingError(
        f"the training diverged: {what} not finite; "
        "start anew in another folder with a smaller --hyper learning_rate or weight_decay"
    )


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _sum_over_processes(model: nn.Module, progress: Progress) -> tuple[float, int]:
    """Adds up gradients and loss over the processes; returns the loss and the signal to stop for.

    One message holds all gradients: at the sizes this project trains, a message per layer would
    cost more than it hides.
    """
    if world_size() == 1:
        return progress.nats, 0
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
    shared = torch.tensor([progress.nats], dtype=torch.float64, device=flat.device)
    dist.all_reduce(shared)
    stop = torch.tensor([progress.stop], device=flat.device)
    dist.all_reduce(stop, op=dist.ReduceOp.MAX)
    return float(shared), int(stop)


@contextmanager
def stop_on_signals(progress: Progress) -> Iterator[None]:
    """Inside, the first SIGINT or SIGTERM sets ``progress.stop``; the second one acts as usual."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        progress.stop = number
        for each, handler in former.items():
            signal.signal(each, handler)

    for number in former:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
