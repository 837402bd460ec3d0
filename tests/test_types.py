"""Every tensor type computes what its values say, on trained weights; kernels themselves: ``core/tests``.

A model with all matrices of one type is held to f32 weights of the very same values. A wrong scale, minimum
or order of lanes in a kernel cannot hide there, and what the type itself loses does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from linnet.evaluate.evaluate import read_texts
from linnet.formats.parts import ModelParts
from linnet.formats.source import read_model
from linnet.run.model import BUNDLED_MODEL
from linnet.types import TensorType

FLOATS = (TensorType.F32, TensorType.F16, TensorType.BF16)
TERNARY = (TensorType.TQ1_0, TensorType.TQ2_0)

# Measured: floats 0 and 0, ternary types 0.004 and 0.021 (nothing here was trained for them: the logits are
# large and mean nothing), all others at most 0.0031 and 0.0086. That is what activations of 8 bits cost.
NATS_BOUND = dict.fromkeys(TensorType, 0.008) | dict.fromkeys(FLOATS, 1e-4) | dict.fromkeys(TERNARY, 0.03)
LOGIT_BOUND = dict.fromkeys(TensorType, 0.012) | dict.fromkeys(FLOATS, 1e-4) | dict.fromkeys(TERNARY, 0.04)

TEXT = " ".join("""
Once upon a time, there was a little bird named Pip. Pip lived in a big tree near a small house. Every
morning, Pip sang a song. The song was soft and clear. A girl named Anna lived in the house, and she liked
to listen. One day, Pip did not sing. Anna looked up at the tree and was sad. "Where are you, Pip?" she
asked. She walked around the tree and looked under the leaves. There was Pip! His foot was stuck in a branch
and he could not fly. "Do not be scared," said Anna. "I will help you." She pulled the branch slowly, and
Pip was free. He flew around her head three times. Then he sat on her hand and sang the best song of all.
Anna was so happy that she danced in the grass. From that day on, Pip and Anna were best friends, and every
morning they sang together. Anna's mom heard them and smiled. "What a nice song," she said. "Can I sing
too?"
""".split())  # fmt: skip


@pytest.fixture(scope="module")
def parity() -> Iterator[Any]:
    """The module of benchmarks/, whose files import each other by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield __import__("parity")


@pytest.fixture(scope="module")
def wide(parity: Any) -> ModelParts:
    """The bundled model with rows of 256 columns instead of 192, in f32."""
    return parity.widened(read_model(BUNDLED_MODEL))


@pytest.mark.parametrize("multiple", [256, 384])
def test_widened_model_is_the_same_function(parity: Any, multiple: int) -> None:
    parts = read_model(BUNDLED_MODEL)
    wider = parity.widened(parts, multiple)
    assert all(tensor.n_columns % multiple == 0 for tensor in wider.tensors)
    assert (wider.facts.ffn_dim > parts.facts.ffn_dim) == (multiple == 384)
    floats, _ = parity.with_types(parts, lambda _: TensorType.F32)
    logits = []
    for model in map(parity.ready, (floats, wider)):
        with model.open_session() as session:
            logits.append(session.eval_all(model.tokenize(TEXT)))
    np.testing.assert_allclose(*logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("type", TensorType, ids=lambda type: type.label)
def test_type_computes_what_its_values_say(parity: Any, wide: ModelParts, type: TensorType) -> None:
    found = parity.compare_type(wide, type, [TEXT])
    assert abs(found.nats_per_token - found.float_nats_per_token) < NATS_BOUND[type]
    assert found.logit_error < LOGIT_BOUND[type]
    assert found.same_greedy_tokens >= (parity.N_GREEDY if type in FLOATS else 0.95 * parity.N_GREEDY)
    # The others are apart by a rounding of one activation; measured at least 29 of 32.
    for isa, same in found.same_on_isa.items():
        assert same >= (1.0 if type in FLOATS else 0.75) * len(parity.FIRST_TOKENS), isa


def test_widened_stories3m_has_the_nats_of_the_independent_reference(parity: Any, shared: Path) -> None:
    weights, tokenizer, expected = parity.MODELS["stories3M"]
    parts = parity.widened(read_model(shared / "weights" / weights, shared / "weights" / tokenizer))
    texts = read_texts(shared / "text" / "tinystories" / "reference_40.jsonl", "text")
    assert parity.nats(parity.ready(parts), texts) == pytest.approx(expected, abs=1e-4)
