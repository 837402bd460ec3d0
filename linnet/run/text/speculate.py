"""Several tokens per pass over the weights: drafted cheaply, checked by the model, the text unchanged.

A drafter guesses the next k tokens; the model evaluates the last token and all k guesses in one pass,
which reads the weights once. Then the sampler draws at each position, in order, from the model's own
logits. While a draw equals the guess, the logits after it are already there; at the first difference the
drawn token stands and the timeline forgets the rest.

Nothing about the text can change: a drawn token comes from the same logits (the core computes the same
bits for every batch size), the same sampler state and the same random number as without speculation. So
a seed gives the same tokens with it and without it, and their distribution is the model's. The rule of
Leviathan et al. 2023 (arXiv:2211.17192) keeps the distribution only. Against a guess x that is certain,
as that of both drafters here, it accepts with probability p(x), which is how often a draw from p equals
x: nothing is lost. Against guesses drawn from a distribution q it would accept 1 - TV(p, q) of them,
where comparing a draw from p with one from q accepts sum p q; so drafters here guess greedily.

Guesses come from the text itself (prompt lookup, Saxena 2023) or from a smaller model. How many are
worth checking follows from what was measured: see :class:`Pace`.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from linnet.engine.sampler import Sampler
from linnet.engine.session import Session
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import ContextFullError, UsageError
from linnet.run.text.choosing import Chooser
from linnet.run.text.timeline import cut

SIZES = (2, 4, 8, 16)  # tokens of a pass that checks guesses: the last of the text, and 1, 3, 7 or 15 guesses
MOST_GUESSES = SIZES[-1] - 1
MOST_CERTAIN = 48  # tokens that had to come evaluated at once; the timeline can be cut back behind them
LEARNING_RATE = 1 / 16  # of a share of right guesses: about the last 16 count


class Drafter(Protocol):
    """Guesses how a text goes on."""

    def accept(self, token: int) -> None:
        """Tells the drafter that ``token`` is now part of the text."""

    def chances(self, n: int) -> Sequence[float]:
        """For each of up to ``n`` guesses the probability that it is right if those before it are."""

    def draft(self, n: int) -> Sequence[int]:
        """Up to ``n`` guesses; none when this turn was needed to catch up with the text."""

    def shorten(self, text: Sequence[int]) -> None:
        """Tells the drafter that the model goes on from ``text``, which is left of what was."""


class TextDrafter:
    """Prompt lookup: what followed the last place where the text read as it does now.

    That place is the last occurrence of the last three tokens, or else of the last one (looking for two
    as well was not measured to find more), and is kept while it goes on being right. The match, the
    tokens known to agree, says how much to trust it: the share of right guesses is learnt per length of
    match, as in the match model of PAQ (Mahoney 2005), from every token of the text, whether anything
    was drafted or not.
    """

    LONGEST_MATCH = 8  # longer ones are trusted alike

    def __init__(self, prompt: Sequence[int]) -> None:
        self._text = text = list(prompt)
        self._after: dict[int | tuple[int, ...], int] = {}  # one token or three: where they last ended
        self._after.update(zip(text[:-1], range(1, len(text)), strict=False))
        threes = zip(text[:-1], text[1:-1], text[2:-1], strict=False)
        self._after.update(zip(threes, range(3, len(text)), strict=False))
        # Within some points what stories of the bundled model show: 0.24, 0.43, 0.53, 0.60, 0.72, ...
        self._share = [match / (match + 3) for match in range(self.LONGEST_MATCH + 1)]
        self._at, self._match = 0, 0  # where the guess is, and what it rests on; no guess while that is 0
        if text:
            self._index()

    def accept(self, token: int) -> None:
        match, text = self._match, self._text
        if match:
            right = text[self._at] == token
            self._share[match] += (right - self._share[match]) * LEARNING_RATE
            self._at += 1
            self._match = min(match + 1, self.LONGEST_MATCH) if right else 0
        text.append(token)
        self._index()

    def chances(self, n: int) -> Sequence[float]:
        if not self._match:
            return ()
        known = self._share[self._match : self._match + n]
        return known + self._share[-1:] * (n - len(known))

    def draft(self, n: int) -> Sequence[int]:
        copied = self._text[self._at : self._at + n]
        while len(copied) < n:  # the copy runs into its own beginning: a period, as in LZ77
            copied += copied[: n - len(copied)]
        return copied

    def shorten(self, text: Sequence[int]) -> None:
        """Nothing is forgotten: a text may repeat what the model does not see any more."""

    def _index(self) -> None:
        """Enters the end of the text; without a match, looks for one first."""
        after, three, one = self._after, tuple(self._text[-3:]), self._text[-1]
        if not self._match:
            self._at, self._match = after.get(three, 0), 3
            if not self._at:
                self._at = after.get(one, 0)
                self._match = 1 if self._at else 0
        after[three] = after[one] = len(self._text)


class ModelDrafter:
    """A smaller model's most probable continuation, on a timeline of its own that follows the text."""

    CATCH_UP = 256  # tokens evaluated in a turn that drafts nothing
    FIRST_SHARE = 0.7
    FORGETTING = 1 / 256  # per token without a guess: a share once found low is tried again

    def __init__(self, session: Session, prompt: Sequence[int]) -> None:
        self._session = session
        self._greedy = Sampler(session.model.vocab_size)
        self._text = list(prompt)
        self._evaluated: list[int] = []  # what the timeline holds: the text so far, then old guesses
        self._agreed = 0  # its first tokens that are those of the text
        self._guesses: list[int] = []  # of the last draft, those that the text has not reached
        self._share = self.FIRST_SHARE  # of right guesses

    def accept(self, token: int) -> None:
        place = len(self._text)
        self._text.append(token)
        if self._agreed == place < len(self._evaluated) and self._evaluated[place] == token:
            self._agreed += 1
        if not self._guesses:
            self._share += (self.FIRST_SHARE - self._share) * self.FORGETTING
            return
        right = self._guesses.pop(0) == token
        self._share += (right - self._share) * LEARNING_RATE
        if not right:
            self._guesses.clear()

    def chances(self, n: int) -> Sequence[float]:
        return [self._share] * n

    def draft(self, n: int) -> Sequence[int]:
        agreed = min(self._agreed, len(self._text) - 1)  # the last token is evaluated for its logits
        if len(self._evaluated) > agreed:
            agreed = cut(self._session, agreed)
            del self._evaluated[agreed:]
        unread = self._text[agreed:]
        # Two after a draft that was all right: the model's own last token, and the guess before it.
        if len(unread) > 2:
            self._read(unread[: min(len(unread) - 1, self.CATCH_UP)])
            self._agreed = len(self._evaluated)
            return ()
        self._guesses = []
        while len(self._guesses) < n:
            self._read(unread)
            unread = [self._session.draw(self._greedy)]
            self._guesses += unread
        self._agreed = len(self._text)
        return tuple(self._guesses)

    def shorten(self, text: Sequence[int]) -> None:
        self._text = list(text)
        self._agreed = self._session.common(text)
        self._guesses.clear()

    def _read(self, ids: list[int]) -> None:
        self._session.eval(ids)
        self._evaluated += ids


