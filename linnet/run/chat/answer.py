"""Reads what a model writes: reasoning, text and calls of tools told apart while it streams.

Nothing is given out before it is certain what it is: the end of a text that may be the
beginning of a sign waits for more. Whatever a model writes is read without an error; what
is no call after all stays text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from linnet.run.chat.tool_formats import NotACall, ToolCall, ToolFormat
from linnet.run.chat.tool_formats.call import Schemas


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
    most_calls: int | None = None  # what follows so many calls is not read

    def holds(self, text: str) -> bool:
        """Is ``text``, that of a special token, a part of a sign?"""
        starts = (*self.tools.starts, *self.tools.inside) if self.tools else ()
        return any(text in sign for sign in (*sum(self.reasoning, ()), *starts, *self.stops))


@dataclass
class AnswerReader:
    """Takes the pieces of an answer and gives out what they mean.

    ``thinking`` says that it begins inside the reasoning, ``opened`` that it does so inside of a call, after
    this sign, which the prompt ended with. :attr:`stopped` turns true at a text that ends the answer; what
    comes after it is not read.
    """

    signs: Signs
    thinking: bool = False
    opened: str = ""
    stopped: bool = False
    call_sign: str = field(init=False, default="")  # with which the call began that is being read
    n_signs: int = field(init=False, default=0)  # of calls, until now
    _n_calls: int = field(init=False, default=0)
    _text: str = ""  # not given out yet
    _end: str = field(init=False, default="")  # what ends the reasoning that is being read
    _gap: str = field(init=False, default="")  # white space before what may be a call
    _begun: bool = field(init=False, default=False)  # the text of the answer has begun
    _thought: bool = field(init=False, default=False)  # this reasoning has begun
    _found: list[Delta] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._end = self.signs.reasoning[0][1] if self.thinking and self.signs.reasoning else ""
        if self.opened:
            self._text = self.call_sign = self.opened
            self.n_signs = 1

    def feed(self, piece: str) -> list[Delta]:
        """What is certain after ``piece``."""
        self._text += piece
        return self._read(final=False)

    def finish(self) -> list[Delta]:
        """What is left when there is no more."""
        return self._read(final=True)

    @property
    def call_text(self) -> str:
        """What came after :attr:`call_sign` until now."""
        return self._text[len(self.call_sign) :]

    @property
    def opening(self) -> str | None:
        """The end of the text that may become the sign of a call; None while no call can begin."""
        tools = self.signs.tools
        if tools is None or self._end or self.call_sign or self.stopped:
            return None
        if not tools.bare:
            return self._text[_certain(self._text, tools.starts) :]
        text = self._text.lstrip()
        return text if not self._begun and any(start.startswith(text) for start in tools.starts) else None

    def _read(self, final: bool) -> list[Delta]:
        while self._text and not self.stopped and self._step()(final):
            pass
        found, self._found = self._found, []
        return found

    def _step(self) -> Callable[[bool], bool]:
        if self._end:
            return self._think
        return self._call if self.call_sign else self._answer

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
        if tools is not None and sign in tools.starts:
            self.call_sign = sign
            self.n_signs += 1
        kept = before.rstrip() if self.call_sign else before
        self._gap = before[len(kept) :]
        self._give_content(kept)
        if sign in self.signs.stops:
            self._text, self.stopped = "", True
        elif not self.call_sign:
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
        if read is not None:
            self._give_calls(read.calls)
            self._text = "" if self.stopped else self._text[read.length :].lstrip()
            self.call_sign = self.opened = ""
            return True
        if not final:
            return False
        self._give_content("" if self.opened else self._gap + self.call_sign)
        self._text, self.call_sign, self.opened = self.call_text, "", ""
        return True

    def _give_calls(self, calls: tuple[ToolCall, ...]) -> None:
        most = self.signs.most_calls
        calls = calls if most is None else calls[: most - self._n_calls]
        self._n_calls += len(calls)
        self.stopped = self._n_calls == most
        if calls:
            self._found.append(Delta(tool_calls=calls))

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
