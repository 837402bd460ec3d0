"""Texts held to a JSON schema, a regular expression, a list of choices or a grammar, by llguidance.

A constraint is compiled once per model; each text takes a guide from it. The guide's mask has the bit of
every token after which the text can still become one that is allowed, and that of the end where it is one.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from linnet.display import shown
from linnet.engine.arguments import texts
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import LinnetError, MissingExtraError, UnsupportedError, UsageError
from linnet.run.text.choosing import FormOptions
from linnet.run.text.refusals import readable
from linnet.run.text.schema import class_schema, without_own_formats

if TYPE_CHECKING:
    import llguidance

MOST_BYTES = 1 << 20  # of a schema or grammar; llguidance bounds what compiling it takes


class _Spelled:
    """A vocabulary as llguidance asks for it. It must not lead back to what llguidance made of it:
    a circle through foreign memory is never freed."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        ids = range(min(tokenizer.vocab_size, vocab_size))
        spelled = tokenizer.spellings(ids)
        self.tokens = [
            text or tokenizer.decode([token], special=True, at_start=False)
            for token, text in zip(ids, spelled, strict=True)
        ]
        self.tokens += [b""] * (vocab_size - len(self.tokens))
        self.special_token_ids = [token for token, text in enumerate(spelled) if not text]
        self.special_token_ids += range(len(spelled), vocab_size)
        self.eos_token_id, self.bos_token_id = next(iter(ends)), tokenizer.bos_id

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text, at_start=False)


class GuideTokenizer:
    """The vocabulary of a model for llguidance: what each token spells, and which ones end a text."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: Collection[int]) -> None:
        try:
            import llguidance
        except ImportError:
            raise MissingExtraError("llguidance", "structured") from None
        if not ends:
            raise UnsupportedError("this model has no token that ends a text, which structured output needs")
        self.encode = _Spelled(tokenizer, vocab_size, ends)
        wrapper = llguidance.TokenizerWrapper(self.encode)
        self.native = llguidance.LLTokenizer(wrapper, n_vocab=vocab_size, eos_token=list(ends))

    @property
    def tokens(self) -> list[bytes]:
        """What each token spells."""
        return self.encode.tokens


class Constraint:
    """A form of texts, compiled. Raises UnsupportedError, with the reason, for one that cannot be held."""

    def __init__(self, tokenizer: GuideTokenizer, **form: Unpack[FormOptions]) -> None:
        import llguidance

        kind, what = _single(form)
        name, as_grammar = _KINDS[kind]
        self._tokenizer = tokenizer

        def attempt() -> str:
            self._matcher = llguidance.LLMatcher(tokenizer.native, as_grammar(what), log_level=0)
            probe = self._matcher.deep_copy()
            if not probe.is_error() and not probe.is_stopped():
                probe.compute_bitmask()  # where no text can be completed it is only seen here
            return probe.get_error()

        reason = _reason(attempt, kind == "grammar" and "::=" not in str(what))  # GBNF is rewritten
        if reason:
            raise UnsupportedError(f"{name} cannot be held: {reason}")

    def guide(self, begun: bytes = b"") -> GrammarGuide:
        """The state of a new text, or of one that has ``begun``. Raises LinnetError where it cannot."""
        guide = GrammarGuide(self._matcher.deep_copy())
        for token in self._tokenizer.encode(begun) if begun else ():
            guide.accept(token)
        return guide

    def allows(self, begun: bytes) -> bool:
        """Can a text of this form begin so?"""
        ids = self._tokenizer.encode(begun)
        spelled = b"".join(self._tokenizer.tokens[token] for token in ids)  # half characters have no ids
        return spelled == begun and self._matcher.validate_tokens(ids) == len(ids)


class GrammarGuide:
    """Which tokens may come next in one text; see :class:`linnet.run.text.choosing.Guide`."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher
        self._mask = b""  # what the core reads

    @property
    def finished(self) -> bool:
        return self._matcher.is_stopped()

    @property
    def complete(self) -> bool:
        """The text so far has the form, whether or not it could go on."""
        return self._matcher.is_accepting()

    def mask(self) -> int | None:
        self._mask = self._matcher.compute_bitmask()
        self._check()
        return address_of(self._mask)

    def forced(self) -> Sequence[int]:
        return [] if self.finished else self._matcher.compute_ff_tokens()

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = readable(self._matcher.get_error())
            raise LinnetError(f"the text cannot be held to its form any longer: {reason}")


def address_of(mask: bytes) -> int | None:
    """Where the bytes of a mask are, for as long as it is kept."""
    return ctypes.cast(ctypes.c_char_p(mask), ctypes.c_void_p).value


def why_refused(schema: Any) -> str:
    """Why a JSON schema cannot be held; nothing where it can be."""
    import llguidance

    return _reason(lambda: llguidance.LLMatcher.validate_grammar(_from_schema(schema)))


def _reason(attempt: Callable[[], str], placed: bool = False) -> str:
    """What ``attempt`` returns or raises, readable."""
    try:
        return readable(attempt(), placed)
    except UnicodeEncodeError:
        return "it holds bytes that are not UTF-8"
    except (ValueError, RecursionError) as error:
        return readable(str(error)) or type(error).__name__
    except BaseException as error:  # a panic of llguidance is no Exception
        if type(error).__name__ != "PanicException":
            raise
        return readable(str(error))


def _single(form: FormOptions) -> tuple[str, Any]:
    given = [(kind, what) for kind, what in form.items() if what is not None]
    if len(given) != 1:
        raise UsageError("give exactly one of json_schema, regex, choices and grammar")
    return given[0]


def _from_schema(schema: Any) -> str:
    import llguidance

    if (own := class_schema("json_schema", schema)) is not None:
        schema = own
    if isinstance(schema, str):
        schema = _parsed(_bounded(schema))
    try:
        text = json.dumps(without_own_formats(schema), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"json_schema is no JSON: {error}") from None
    # At most one space between parts: a model that is unsure would go on with whitespace for ever.
    return llguidance.LLMatcher.grammar_from_json_schema(
        _bounded(text), overrides={"whitespace_pattern": " ?"}
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON: {error}") from None


def _from_regex(regex: str) -> str:
    import llguidance

    return llguidance.LLMatcher.grammar_from_regex(_bounded(regex))


def _from_choices(choices: Sequence[str]) -> str:
    if isinstance(choices, str) or not choices or not all(texts("choices", choices)):
        raise UsageError("choices are one or more texts, none of them empty")
    return _from_grammar("start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices))


def _from_grammar(grammar: str) -> str:
    import llguidance
    from llguidance.gbnf_to_lark import any_to_lark

    text = _bounded(grammar)
    try:
        lark = any_to_lark(text) if "::=" in text else text  # which every rule of GBNF has
    except Exception as error:  # GBNF that it cannot read: a bare one
        raise ValueError(str(error)) from None
    return llguidance.LLMatcher.grammar_from_lark(lark)


def _bounded(text: str) -> str:
    if not isinstance(text, str):
        raise UsageError(f"{shown(text)} is no form; regex and grammar are texts")
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return text


_KINDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "json_schema": ("this JSON schema", _from_schema),
    "regex": ("this regex", _from_regex),
    "choices": ("these choices", _from_choices),
    "grammar": ("this grammar", _from_grammar),
}
