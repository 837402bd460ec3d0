"""Sessions over a shared workspace, from Python, with the bundled model."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest

from linnet.engine.model import Model
from linnet.engine.session import PAGE_TOKENS, Session, Workspace
from linnet.errors import ContextFullError, UsageError
from linnet.run.model import BUNDLED_MODEL
from linnet.types import TensorType

TEXTS = (
    "Once upon a time there was a little girl named Lily. She loved to play outside in the sunshine. " * 4,
    "The dog",
    "Tom and Ben went to the park with a big red ball. Tom threw the ball very high and it",
)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.open(BUNDLED_MODEL)


@pytest.fixture(scope="module")
def prompts(model: Model) -> list[list[int]]:
    return [[1, *model.tokenizer.encode(text)] for text in TEXTS]


def alone(model: Model, ids: list[int]) -> np.ndarray:
    session = Session(Workspace(model, n_threads=1))
    session.eval(ids)
    return session.logits


def test_sessions_evaluated_together_give_the_bits_of_each_alone(
    model: Model, prompts: list[list[int]]
) -> None:
    workspace = Workspace(model, kv_tokens=1024, n_batch=50)
    sessions = [Session(workspace) for _ in prompts]
    workspace.eval(list(zip(sessions, prompts, strict=True)))
    for session, ids in zip(sessions, prompts, strict=True):
        np.testing.assert_array_equal(session.logits, alone(model, ids))
    for step in range(3):
        workspace.eval([(session, [100 + step]) for session in sessions])
    for session, ids in zip(sessions, prompts, strict=True):
        np.testing.assert_array_equal(session.logits, alone(model, [*ids, 100, 101, 102]))


def test_a_fork_shares_what_came_before_and_goes_its_own_way(model: Model, prompts: list[list[int]]) -> None:
    workspace = Workspace(model)
    ids = prompts[0][: 2 * PAGE_TOKENS - 8]
    first = Session(workspace)
    first.eval(ids)
    held = workspace.n_pages - workspace.n_free_pages
    assert held == 2
    with first.fork() as twin, first.fork(len(ids) - 3) as early:
        assert (len(twin), len(early), workspace.n_sessions) == (len(ids), len(ids) - 3, 3)
        assert workspace.n_pages - workspace.n_free_pages == held
        np.testing.assert_array_equal(twin.logits, first.logits)
        twin.eval([7])
        early.eval(ids[-3:])
        np.testing.assert_array_equal(twin.logits, alone(model, [*ids, 7]))
        np.testing.assert_array_equal(early.logits, first.logits)
    assert (workspace.n_sessions, workspace.n_pages - workspace.n_free_pages) == (1, held)
    with pytest.raises(UsageError, match="closed"):
        twin.eval([7])


def test_a_full_workspace_says_so_and_loses_nothing(model: Model, prompts: list[list[int]]) -> None:
    workspace = Workspace(model, kv_tokens=2 * PAGE_TOKENS)
    a, b = Session(workspace), Session(workspace)
    workspace.eval([(a, prompts[2]), (b, prompts[1])])
    before = a.logits
    with pytest.raises(ContextFullError, match="kv_tokens"):
        workspace.eval([(b, [5]), (a, [5] * PAGE_TOKENS)])
    assert (len(a), len(b)) == (len(prompts[2]), len(prompts[1]))
    np.testing.assert_array_equal(a.logits, before)
    b.close()
    a.eval([5] * PAGE_TOKENS)


@pytest.mark.parametrize(
    ("kv_type", "tolerance"), [("f16", 2e-3), ("q8_0", 4e-3), ("q4_0", 0.05)], ids=lambda value: str(value)
)
def test_narrow_keys_and_values_cost_little(
    model: Model, prompts: list[list[int]], kv_type: str, tolerance: float
) -> None:
    """In nats per token of real text; the exact value is that of f32."""
    ids = prompts[0]
    exact = Session(Workspace(model, kv_type=TensorType.F32)).score(ids)[1:].mean()
    found = Session(Workspace(model, kv_type=TensorType.parse(kv_type))).score(ids)[1:].mean()
    assert found != exact
    assert found == pytest.approx(exact, abs=tolerance)


def test_types_that_do_not_fit_are_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="keys and values are f32"):
        Workspace(model, kv_type=TensorType.BF16)


def test_objects_may_be_collected_in_any_order() -> None:
    """Nobody says in which order the parts of a reference cycle end."""
    code = """
from linnet.engine.model import Model
from linnet.engine.session import Session, Workspace
from linnet.run.model import BUNDLED_MODEL
import gc
for _ in range(20):
    model = Model.open(BUNDLED_MODEL)
    workspace = Workspace(model)
    sessions = [Session(workspace) for _ in range(3)]
    sessions[0].eval([1, 2, 3])
    for part in (model, workspace, *sessions):
        part.cycle = [model, workspace, sessions]
    del model, workspace, sessions, part
    gc.collect()
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_abandoned_session_gives_its_pages_back(model: Model, prompts: list[list[int]]) -> None:
    workspace = Workspace(model)
    Session(workspace).eval(prompts[0])
    gc.collect()
    assert (workspace.n_sessions, workspace.n_free_pages) == (0, workspace.n_pages)
