"""The options of a text that a model makes, and their defaults."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from linnet.engine.sampler import SamplingOptions
from linnet.options import MAX_TOKENS
from linnet.run.text.choosing import FormOptions, Guide
from linnet.run.text.timeline import Timeline


class StreamOptions(SamplingOptions, FormOptions, total=False):
    """The options of :meth:`LanguageModel.stream`, which has their meaning and defaults."""

    max_tokens: int | None
    speculate: bool
    timeline: Timeline | None
    ends: Collection[int] | None
    overflow: str
    n_keep: int
    adapter: str | Mapping[str, float] | None
    stop: str | Sequence[str]
    guide: Guide | None
    logprobs: int | None


STREAM_DEFAULTS: StreamOptions = {
    "max_tokens": MAX_TOKENS, "speculate": True, "timeline": None, "ends": None, "overflow": "error",
    "n_keep": 0, "adapter": None, "stop": (), "guide": None, "logprobs": None,
    "json_schema": None, "regex": None, "choices": None, "grammar": None,
}  # fmt: skip
