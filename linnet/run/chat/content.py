"""What a message holds: a text, or a list of parts as OpenAI has them. A template is given what it can write.

Most write texts, newer ones parts as well, and those of models that also see may write parts
alone. What a template does with each is tried out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from linnet.errors import TemplateError, UsageError
from linnet.run.chat.template import ChatTemplate, Message

SOME_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "f", "parameters": {"type": "object", "properties": {}}},
}
_TEXT = "Some words"
_WRITTEN_AS_DATA = re.compile(rf"""text["']: *["']{_TEXT}""")
_TEXTS = ("text", "input_text")  # types of parts that are texts, in OpenAI's two interfaces
_SEEN_OR_HEARD = frozenset(
    "image image_url input_image video video_url audio audio_url input_audio file input_file".split()
)


def text_of(content: Any) -> Any:
    """Parts that are all texts as one text, a line each; any other content as it is."""
    if not isinstance(content, list) or not all(map(_is_text, content)):
        return content
    return "\n".join(part["text"] for part in content)


class Contents:
    """The contents that one template writes."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._known: dict[tuple[str, bool], bool] = {}

    def checked(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages whose contents are texts, parts that can be written, or what a tool gave.

        Raises UsageError for others: a template would show the model Python's words for them.
        """
        return _changed(messages, self._checked)

    def fitted(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages with texts instead of parts or parts instead of texts, where the template needs that."""
        return _changed(messages, self._fitted)

    def _checked(self, role: str, content: Any) -> Any:
        if isinstance(content, list):
            return [self._checked_part(role, part) for part in content]
        if not isinstance(content, str) and role != "tool":
            raise UsageError("a message holds a text, or a list of {'type': 'text', 'text': '...'}")
        return content

    def _checked_part(self, role: str, part: Any) -> Any:
        if _is_text(part):
            return {**part, "type": "text"}
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind in _SEEN_OR_HEARD:
            raise UsageError(f"a message holds a part of type '{kind}'; only text is read")
        if role != "tool" and not (isinstance(kind, str) and self._writes(role, parts=True)):
            raise UsageError("a message holds a part that is no text: give {'type': 'text', 'text': '...'}")
        return part

    def _fitted(self, role: str, content: Any) -> Any:
        if isinstance(content, list):
            return content if self._writes(role, parts=True) else text_of(content)
        only_parts = isinstance(content, str) and not self._writes(role, parts=False)
        return _parts(content) if only_parts and self._writes(role, parts=True) else content

    def _writes(self, role: str, *, parts: bool) -> bool:
        """Does the template write a text, or parts, of this role?"""
        if (role, parts) not in self._known:
            self._known[role, parts] = self._tried(role, parts)
        return self._known[role, parts]

    def _tried(self, role: str, parts: bool) -> bool:
        message: Message = {"role": role, "content": _parts(_TEXT) if parts else _TEXT}
        messages = [message]
        if role != "user":
            question: Message = {"role": "user", "content": self._fitted("user", "A question")}
            messages = [message, question] if role == "system" else [question, message]
        for tools in (None, [SOME_TOOL]):  # there are templates that do not work without
            try:
                text = self._template.render(messages, tools=tools)
            except TemplateError:
                continue
            return _TEXT in text and not _WRITTEN_AS_DATA.search(text)
        return False


def _changed(messages: Sequence[dict[str, Any]], change: Callable[[str, Any], Any]) -> list[dict[str, Any]]:
    changed = []
    for message in messages:
        content = {"content": change(message["role"], message["content"])} if "content" in message else {}
        changed.append({**message, **content})
    return changed


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _TEXTS and isinstance(part.get("text"), str)


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
