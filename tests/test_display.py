"""Text of others does not command the terminal: files, names, models, errors."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from linnet.display import line_on, one_line, shown, shown_on, visible, visible_json
from linnet.engine.arguments import wrong
from linnet.errors import FormatError, MissingExtraError
from linnet.options import ShowOptions
from linnet.run.chat.answer import Delta
from linnet.run.model import BUNDLED_MODEL
from linnet.run.show import show
from linnet.run.terminal import run
from linnet.run.terminal.markdown import PlainPrinter, RichPrinter

CLIPBOARD = "\x1b]52;c;aGk=\x07"
HOSTILE = f"a{CLIPBOARD}\x9b2J\x7f\b\n\tb"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def is_harmless(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


def test_controls_are_visible_and_lines_stay() -> None:
    assert visible(HOSTILE) == "a\\x1b]52;c;aGk=\\x07\\x9b2J\\x7f\\x08\n\tb"
    assert visible("x\r\ny\u200dé\u202e") == "x\ny\u200dé\u202e"
    assert line_on(Terminal(), HOSTILE) == one_line(HOSTILE)
    assert one_line("a\nb\t\x1b\u202e\udcff é") == "a\\nb\\t\\x1b\\u202e\\udcff é"
    assert len(one_line("\n" * 100_000)) < 10_000
    assert shown_on(io.StringIO(), HOSTILE) == HOSTILE
    assert shown_on(Terminal(), HOSTILE) == visible(HOSTILE)
    text = json.dumps(HOSTILE, ensure_ascii=False)
    assert is_harmless(visible_json(text))
    assert json.loads(visible_json(text)) == HOSTILE


def test_an_error_is_one_line_whatever_it_names() -> None:
    assert str(FormatError(f"{HOSTILE} is damaged")).isprintable()
    assert str(MissingExtraError("a\nb", "c")).isprintable()


def hostile_model(folder: Path, arch: bytes = b"llama") -> Path:
    """The bundled model under a name, and with a name and an architecture, that would command a terminal."""
    path = folder / "m\x1b[2J\n.gguf"
    data, key = BUNDLED_MODEL.read_bytes(), b"general.name" + (8).to_bytes(4, "little")
    at = data.index(key) + len(key)
    name = data[at + 8 : at + 8 + int.from_bytes(data[at : at + 8], "little")]
    path.write_bytes(
        data.replace(name, f"\x1b]52;c;{'x' * len(name)}"[: len(name)].encode(), 1).replace(b"llama", arch)
    )
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
@pytest.mark.parametrize("arch", [b"llama", b"\x1b[31m"])
def test_what_a_file_says_of_itself_is_shown_on_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arch: bytes
) -> None:
    show(ShowOptions(source=hostile_model(tmp_path, arch)))
    shown = capsys.readouterr().out
    assert is_harmless(shown)
    assert "\\x1b]52;c;" in shown
    assert "m\\x1b[2J\\n.gguf" in shown


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_errors_of_the_command_line_are_one_harmless_line(tmp_path: Path) -> None:
    name = tmp_path / "m\x1b[2J\n.gguf"
    name.write_bytes(b"GGUF" + bytes(100))
    for arguments in (
        ["show", str(name)],
        ["run", "-m", str(name), "x"],
        ["run", f"--{HOSTILE}"],
        ["show", "\n" * 5000],
    ):
        command = [sys.executable, "-P", "-m", "linnet", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stderr.strip().isprintable()


def test_a_text_is_itself_in_a_file_and_harmless_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for target, expected in ((io.StringIO(), HOSTILE), (Terminal(), visible(HOSTILE))):
        monkeypatch.setattr("sys.stdout", target)
        assert run._shown(HOSTILE) == expected
        assert run._shown(Delta(content=HOSTILE)) == expected
    monkeypatch.setenv("NO_COLOR", "1")
    assert is_harmless(run._shown(Delta(reasoning_content=HOSTILE)))


# Markdown spells control characters in ways of its own: escapes of addresses, entities.
SPELT = "<http://a/%1b%5D52;c;aGk=%9b%07> &#27; &#x9b; [x](<http://a/%1b>) ![\x1b](http://b/%1b)"


@pytest.mark.parametrize(
    "text", [HOSTILE, SPELT, f"```\n{HOSTILE}\n```\n", f"| a |\n|---|\n| {CLIPBOARD} |\n"]
)
def test_a_chat_is_harmless_however_it_is_laid_out(text: str) -> None:
    for printer_of in (PlainPrinter, RichPrinter):
        target = io.StringIO()
        printer = printer_of(target)
        printer.note(text)
        with printer.answer() as show_delta:
            show_delta(Delta(reasoning_content=text))
            show_delta(Delta(content=text))
        assert is_harmless(target.getvalue()), target.getvalue()


def test_markdown_shows_where_a_link_leads() -> None:
    target = io.StringIO()
    with RichPrinter(target).answer() as show_delta:
        show_delta(Delta(content="[your bank](http://elsewhere)"))
    assert "your bank (http://elsewhere)" in target.getvalue()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, "1.5"),
        ("a\nb", r"'a\nb'"),
        (np.arange(3), "array([0, 1, 2])"),
        ([0] * 10**6, "[0, 0, 0, 0, 0, 0, ...]"),
        (10**5000, "a number of 16610 bits"),
    ],
    ids=["number", "text", "array", "list", "digits"],
)
def test_a_wrong_value_is_told_in_one_short_line(value: object, expected: str) -> None:
    assert str(wrong("n", value, "a text")) == f"n is {expected}; it must be a text"
    assert len(shown({"x" * 100: ["y" * 100] * 100})) <= 60
