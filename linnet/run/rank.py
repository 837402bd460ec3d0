"""How probable continuations are, and how well documents answer a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from linnet.engine.arguments import listed
from linnet.engine.session import check_finite
from linnet.errors import UnsupportedError, UsageError
from linnet.options import RANKINGS
from linnet.run.embed import (
    check_length,
    default_pooling,
    framed_ids,
    groups,
    pooled_states,
    scaled_to_one,
)
from linnet.run.text.context import check_prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from linnet.engine.session import Adapters, Session
    from linnet.run.model import LanguageModel

_TASK = "Decide whether the document answers the query."
_ANSWERS = ("yes", "no")
_GROUP = 16  # documents evaluated in one call


@dataclass(frozen=True)
class Score:
    """A continuation's natural-log probability, and of which tokens with which shares of it."""

    log_prob: float
    ids: list[int]
    log_probs: list[float]


@dataclass(frozen=True)
class Ranked:
    """A document, by its place in what was given, and how well it fits: higher is better."""

    index: int
    score: float


def score_continuations(
    model: LanguageModel,
    prompt: str | Sequence[int],
    continuations: Sequence[str | Sequence[int]],
    adapter: str | Mapping[str, float] | None = None,
) -> list[Score]:
    """The probability of each of ``continuations`` given ``prompt``, which is evaluated once.

    Of texts, prompt and continuation are tokenized as one, as the model would have read
    them; counted are the tokens from the first that is not one of the prompt alone. Of
    a continuation given as ids those are counted. Raises UsageError when there is nothing
    to count or nothing before it, ContextFullError, LinnetError for damaged weights.
    """
    before = model.tokenize(prompt) if isinstance(prompt, str) else listed("ids", prompt, "token ids")
    continuations = listed("continuations", continuations, "texts or token ids")
    wholes = [_joined(model, prompt, before, continuation) for continuation in continuations]
    begins = [_common([before, whole]) for whole in wholes]
    for whole, begin in zip(wholes, begins, strict=True):
        check_prompt(len(whole), model.n_ctx)
        if not 0 < begin < len(whole):
            raise UsageError("a continuation is empty, or has no token before it; write something")
    adapters = model.chosen_adapters(adapter)
    if not wholes:
        return []
    scores, known = [], min(begins)
    base = model.cache.open(before, adapters)
    base.eval(before[len(base) : known])
    for whole, begin in zip(wholes, begins, strict=True):
        with base.fork(known) as session:
            log_probs = session.score(whole[known:])[begin - known :]
        check_finite(log_probs, "probability")
        scores.append(Score(float(log_probs.sum(dtype=np.float64)), whole[begin:], log_probs.tolist()))
    model.cache.keep(base)
    return scores


def _joined(
    model: LanguageModel, prompt: str | Sequence[int], before: list[int], continuation: str | Sequence[int]
) -> list[int]:
    if not isinstance(continuation, str):
        return [*before, *listed("a continuation", continuation, "token ids")]
    if isinstance(prompt, str):
        return model.tokenize(prompt + continuation)
    return [*before, *model.tokenize(continuation, bos=False)]


def default_method(model: LanguageModel) -> str:
    """``pair`` for a model that was made for it."""
    return "pair" if model.model.ranks else "embedding"


def text_lengths(model: LanguageModel, query: str, documents: Sequence[str], method: str) -> list[int]:
    """How many tokens the texts that the model reads have, before any is cut: one for each document, and one
    for the query where it is a text of its own."""
    if method == "answer":
        return [len(_question(model, query, document)) for document in documents]
    if method == "embedding":
        return [len(model.tokenizer.encode(text, framed=True)) for text in (query, *documents)]
    asked = model.tokenizer.encode(query)
    return [len(model.tokenizer.pair(asked, model.tokenizer.encode(document))[0]) for document in documents]


def rerank(
    model: LanguageModel,
    query: str,
    documents: Sequence[str],
    *,
    method: str | None = None,
    cut: bool = False,
    adapter: str | Mapping[str, float] | None = None,
) -> list[Ranked]:
    """``documents`` from the best answer to ``query`` to the worst.

    ``pair``, the default of models made for it (cross-encoders), has the model read query and
    document as one text, of which its head makes the score: the logit as it is, so any number.
    ``embedding``, the default of all others, ranks by the cosine between the embeddings of both, as
    :func:`linnet.run.embed.embed_texts` makes them. ``answer`` asks the model of each
    document whether it answers the query, in its own chat format where it has one: the
    score is P(yes) / (P(yes) + P(no)) of the next token. What does not fit the context loses the end
    of the document, never of the query, if it may be ``cut``; ``answer`` refuses that. Raises
    UsageError, UnsupportedError for a method the model was not made for, ContextFullError,
    LinnetError for damaged weights.
    """
    method = method or default_method(model)
    if method not in RANKINGS:
        raise UsageError(f"method is '{method}'; choose from {', '.join(RANKINGS)}")
    if cut and method == "answer":
        raise UsageError("the method answer cuts no document; leave out cut, and shorten what does not fit")
    documents = listed("documents", documents, "texts")
    if not documents:
        return []
    adapters = model.chosen_adapters(adapter)
    scores: NDArray[np.floating]
    if method == "pair":
        scores = _pair_scores(model, query, documents, cut, adapters)
    elif method == "embedding":
        scores = _cosines(model, query, documents, cut, adapters)
    else:
        scores = _answers(model, query, documents, adapters)
    best_first = np.argsort(-scores, kind="stable")
    return [Ranked(int(i), float(scores[i])) for i in best_first]


