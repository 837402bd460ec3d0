"""What a model sees of a text that is longer than its context.

Nothing is left out of a text unless the user named a way: with ``slide`` the middle goes, see
:func:`cut_middle`; :func:`drop_oldest_turns` shortens a conversation. What is left is evaluated as if it were
all there ever was: the model's answer to a shortened text is its answer to that text, wherever the rest of it
was once seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from linnet.errors import ContextFullError, UsageError

_ALWAYS_KEPT = ("system", "developer")  # roles of messages that are not turns


def cut_middle(ids: Sequence[int], n_ctx: int, n_keep: int) -> list[int]:
    """``ids`` if they fit into ``n_ctx``, else the first ``n_keep`` and so many of the last that they fill
    half of the other room.

    What is left is a text of its own, whose tokens have the positions 0, 1, 2, ... Raises UsageError when
    ``n_keep`` leaves no room.
    """
    last = (n_ctx - n_keep) // 2
    if n_keep < 0 or last < 1:
        raise UsageError(f"n_keep is {n_keep}; in a context of {n_ctx} it can be 0 to {max(n_ctx - 2, 0)}")
    return list(ids) if len(ids) <= n_ctx else [*ids[:n_keep], *ids[-last:]]


def check_prompt(n_tokens: int, n_ctx: int) -> None:
    """Raises ContextFullError, with the counts, for a prompt that is longer than the context."""
    if n_tokens > n_ctx:
        raise ContextFullError(
            f"the prompt has {n_tokens} tokens and the context holds {n_ctx}; shorten it or raise n_ctx"
        )


def drop_oldest_turns(
    messages: Sequence[Mapping[str, Any]],
    render: Callable[[Sequence[Mapping[str, Any]]], Sequence[int]],
    limit: int,
) -> tuple[list[Mapping[str, Any]], Sequence[int], int]:
    """A conversation without as many of its oldest turns as it takes to get within ``limit`` tokens.

    A turn is a message of the user and all that follows up to the next one, so no answer and no result of a
    tool is left without its question. System messages stay, and so does the last turn. ``render`` makes
    token ids of messages. Returns the messages left, their ids and how many messages went. Raises
    ContextFullError with the counts when even the last turn is too long.
    """
    begins = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    ids: Sequence[int] = ()
    for first in [0, *begins[1:]]:
        left = [m for i, m in enumerate(messages) if i >= first or m.get("role") in _ALWAYS_KEPT]
        ids = render(left)
        if len(ids) <= limit:
            return left, ids, len(messages) - len(left)
    raise ContextFullError(
        f"the last turn alone has {len(ids)} tokens, with the system message, and there is room for {limit}; "
        "shorten it or raise n_ctx"
    )
