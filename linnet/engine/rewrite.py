"""A model written anew, under a temporary name, and kept only if it is still the same model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from linnet.display import one_line
from linnet.engine.repack import Fallback
from linnet.engine.verify import Comparison, verify
from linnet.errors import SourceError, TargetError, VerificationError
from linnet.formats.atomic import atomic_file, atomic_folder, resolved
from linnet.formats.checkpoint import CHECKPOINT_FILES, write_checkpoint
from linnet.formats.gguf import write_gguf
from linnet.formats.parts import ModelParts, RawBytes, Tensor


def is_gguf_name(path: Path) -> bool:
    """Does an output of this name become a GGUF file (else a checkpoint folder)?"""
    return path.suffix.lower() == ".gguf"


def check_distinct(source: Path, output: Path) -> None:
    """Raises TargetError when writing ``output`` would destroy ``source``."""
    target = resolved(output)
    same = False
    with suppress(OSError):  # a source that is not there is reported when it is read
        same = os.path.realpath(source) == str(target) or os.path.samefile(source, target)
    if same:
        raise TargetError(f"cannot write {output}: it is the source; choose another name")


def rewrite(source: ModelParts, target: ModelParts, output: Path) -> Comparison:
    """Writes ``target`` to ``output``, reloads it and compares it with ``source``.

    Shows progress on a terminal. Raises TargetError and VerificationError; then
    ``output`` is as it was before.
    """
    with _progress(target) as watched:
        if is_gguf_name(output):
            with atomic_file(output) as file:
                write_gguf(watched, file)
                file.flush()
                return _verified(source, Path(file.name), output)
        with atomic_folder(output, CHECKPOINT_FILES) as folder:
            write_checkpoint(watched, folder)
            return _verified(source, folder, output)


def describe(
    target: ModelParts, output: Path, comparison: Comparison, fallbacks: list[Fallback]
) -> dict[str, object]:
    """What was written, for ``--json``."""
    elements = sum(tensor.n_elements for tensor in target.tensors)
    weight_bytes = sum(tensor.n_bytes for tensor in target.tensors)
    return {
        "output": str(output),
        "format": "gguf" if is_gguf_name(output) else "checkpoint",
        "arch": target.facts.arch,
        "n_params": target.n_params,
        "bytes": _bytes_on_disk(output),
        "bits_per_weight": 8 * weight_bytes / elements,
        "types": dict(Counter(tensor.type.label for tensor in target.tensors)),
        "fallbacks": [asdict(fallback) for fallback in fallbacks],
        "verification": asdict(comparison),
    }


def report(target: ModelParts, output: Path, comparison: Comparison, fallbacks: list[Fallback]) -> None:
    """Says the same to people, on standard output."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True)
    types = Counter(tensor.type.label for tensor in target.tensors)
    kinds = ", ".join(f"{n} {label}" for label, n in types.most_common())
    sizes = f"{_bytes_on_disk(output):,} bytes, {target.n_params:,} weights, tensors: {kinds}"
    out.print(one_line(f"{output}: {sizes}"), markup=False)
    for (type_label, reason), n in Counter((f.type, f.reason) for f in fallbacks).items():
        out.print(f"{n} tensors became {type_label}: {reason}", markup=False)
    out.print(
        f"verified: {comparison.n_tensors} tensors, same token ids; largest change of a weight "
        f"{comparison.max_weight_error:.3g}, {_change(comparison)} over {comparison.n_tokens} tokens",
        markup=False,
    )


def _change(comparison: Comparison) -> str:
    if comparison.least_cosine is not None:
        return f"least cosine of a hidden state {comparison.least_cosine:.6f}"
    return f"of a logit {comparison.max_logit_delta:.3g}; KL divergence {comparison.kl_divergence:.3g} nats"


def _verified(source: ModelParts, written: Path, output: Path) -> Comparison:
    try:
        return verify(source, written)
    except (VerificationError, SourceError) as error:
        problem = str(error).replace(str(written), str(output))
        raise VerificationError(f"{output} was not kept: reloaded, it is not the source: {problem}") from None


def _bytes_on_disk(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


@contextmanager
def _progress(parts: ModelParts) -> Iterator[ModelParts]:
    """``parts`` whose tensors move a bar on standard error when they are loaded; only on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("writing", total=sum(tensor.n_bytes for tensor in parts.tensors))

        def watched(tensor: Tensor) -> Tensor:
            def load() -> RawBytes:
                raw = tensor.load()
                progress.advance(task, tensor.n_bytes)
                return raw

            def stream() -> Iterator[RawBytes]:
                for raw in tensor.pieces():
                    progress.advance(task, len(raw))
                    yield raw

            return replace(tensor, load=load, stream=stream)

        yield replace(parts, tensors=tuple(map(watched, parts.tensors)))
