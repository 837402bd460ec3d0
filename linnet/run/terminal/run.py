"""``linnet run``: a prompt from the command line, a pipe or a terminal; text as it is made."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO, cast

from linnet.display import one_line, shown_on
from linnet.engine.sampler import NEUTRAL, SamplingOptions, check_name
from linnet.errors import LinnetError, UsageError
from linnet.formats.gguf_keys import LEFT_OUT_KEY
from linnet.formats.inputs import read_standard_input
from linnet.options import MemoryOptions, RunOptions, read_text
from linnet.run.meter import Energy, EnergyMeter, peak_rss_bytes, process_age
from linnet.run.model import LanguageModel, load
from linnet.run.text.generation import Generation, TextStream, best_of
from linnet.run.text.options import StreamOptions
from linnet.run.text.prompt_cache import prompt_kept_in

if TYPE_CHECKING:
    from linnet.run.chat.answer import Delta
    from linnet.run.chat.conversation import ChatStream

_OWN_FLAGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def run(options: RunOptions) -> dict[str, object]:
    """Generates text as ``options`` say; returns what ``--json`` prints.

    ``text, reasoning`` (of a chat), ``tokens, prompt_tokens, cached_tokens, dropped_tokens,
    finish_reason, prefill_tok_s, decode_tok_s, ttft_s`` (seconds from the start of the process to
    the first token), ``drafted, accepted, peak_rss_bytes, energy, seed`` and, if asked for, ``log_probs``.
    """
    if options.prompt is None and sys.stdin.isatty() and not options.json:
        if options.best_of > 1:
            raise UsageError("--best-of shows one whole text in the end; give a prompt with it")
        model = _load(options)
        with _prompt_file(model, options):
            return _chat(model, options) if _is_chat(model, options) else _converse(model, options)
    prompt = options.prompt if options.prompt is not None else read_standard_input()
    model = _load(options)
    with _prompt_file(model, options):
        return _answer(model, prompt, options)


def _prompt_file(model: LanguageModel, options: RunOptions) -> contextlib.AbstractContextManager[None]:
    if options.prompt_cache is None:
        return contextlib.nullcontext()
    adapters = model.chosen_adapters(adapter_scales(options.adapter))

    def say(error: LinnetError) -> None:
        print(_styled(f"the prompt was not kept: {error}", _DIM, sys.stderr), file=sys.stderr)

    return prompt_kept_in(options.prompt_cache, model.cache, adapters, say)


def _is_chat(model: LanguageModel, options: RunOptions) -> bool:
    return model.has_template and not options.raw


def _load(options: RunOptions) -> LanguageModel:
    if options.ram is not None and (options.prompt_cache or options.prompt_cache_limit):
        raise UsageError("within --ram nothing is kept of earlier texts; leave out --prompt-cache or --ram")
    model = load_model(options, draft_model=options.draft_model, cache_bytes=options.prompt_cache_limit)
    model.model.check_writes()
    left_out = model.model.metadata.text(LEFT_OUT_KEY)
    if left_out:
        note = one_line(f"only the language model is used, without {left_out}")
        print(_styled(note, _DIM, sys.stderr), file=sys.stderr)
    return model


def load_model(options: MemoryOptions, **more: Any) -> LanguageModel:
    """The model that the options name, with its adapters; ``more`` goes to :func:`linnet.run.model.load`."""
    return load(
        options.model,
        type=options.type,
        adapters={path: path for path in adapter_scales(options.adapter)},
        n_ctx=options.n_ctx,
        threads=options.threads,
        kv_type=options.kv_type,
        ram=options.ram,
        **more,
    )


def adapter_scales(named: Sequence[str]) -> dict[str, float]:
    """The scale of each adapter of ``PATH[=SCALE]``; of one named twice the sum. Raises UsageError."""
    scales: dict[str, float] = {}
    for text in named:
        folder, is_scaled, scale = text.rpartition("=")
        if not is_scaled or os.path.exists(text):  # the name of a folder may hold the sign
            folder, scale = text, "1"
        try:
            scales[folder] = scales.get(folder, 0.0) + float(scale)
        except ValueError:
            raise UsageError(f"--adapter {text}: '{scale}' is not a number; write PATH=0.5") from None
    return scales


def sampling_of(pairs: Sequence[str]) -> SamplingOptions:
    """What ``--sampling NAME=VALUE`` says. Names of lists may come several times. Raises UsageError."""
    chosen: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name in _OWN_FLAGS:
            raise UsageError(f"--sampling {pair}: {name} has a flag of its own, --{name.replace('_', '-')}")
        check_name(name)
        usual = NEUTRAL[name]  # type: ignore[literal-required]
        try:
            if isinstance(usual, tuple):
                chosen.setdefault(name, []).append(text)
            elif isinstance(usual, dict):
                token, _, bias = text.partition(":")
                chosen.setdefault(name, {})[int(token)] = float(bias)
            else:
                kind: Any = type(usual)
                chosen[name] = kind(text)
        except ValueError:
            problem = f"--sampling {pair}: '{text}' is not what {name} can be; see docs/run.md"
            raise UsageError(problem) from None
    return cast(SamplingOptions, chosen)


def _chosen(options: RunOptions, most: int | None = None) -> StreamOptions:
    """The options of a text of at most ``most`` tokens where they do not say."""
    return {
        **sampling_of(options.sampling),  # type: ignore[typeddict-item]
        "stop": options.stop,
        "logprobs": options.logprobs,
        "json_schema": None if options.json_schema is None else read_text(options.json_schema),
        "regex": options.regex,
        "choices": options.choice or None,
        "grammar": None if options.grammar is None else read_text(options.grammar),
        "max_tokens": options.max_tokens if options.max_tokens is not None else most,
        "speculate": options.speculate,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "seed": options.seed,
        "overflow": options.overflow,
        "n_keep": options.n_keep,
        "adapter": adapter_scales(options.adapter),
    }


def _begin(model: LanguageModel, prompt: str, options: RunOptions) -> Callable[..., TextStream | ChatStream]:
    """What begins a text, or the answer to a question, with the options it is called with."""
    if not _is_chat(model, options):
        return partial(model.stream, prompt)
    system = [{"role": "system", "content": options.system}] if options.system else []
    return partial(model.stream_chat, [*system, {"role": "user", "content": prompt}])


def _chat(model: LanguageModel, options: RunOptions) -> dict[str, object]:
    """A conversation with a model that was made for them."""
    from linnet.run.terminal.chat import Chat, converse

    meter = EnergyMeter(options.watts)

    def report(stream: ChatStream, chat: Chat) -> None:
        nonlocal meter
        made = stream.generation
        held = made.prompt_tokens + len(made.ids) - made.dropped_tokens
        used = f"context {min(held, model.n_ctx)} of {model.n_ctx}"  # the last token is not evaluated
        dropped = [f"{stream.dropped_messages} messages left out"] if stream.dropped_messages else []
        _print_cost(made, made.prefill_s, meter.read(), used, *dropped)
        _print_log_probs(made, model, options)
        meter = EnergyMeter(options.watts)

    return converse(model, _chosen(options, model.n_ctx), options.system, report)


def _answer(model: LanguageModel, prompt: str, options: RunOptions) -> dict[str, object]:
    meter = EnergyMeter(options.watts)
    is_chat, is_one = _is_chat(model, options), options.best_of == 1
    ttfts: list[float | None] = []

    def show(stream: TextStream | ChatStream) -> None:
        if not ttfts and not options.json and not is_chat and sys.stdout.isatty():
            print(_styled(shown_on(sys.stdout, prompt), _BOLD, sys.stdout), end="", flush=True)
        ttfts.append(_print(stream, meter, quiet=options.json or not is_one))
        if not is_one and stream.generation.finish_reason == "interrupted":
            raise KeyboardInterrupt

    chosen = _chosen(options, model.n_ctx if is_chat else None)
    stream = best_of(options.best_of, chosen, _begin(model, prompt, options), show)
    ttft, energy, made = ttfts[0], meter.read(), stream.generation
    if not options.json:
        print("" if is_one else "".join(map(_shown, _whole(stream))), flush=True)
        _print_cost(made, ttft, energy, *([_known(made)] if options.prompt_cache else []))
        _print_log_probs(made, model, options)
    thought = {} if isinstance(stream, TextStream) else {"reasoning": stream.message.get("reasoning_content")}
    return {
        "text": made.text,
        **thought,
        "tokens": len(made.ids),
        "prompt_tokens": made.prompt_tokens,
        "cached_tokens": made.cached_tokens,
        "dropped_tokens": made.dropped_tokens,
        "finish_reason": made.finish_reason,
        "prefill_tok_s": made.prefill_tok_s,
        "decode_tok_s": made.decode_tok_s,
        "ttft_s": ttft,
        "drafted": made.drafted,
        "accepted": made.accepted,
        "peak_rss_bytes": peak_rss_bytes(),
        "energy": energy.as_json(len(made.ids)),
        "seed": stream.seed,
        **_log_probs_of(made, options),
    }


def _log_probs_of(made: Generation, options: RunOptions) -> dict[str, object]:
    return {} if options.logprobs is None else {"log_probs": [token._asdict() for token in made.log_probs]}


def _converse(model: LanguageModel, options: RunOptions) -> dict[str, object]:
    """Texts continued by a model that was not made for conversations."""
    from linnet.run.terminal.text import converse

    def show(begin: Callable[[], TextStream]) -> str:
        meter, asked = EnergyMeter(options.watts), process_age()
        stream = begin()
        first = _print(stream, meter)
        print(flush=True)
        _print_cost(stream.generation, None if first is None else first - asked, meter.read())
        _print_log_probs(stream.generation, model, options)
        return stream.generation.text

    return converse(model, _chosen(options), show, lambda said: print(_styled(said, _DIM, sys.stdout)))


def _print(stream: TextStream | ChatStream, meter: EnergyMeter, quiet: bool = False) -> float | None:
    """Prints the pieces as they come, until Ctrl-C. Returns the process age at the first."""
    first = None
    try:
        for piece in stream:
            if first is None:
                first = process_age()
            if not quiet:
                print(_shown(piece), end="", flush=True)
            meter.update()
    except KeyboardInterrupt:
        pass  # that it was is said where the text ends
    return first


def _whole(stream: TextStream | ChatStream) -> list[str | Delta]:
    """The pieces of a text that was read."""
    from linnet.run.chat.answer import Delta

    if isinstance(stream, TextStream):
        return [stream.generation.text]
    thought, text = stream.message.get("reasoning_content", ""), stream.message["content"]
    return [Delta(reasoning_content=thought), Delta(content=text)]


def _shown(piece: str | Delta) -> str:
    """A piece of an answer, its reasoning dim on a terminal and left out elsewhere."""
    if isinstance(piece, str):
        return shown_on(sys.stdout, piece)
    content = shown_on(sys.stdout, piece.content)
    thought = shown_on(sys.stdout, piece.reasoning_content) if sys.stdout.isatty() else ""
    return _styled(thought, _DIM, sys.stdout) + content if thought else content


def _known(made: Generation) -> str:
    """What of a prompt its file knew; and that it was not kept, where not all of it was evaluated."""
    known = f"{made.cached_tokens:,} of {made.prompt_tokens:,} prompt tokens known"
    if made.cached_tokens + made.prefilled_tokens == made.prompt_tokens:
        return known
    return f"{known}, {made.prefilled_tokens:,} evaluated: it was interrupted, and the prompt not kept"


def _print_cost(made: Generation, ttft: float | None, energy: Energy, *more: str) -> None:
    """One dim line on standard error: tokens, speed, time to first token, memory, energy."""
    speed = f"{made.decode_tok_s:,.0f} tok/s" if made.decode_tok_s else "too short for tok/s"
    first = f"first token after {ttft:.3f} s" if ttft is not None else "no token"
    peak = peak_rss_bytes()
    memory = f"peak {peak / 2**20:.0f} MB" if peak else "memory: not readable here"
    parts = [f"{len(made.ids)} tokens", speed, first, memory, energy.per_token(len(made.ids))]
    if made.drafted:
        parts.insert(2, f"{made.accepted} of {made.drafted} guesses right")
    if made.dropped_tokens:
        parts.append(f"{made.dropped_tokens} tokens left out to make room")
    parts += more
    if made.finish_reason == "context":
        parts.append("stopped: the context is full, raise it with --n-ctx")
    for line in _lines(parts, sys.stderr):
        print(_styled(line, _DIM, sys.stderr), file=sys.stderr)


def _lines(parts: Sequence[str], target: TextIO) -> list[str]:
    """``parts`` on one line, or on a terminal on as few as do not cut one in two."""
    width = os.get_terminal_size(target.fileno()).columns if target.isatty() else 0
    lines = list(parts[:1])
    for part in parts[1:]:
        if 0 < width < len(lines[-1]) + len(f" · {part}"):
            lines.append(part)
        else:
            lines[-1] += f" · {part}"
    return lines


def _print_log_probs(made: Generation, model: LanguageModel, options: RunOptions) -> None:
    """Where they were asked for: a dim line per token, its probability and those of the best."""
    if options.logprobs is None:
        return

    def told(token: int, log_prob: float) -> str:
        text = model.tokenizer.decode([token], special=True, at_start=False).decode("utf-8", "replace")
        return f"{math.exp(log_prob):7.2%} {text!r}"

    for token, log_prob, top in made.log_probs:
        line = f"{told(token, log_prob):24}" + "".join(f"  {told(*one):20}" for one in top)
        print(_styled(line.rstrip(), _DIM, sys.stderr), file=sys.stderr)


def _styled(text: str, style: str, target: TextIO) -> str:
    """``text`` in ``style`` where ``target`` is a terminal and the user wants colour (no-color.org)."""
    return f"{style}{text}{_PLAIN}" if target.isatty() and "NO_COLOR" not in os.environ else text
