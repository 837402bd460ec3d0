"""``linnet run`` on a terminal: it asks, streams, and Ctrl-C stops the text, not the conversation.

And ``linnet bench``, which tells what it measures; ``embed`` and ``rerank``, which read lines there.
"""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_models import write_chat_model

from linnet.cli import main
from linnet.run.chat.answer import Delta
from linnet.run.terminal import markdown
from linnet.run.terminal.markdown import PlainPrinter, finished, open_printer

pexpect = pytest.importorskip("pexpect")
if sys.platform == "win32":
    pytest.skip("needs a POSIX terminal", allow_module_level=True)

# Greedy, the bundled model was seen to write on from here for 8,000 tokens: no end before Ctrl-C comes.
ENDLESS = "bla bla bla bla bla bla"
LONG = ["--n-ctx", "100000", "-n", "100000", "--temperature", "0"]


def heed_interrupts() -> None:
    """As programs of a terminal do, unlike those that a shell started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def spawn() -> Iterator[object]:
    children = []

    def start(*arguments: str, verb: str = "run") -> object:
        command = ["-P", "-m", "linnet", verb, *arguments]
        # An interrupt drops what the terminal has not shown yet, and may cut a character in two.
        text = {"encoding": "utf-8", "codec_errors": "replace"}
        child = pexpect.spawn(
            sys.executable, command, timeout=20, echo=False, preexec_fn=heed_interrupts, **text
        )
        child.delaybeforesend = None  # it asks before it reads
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


def test_a_conversation_with_a_base_model_has_commands_and_long_texts(
    spawn: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    child = spawn("-n", "8", "--temperature", "0")  # type: ignore[operator]

    def say(line: str, expected: str) -> None:
        child.expect("> ")
        child.sendline(line)
        child.expect(expected)

    say("/help", "/set")
    say("/set top_p 2", "top_p is 2; give 0 to 1")
    say("/set overflow turns", "no conversation; use 'slide'")
    say("/set max_tokens 3", r"max_tokens +3")
    say("/set max_token 3", "nothing called max_token")
    say('"""', r"\. ")
    child.sendline("Once upon a time")
    child.expect(r"\. ")
    child.sendline('there was"""')
    child.expect("3 tokens")
    say("/set max_tokens -", r"max_tokens +-")
    say("/exit", pexpect.EOF)
    child.close()
    assert child.exitstatus == 0 and "Traceback" not in child.before
    assert "there was" in (tmp_path / "linnet" / "history").read_text(encoding="utf-8")


def test_what_is_wrong_with_a_text_is_said_and_the_next_is_asked_for(spawn: object) -> None:
    child = spawn("-n", "4", "--n-ctx", "12")  # type: ignore[operator]
    for text, expected in (
        ("one two three four five six seven eight nine ten", "begin a new text"),
        ("Once", "4 tokens"),
        ("/set top_p 2", "give 0 to 1"),
        ("", "4 tokens"),
        ("/exit", pexpect.EOF),
    ):
        child.expect("> ")
        child.sendline(text)
        child.expect(expected)
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


# ---- a model made for conversations ---------------------------------------------------------


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("chat") / "model"
    return str(write_chat_model(folder, generation={"eos_token_id": [256, 258]}))


