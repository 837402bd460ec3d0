"""Vectors that stand for texts: the hidden states of a model, pooled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from linnet.display import one_line
from linnet.engine.arguments import listed
from linnet.engine.session import check_finite, pages_of
from linnet.errors import ContextFullError, UsageError
from linnet.formats.gguf_keys import POOLING_KEY, POOLING_MODE_KEY, POOLING_TYPES
from linnet.options import POOLINGS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from linnet.engine.session import Adapters
    from linnet.run.model import LanguageModel


def default_pooling(model: LanguageModel) -> str:
    """What the makers of the model named, else ``mean``. Raises UsageError for what is not known here."""
    if model.model.ranks:
        raise UsageError(
            "this model was made to score a query and a document as one text, as rerank does, and not for "
            f"vectors; to make some all the same choose a pooling: {', '.join(POOLINGS)}"
        )
    metadata = model.model.metadata
    number = [*metadata.integers(f"{model.model.arch}.{POOLING_KEY}"), 0][0]
    mode = metadata.text(POOLING_MODE_KEY)
    if mode is None and number not in (0, *POOLING_TYPES):
        mode = f"{POOLING_KEY} {number}"
    if mode is not None:
        raise UsageError(
            f"the makers of this model pool by '{one_line(mode)[:60]}', which is not known here; to make "
            f"vectors all the same choose a pooling: {', '.join(POOLINGS)}"
        )
    return POOLING_TYPES.get(number, "mean")


def embed_texts(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    pooling: str | None = None,
    normalize: bool = True,
    cut: bool = False,
    adapter: str | Mapping[str, float] | None = None,
) -> NDArray[np.float32]:
    """A vector for each of ``texts``, [len(texts), dim], many texts in one pass over the weights.

    It is made of the hidden states after the last norm: their ``mean``, that of the first
    token (``cls``) or of the ``last`` one, by default as :func:`default_pooling` says.
    What the makers of the tokenizer put around every text (BOS, EOS, ...) are tokens like
    the others. In a model that looks back only, the first token has seen nothing else.
    Of a text that does not fit the end is left out, before what is put behind every text,
    if it may be ``cut``. ``adapter`` is one of those the model was loaded with, or several with
    their scales. Raises UsageError, ContextFullError for a text that may not be cut, LinnetError for
    damaged weights.
    """
    pooling = pooling or default_pooling(model)
    if pooling not in POOLINGS:
        raise UsageError(f"pooling is '{pooling}'; choose from {', '.join(POOLINGS)}")
    texts = listed("texts", texts, "texts")
    adapters = model.chosen_adapters(adapter)
    prompts = [framed_ids(model, text, f"text {number}", cut) for number, text in enumerate(texts, 1)]
    vectors = pooled_states(model, prompts, pooling, adapters)
    return scaled_to_one(vectors) if normalize else vectors


def pooled_states(
    model: LanguageModel, prompts: Sequence[list[int]], pooling: str, adapters: Adapters
) -> NDArray[np.float32]:
    """A vector for each of ``prompts``, [len(prompts), dim], of any length. Raises LinnetError for damaged
    weights."""
    vectors = np.empty((len(prompts), model.model.dim), dtype=np.float32)
    for group in groups(prompts, model.texts_together, model.pages_together):
        with ExitStack() as stack:
            spans = [(stack.enter_context(model.open_session(adapters)), prompts[i]) for i in group]
            for i, hidden in zip(group, model.workspace.eval_hidden(spans), strict=True):
                vectors[i] = _pooled(hidden, pooling)
    check_finite(vectors, "vector")
    return vectors


def scaled_to_one(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of the same directions, of length 1; one of zeros stays."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def framed_ids(model: LanguageModel, text: str, whose: str, cut: bool) -> list[int]:
    """The tokens of a text that is embedded, which ``whose`` names: ``text 3``. Raises UsageError,
    ContextFullError."""
    ids = model.tokenizer.encode(text, framed=True)
    if not ids:
        raise UsageError(
            f"{whose} is empty and this model has no beginning-of-sequence token; write something"
        )
    if cut and len(ids) > model.n_ctx:
        behind = _behind(ids, model.tokenizer.encode(text))
        ids = ids[: max(model.n_ctx - len(behind), 0)] + behind
    check_length(model, f"{whose} has", ids)
    return ids


def check_length(model: LanguageModel, whose: str, ids: Sequence[int]) -> None:
    """Raises ContextFullError, with the counts, for tokens that the context does not hold."""
    if len(ids) > model.n_ctx:
        more = " or raise n_ctx" if model.n_ctx < model.model.max_seq_len else ""
        raise ContextFullError(
            f"{whose} {len(ids)} tokens and the context holds {model.n_ctx}; shorten it{more}"
        )


def _behind(framed: list[int], text: list[int]) -> list[int]:
    """What the makers of the tokenizer put behind a text of these tokens."""
    n_around = len(framed) - len(text)
    n_before = next((n for n in range(n_around + 1) if framed[n : n + len(text)] == text), n_around)
    return framed[n_before + len(text) :]


def groups(prompts: Sequence[Sequence[int]], most: int, room: int) -> Iterator[list[int]]:
    """At most ``most`` texts that are evaluated together, and together take no more than ``room`` pages."""
    group, taken = list[int](), 0
    for i, ids in enumerate(prompts):
        pages = pages_of(len(ids))
        if group and (taken + pages > room or len(group) == most):
            yield group
            group, taken = [], 0
        group.append(i)
        taken += pages
    if group:
        yield group


def _pooled(hidden: NDArray[np.float32], pooling: str) -> NDArray[np.float32]:
    """One vector of [n, dim]."""
    if pooling == "mean":
        return hidden.mean(axis=0, dtype=np.float64).astype(np.float32)
    return hidden[0 if pooling == "cls" else -1]