def _pair_scores(
    model: LanguageModel, query: str, documents: Sequence[str], cut: bool, adapters: Adapters
) -> NDArray[np.float32]:
    """What the head makes of the query with each document, many pairs in one pass over the weights."""
    if not model.model.ranks:
        raise UnsupportedError("this model has no head that scores pairs; leave out the method")
    asked = model.tokenizer.encode(query)
    pairs = [_pair(model, asked, text, number, cut) for number, text in enumerate(documents, 1)]
    scores = np.empty(len(documents), dtype=np.float32)
    typed = model.model.n_token_types > 1
    for group in groups([ids for ids, _ in pairs], model.texts_together, model.pages_together):
        with ExitStack() as stack:
            spans = [(stack.enter_context(model.open_session(adapters)), pairs[i][0]) for i in group]
            types = [pairs[i][1] for i in group] if typed else None
            scores[group] = model.workspace.eval_scores(spans, types)
    check_finite(scores, "score")
    return scores


def _cosines(
    model: LanguageModel, query: str, documents: Sequence[str], cut: bool, adapters: Adapters
) -> NDArray[np.float32]:
    """Between the embedding of the query and that of each document."""
    if model.model.ranks:
        raise UsageError(
            "this model was made to score a query and a document as one text, and not for vectors; "
            "leave out the method"
        )
    pooling = default_pooling(model)
    prompts = [framed_ids(model, query, "the query", cut=False)]
    prompts += [
        framed_ids(model, text, f"document {number}", cut) for number, text in enumerate(documents, 1)
    ]
    vectors = scaled_to_one(pooled_states(model, prompts, pooling, adapters))
    return vectors[1:] @ vectors[0]


def _pair(
    model: LanguageModel, asked: list[int], document: str, number: int, cut: bool
) -> tuple[list[int], list[int]]:
    text = model.tokenizer.encode(document)
    ids, types = model.tokenizer.pair(asked, text)
    if cut and len(ids) > model.n_ctx:
        room = model.n_ctx - (len(ids) - len(text))
        ids, types = model.tokenizer.pair(asked, text[: max(room, 0)])
    check_length(model, f"the query with document {number} has", ids)
    return ids, types


def _answers(
    model: LanguageModel, query: str, documents: Sequence[str], adapters: Adapters
) -> NDArray[np.float64]:
    """The share of yes in yes and no, of each document; what all questions share is evaluated once."""
    model.model.check_writes()
    prompts = [_question(model, query, document) for document in documents]
    for number, ids in enumerate(prompts, 1):
        check_length(model, f"the query with document {number} has", ids)
    ahead = "" if model.has_template else " "
    yes, no = (model.tokenize(ahead + answer, bos=False)[0] for answer in _ANSWERS)
    if yes == no:
        raise UsageError(
            "the answers yes and no begin with the same token of this model; use the method embedding"
        )
    shared = _common([prompts[0][:-1], *prompts])
    scores = np.empty(len(prompts), dtype=np.float64)
    with model.open_session(adapters) as base:
        base.eval(prompts[0][:shared])
        for start in range(0, len(prompts), _GROUP):
            group = range(start, min(start + _GROUP, len(prompts)))
            with ExitStack() as stack:
                sessions = [stack.enter_context(base.fork()) for _ in group]
                _evaluate(model, sessions, [prompts[i][shared:] for i in group])
                logits = np.array([session.logits[[yes, no]] for session in sessions], dtype=np.float64)
            check_finite(logits, "probability")
            scores[group] = np.exp(-np.logaddexp(0, logits[:, 1] - logits[:, 0]))
    return scores


def _evaluate(model: LanguageModel, sessions: Sequence[Session], rests: Sequence[list[int]]) -> None:
    """All together where they fit into memory together, else one after the other."""
    room = model.n_ctx - len(sessions[0])
    if sum(map(len, rests)) <= room:
        model.workspace.eval(list(zip(sessions, rests, strict=True)))
        return
    for session, rest in zip(sessions, rests, strict=True):
        session.eval(rest)


def _question(model: LanguageModel, query: str, document: str) -> list[int]:
    asked = f"Query: {query}\nDocument: {document}"
    if not model.has_template:
        return model.tokenize(f"{_TASK}\n{asked}\nAnswer (yes or no):")
    messages = [{"role": "user", "content": f"{_TASK} Say yes or no, nothing else.\n{asked}"}]
    return list(model.chat_format.prompt(messages, variables={"enable_thinking": False}).ids)


def _common(texts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all of them begin."""
    n = 0
    for tokens in zip(*texts, strict=False):
        if len(set(tokens)) != 1:
            break
        n += 1
    return n
