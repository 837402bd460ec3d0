"""What earlier calls evaluated already: kept for later ones that begin alike, and in a file between runs."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from linnet.engine.session import PAGE_TOKENS, Session, Workspace, pages_of
from linnet.errors import LinnetError, UsageError

if TYPE_CHECKING:
    from linnet.engine.session import Adapters

MOST_KEPT = 32  # timelines; beside its pages each holds the logits of one token
LEAST_COMMON = 16  # tokens; taking fewer over costs more, the copy of a page, than evaluating them


class PromptCache:
    """Timelines of earlier calls, of which a new one takes the beginning they have in common.

    Together they take at most ``max_bytes`` (a page that two of them share counts twice), and so does a file
    of one of them; the one used least recently goes first, and before that any whose pages a timeline in use
    needs. A new timeline that goes on from one of them gives the same bits as one evaluated from its first
    token.
    """

    def __init__(self, workspace: Workspace, n_ctx: int, max_bytes: int) -> None:
        self._workspace = workspace
        self._n_ctx = n_ctx
        self.max_bytes = max_bytes
        self.keeps_prompt = False  # whether the last prompt is wanted once its text has ended
        self.prompt: Session | None = None
        self._kept: list[Session] = []  # least recently used first
        self._is_busy = False
        give_up = weakref.WeakMethod(self._give_up)  # no cycle: a model is gone when nobody names it
        workspace.give_up = lambda: bool((method := give_up()) and method())

    @property
    def n_tokens(self) -> int:
        """Tokens of all timelines that are kept."""
        return sum(len(session) for session in self._kept)

    @property
    def n_bytes(self) -> int:
        """Memory of all timelines that are kept, pages that several share counted for each."""
        return sum(session.n_bytes for session in self._kept)

    def open(self, ids: Sequence[int], adapters: Adapters = ()) -> Session:
        """A timeline for ``ids`` that holds as many of the first of them as are known with these adapters,
        but never the last, whose logits are wanted."""
        with self._alone():
            alike = [session for session in reversed(self._kept) if session.adapters == adapters]
            known = [(session.common(ids[:-1]), session) for session in alike]
            for common, session in sorted(known, key=lambda pair: pair[0], reverse=True):
                if common >= LEAST_COMMON and (twin := _fork(session, common)) is not None:
                    self._kept.remove(session)
                    self._kept.append(session)
                    return twin
            return Session(self._workspace, self._n_ctx, adapters)

    def keep(self, session: Session) -> None:
        """Takes a timeline over; its owner does not use it any more.

        The garbage collector may call this, for a stream that somebody abandoned. It ends all objects of a
        cycle, those that one of them hands over included: so a twin is kept, which shares the pages.
        """
        with self._workspace.turn:
            if self._is_busy or not session.is_open:  # it comes in the middle of a call, or was here already
                return
            ids = session.ids
            with self._alone():
                twin = _fork(session, len(ids)) if ids and self.max_bytes else None
                session.close()
                if twin is not None:
                    self._add(twin, ids)

    def _add(self, session: Session, ids: Sequence[int]) -> None:
        """One more, in the place of those that are the beginning of it."""
        alike = [kept for kept in self._kept if kept.adapters == session.adapters]
        longer = next((kept for kept in alike if kept.common(ids) == len(ids)), session)
        beginnings = [kept for kept in alike if kept is longer or kept.common(ids) == len(kept)]
        self._kept = [kept for kept in self._kept if kept not in beginnings] + [longer]
        while len(self._kept) > MOST_KEPT or self.n_bytes > self.max_bytes:
            self._give_up()

    def mark(self, session: Session) -> None:
        """``session`` holds a prompt and nothing else yet."""
        if self.keeps_prompt:
            self.prompt = session.fork()

    def load(self, path: Path, adapters: Adapters = ()) -> list[int]:
        """Keeps the timeline of a file, as far as there is room for it; returns all tokens of the file.

        Raises SourceError or FormatError for a file that cannot be used with this model and these adapters.
        """
        from linnet.engine.states import load_states  # not needed without a file

        with Session(self._workspace, self._n_ctx, adapters) as session:
            max_pages = max(self.max_bytes - session.n_bytes, 0) // self._workspace.page_bytes
            ids = load_states(session, path, max_pages)
            self.keep(session)
        return ids

    def save(self, session: Session, path: Path, known: Sequence[int] = ()) -> int:
        """Writes a timeline to a file, its first tokens where it would take more than ``max_bytes``.

        Returns how many. A file that holds them already, as the first of ``known``, is not written. Raises
        TargetError, UsageError when not even one page fits, or the first ones have left a sliding window.
        """
        from linnet.engine.states import file_bytes, save_states

        n = len(session)
        while n > 0 and file_bytes(session, n) > self.max_bytes:
            n = (pages_of(n) - 1) * PAGE_TOKENS
        part = _fork(session, n) if n else None
        if part is None:
            n_bytes = file_bytes(session, len(session))
            raise UsageError(
                f"the prompt of {len(session)} tokens takes {n_bytes:,} bytes and the limit is "
                f"{self.max_bytes:,}; raise it"
            )
        if part.common(known) < n:
            save_states(part, path)
        return n

    def check_limit(self) -> None:
        """Raises UsageError where no file of a prompt, however short, fits into ``max_bytes``."""
        from linnet.engine.states import file_bytes

        with Session(self._workspace, self._n_ctx) as session:
            least = file_bytes(session, 1)
        if least > self.max_bytes:
            raise UsageError(
                f"a prompt takes at least {least:,} bytes and the limit is {self.max_bytes:,}; raise it"
            )

    def clear(self) -> None:
        """Keeps nothing of what was."""
        with self._workspace.turn:
            while self._give_up():
                pass

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._workspace.turn:
            self._is_busy = True
            try:
                yield
            finally:
                self._is_busy = False

    def _give_up(self) -> bool:
        """Closes the timeline used least recently, the last prompt after all; False when there is none."""
        session = self._kept.pop(0) if self._kept else self.prompt
        if session is None:
            return False
        if session is self.prompt:
            self.prompt = None
        session.close()
        return True


def _fork(session: Session, length: int) -> Session | None:
    """The first ``length`` tokens; None where they have left a sliding window."""
    try:
        return session.fork(length)
    except UsageError:
        return None


@contextmanager
def prompt_kept_in(
    path: Path, cache: PromptCache, adapters: Adapters, not_kept: Callable[[LinnetError], None]
) -> Iterator[None]:
    """Texts go on from what the file, if it is there, holds; afterwards it holds the last prompt among them.

    It is not written when it holds that already. Raises as :meth:`PromptCache.load` does, and where no prompt
    fits into the limit. Why nothing could be written after a text goes to ``not_kept``: the text is there.
    """
    from linnet.formats.atomic import resolved  # not needed without a file

    target = resolved(path)  # now, not when the text is there; what lies behind a link
    cache.check_limit()
    known = cache.load(path, adapters) if os.path.lexists(target) else []
    cache.keeps_prompt = True
    try:
        yield
    finally:
        prompt, cache.prompt, cache.keeps_prompt = cache.prompt, None, False
        if prompt is not None:
            try:
                cache.save(prompt, path, known)
            except LinnetError as error:
                not_kept(error)
