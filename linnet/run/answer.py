"""Reads what a model writes: reasoning, text and calls of tools told apart while it streams.

Nothing is given out before it is certain what it is: the end of a text that may be the
beginning of a sign waits for more. Whatever a model writes is read without an error; what
is no call after all stays text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from linnet.run.tool_formats import NotACall, ToolCall, ToolFormat
from linnet.run.tool_formats.call import Schemas


@dataclass(frozen=True)
class Delta:
    """What came next in an answer; usually one of the three."""

    content: str = ""
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Signs:
    """What divides the answers of a model: pairs around reasoning, what begins calls, what ends it all."""

    reasoning: tuple[tuple[str, str], ...] = ()
    tools: ToolFormat | None = None
    schemas: Schemas = field(default_factory=dict)  # of the functions that may be called
    stops: tuple[str, ...] = ()

    def holds(self, text: str) -> bool:
        """Is ``text``, that of a special token, a part of a sign?"""
        starts = (*self.tools.starts, *self.tools.inside) if self.tools else ()
        return any(text in sign for sign in (*sum(self.reasoning, ()), *starts, *self.stops))


@dataclass
class AnswerReader:
    """Takes the pieces of an answer and gives out what they mean.

    ``thinking`` says that it begins inside the reasoning. :attr:`stopped` turns true at a
    text that ends the answer; what comes after it is not read.
    """

    signs: Signs
    thinking: bool = False
    stopped: bool = False
    _text: str = ""  # not given out yet
    _end: str = field(init=False, default="")  # what ends the reasoning that is being read
    _in_call: bool = field(init=False, default=False)
    _gap: str = field(init=False, default="")  # white space before what may be a call
    _begun: bool = field(init=False, default=False)  # the text of the answer has begun
    _thought: bool = field(init=False, default=False)  # this reasoning has begun
    _found: list[Delta] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._end = self.signs.reasoning[0][1] if self.thinking and self.signs.reasoning else ""

    def feed(self, piece: str) -> list[Delta]:
        """What is certain after ``piece``."""
        self._text += piece
        return self._read(final=False)

    def finish(self) -> list[Delta]:
        """What is left when there is no more."""
        return self._read(final=True)

    def _read(self, final: bool) -> list[Delta]:
        while self._text and not self.stopped and self._step()(final):
            pass
        found, self._found = self._found, []
        return found

    def _step(self) -> Callable[[bool], bool]:
        if self._end:
            return self._think
        return self._call if self._in_call else self._answer

    # Each step returns whether another one can follow.

    def _think(self, final: bool) -> bool:
        if not self._thought:
            self._text = self._text.lstrip()
        thought, sign, rest = self._text.partition(self._end)
        if sign:
            self._give_reasoning(thought.rstrip())
            self._text, self._end, self._thought = rest.lstrip(), "", False
            return True
        certain = len(thought) if final else _certain(thought, (self._end,))
        certain = len(thought[:certain].rstrip())  # white space at its end is none of it
        self._give_reasoning(thought[:certain])
        self._text = "" if final else thought[certain:]
        return False

    def _answer(self, final: bool) -> bool:
        if not self._begun:
            self._text = self._text.lstrip()
        heads, signs = self._signs_now()
        at, sign = _first(self._text, signs)
        head = next((head for head in heads if self._text.startswith(head)), "")
        if head:
            at, sign = 0, head
        elif not final and any(head.startswith(self._text) for head in heads):
            return False
        if not sign:
            certain = len(self._text[: _certain(self._text, signs)].rstrip())
            certain = len(self._text) if final else certain
            self._give_content(self._text[:certain])
            self._text = self._text[certain:]
            return False
        before, self._text = self._text[:at], self._text[at:]
        tools = self.signs.tools
        self._in_call = tools is not None and sign in tools.starts
        kept = before.rstrip() if self._in_call else before
        self._gap = before[len(kept) :]
        self._give_content(kept)
        if sign in self.signs.stops:
            self._text, self.stopped = "", True
        elif not self._in_call:
            self._end = dict(self.signs.reasoning)[sign]
            self._text = self._text[len(sign) :]
        return True

    def _signs_now(self) -> tuple[list[str], list[str]]:
        """The signs that count here only, and those that count anywhere in what follows."""
        tools = self.signs.tools
        starts = tools.starts if tools else ()
        bare = tools is not None and tools.bare
        heads = [] if self._begun else [begin for begin, _ in self.signs.reasoning]
        heads += starts if bare and not self._begun else ()
        return heads, [*self.signs.stops, *(() if bare else starts)]

    def _call(self, final: bool) -> bool:
        tools = self.signs.tools
        assert tools is not None
        try:
            read = tools.read(self._text, final, self.signs.schemas)
        except NotACall:
            read = None
            final = True
        if read is not None and read.calls:
            self._found.append(Delta(tool_calls=read.calls))
            self._text = self._text[read.length :].lstrip()
            self._in_call = False
            return True
        if not final:
            return False
        start = next(start for start in tools.starts if self._text.startswith(start))
        self._give_content(self._gap + start)
        self._text, self._in_call = self._text[len(start) :], False
        return True

    def _give_content(self, text: str) -> None:
        if text:
            self._begun = True
            self._found.append(Delta(content=text))

    def _give_reasoning(self, text: str) -> None:
        if text:
            self._thought = True
            self._found.append(Delta(reasoning_content=text))


def _first(text: str, signs: Sequence[str]) -> tuple[int, str]:
    """Where the first of ``signs`` is in ``text``, and which; the longest of those in one place."""
    found = [(text.find(sign), -len(sign), sign) for sign in signs if sign in text]
    at, _, sign = min(found, default=(-1, 0, ""))
    return at, sign


def _certain(text: str, signs: Sequence[str]) -> int:
    """How much of ``text`` cannot be part of a sign that goes on after it."""
    longest = max((len(sign) for sign in signs), default=1) - 1
    for start in range(max(len(text) - longest, 0), len(text)):
        if any(sign.startswith(text[start:]) for sign in signs):
            return start
    return len(text)
