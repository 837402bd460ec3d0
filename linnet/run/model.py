"""A language model that is ready to use: text in, text out."""

from __future__ import annotations

import codecs
import math
import time
import warnings
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

from linnet.engine.library import int32
from linnet.engine.model import Model
from linnet.engine.sampler import Sampler, SamplingOptions, TokenLogProb
from linnet.engine.session import PAGE_TOKENS, Session, Workspace, pages_of
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import UsageError
from linnet.run.choosing import Chooser, FormOptions, Guide, StopStrings
from linnet.run.context import PromptCache, check_prompt, cut_middle
from linnet.run.speculate import Continuation, Drafter, ModelDrafter, TextDrafter, check_same_tokenizer
from linnet.run.timeline import Timeline
from linnet.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from linnet.engine.adapter import Adapter
    from linnet.engine.session import Adapters
    from linnet.run.chat import Answer, ChatOptions, ChatStream
    from linnet.run.chat_format import ChatFormat
    from linnet.run.rank import Ranked, Score
    from linnet.run.structured import Constraint, GuideTokenizer
    from linnet.run.template import Message

BUNDLED_MODEL = Path(__file__).parent.parent / "models" / "linnet-stories.gguf"

DEFAULT_N_CTX = 4096  # at most, unless asked for: a key/value cache for a model's whole context may not fit
OVERFLOWS = ("error", "slide")  # what happens to a text that does not fit into the context
MOST_LOGPROBS = 100  # of other tokens, per token
TIMELINES = 4  # contexts that fit into memory at once, long ones as far as they are used


class HoldingOptions(TypedDict, total=False):
    """How a model is held in memory; meaning and defaults as for :func:`load`."""

    n_ctx: int | None
    threads: int | None
    kv_type: str | None
    isa: str | None
    cache_bytes: int | None


def load(
    path: str | Path | None = None,
    *,
    type: str | None = None,
    draft_model: str | Path | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    ram: int | None = None,
    **options: Unpack[HoldingOptions],
) -> LanguageModel:
    """Loads a GGUF file or a checkpoint folder; without ``path`` the bundled model.

    ``type`` is how to hold the weights (``q4_0``, ``q8_0``, ...) where not as they are stored.
    ``draft_model`` is a smaller one with the same tokenizer, which drafts for it. ``adapters``
    are folders of PEFT by the names under which calls choose them.
    ``n_ctx`` is the context in tokens (default: what the model was made for, at most
    4096), ``threads`` defaults to the processors this process may use, ``kv_type`` is
    ``f16`` (default), ``q8_0``, ``q4_0`` or ``f32``, ``isa`` forces an instruction set,
    ``cache_bytes`` of earlier texts are kept for later ones that begin alike (default: as
    much as one context takes). ``ram`` is a budget in bytes for the whole process: it
    chooses the context and ``kv_type`` where they are not given, and there is one
    timeline and no cache. Raises SourceError, FormatError or UnsupportedError, UsageError
    for a draft model whose tokens are others or a budget that is too small.
    """
    source = Path(path) if path is not None else BUNDLED_MODEL
    timelines = TIMELINES
    if ram is not None:
        if draft_model is not None:
            raise UsageError("a budget of memory is for one model; leave out the draft model or --ram")
        options, timelines = _within(ram, source, type, options), 1
    model = Model.open(source, type)
    draft = Model.open(Path(draft_model)) if draft_model is not None else None
    loaded = LanguageModel(model, draft=draft, timelines=timelines, **options)
    for name, folder in (adapters or {}).items():
        loaded.add_adapter(name, folder)
    return loaded


def _within(ram: int, source: Path, type: str | None, options: HoldingOptions) -> HoldingOptions:
    """``options`` with a context that fits into ``ram`` bytes. Raises UsageError where none does."""
    from linnet.run.fit import fitting, open_outline  # numpy: not needed without a budget

    outline = open_outline(source, type, in_process=True)
    plan = fitting(outline, ram, options.get("n_ctx"), options.get("kv_type"), options.get("threads"))
    return {**options, "n_ctx": plan.n_ctx, "kv_type": plan.kv_type, "cache_bytes": 0}


