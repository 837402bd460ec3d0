"""Chat templates: from a conversation to the text its model was trained on.

A template is a Jinja program that the makers of a model ship with it. It renders here as
``transformers`` renders it, byte for byte, within bounds of time and memory
(:mod:`linnet.run.chat.bounded_jinja`). A model without one gets :data:`PLAIN_FORM`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from linnet.display import shown
from linnet.engine.metadata import Metadata
from linnet.engine.tokenizer import Tokenizer
from linnet.errors import TemplateError, UsageError
from linnet.formats.gguf_keys import TEMPLATE_KEY

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]

MOST_SOURCE = 1 << 20  # characters of a template; the largest known have 20,000
_MOST_BITS = 4096  # of a whole number: more than a message needs, and less than Python refuses to write
MOST_DEPTH = 100  # lists and dicts within each other in what a template is given
MARK = "\ufdd0"  # may be put into texts that a template is given, and comes out of it again
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # of a template: of GGUF
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names in use, the usual one first

# What a model that was trained on no conversations is shown: a dialogue as texts have them.
PLAIN_FORM = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' or message.role == 'developer' %}
        {{- message.content + '\\n\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- 'Assistant: ' + message.content + '\\n' }}
    {%- elif message.role == 'tool' %}
        {{- 'Tool: ' + message.content + '\\n' }}
    {%- else %}
        {{- 'User: ' + message.content + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""


@dataclass(frozen=True)
class ChatTemplate:
    """The template of a model, and the texts of the special tokens it may name.

    ``named`` are templates for special purposes, of which ``tool_use`` is taken where
    tools are given. ``plain`` says that the model has none, and this is PLAIN_FORM.
    """

    source: str
    named: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    plain: bool = False

    @classmethod
    def of(cls, metadata: Metadata, tokenizer: Tokenizer) -> ChatTemplate:
        """The template in the metadata of a model, or PLAIN_FORM."""
        tokens = _special_texts(metadata, tokenizer)
        prefix = f"{TEMPLATE_KEY}."
        named = {key.removeprefix(prefix): key for key in metadata if key.startswith(prefix)}
        texts = {name: metadata.text(key) or "" for name, key in named.items()}
        source = metadata.text(TEMPLATE_KEY) or texts.get("default")
        if source is None and texts:  # several, none of which is the usual one
            source = next(iter(texts.values()))
        if source is None:
            bos = tokens.get("bos_token", "") if tokenizer.add_bos else ""
            return cls(PLAIN_FORM, tokens={**tokens, "bos_token": bos}, plain=True)
        return cls(source, named=texts, tokens=tokens)

    def choose(self, tools: Sequence[Any] | None = None) -> str:
        """The source that is rendered, with these tools."""
        return self.named.get("tool_use", self.source) if tools else self.source

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        guard: Callable[[str, Any], Any] | None = None,
    ) -> str:
        """The text of a conversation in the shape of OpenAI's ``messages``.

        ``add_generation_prompt`` ends it with what begins an answer; ``variables``, such
        as ``enable_thinking``, are what this template knows beside; ``guard`` changes what
        the caller gives under each name. Raises TemplateError
        with the template's own words where it refuses the conversation, UsageError for
        messages that are none.
        """
        given = {
            **_plain(variables or {}),
            "messages": prepared(messages),
            "tools": _plain(tools) if tools else None,
            "documents": _plain(documents) if documents else None,
        }
        if guard is not None:
            given = {name: guard(name, value) for name, value in given.items()}
        given |= {"add_generation_prompt": add_generation_prompt}
        return render(self.choose(tools), {**self.tokens, **given})


def prepared(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as templates expect them: plain dicts, without None, reasoning under each of its names.

    Raises UsageError where they are none.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise UsageError("messages is a list with at least one of them: [{'role': 'user', 'content': '...'}]")
    ready = []
    for message in messages:
        plain = _plain(message)
        if not isinstance(plain, dict) or not isinstance(plain.get("role"), str):
            raise UsageError("a message is a dict with role and content: {'role': 'user', 'content': '...'}")
        kept = {key: value for key, value in plain.items() if value is not None}
        reasoning = next((kept[name] for name in _REASONING if name in kept), None)
        if reasoning is not None:
            kept = {"thinking": reasoning, **kept, "reasoning_content": reasoning}
        ready.append(kept)
    return ready


def render(source: str, variables: Mapping[str, Any]) -> str:
    """Runs a template. Raises TemplateError."""
    import jinja2

    from linnet.run.chat.bounded_jinja import BudgetError, budget

    try:
        with budget():
            return _compiled(source).render(variables)
    except BudgetError as error:
        raise TemplateError(f"the chat template was stopped: {error}; pass another one") from None
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the chat template is not valid, line {error.lineno}: {error.message}") from None
    except jinja2.TemplateError as error:
        raise TemplateError(f"the chat template says: {_line(error)}") from None
    except (RecursionError, MemoryError):
        raise TemplateError("the chat template was stopped: it calls itself too often") from None
    except Exception as error:  # whatever the code of a stranger can raise
        kind = type(error).__name__
        raise TemplateError(f"the chat template cannot render this: {kind}: {_line(error)}") from None


@functools.lru_cache(maxsize=32)
def _compiled(source: str) -> Template:
    if len(source) > MOST_SOURCE:
        raise TemplateError(f"the chat template has {len(source)} characters, more than {MOST_SOURCE}")
    return _environment().from_string(source)


@functools.cache
def _environment() -> Any:
    from linnet.run.chat.bounded_jinja import BoundedEnvironment

    return BoundedEnvironment()


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else text[:500] + "..."


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` out of plain JSON types only: a template must not reach methods of other objects.

    Raises UsageError for what is too deep, as what contains itself is, and for a number that is too
    long to be written.
    """
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise UsageError(f"what the template is given holds {shown(value)}; give it as text")
    if value is None or type(value) in (str, int, float, bool):
        return value
    for base in (str, int, float):
        if isinstance(value, base):
            return base.__str__(value) if base is str else base(value)
    if depth > MOST_DEPTH:
        raise UsageError(f"a message contains itself, or has more than {MOST_DEPTH} lists within each other")
    if isinstance(value, Mapping):
        return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), depth + 1) for f in dataclasses.fields(value)}
    if not isinstance(value, type) and callable(dump := getattr(value, "model_dump", None)):  # pydantic
        return _plain(dump(), depth + 1)
    return f"<{type(value).__name__}>"


def _special_texts(metadata: Metadata, tokenizer: Tokenizer) -> dict[str, str]:
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    for name, key in _SPECIAL.items():
        found = metadata.integers(f"tokenizer.ggml.{key}_token_id")
        if ids.get(name) is None and len(found) == 1 and found[0] < tokenizer.vocab_size:
            ids[name] = found[0]
    return {
        f"{name}_token": tokenizer.decode([token], special=True, at_start=False).decode("utf-8", "replace")
        for name, token in ids.items()
        if token is not None
    }
