"""``/set`` on a terminal: the options of texts that are one value, shown, read and checked."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from linnet.engine.sampler import NEUTRAL
from linnet.errors import UsageError
from linnet.options import OVERFLOWS
from linnet.run.model import LanguageModel

DEFAULT = "-"  # what is typed for the default
_SWITCHES = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def switch(text: str) -> bool:
    """Reads on and off, and what else people write for them. Raises ValueError."""
    try:
        return _SWITCHES[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _overflow(text: str) -> str:
    if text not in OVERFLOWS:
        raise ValueError(text)
    return text


SETTINGS: dict[str, Callable[[str], Any]] = {
    "max_tokens": int,
    "stop": str,
    "overflow": _overflow,
    "seed": int,
    **{name: type(value) for name, value in NEUTRAL.items() if isinstance(value, (int, float))},
}


def told(options: MutableMapping[str, Any], *names: str) -> str:
    """A line for each of ``names`` (default: all) and its value."""
    lines = []
    for name in names or SETTINGS:
        value = options.get(name)
        lines.append(f"{name:20} {DEFAULT if value in (None, ()) else value}")
    return "\n".join(lines)


def change(
    model: LanguageModel, options: MutableMapping[str, Any], name: str, text: str, *, in_chat: bool
) -> None:
    """Sets an option to what ``text`` says. Raises UsageError, and leaves it, where it cannot be that."""
    try:
        value = None if text == DEFAULT else SETTINGS[name](text)
    except ValueError:
        raise UsageError(f"{name} cannot be '{text}'") from None
    checked = {key: options[key] for key in SETTINGS if key in options} | {name: value}
    if in_chat and checked.get("overflow") == "turns":
        del checked["overflow"]
    model.stream([0], **checked).close()  # nothing is evaluated
    options[name] = value