@dataclass
class Generation:
    """A text and what it cost.

    ``finish_reason`` is ``stop`` (end of text, or a stop string, which :attr:`text` leaves out),
    ``length``, ``context`` (full) or ``interrupted`` (by whoever read the stream). Of the
    ``prompt_tokens`` those not known from earlier texts were evaluated (``prefilled_tokens``).
    ``dropped_tokens`` of the text are no longer in the context, which slid. ``drafted`` counts the
    guesses that were checked, ``accepted`` those of them that were right. ``log_probs`` belong to
    ``ids``, where they were asked for.
    """

    prompt_tokens: int
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = "length"
    prefilled_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    drafted: int = 0
    accepted: int = 0
    dropped_tokens: int = 0
    log_probs: list[TokenLogProb] = field(default_factory=list)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were known from earlier texts."""
        return self.prompt_tokens - self.prefilled_tokens

    @property
    def mean_log_prob(self) -> float | None:
        """Natural log per token; None where nothing was asked for or made."""
        values = [token.log_prob for token in self.log_probs]
        return sum(values) / len(values) if values else None

    @property
    def prefill_tok_s(self) -> float | None:
        """Evaluated prompt tokens per second; None when nothing was measured."""
        return self.prefilled_tokens / self.prefill_s if self.prefill_s > 0 else None

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens per second after the first, which comes out of prefill; None for fewer than two."""
        steps = len(self.ids) - 1
        return steps / self.decode_s if steps > 0 and self.decode_s > 0 else None