class Pace:
    """Decides how many guesses to check, from measured seconds and the drafter's measured shares.

    A pass over ``n`` tokens that makes ``E`` tokens of text pays when ``E`` plain passes take longer. The
    expected ``E`` follows from the chances of the guesses, the seconds from passes of that size. The text
    never depends on this, only the time it takes.

    What is lost on guesses that fail is bounded: a text begins with a credit of ``FIRST_CREDIT`` plain
    passes, each token of it earns ``ALLOWANCE`` of one and every pass what it saved, up to
    ``MOST_CREDIT``; what a pass loses is taken off, and without credit nothing is drafted. Deciding takes
    time too, some microseconds a token, which a small model feels: while that is more than is saved, a
    decision to check nothing is followed by so many plain passes that deciding takes ``DECIDING`` of the
    time.
    """

    PLAIN_PASSES = 3  # measured before anything is drafted
    RECENT = 5  # measurements of a size; their median counts, so a hiccup does not
    LASTING = 512  # tokens of text after which a size has to be measured again
    MARGIN = 1.05  # a gain smaller than this is left alone
    ALLOWANCE = 0.02
    FIRST_CREDIT, MOST_CREDIT = 2.0, 16.0
    DECIDING, LONGEST_REST = 0.005, 32
    SAVED_RATE = 1 / 32
    UNLIKELY = 0.1  # guesses after one that is so seldom reached are not considered
    FIRST_GUESS = 0.1  # plain passes that one more token in a pass costs, before that was measured

    def __init__(self) -> None:
        self._seconds = {n: deque[float](maxlen=self.RECENT) for n in (1, *SIZES)}
        self._measured_at = dict.fromkeys(self._seconds, 0)
        self._made = 0  # tokens of text
        self._credit = self.FIRST_CREDIT
        self._saved = 0.0  # plain passes, the mean of the last decisions, about 32
        self._costs: dict[int, float] = {}  # plain passes that a pass of each size takes; of none: not known
        self._costs_until = 0  # in tokens of text

    def guesses(self, chances: Sequence[float]) -> int:
        """How many of the guesses with these chances to check in the next pass; 0 is a plain pass."""
        if not self._costs or self._made >= self._costs_until:
            self._costs, self._costs_until = self._weigh(), self._made + 32
        costs = self._costs
        if not costs or self._credit <= 0:
            return 0
        best, best_cost = 0, 1 / self.MARGIN  # plain passes per token of text
        expected = right = 1.0
        for n, chance in enumerate(chances, 2):
            right *= chance
            expected += right
            if n in costs and costs[n] < best_cost * expected:
                best, best_cost = n - 1, costs[n] / expected
            if right < self.UNLIKELY:
                break
        return best

    def rest(self, seconds: float) -> int:
        """How many plain passes to make before deciding again, when it took ``seconds`` to find nothing."""
        if not self._costs:
            return 0
        cost = seconds / _median(self._seconds[1])
        self._saved -= self._saved * self.SAVED_RATE
        if cost < self._saved:
            return 0
        passes = min(int(cost / self.DECIDING), self.LONGEST_REST)
        self._made += passes
        self._credit += passes * self.ALLOWANCE
        return passes

    def record(self, n: int, seconds: float, made: int) -> None:
        """A pass over ``n`` tokens took ``seconds``, drafting included, and made ``made`` tokens of text."""
        self._made += made
        if n in self._seconds:
            self._seconds[n].append(seconds)
            self._measured_at[n] = self._made
        self._credit += made * self.ALLOWANCE
        if n > 1 and self._seconds[1]:
            usual = _median(self._seconds.get(n) or [seconds])
            saved = made - min(usual / _median(self._seconds[1]), n)  # a cost above n would be a hiccup
            self._credit += saved
            self._saved += (saved - self._saved) * self.SAVED_RATE
            self._costs_until = 0
        if self._credit > self.MOST_CREDIT:
            self._credit = self.MOST_CREDIT

    def _weigh(self) -> dict[int, float]:
        """The costs. A size not measured is hoped to take half as much per token as the sizes below it."""
        for n, at in self._measured_at.items():
            if self._made - at > self.LASTING:
                self._seconds[n].clear()
        if len(self._seconds[1]) < self.PLAIN_PASSES:
            return {}
        plain = _median(self._seconds[1])
        costs, known, cost, slope = {}, 1, 1.0, 2 * self.FIRST_GUESS
        for n in SIZES:
            if self._seconds[n]:
                known, cost = n, _median(self._seconds[n]) / plain
                slope = max(cost - 1, 0.0) / (n - 1)
            costs[n] = cost + (n - known) * slope / 2
        return costs


