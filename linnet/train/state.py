"""The state of a run on disk: everything that decides what the next step computes.

``OUTPUT/state/run.pt`` holds the settings, the plan, the progress (which is also the data cursor
and, with the seed, the random state: order of rows and dropout are functions of seed and
counters), weights, optimizer, the gradients of a half-done step, and the curves so far.
``OUTPUT/state/best.pt`` holds the weights with the lowest validation loss. Both are written under a
temporary name and renamed; both are read without running code from them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linnet.errors import FormatError
from linnet.formats.atomic import atomic_file, make_folder
from linnet.formats.checkpoint import TRAINING_STATE
from linnet.train.loop import Progress
from linnet.train.optim import Optimizer
from linnet.train.output import BEST_FILE, RUN_FILE, state_file

VERSION = 1


def save_state(
    output: Path,
    settings: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    progress: Progress,
    history: Mapping[str, Any],
) -> None:
    """Writes the state of the run; ``settings`` and ``history`` are plain values. Raises TargetError."""
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    _save(
        output / TRAINING_STATE / RUN_FILE,
        {
            "version": VERSION,
            "settings": dict(settings),
            "progress": {**asdict(progress), "stop": 0},
            "model": dict(model.state_dict()),
            "optimizer": optimizer.state_dict(),
            "gradients": gradients if progress.micro_step else {},
            "history": dict(history),
        },
    )


def load_state(output: Path) -> dict[str, Any]:
    """The table :func:`save_state` wrote, on the CPU. Raises SourceError or FormatError."""
    path = state_file(output)
    state = _load(path)
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise FormatError(f"{path} was written by another version of Linnet; start the run anew")
    return state


def restore(state: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> Progress:
    """Puts weights, optimizer and gradients back in place; returns the progress of the run."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    weights = dict(model.named_parameters())
    for name, gradient in state["gradients"].items():
        weights[name].grad = gradient.to(weights[name].device)
    return Progress(**state["progress"])


def save_best(output: Path, model: nn.Module) -> None:
    """Keeps the weights of ``model`` as the best so far. Raises TargetError."""
    _save(output / TRAINING_STATE / BEST_FILE, dict(model.state_dict()))


def load_best(output: Path) -> dict[str, Tensor]:
    """The weights :func:`save_best` wrote last. Raises FormatError."""
    weights: dict[str, Tensor] = _load(output / TRAINING_STATE / BEST_FILE)
    return weights


def _save(path: Path, table: dict[str, Any]) -> None:
    # Through memory: where the disk is full, torch.save hides the OSError behind a RuntimeError.
    image = io.BytesIO()
    torch.save(table, image)
    make_folder(path.parent)
    with atomic_file(path) as file:
        file.write(image.getbuffer())


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"cannot read the state {path}: {detail}; start the run anew") from None
