"""What a message holds: a text, or a list of parts as OpenAI has them. A template is given what it can write.

Most write texts, newer ones parts as well, and those of models that also see may write parts
alone. What a template does with each is tried out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from linnet.errors import TemplateError, UsageError
from linnet.run.chat.template import ChatTemplate, Message

SOME_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "f", "parameters": {"type": "object", "properties": {}}},
}
_TEXT = "Some words"
_WRITTEN_AS_DATA = re.compile(rf"""text["']: *["']{_TEXT}""")
_SEEN_OR_HEARD = frozenset(
    "image image_url input_image video video_url audio audio_url input_audio file".split()
)


def text_of(content: Any) -> Any:
    """Parts that are all texts as one text, a line each; any other content as it is."""
    if not isinstance(content, list):
        return content
    texts = [
        part["text"]
        for part in content
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    ]
    return "\n".join(texts) if len(texts) == len(content) else content


class Contents:
    """The contents that one template writes."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._known: dict[tuple[str, bool], bool] = {}

    def fitted(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages with texts instead of parts or parts instead of texts, where the template needs that.

        Raises UsageError for parts that no text model reads.
        """
        return [
            {**message, "content": self._fitted(message["role"], message["content"])}
            if "content" in message
            else message
            for message in messages
        ]

    def _fitted(self, role: str, content: Any) -> Any:
        if isinstance(content, str):
            only_parts = not self._writes("user", parts=False) and self._writes("user", parts=True)
            return _parts(content) if only_parts else content
        if not isinstance(content, list):
            return content
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in _SEEN_OR_HEARD:
                raise UsageError(f"a message holds a part of type '{kind}'; only text is read")
        return content if self._writes(role, parts=True) else text_of(content)

    def _writes(self, role: str, *, parts: bool) -> bool:
        """Does the template write a text, or parts, of this role?"""
        if (role, parts) not in self._known:
            self._known[role, parts] = self._tried(role, parts)
        return self._known[role, parts]

    def _tried(self, role: str, parts: bool) -> bool:
        message: Message = {"role": role, "content": _parts(_TEXT) if parts else _TEXT}
        question: Message = {"role": "user", "content": "A question"}
        messages = {"user": [message], "system": [message, question]}.get(role, [question, message])
        for tools in (None, [SOME_TOOL]):  # there are templates that do not work without
            try:
                text = self._template.render(messages, tools=tools)
            except TemplateError:
                continue
            return _TEXT in text and not _WRITTEN_AS_DATA.search(text)
        return False


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
