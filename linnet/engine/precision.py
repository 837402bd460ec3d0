"""Which type the weights of a model take when they are to take fewer bits."""

from __future__ import annotations

from collections.abc import Callable

from linnet.engine.repack import TERNARY
from linnet.errors import UsageError
from linnet.formats.parts import ModelParts, Tensor
from linnet.types import TensorType

TYPES = sorted(set(TensorType) - {TensorType.F32}, key=lambda type: (-type.bits, type))

# Matrices that lose most by 4 bits for the bytes they take, kept at 8: the one that
# makes the logits, and the values of attention, which are small where heads share
# them. An encoder makes no logits: its embeddings at 8 bits would make a file of MiniLM-L6 half as
# large again, for a mean cosine to f32 of 0.979 instead of 0.978 (300 sentences, all else at q4_0).
# Measured with all others at q4_0, in nats per token on 40 TinyStories (bytes):
#
#                            stories260K f32 1.262    stories3M f32 1.213
#   all q4_0                 1.365  (242,304)         1.477  (1,876,384)
#   output q8_0              1.337  (258,688)         1.416  (2,269,600)
#   values q8_0              1.352  (247,424)         1.427  (1,913,248)
#   output and values q8_0   1.324  (263,808)         1.364  (2,306,464)
#   ffn_down q8_0            -                        1.435  (2,171,296)
_OUTPUT = "output.weight"
_TIED_OUTPUT = "token_embd.weight"
_VALUES = ".attn_v.weight"
_LOSSY_BITS = 5.0  # types of at most so many bits lose enough for that to matter


def parse_type(label: str) -> TensorType:
    """The type called ``label`` that weights can be stored as. Raises UsageError."""
    wanted = next((type for type in TYPES if type.label == str(label).lower()), None)
    if wanted is None:
        known = ", ".join(type.label for type in TYPES)
        raise UsageError(f"weights cannot be stored as '{label}'; choose from {known}")
    return wanted


def type_choice(model: ModelParts, wanted: TensorType) -> Callable[[Tensor], TensorType]:
    """The type of each matrix of ``model``: ``wanted``, or a wider one where few bits cost too much.

    That is q6_k for types of super-blocks, q8_0 for others. Attention values that were
    trained to be ternary lose nothing by it, and keep ``wanted``.
    """
    outputs = (_TIED_OUTPUT if model.facts.tied_embeddings else _OUTPUT,) if model.facts.causal else ()
    spared = TensorType.Q6_K if wanted.block_elements == TensorType.Q6_K.block_elements else TensorType.Q8_0

    def choose(tensor: Tensor) -> TensorType:
        sensitive = tensor.name in outputs or (tensor.name.endswith(_VALUES) and wanted not in TERNARY)
        return spared if sensitive and wanted.bits <= _LOSSY_BITS else wanted

    return choose
