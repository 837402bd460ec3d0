"""Choosing the next token from its logits."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

from linnet.engine import _bindings
from linnet.engine.arguments import given, int32, real, texts, whole, wrong
from linnet.engine.library import Handle, call, library
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import LinnetError, UsageError


class SamplingOptions(TypedDict, total=False):
    """How tokens are drawn: the fields of ``ln_sampler_options``, applied in the order stated there.

    The names are those of llama.cpp and OpenAI where they have one; None is the default. ``logit_bias``
    maps token ids to what is added to their logits, ``banned_strings`` never become part of the text.
    """

    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_n_sigma: float
    top_k: int
    typical_p: float
    top_p: float
    min_p: float
    xtc_probability: float
    xtc_threshold: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    repeat_last_n: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    logit_bias: Mapping[int, float]
    banned_strings: Sequence[str]
    seed: int | None


# Without options a sampler takes the most probable token.
NEUTRAL: SamplingOptions = {
    "temperature": 0.0,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "top_n_sigma": 0.0,
    "top_k": 0,
    "typical_p": 1.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repeat_last_n": 64,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 4096,
    "dry_sequence_breakers": ("\n", ":", '"', "*"),
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "logit_bias": {},
    "banned_strings": (),
    "seed": None,
}

_NUMBERS = [name for name, value in NEUTRAL.items() if isinstance(value, (int, float))]


def check_name(name: str) -> None:
    """Raises UsageError, with the nearest name, when there is no such option."""
    if name not in NEUTRAL:
        import difflib  # it takes time, which a right name need not pay

        near = difflib.get_close_matches(name, NEUTRAL, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"there is no sampling option '{name}'{hint}")


class Draws(Protocol):
    """Whatever chooses a token."""

    def draw(self, logits: Any) -> int:
        """One token from a pointer to ``vocab_size`` floats."""


class Sampler:
    """Draws tokens as :class:`SamplingOptions` say; what they leave out is off.

    The same ``seed``, logits and accepted tokens give the same tokens; without one a seed is taken
    from the operating system and kept in :attr:`seed`. Options that are about text need the ``tokenizer``.
    Raises UsageError for an impossible option, or one of the wrong kind.
    """

    def __init__(
        self, vocab_size: int, tokenizer: Tokenizer | None = None, **options: Unpack[SamplingOptions]
    ) -> None:
        for name in options:
            check_name(name)
        chosen: SamplingOptions = {**NEUTRAL, **given(options)}  # type: ignore[typeddict-item]
        seed = chosen["seed"]
        self.seed = int.from_bytes(os.urandom(4)) if seed is None else whole("seed", seed, 0, (1 << 64) - 1)
        packed = _bindings.ln_sampler_options(seed=self.seed)
        for name in _NUMBERS:
            read = int32 if isinstance(NEUTRAL[name], int) else real  # type: ignore[literal-required]
            setattr(packed, name, read(name, chosen[name]))  # type: ignore[literal-required]
        breakers = chosen["dry_sequence_breakers"] if packed.dry_multiplier else ()
        packed.dry_breakers, packed.n_dry_breakers = _strings("dry_sequence_breakers", breakers)
        packed.banned, packed.n_banned = _strings("banned_strings", chosen["banned_strings"])
        ids, values = _biases(chosen["logit_bias"])
        packed.bias_ids, packed.biases = ctypes.addressof(ids), ctypes.addressof(values)
        packed.n_biases = len(ids)
        if tokenizer is not None:
            packed.tokenizer = tokenizer.handle._as_parameter_
        self.vocab_size = vocab_size
        uses = tokenizer.handle if tokenizer is not None else None
        self._handle = Handle("ln_sampler", "ln_sampler_open", ctypes.byref(packed), vocab_size, uses=uses)

    def draw(self, logits: Any, mask: int | None = None) -> int:
        """One token from a pointer to ``vocab_size`` floats.

        ``mask`` is the address of uint32 [(vocab_size + 31) / 32], a bit for each token that may come.
        Raises LinnetError when no token is left.
        """
        token = int(library().ln_sampler_draw(self._handle, logits, mask))
        if token < 0:
            raise LinnetError(
                "the model computed no finite logit that the options allow; "
                "they forbid every token, its weights are damaged, or an adapter has too large a scale"
            )
        return token

    def accept(self, token: int) -> None:
        """Tells the sampler that ``token`` is now part of the text (prompt or drawn)."""
        library().ln_sampler_accept(self._handle, token)


class TokenLogProb(NamedTuple):
    """The natural-log probability of a token in the model's own distribution, and the most probable ones."""

    token: int
    log_prob: float
    top: tuple[tuple[int, float], ...]  # ids and their log-probabilities, best first


def token_log_prob(logits: Any, vocab_size: int, token: int, n_top: int) -> TokenLogProb:
    """What ``logits``, a pointer to ``vocab_size`` floats, say about ``token`` and the ``n_top`` best."""
    own, ids, log_probs = ctypes.c_float(), (ctypes.c_int32 * n_top)(), (ctypes.c_float * n_top)()
    call("ln_log_probs", logits, vocab_size, token, ctypes.byref(own), n_top, ids, log_probs)
    found = tuple((i, value) for i, value in zip(ids, log_probs, strict=True) if i >= 0)
    return TokenLogProb(token, own.value, found)


def _strings(name: str, strings: Iterable[str]) -> tuple[bytes, int]:
    """Strings as the core takes them, and how many they are."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts(name, strings)]
    if any(b"\0" in text for text in encoded):
        raise UsageError(f"{name}: give texts without NUL bytes")
    return b"".join(text + b"\0" for text in encoded), len(encoded)


def _biases(biases: Any) -> tuple[ctypes.Array[ctypes.c_int32], ctypes.Array[ctypes.c_float]]:
    """Token ids and what is added to their logits, as the core takes them."""
    if not isinstance(biases, Mapping):
        raise wrong("logit_bias", biases, "a dict of token ids and numbers")
    ids = [int32("a token of logit_bias", token, least=0) for token in biases]
    values = [real(f"the logit_bias of token {token}", bias) for token, bias in biases.items()]
    return (ctypes.c_int32 * len(ids))(*ids), (ctypes.c_float * len(values))(*values)