class Continuation:
    """The tokens that follow a timeline whose last logits are there, as ``chooser`` decides.

    ``drafted`` and ``accepted`` count the guesses that were checked and those that were right. ``slide``
    makes room when the context is full; it is given the last token, which is not evaluated yet.
    """

    def __init__(
        self,
        session: Session,
        chooser: Chooser,
        drafter: Drafter | None = None,
        slide: Callable[[int], None] | None = None,
    ) -> None:
        self.drafted = 0
        self.accepted = 0
        self._session, self._chooser, self._drafter = session, chooser, drafter
        self._slide = slide
        self._pace = Pace()
        self._rest = 0  # plain passes left before guesses are considered again
        self._unseen: list[int] = []  # tokens of the text that the drafter was not told of
        self._logits = (ctypes.c_float * 0)()  # [tokens of the largest pass so far][vocab_size]

    def tokens(self, max_tokens: int) -> Iterator[int]:
        """At most ``max_tokens``, fewer when the context ends and does not slide, or nothing can follow. Each
        becomes part of the text, and the next is computed, when the next is asked for."""
        most = min(max_tokens, self._room())
        made, drawn = 0, self._first()
        while True:
            for token in drawn:
                yield token
                self._chooser.accept(token)
                if self._drafter is not None:
                    self._unseen.append(token)
                made += 1
                if self._chooser.finished:
                    return
            if made < most:
                certain = self._chooser.certain(min(most - made - 1, MOST_CERTAIN))
                drawn = self._follow(token, certain) if certain else self._pass(token, most - made)
            elif made < max_tokens and self._slide is not None:
                self._make_room(self._slide, token)
                most = min(max_tokens, made + self._room())
                drawn = self._first()
            else:
                return

    def _make_room(self, slide: Callable[[int], None], last: int) -> None:
        slide(last)
        if self._drafter is not None:
            self._tell(self._drafter)
            self._drafter.shorten(self._session.ids)

    def _room(self) -> int:
        """Tokens that can be drawn; the last is not evaluated."""
        return self._session.n_ctx - len(self._session) + 1

    def _first(self) -> Iterator[int]:
        yield self._session.draw(self._chooser)

    def _follow(self, last: int, certain: Sequence[int]) -> Iterator[int]:
        """Evaluates the last token of the text and those that have to come, and draws one more."""
        self._session.eval([last, *certain])
        yield from certain
        yield self._session.draw(self._chooser)

    def _pass(self, last: int, room: int) -> Iterator[int]:
        """Evaluates the last token of the text and guesses after it, and draws 1 to ``room`` tokens."""
        if self._drafter is None or self._rest:
            self._rest = max(self._rest - 1, 0)
            self._session.eval([last])
            yield self._session.draw(self._chooser)
            return
        n = self._decide(self._drafter, min(room - 1, MOST_GUESSES))
        started = time.perf_counter()
        try:
            guesses = self._drafter.draft(n) if n else ()
            rows = self._evaluate([last, *guesses]) if guesses else ()
        except ContextFullError:  # other timelines hold the memory; one token may fit
            guesses = ()
        if not guesses:
            started = time.perf_counter()
            self._session.eval([last])
            self._pace.record(1, time.perf_counter() - started, 1)
            yield self._session.draw(self._chooser)
            return
        seconds = time.perf_counter() - started
        self.drafted += len(guesses)
        right = 0
        for row, guess in zip(rows, [*guesses, None], strict=True):
            token = self._chooser.draw(row)
            if token != guess:  # at the latest where there is no guess any more
                break
            right += 1
            self.accepted += 1
            yield token
        self._session.truncate(len(self._session) - len(guesses) + right)
        self._pace.record(1 + len(guesses), seconds, 1 + right)
        yield token

    def _decide(self, drafter: Drafter, most: int) -> int:
        """How many guesses to check now, after telling the drafter what the text has become."""
        started = time.perf_counter()
        self._tell(drafter)
        n = self._pace.guesses(drafter.chances(most))
        if not n:
            self._rest = self._pace.rest(time.perf_counter() - started)
        return n

    def _tell(self, drafter: Drafter) -> None:
        for token in self._unseen:
            drafter.accept(token)
        self._unseen.clear()

    def _evaluate(self, ids: list[int]) -> range:
        """Appends ``ids`` to the timeline; the addresses of the logits after each of them."""
        vocab_size = self._session.model.vocab_size
        if len(self._logits) < len(ids) * vocab_size:
            self._logits = (ctypes.c_float * (len(ids) * vocab_size))()
        start, row_bytes = ctypes.addressof(self._logits), ctypes.sizeof(ctypes.c_float) * vocab_size
        self._session.eval(ids, start)
        return range(start, start + len(ids) * row_bytes, row_bytes)


def check_same_tokenizer(tokenizer: Tokenizer, draft: Tokenizer) -> None:
    """Raises UsageError unless every id means the same to both."""
    if draft.vocab_size != tokenizer.vocab_size:
        raise UsageError(
            f"the draft model has {draft.vocab_size} tokens and the model {tokenizer.vocab_size}; "
            "a draft model needs the tokenizer of the model it drafts for"
        )
    ids = range(tokenizer.vocab_size)
    theirs, ours = draft.decode(ids, special=True), tokenizer.decode(ids, special=True)
    if theirs == ours and (draft.bos_id, draft.eos_id) == (tokenizer.bos_id, tokenizer.eos_id):
        return
    raise UsageError(
        "the tokens of the draft model are not those of the model; "
        "a draft model needs the tokenizer of the model it drafts for"
    )


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
