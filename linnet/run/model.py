"""A language model that is ready to use: text in, text out."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

from linnet.display import shown
from linnet.engine import arguments
from linnet.engine.arguments import given, int32, listed, real, token_ids, whole, wrong
from linnet.engine.library import int32_array
from linnet.engine.model import Model
from linnet.engine.sampler import Sampler, SamplingOptions
from linnet.engine.session import PAGE_TOKENS, Session, Workspace, check_finite, pages_of
from linnet.errors import UsageError, warn
from linnet.formats.gguf_keys import MAX_TEXT_KEY, TEMPLATE_KEY
from linnet.options import DEFAULT_N_CTX, OVERFLOWS
from linnet.run.text import generation
from linnet.run.text.choosing import Chooser, FormOptions, Guide
from linnet.run.text.context import check_prompt, cut_middle
from linnet.run.text.generation import Generation, TextStream
from linnet.run.text.options import STREAM_DEFAULTS, StreamOptions
from linnet.run.text.prompt_cache import PromptCache
from linnet.run.text.speculate import Drafter, ModelDrafter, TextDrafter, check_same_tokenizer
from linnet.run.text.timeline import Timeline
from linnet.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from linnet.engine.adapter import Adapter
    from linnet.engine.session import Adapters
    from linnet.run.chat.conversation import Answer, ChatOptions, ChatStream
    from linnet.run.chat.format import ChatFormat
    from linnet.run.chat.template import Message
    from linnet.run.rank import Ranked, Score
    from linnet.run.text.structured import Constraint, GuideTokenizer

BUNDLED_MODEL = Path(__file__).parent.parent / "models" / "linnet-stories.gguf"

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
    are PEFT folders or GGUF files by the names under which calls choose them.
    ``n_ctx`` is the context in tokens (default: what the model was made for, at most
    4096), ``threads`` defaults to the processors this process may use, ``kv_type`` is
    ``f16`` (default), ``q8_0``, ``q4_0`` or ``f32``, ``isa`` forces an instruction set,
    ``cache_bytes`` of earlier texts are kept for later ones that begin alike (default: as
    much as one context takes). ``ram`` is a budget in bytes for the whole process: it
    chooses the context and ``kv_type`` where they are not given, and there is one
    timeline and no cache. Raises SourceError, FormatError or UnsupportedError, UsageError
    for a draft model whose tokens are others or a budget that is too small.
    """
    source = arguments.path("path", path) if path is not None else BUNDLED_MODEL
    timelines = TIMELINES
    if not isinstance(adapters, (Mapping, NoneType)):
        raise wrong("adapters", adapters, "a dict of names and folders or files")
    if ram is not None:
        ram = whole("ram", ram, least=1, most=(1 << 63) - 1)
        if draft_model is not None:
            raise UsageError("a budget of memory is for one model; leave out the draft model or --ram")
        options, timelines = _within(ram, source, type, options), 1
    model = Model.open(source, type)
    draft = Model.open(arguments.path("draft_model", draft_model)) if draft_model is not None else None
    loaded = LanguageModel(model, draft=draft, timelines=timelines, **options)
    for name, adapter in (adapters or {}).items():
        loaded.add_adapter(name, adapter)
    return loaded


def _within(ram: int, source: Path, type: str | None, options: HoldingOptions) -> HoldingOptions:
    """``options`` with a context that fits into ``ram`` bytes. Raises UsageError where none does."""
    from linnet.run.fit import fitting, open_outline  # numpy: not needed without a budget

    outline = open_outline(source, type, in_process=True)
    plan = fitting(outline, ram, options.get("n_ctx"), options.get("kv_type"), options.get("threads"))
    return {**options, "n_ctx": plan.n_ctx, "kv_type": plan.kv_type, "cache_bytes": 0}


# Where these differ from a sampler's own defaults, which leave the probabilities as they are.
DEFAULT_SAMPLING: SamplingOptions = {"temperature": 0.8, "top_p": 0.95, "min_p": 0.05}