class TextStream:
    """Iterates over the pieces of a text as they are made; never splits a character.

    :attr:`generation` is complete when the iteration has ended, and true up to now
    before that. A stream has a timeline of its own, so several may run at once.
    """

    def __init__(
        self,
        timeline: Timeline,
        prompt: Sequence[int],
        chooser: Chooser,
        max_tokens: int,
        drafter: Drafter | None = None,
        ends: Collection[int] | None = None,
        stop: str | Sequence[str] = (),
    ) -> None:
        self.generation = Generation(prompt_tokens=len(prompt), dropped_tokens=timeline.dropped_tokens)
        self.seed = chooser.sampler.seed
        tokenizer = timeline.session.model.tokenizer
        self._ends = (tokenizer.eos_id,) if ends is None else ends
        self._stop = StopStrings(stop)
        self.tokens = self._draw(timeline, prompt, chooser, max_tokens, drafter)  # read these or the text
        self._pieces = self._generate(tokenizer, prompt, self.tokens)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends the text early. What was evaluated is left to later calls."""
        self._pieces.close()
        self.tokens.close()

    def finish(self) -> Generation:
        """The whole text."""
        for _ in self:
            pass
        return self.generation

    def _generate(
        self, tokenizer: Tokenizer, prompt: Sequence[int], tokens: Generator[int]
    ) -> Generator[str]:
        made = self.generation
        for piece in self._pieces_of(tokenizer, prompt, tokens):
            shown = self._stop.push(piece)
            made.text += shown
            if shown:
                yield shown
            if self._stop.found:
                tokens.close()
                made.finish_reason = "stop"
                return
        rest = self._stop.rest()
        made.text += rest
        if rest:
            yield rest

    def _pieces_of(self, tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterator[int]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            at_start = len(self.generation.ids) == 1 and list(prompt) == [tokenizer.bos_id]
            yield decoder.decode(tokenizer.decode([token], at_start=at_start))
        yield decoder.decode(b"", final=True)

    def _draw(
        self,
        timeline: Timeline,
        prompt: Sequence[int],
        chooser: Chooser,
        max_tokens: int,
        drafter: Drafter | None,
    ) -> Generator[int]:
        """The tokens of the text, each evaluated only when the one after it is wanted."""
        made = self.generation
        started = time.perf_counter()
        made.prefilled_tokens = timeline.prefill(prompt)
        for token in prompt:
            chooser.sampler.accept(token)
        made.prefill_s = time.perf_counter() - started
        slide = timeline.slide if timeline.n_keep is not None else None
        continuation = Continuation(timeline.session, chooser, drafter, slide)
        try:
            for token in continuation.tokens(max_tokens):
                if made.ids:
                    made.decode_s += time.perf_counter() - started
                made.drafted, made.accepted = continuation.drafted, continuation.accepted
                made.dropped_tokens = timeline.dropped_tokens
                if token in self._ends:
                    made.finish_reason = "stop"
                    return
                made.ids.append(token)
                made.log_probs = chooser.log_probs[: len(made.ids)]
                yield token
                started = time.perf_counter()
        finally:
            timeline.finish()
        if chooser.finished:
            made.finish_reason = "stop"
        elif len(made.ids) < max_tokens:
            made.finish_reason = "context"


# Where these differ from a sampler's own defaults, which leave the probabilities as they are.
DEFAULT_SAMPLING: SamplingOptions = {"temperature": 0.8, "top_p": 0.95, "min_p": 0.05}


class StreamOptions(SamplingOptions, FormOptions, total=False):
    """The options of :meth:`LanguageModel.stream`, which has their meaning and defaults."""

    max_tokens: int
    speculate: bool
    timeline: Timeline | None
    ends: Collection[int] | None
    overflow: str
    n_keep: int
    adapter: str | Mapping[str, float] | None
    stop: str | Sequence[str]
    guide: Guide | None
    logprobs: int | None


_STREAM_DEFAULTS: StreamOptions = {
    "max_tokens": 256, "speculate": True, "timeline": None, "ends": None, "overflow": "error", "n_keep": 0,
    "adapter": None, "stop": (), "guide": None, "logprobs": None,
    "json_schema": None, "regex": None, "choices": None, "grammar": None,
}  # fmt: skip


class LanguageModel:
    """A model with its tokenizer, and the workspace its timelines share. Options as for :func:`load`.

    :meth:`stream`, :meth:`generate` and :meth:`score` each open a timeline of their
    own, so they may run at the same time. :attr:`session` is one more, for whoever
    wants to move it by hand; it belongs to one thread at a time. :attr:`draft` is the
    model that drafts for this one, if there is one.
    """

    def __init__(
        self,
        model: Model,
        *,
        draft: Model | None = None,
        n_ctx: int | None = None,
        threads: int | None = None,
        kv_type: str | None = None,
        timelines: int = TIMELINES,
        isa: str | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = model.tokenizer
        self._n_ctx = int32("n_ctx", n_ctx if n_ctx is not None else min(model.max_seq_len, DEFAULT_N_CTX))
        self.workspace = Workspace(
            model,
            kv_tokens=_room_for(self._n_ctx, timelines),
            n_threads=threads,
            kv_type=TensorType.parse(kv_type if kv_type is not None else "f16"),
            isa=isa,
        )
        self.adapters: dict[str, Adapter] = {}
        self.session = self.open_session()
        self._guide_tokenizers: dict[tuple[int, ...], GuideTokenizer] = {}
        one = self.session.n_bytes + pages_of(self._n_ctx) * self.workspace.page_bytes
        most = cache_bytes if cache_bytes is not None else one
        if most < 0:
            raise UsageError(f"cache_bytes is {most}; give 0 for none, or how many to keep")
        self.cache = PromptCache(self.workspace, self._n_ctx, most)
        self.draft: LanguageModel | None = None
        if draft is not None:
            check_same_tokenizer(model.tokenizer, draft.tokenizer)
            self.draft = LanguageModel(draft, n_ctx=self._n_ctx, threads=threads, kv_type=kv_type, isa=isa)

    def open_session(self) -> Session:
        """A new, empty timeline of :attr:`n_ctx` tokens."""
        return Session(self.workspace, self._n_ctx)

    @property
    def n_ctx(self) -> int:
        """Tokens of context of every timeline."""
        return self.session.n_ctx

    def tokenize(self, text: str, *, bos: bool | None = None, special: bool = False) -> list[int]:
        """Token ids of ``text``.

        ``bos`` puts the beginning-of-sequence token in front (default: as the makers of
        the tokenizer do); with ``special`` the special tokens written out in the text
        become their ids.
        """
        ids = self.tokenizer.encode(text, special=special)
        if not (self.tokenizer.add_bos if bos is None else bos):
            return ids
        if self.tokenizer.bos_id is None:
            raise UsageError("this tokenizer has no beginning-of-sequence token; pass bos=False")
        return [self.tokenizer.bos_id, *ids]

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        return self.tokenizer.decode(ids, special=special).decode("utf-8", "replace")

    def stream(self, prompt: str | Sequence[int], **options: Unpack[StreamOptions]) -> TextStream:
        """Continues ``prompt`` (text or token ids), piece by piece.

        Draws with temperature 0.8, top-p 0.95 and min-p 0.05 unless the
        :class:`~linnet.engine.sampler.SamplingOptions` say otherwise; ``temperature`` 0 always takes the
        most probable token. The same seed gives the same text, with ``speculate`` (several tokens per pass
        where that is faster, see :mod:`linnet.run.speculate`, on by default) and without. At most
        ``max_tokens`` (256) are made. What a ``timeline`` of this model (default: one that goes on from an
        earlier call which began alike) holds of the prompt is not evaluated again. The text ends with one of
        the tokens ``ends`` (default: the end of a text), and before the first of the strings ``stop``.
        ``json_schema``, ``regex``, ``choices`` or ``grammar`` says what it has to be (see
        :class:`~linnet.run.choosing.FormOptions`), a ``guide`` which tokens may come; ``logprobs`` asks for
        the log-probability of each token and of so many others.

        A text longer than the context is an error if it is the prompt, and otherwise
        ends there. With ``overflow="slide"`` its middle is left out instead, as
        :func:`linnet.run.context.cut_middle` says, but never the first ``n_keep`` tokens
        and BOS. ``adapter`` is one of those the model was loaded with, or several with
        their scales. Raises UsageError for an empty prompt without BOS or an impossible
        option, ContextFullError when the prompt does not fit.
        """
        own: StreamOptions = {**_STREAM_DEFAULTS}
        own.update({name: value for name, value in options.items() if name in own})  # type: ignore[typeddict-item]
        sampling = {name: value for name, value in options.items() if name not in _STREAM_DEFAULTS}
        max_tokens, logprobs = own["max_tokens"], own["logprobs"]
        if max_tokens < 1:
            raise UsageError(f"max_tokens is {max_tokens}; it must be at least 1")
        if logprobs is not None and not 0 <= logprobs <= MOST_LOGPROBS:
            raise UsageError(f"logprobs is {logprobs}; give 0 to {MOST_LOGPROBS}")
        ids = self._prompt_ids(prompt)
        kept = self._tokens_kept(ids, own["overflow"], own["n_keep"])
        left = ids if kept is None else cut_middle(ids, self.n_ctx, kept)
        check_prompt(len(left), self.n_ctx)
        chooser = Chooser(self._sampler(sampling), self._guide(own), logprobs)  # type: ignore[arg-type]
        adapters, timeline = self.chosen_adapters(own["adapter"]), own["timeline"]
        if timeline is not None and adapters not in ((), timeline.session.adapters):
            raise UsageError("the timeline has other adapters; open one for these")
        timeline = timeline or Timeline(self.cache.open(left, adapters), self.cache)
        timeline.n_keep, timeline.dropped_tokens = kept, len(ids) - len(left)
        drafter = self._open_drafter(left) if own["speculate"] else None
        return TextStream(timeline, left, chooser, max_tokens, drafter, own["ends"], own["stop"])

    def generate(
        self, prompt: str | Sequence[int], *, best_of: int = 1, **options: Unpack[StreamOptions]
    ) -> Generation:
        """As :meth:`stream`, with the same options, all at once.

        Of ``best_of`` texts, drawn with successive seeds, the one whose tokens have the highest mean
        log-probability is returned.
        """
        if best_of < 1:
            raise UsageError(f"best_of is {best_of}; it must be at least 1")
        if best_of == 1:
            return self.stream(prompt, **options).finish()
        if options.get("guide") is not None:
            raise UsageError("a guide is for one text; give best_of a schema or grammar instead")
        if options.get("logprobs") is None:
            options["logprobs"] = 0
        made: list[Generation] = []
        for i in range(best_of):
            stream = self.stream(prompt, **options)
            if i == 0:
                first = stream.seed
            made.append(stream.finish())
            options["seed"] = (first + i + 1) % (1 << 64)
        return max(made, key=lambda one: float("-inf") if one.mean_log_prob is None else one.mean_log_prob)

    def save_prompt(
        self,
        path: str | Path,
        prompt: str | Sequence[int],
        *,
        adapter: str | Mapping[str, float] | None = None,
    ) -> int:
        """Evaluates what is not known of ``prompt`` and writes it to a file for :meth:`load_prompt`.

        Returns how many tokens are in it: all, where ``cache_bytes`` allow. Raises UsageError, TargetError.
        """
        ids = self._prompt_ids(prompt)
        check_prompt(len(ids), self.n_ctx)
        timeline = Timeline(self.cache.open(ids, self.chosen_adapters(adapter)), self.cache)
        timeline.prefill(ids)
        n_tokens = self.cache.save(timeline.session, Path(path))
        timeline.finish()
        return n_tokens

    def load_prompt(self, path: str | Path, *, adapter: str | Mapping[str, float] | None = None) -> int:
        """Makes what a file holds known to later calls with these adapters; returns how many tokens it holds.

        Raises SourceError for a file of another model, type or version, FormatError for a damaged one.
        """
        return len(self.cache.load(Path(path), self.chosen_adapters(adapter)))

    def constrain(self, ends: Collection[int] | None = None, **form: Unpack[FormOptions]) -> Constraint:
        """What texts have to be, compiled for this model and texts that end with ``ends``; gives guides.

        Raises UnsupportedError, with the reason, for a form that cannot be held.
        """
        from linnet.run.structured import Constraint

        return Constraint(self.guide_tokenizer(ends), **form)

    def guide_tokenizer(self, ends: Collection[int] | None = None) -> GuideTokenizer:
        """The vocabulary of this model for texts that end with ``ends``, as guides need it."""
        from linnet.run.structured import GuideTokenizer

        own = [self.tokenizer.eos_id] if ends is None else ends
        chosen = tuple(sorted(token for token in own if token is not None))
        if chosen not in self._guide_tokenizers:
            self._guide_tokenizers[chosen] = GuideTokenizer(self.tokenizer, self.model.vocab_size, chosen)
        return self._guide_tokenizers[chosen]

    def _guide(self, options: StreamOptions) -> Guide | None:
        form = {name: options[name] for name in FormOptions.__annotations__}  # type: ignore[literal-required]
        if all(value is None for value in form.values()):
            return options["guide"]
        if options["guide"] is not None:
            raise UsageError("give a guide or what the text has to be, not both")
        return self.constrain(options["ends"], **form).guide()

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        ids = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise UsageError(
                "the prompt is empty and this model has no beginning-of-sequence token; write something"
            )
        return ids

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Makes the adapter of a PEFT folder ready under ``name``.

        Raises SourceError, FormatError or UnsupportedError, also for one of another model.
        """
        from linnet.engine.adapter import Adapter

        self.adapters[name] = Adapter(self.model, Path(folder))

    def chosen_adapters(self, wanted: str | Mapping[str, float] | None) -> Adapters:
        """Adapters by name, with their scales. Raises UsageError."""
        named = {wanted: 1.0} if isinstance(wanted, str) else dict(wanted or {})
        for name, scale in named.items():
            if name not in self.adapters:
                known = ", ".join(self.adapters) or "none was loaded"
                raise UsageError(f"there is no adapter '{name}'; known: {known}")
            if not math.isfinite(scale):
                raise UsageError(f"the scale of adapter '{name}' is {scale}; give a finite number")
        return tuple((self.adapters[name], float(scale)) for name, scale in named.items())

    def _tokens_kept(self, ids: list[int], overflow: str, n_keep: int) -> int | None:
        """How many of the first tokens stay when a text slides; None when it does not."""
        if overflow not in OVERFLOWS:
            raise UsageError(f"overflow is '{overflow}'; choose from {', '.join(OVERFLOWS)}")
        if overflow == "error":
            return None
        return 1 if n_keep == 0 and ids[0] == self.tokenizer.bos_id else n_keep

    def _sampler(self, sampling: SamplingOptions) -> Sampler:
        chosen: SamplingOptions = {**DEFAULT_SAMPLING, **sampling}
        if chosen.get("repeat_last_n") == -1:
            chosen["repeat_last_n"] = self.n_ctx
        if chosen.get("dry_penalty_last_n") == -1:
            chosen["dry_penalty_last_n"] = self.n_ctx
        return Sampler(self.model.vocab_size, self.tokenizer, **chosen)

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Answer:
        """The answer to a conversation; see :func:`linnet.run.chat.stream_chat`."""
        return self.stream_chat(messages, **options).answer()

    def stream_chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> ChatStream:
        """As :meth:`chat`, piece by piece."""
        from linnet.run.chat import stream_chat

        return stream_chat(self, messages, **options)

    @cached_property
    def chat_format(self) -> ChatFormat:
        """How this model writes conversations."""
        from linnet.run.chat_format import ChatFormat
        from linnet.run.template import ChatTemplate

        template = ChatTemplate.of(self.model.metadata, self.tokenizer)
        if template.plain:
            warnings.warn("this model has no chat template; it is shown a plain dialogue", stacklevel=3)
        return ChatFormat(template, self.tokenizer, self.model.metadata)

    @property
    def has_template(self) -> bool:
        """Was this model made for conversations, as its file says?"""
        return any(key.startswith("tokenizer.chat_template") for key in self.model.metadata)

    def _open_drafter(self, prompt: Sequence[int]) -> Drafter:
        if self.draft is None:
            return TextDrafter(prompt)
        return ModelDrafter(self.draft.open_session(), prompt)

    @overload
    def score(self, ids: Sequence[int]) -> NDArray[np.float32]: ...

    @overload
    def score(
        self, ids: str | Sequence[int], continuations: Sequence[str | Sequence[int]]
    ) -> list[Score]: ...

    def score(
        self,
        ids: str | Sequence[int],
        continuations: Sequence[str | Sequence[int]] | None = None,
    ) -> NDArray[np.float32] | list[Score]:
        """Natural-log probability of each of ``ids`` given all before it, [len(ids)]; the first is NaN.

        With ``continuations`` the probability of each of them after ``ids``, which may then be
        a text, as :func:`linnet.run.rank.score_continuations` says. Raises ContextFullError
        when they do not fit into the context.
        """
        if continuations is not None:
            from linnet.run.rank import score_continuations

            return score_continuations(self, ids, continuations)
        if isinstance(ids, str):
            ids = self.tokenize(ids)
        with self.open_session() as session:
            return session.score(ids)

    def embed(
        self, texts: Sequence[str], *, pooling: str | None = None, normalize: bool = True
    ) -> NDArray[np.float32]:
        """A vector for each of ``texts``, as :func:`linnet.run.embed.embed_texts` says."""
        from linnet.run.embed import embed_texts

        return embed_texts(self, texts, pooling=pooling, normalize=normalize)

    def rerank(self, query: str, documents: Sequence[str], *, method: str = "embedding") -> list[Ranked]:
        """``documents`` from the best answer to ``query`` on, as :func:`linnet.run.rank.rerank` says."""
        from linnet.run.rank import rerank

        return rerank(self, query, documents, method=method)


def _room_for(n_ctx: int, timelines: int) -> int:
    """Tokens the timelines of a model can hold together, in whole pages; only what is used costs memory."""
    tokens = pages_of(n_ctx) * PAGE_TOKENS
    return min(max(tokens, timelines * min(tokens, DEFAULT_N_CTX)), 2**31 - 1)
