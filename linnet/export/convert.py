"""``linnet convert``: checkpoints, GGUF and llama2.c files into checkpoints and GGUF."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from linnet.engine.repack import Fallback, float_rows, repacked, with_types
from linnet.engine.rewrite import check_distinct, describe, is_gguf_name, report, rewrite
from linnet.errors import UsageError
from linnet.formats.parts import ModelParts, Tensor
from linnet.formats.source import read_model, source_kind
from linnet.options import ConvertOptions
from linnet.types import TensorType

PLAIN = (TensorType.F32, TensorType.F16, TensorType.BF16)  # what a checkpoint can hold


def convert(options: ConvertOptions) -> dict[str, object]:
    """Converts ``options.source`` and verifies the result; returns what ``--json`` prints.

    Every matrix is stored as ``options.type`` or, without it, as it is. Raises
    SourceError, UnsupportedError, TargetError, UsageError or VerificationError; the
    source is untouched and no half-written target remains.
    """
    wanted = TensorType.parse(options.type) if options.type else None
    to_gguf = is_gguf_name(options.output)
    if not to_gguf and wanted not in (None, *PLAIN):
        raise UsageError(
            f"a checkpoint cannot hold {wanted.label}; choose f32, f16 or bf16, or name OUT *.gguf"
        )
    check_distinct(options.source, options.output)
    source = read_model(options.source, options.tokenizer)
    target, fallbacks = _for_gguf(source, wanted) if to_gguf else (_for_checkpoint(source, wanted), [])
    comparison = rewrite(source, target, options.output)
    if not options.json:
        report(target, options.output, comparison, fallbacks)
    about = describe(target, options.output, comparison, fallbacks)
    return {"source": str(options.source), "source_format": source_kind(options.source), **about}


def _for_gguf(source: ModelParts, wanted: TensorType | None) -> tuple[ModelParts, list[Fallback]]:
    return with_types(source, lambda tensor: tensor.type if wanted is None else wanted)


def _for_checkpoint(source: ModelParts, wanted: TensorType | None) -> ModelParts:
    """Block types become f32; vectors take the type of the matrices where that loses nothing."""

    def plain_type(tensor: Tensor) -> TensorType:
        return wanted or (tensor.type if tensor.type in PLAIN else TensorType.F32)

    target, _ = with_types(source, plain_type)
    main = max(target.tensors, key=lambda tensor: tensor.n_elements).type
    tensors = tuple(_narrowed(tensor, main) if not tensor.is_matrix else tensor for tensor in target.tensors)
    return replace(target, tensors=tensors)


def _narrowed(vector: Tensor, type: TensorType) -> Tensor:
    narrow = repacked(vector, type)
    before = np.concatenate([rows for _, rows in float_rows(vector)])
    after = np.concatenate([rows for _, rows in float_rows(narrow)])
    return narrow if np.array_equal(before, after) else vector