class LanguageModel:
    """A model with its tokenizer, and the workspace its timelines share. Options as for :func:`load`.

    :meth:`stream`, :meth:`generate` and :meth:`score` each open a timeline of their
    own, so they may run at the same time. :attr:`session` is one more, for whoever
    wants to move it by hand; it belongs to one thread at a time. :attr:`draft` is the
    model that drafts for this one, if there is one.
    """

    texts_together = 64  # that are embedded in one call into the core

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
        self._n_ctx = int32("n_ctx", n_ctx if n_ctx is not None else usual_n_ctx(model), least=1)
        # An encoder keeps nothing of a text, so that many of them cost little more than one.
        together = 1 if model.causal or timelines == 1 else self.texts_together
        self.pages_together = max(pages_of(self._n_ctx), together)
        self.workspace = Workspace(
            model,
            kv_tokens=_room_for(self.pages_together * PAGE_TOKENS, timelines),
            n_threads=threads,
            kv_type=TensorType.parse(kv_type if kv_type is not None else "f16"),
            isa=isa,
        )
        self.adapters: dict[str, Adapter] = {}
        self.session = self.open_session()
        self._guide_tokenizers: dict[tuple[int, ...], GuideTokenizer] = {}
        one = self.session.n_bytes + pages_of(self._n_ctx) * self.workspace.page_bytes
        most = whole("cache_bytes", cache_bytes if cache_bytes is not None else one, 0, 1 << 62)
        self.cache = PromptCache(self.workspace, self._n_ctx, most)
        self.draft: LanguageModel | None = None
        if draft is not None:
            draft.check_writes()
            check_same_tokenizer(model.tokenizer, draft.tokenizer)
            self.draft = LanguageModel(draft, n_ctx=self._n_ctx, threads=threads, kv_type=kv_type, isa=isa)

    def open_session(self, adapters: Adapters = ()) -> Session:
        """A new, empty timeline of :attr:`n_ctx` tokens."""
        return Session(self.workspace, self._n_ctx, adapters)

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
        most probable token. None stands for the default of any option. The same seed gives the same text,
        with :mod:`~linnet.run.text.speculate` (several tokens per pass where that is faster, the default)
        and without. At most ``max_tokens`` (256) are made. What a ``timeline`` of this model
        (default: one that goes on from an earlier call which began alike) holds of the prompt is not
        evaluated again. The text ends with one of the tokens ``ends`` (default: the end of a text), and
        before the first of the strings ``stop``.
        ``json_schema``, ``regex``, ``choices`` or ``grammar`` says what it has to be (see
        :class:`~linnet.run.text.choosing.FormOptions`), a ``guide`` which tokens may come; ``logprobs`` asks
        for the log-probability of each token and of so many others.

        A text longer than the context is an error if it is the prompt, and otherwise
        ends there. With ``overflow="slide"`` its middle is left out instead, as
        :func:`linnet.run.text.context.cut_middle` says, but never the first ``n_keep`` tokens
        and BOS. ``adapter`` is one of those the model was loaded with, or several with
        their scales. Raises UsageError for an empty prompt without BOS or an impossible
        option, ContextFullError when the prompt does not fit.
        """
        self.model.check_writes()
        named = given(options)
        own: StreamOptions = {**STREAM_DEFAULTS}
        own.update({name: value for name, value in named.items() if name in own})  # type: ignore[typeddict-item]
        sampling = {name: value for name, value in named.items() if name not in STREAM_DEFAULTS}
        max_tokens, logprobs = int32("max_tokens", own["max_tokens"], least=1), own["logprobs"]
        own["ends"] = None if own["ends"] is None else token_ids("ends", own["ends"])
        if logprobs is not None:
            logprobs = whole("logprobs", logprobs, 0, MOST_LOGPROBS)
        ids = self._prompt_ids(prompt)
        kept = self._tokens_kept(ids, own["overflow"], own["n_keep"])
        left = ids if kept is None else cut_middle(ids, self.n_ctx, kept)
        check_prompt(len(left), self.n_ctx)
        chooser = Chooser(self._sampler(sampling), self._guide(own), logprobs)  # type: ignore[arg-type]
        adapters, timeline = self.chosen_adapters(own["adapter"]), own["timeline"]
        if not isinstance(timeline, (Timeline, NoneType)):
            raise wrong("timeline", timeline, "one that was opened for this model")
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
        begin = partial(self.stream, prompt)
        return generation.best_of(best_of, options, begin, TextStream.finish).generation

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
        self.model.check_writes()
        target, ids = arguments.path("path", path), self._prompt_ids(prompt)
        check_prompt(len(ids), self.n_ctx)
        timeline = Timeline(self.cache.open(ids, self.chosen_adapters(adapter)), self.cache)
        timeline.prefill(ids)
        n_tokens = self.cache.save(timeline.session, target)
        timeline.finish()
        return n_tokens

    def load_prompt(self, path: str | Path, *, adapter: str | Mapping[str, float] | None = None) -> int:
        """Makes what a file holds known to later calls with these adapters; returns how many tokens it holds.

        Raises SourceError for a file of another model, type or version, FormatError for a damaged one.
        """
        return len(self.cache.load(arguments.path("path", path), self.chosen_adapters(adapter)))

    def constrain(self, ends: Collection[int] | None = None, **form: Unpack[FormOptions]) -> Constraint:
        """What texts have to be, compiled for this model and texts that end with ``ends``; gives guides.

        Raises UnsupportedError, with the reason, for a form that cannot be held.
        """
        from linnet.run.text.structured import Constraint

        return Constraint(self.guide_tokenizer(ends), **form)

    def guide_tokenizer(self, ends: Collection[int] | None = None) -> GuideTokenizer:
        """The vocabulary of this model for texts that end with ``ends``, as guides need it."""
        from linnet.run.text.structured import GuideTokenizer

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
        if not isinstance(prompt, Iterable):
            raise wrong("the prompt", prompt, "a text or a list of token ids")
        ids = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        int32_array(ids)  # refuses what is no number
        if not ids:
            raise UsageError(
                "the prompt is empty and this model has no beginning-of-sequence token; write something"
            )
        return ids

    def add_adapter(self, name: str, path: str | Path) -> None:
        """Makes an adapter, a PEFT folder or a GGUF file, ready under ``name``.

        Raises SourceError, FormatError or UnsupportedError, also for one of another model.
        """
        from linnet.engine.adapter import Adapter

        self.adapters[name] = Adapter(self.model, arguments.path("the path of an adapter", path))

    def chosen_adapters(self, wanted: str | Mapping[str, float] | None) -> Adapters:
        """Adapters by name, with their scales. Raises UsageError."""
        if not isinstance(wanted, (str, Mapping, NoneType)):
            raise wrong("adapter", wanted, "a name, or a dict of names and scales")
        named = {wanted: 1.0} if isinstance(wanted, str) else dict(wanted or {})
        for name, scale in named.items():
            if name not in self.adapters:
                known = ", ".join(self.adapters) or "none was loaded"
                raise UsageError(f"there is no adapter '{name}'; known: {known}")
            held = ctypes.c_float(real(f"the scale of adapter '{name}'", scale)).value  # as the core holds it
            if not math.isfinite(held):
                raise UsageError(
                    f"the scale of adapter '{name}' is {scale}; give a number between -3.4e38 and 3.4e38"
                )
        return tuple((self.adapters[name], float(scale)) for name, scale in named.items())

    def _tokens_kept(self, ids: list[int], overflow: str, n_keep: int) -> int | None:
        """How many of the first tokens stay when a text slides; None when it does not."""
        if overflow not in OVERFLOWS:
            raise UsageError(f"overflow is {shown(overflow)}; choose from {', '.join(OVERFLOWS)}")
        if overflow == "turns":
            raise UsageError("overflow 'turns' leaves turns out, and this is no conversation; use 'slide'")
        n_keep = int32("n_keep", n_keep, least=0)
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

    def chat(
        self, messages: Sequence[Message], *, best_of: int = 1, **options: Unpack[ChatOptions]
    ) -> Answer:
        """The answer to a conversation; see :func:`~linnet.run.chat.conversation.stream_chat`, and
        :meth:`generate` of ``best_of``."""
        begin = partial(self.stream_chat, messages)
        return generation.best_of(best_of, options, begin, lambda stream: stream.answer()).answer()

    def stream_chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> ChatStream:
        """As :meth:`chat`, piece by piece."""
        from linnet.run.chat.conversation import stream_chat

        return stream_chat(self, messages, **options)

    @cached_property
    def chat_format(self) -> ChatFormat:
        """How this model writes conversations."""
        from linnet.run.chat.format import ChatFormat
        from linnet.run.chat.template import ChatTemplate

        template = ChatTemplate.of(self.model.metadata, self.tokenizer)
        if template.plain:
            warn("this model has no chat template; it is shown a plain dialogue")
        return ChatFormat(template, self.tokenizer, self.model.metadata)

    @property
    def has_template(self) -> bool:
        """Was this model made for conversations, as its file says?"""
        return any(key.startswith(TEMPLATE_KEY) for key in self.model.metadata)

    def _open_drafter(self, prompt: Sequence[int]) -> Drafter:
        if self.draft is None:
            return TextDrafter(prompt)
        return ModelDrafter(self.draft.open_session(), prompt)

    @overload
    def score(
        self, ids: Sequence[int], *, adapter: str | Mapping[str, float] | None = None
    ) -> NDArray[np.float32]: ...

    @overload
    def score(
        self,
        ids: str | Sequence[int],
        continuations: Sequence[str | Sequence[int]],
        *,
        adapter: str | Mapping[str, float] | None = None,
    ) -> list[Score]: ...

    def score(
        self,
        ids: str | Sequence[int],
        continuations: Sequence[str | Sequence[int]] | None = None,
        *,
        adapter: str | Mapping[str, float] | None = None,
    ) -> NDArray[np.float32] | list[Score]:
        """Natural-log probability of each of ``ids`` given all before it, [len(ids)]; the first is NaN.

        With ``continuations`` the probability of each of them after ``ids``, which may then be
        a text, as :func:`linnet.run.rank.score_continuations` says; ``adapter`` as in :meth:`stream`.
        Raises ContextFullError when they do not fit into the context, LinnetError for damaged weights.
        """
        from linnet.run.rank import score_continuations

        self.model.check_writes()
        if continuations is not None:
            return score_continuations(self, ids, continuations, adapter)
        if isinstance(ids, str):
            ids = self.tokenize(ids)
        ids = listed("ids", ids, "token ids")
        with self.open_session(self.chosen_adapters(adapter)) as session:
            log_probs = session.score(ids)
        check_finite(log_probs[1:], "probability")
        return log_probs

    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: str | None = None,
        normalize: bool = True,
        cut: bool = False,
        adapter: str | Mapping[str, float] | None = None,
    ) -> NDArray[np.float32]:
        """A vector for each of ``texts``, as :func:`linnet.run.embed.embed_texts` says."""
        from linnet.run.embed import embed_texts

        return embed_texts(self, texts, pooling=pooling, normalize=normalize, cut=cut, adapter=adapter)

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        method: str | None = None,
        cut: bool = False,
        adapter: str | Mapping[str, float] | None = None,
    ) -> list[Ranked]:
        """``documents`` from the best answer to ``query`` on, as :func:`linnet.run.rank.rerank` says."""
        from linnet.run.rank import rerank

        return rerank(self, query, documents, method=method, cut=cut, adapter=adapter)


def usual_n_ctx(model: Model) -> int:
    """Tokens of context where none were asked for: what the makers meant, within reason."""
    meant = [n for n in model.metadata.integers(MAX_TEXT_KEY)[:1] if n > 0]
    return min(model.max_seq_len, DEFAULT_N_CTX, *meant)


def _room_for(n_ctx: int, timelines: int) -> int:
    """Tokens the timelines of a model can hold together, in whole pages; only what is used costs memory."""
    tokens = pages_of(n_ctx) * PAGE_TOKENS
    return min(max(tokens, timelines * min(tokens, DEFAULT_N_CTX)), 2**31 - 1)