def test_a_chat_has_history_commands_and_lines_that_go_on(
    spawn: object, chat_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    saved = tmp_path / "chat.json"
    child = spawn("-m", chat_model, "-n", "8", "--seed", "1", "--system", "Be kind.")  # type: ignore[operator]

    def say(line: str, expected: str) -> None:
        child.expect("> ")
        child.sendline(line)
        child.expect(expected)

    say("hello", r"tokens .* context \d+ of 2048")
    say("/help", "/regenerate")
    say("/nonsense", "no command /nonsense")
    say("/set temperature hot", "cannot be 'hot'")
    say("/set temperature -1", "temperature is -1; give 0")
    say("/set temprature 1", "did you mean temperature")
    say("/set temperature", r"temperature +0\.8")
    say("/set temperature 0", r"temperature +0\.0")
    say("/set overflow turns", "turns")
    say("/system", "system: Be kind.")
    say("one\\", r"\. ")
    child.sendline("two")
    child.expect("tokens")
    say('"""', r"\. ")
    child.sendline("three")
    child.expect(r"\. ")
    child.sendline('four"""')
    child.expect("tokens")
    say("/undo", "4 messages left")
    say("/regenerate", "tokens")
    say(f"/save {saved}", "4 messages in")
    say("/clear", "new conversation")
    say(f"/load {saved}", "4 messages from")
    say(f"/load {tmp_path / 'none'}", "does not exist")
    say("/exit", pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "Traceback" not in child.before
    document = json.loads(saved.read_text(encoding="utf-8"))
    assert document["system"] == "Be kind."
    assert [m["content"] for m in document["messages"] if m["role"] == "user"] == ["hello", "one\ntwo"]
    assert "hello" in (tmp_path / "linnet" / "history").read_text(encoding="utf-8")


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(spawn: object, tmp_path: Path) -> None:
    endless = write_chat_model(tmp_path / "m", "{{ messages[-1].content }}")
    child = spawn("-m", str(endless), "--n-ctx", "100000", "--temperature", "0")  # type: ignore[operator]
    child.expect("> ")
    child.sendline("aaaa aaaa aaaa aaaa")
    child.expect(r"\W*\w")
    time.sleep(0.2)
    child.sendintr()
    child.expect(r"[\d,]+ tokens .*context")
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    assert "Traceback" not in child.before


def test_markdown_blocks_are_printed_once_they_are_finished() -> None:
    for text, cut in (("a\n\nb", 3), ("a\nb", 0), ("```\na\n\nb\n", 0), ("```\na\n\n```\n\nx", 12), ("", 0)):
        assert finished(text) == cut
    target = io.StringIO()
    with PlainPrinter(target).answer() as show:
        show(Delta(reasoning_content="hm"))
        show(Delta(content="**a**\x1b[2J"))
    assert target.getvalue() == "<think>\nhm\n</think>\n\n**a**\\x1b[2J\n"


class Screen(io.StringIO):
    """A terminal that obeys what moves its cursor, and skips colours; nothing here is as wide as it is."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        shown, row, column = [""], 0, 0
        for code, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", self.getvalue()):
            shown[row] = shown[row][:column].ljust(column) + text + shown[row][column + len(text) :]
            column += len(text)
            if code == "\n":
                row, column = row + 1, 0
                shown += [""] * (row == len(shown))
            elif code == "\r":
                column = 0
            elif code.endswith("A"):
                row -= int(code[2:-1] or 1)
            elif code.endswith("K"):
                shown[row] = ""
        return "\n".join(line.rstrip() for line in shown).rstrip("\n").split("\n")


def test_an_answer_that_was_drawn_many_times_stands_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(markdown, "REDRAWS", 1000)
    target = Screen()
    printer = open_printer(target)
    printer.note("What the program says is cut between words, and :smile: stays.")
    with printer.answer() as show:
        for number in range(60):
            for word in f"Paragraph {number} is wider than that screen is.".split():
                show(Delta(content=word + " "))
            show(Delta(content="\n\n"))
    blocks = [
        line for number in range(60) for line in (f"Paragraph {number} is wider than that screen", "is.", "")
    ]
    assert target.lines() == [
        "What the program says is cut between",
        "words, and :smile: stays.",
        *blocks[:-1],
    ]


def test_what_is_typed_during_an_answer_waits_unseen(
    spawn: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    endless = write_chat_model(tmp_path / "m", "{{ messages[-1].content }}")
    child = spawn("-m", str(endless), "--n-ctx", "100000", "--temperature", "0")  # type: ignore[operator]
    child.setecho(True)
    child.expect("> ")
    child.sendline("aaaa aaaa aaaa aaaa")
    time.sleep(1)
    child.send("/system - typed ahead")
    time.sleep(0.3)
    child.sendintr()
    child.expect(r"[\d,]+ tokens")
    assert "^C" not in child.before and "typed ahead" not in child.before
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)


def test_a_message_may_begin_with_a_path_and_the_line_of_the_cost_is_cut_between_its_parts(
    spawn: object, chat_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    no_end = ["--sampling", "logit_bias=256:-inf", "--sampling", "logit_bias=258:-inf"]
    child = spawn("-m", chat_model, *no_end, "--n-ctx", "200")  # type: ignore[operator]
    child.setwinsize(24, 60)
    child.expect("> ")
    child.sendline("/etc/hosts: what is it?")
    child.expect(r"\d+ tokens [^\r]*\r\n.*context 200 of 200\r\n")
    assert all(len(line) < 60 for line in child.after.splitlines())
    child.expect("> ")
    child.sendline("/clear")
    child.expect("> ")
    child.sendline('"""/help')
    child.expect(r"\. ")
    child.sendline('me"""')
    child.expect("context 200 of 200")
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)


def test_a_question_gets_one_answer_through_the_template_and_raw_continues(
    chat_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*arguments: str) -> dict[str, object]:
        assert main(["run", "-m", chat_model, "--json", "-n", "5", *arguments]) == 0
        result: dict[str, object] = json.loads(capsys.readouterr().out)
        return result

    assert ask("hi", "--system", "S")["prompt_tokens"] == len(b"?system\nS??user\nhi??assistant\n") + 2
    assert ask("hi", "--raw")["prompt_tokens"] == 2


@pytest.mark.parametrize(("verb", "arguments"), [("embed", []), ("rerank", ["a boat"])])
def test_lines_that_are_typed_end_with_one_end_of_file(
    spawn: object, verb: str, arguments: list[str]
) -> None:
    child = spawn(*arguments, verb=verb)  # type: ignore[operator]
    child.sendline("The dog")
    child.sendeof()
    child.expect(r"1 (texts|documents) · ")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_bench_tells_which_run_it_measures_and_leaves_nothing_of_that() -> None:
    command = ["-P", "-m", "linnet", "bench", "--threads", "1", "--repeat", "2"]
    child = pexpect.spawn(sys.executable, command, timeout=20, echo=False, encoding="utf-8")
    for told in ("prefill, warm-up", "prefill, run 1 of 2", "prefill, run 2 of 2", "decode, run 2 of 2"):
        child.expect_exact(f"\rthreads 1: {told}")
    child.expect_exact("\rthreads   prefill tok/s")
    assert not child.before.strip()  # blanks are over the last one
    child.expect(pexpect.EOF)


def test_bench_tells_a_pipe_and_readers_of_json_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--threads", "1", "--repeat", "1", "--json"]) == 0
    assert capfd.readouterr().err == ""
