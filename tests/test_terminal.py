"""``linnet run`` on a terminal: it asks, streams, and Ctrl-C stops the text, not the conversation."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

pexpect = pytest.importorskip("pexpect")
if sys.platform == "win32":
    pytest.skip("needs a POSIX terminal", allow_module_level=True)

# Greedy, the bundled model was seen to write on from here for 8,000 tokens: no end before Ctrl-C comes.
ENDLESS = "bla bla bla bla bla bla"
LONG = ["--n-ctx", "100000", "-n", "100000", "--temperature", "0"]


@pytest.fixture
def spawn() -> Iterator[object]:
    children = []

    def start(*arguments: str) -> object:
        command = ["-P", "-m", "linnet", "run", *arguments]
        child = pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=20, env=None, echo=False)
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def test_a_conversation_continues_texts_until_end_of_file(spawn: object) -> None:
    child = spawn("-n", "8", "--seed", "1")  # type: ignore[operator]
    child.expect("> ")
    child.sendline("Once upon a time")
    child.expect("8 tokens")
    child.expect("> ")
    child.sendline("")  # goes on with the same text
    child.expect("tokens")
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ctrl_c_stops_the_text_and_asks_again(spawn: object) -> None:
    child = spawn(*LONG)  # type: ignore[operator]
    child.expect("> ")
    child.sendline(ENDLESS)
    child.expect(r"(\w+\W+){30}")
    child.sendintr()
    child.expect(r"[\d,]+ tokens .*tok/s")
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    assert "Traceback" not in child.before


def test_ctrl_c_ends_a_single_text_with_its_cost_and_exit_code_130(spawn: object) -> None:
    child = spawn(ENDLESS, *LONG)  # type: ignore[operator]
    child.expect(r"(\w+\W+){30}")
    child.sendintr()
    child.expect(r"[\d,]+ tokens .*tok/s")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert "Traceback" not in child.before
