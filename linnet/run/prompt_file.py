"""``linnet run --prompt-cache``: what was evaluated of a prompt, kept in a file between runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from linnet.formats.atomic import resolved

if TYPE_CHECKING:
    from linnet.engine.session import Adapters
    from linnet.run.context import PromptCache


@contextmanager
def prompt_kept_in(path: Path, cache: PromptCache, adapters: Adapters) -> Iterator[None]:
    """Texts go on from what the file, if it is there, holds; afterwards it holds the last prompt among them.

    It is not written when it holds that already. Raises as :meth:`PromptCache.load` and
    :meth:`PromptCache.save` do.
    """
    resolved(path)  # now, not when the text is there
    known = cache.load(path, adapters) if os.path.lexists(path) else []
    cache.keeps_prompt = True
    try:
        yield
    finally:
        prompt, cache.prompt, cache.keeps_prompt = cache.prompt, None, False
        if prompt is not None:
            cache.save(prompt, path, known)
