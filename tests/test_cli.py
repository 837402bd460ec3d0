"""The command line: options, TOML files, error lines and exit codes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from linnet import cli, options
from linnet.errors import UsageError


def linnet(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "linnet", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_verb_has_options_of_the_house_measure_and_a_function_that_exists() -> None:
    for verb, (config, address) in cli.VERBS.items():
        assert len(set(config.__annotations__)) <= 15, verb
        module = Path(cli.__file__).parent.parent / (address.split(":")[0].replace(".", "/") + ".py")
        assert f"def {address.split(':')[1]}(" in module.read_text(encoding="utf-8"), address


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "linnet evaluate: missing --model, --text"),
        (["run", "--temperature", "warm"], "'warm' is not a number"),
        (["train", "c", "-o", "x", "--params", "many"], "'many' is not a count"),
        (["train", "c", "-o", "x", "--params", "9" * 400], "too large a count"),
        (["run", "--n-ctx", str(2**32 + 1), "hi"], "it must be at most 2147483647"),
        (["show", "a" * 5000], "File name too long"),
        (["run", "-m", "nowhere.gguf", "hi"], "nowhere.gguf does not exist"),
        (["dance"], "invalid choice: 'dance'"),
        (["data"], "SOURCE"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = linnet(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def parsed(verb: str, *arguments: str) -> object:
    given = vars(cli.build_parser().parse_args([verb, *arguments]))
    given.pop("verb")
    return options.from_arguments(cli.VERBS[verb][0], given)


def test_command_line_wins_over_toml_and_toml_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('temperature = 0.3\ntop-k = 7\nmodel = "a.gguf"\njson = true\n')
    chosen = parsed("run", "--config", str(file), "--top-k", "9")
    assert isinstance(chosen, options.RunOptions)
    assert (chosen.temperature, chosen.top_k, chosen.model, chosen.json) == (0.3, 9, Path("a.gguf"), True)
    assert chosen.top_p == options.RunOptions.top_p


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temperatur = 1", "unknown option 'temperatur'; did you mean 'temperature'?"),
        ("top_k = true", "is not a whole number"),
        ("top_k = [1]", "is not a whole number"),
        ("top_k = 1.5", "'1.5' is not a whole number"),
        ("prompt = {a = 1}", "is not a text"),
        ("json = 1", "write true or false"),
        ('kv_type = "f8"', "'f8' is not one of f16, q8_0, q4_0, f32"),
        ("= 3", "is not valid TOML"),
    ],
)
def test_a_wrong_toml_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "options.toml"
    file.write_text(text)
    with pytest.raises(Exception, match=r"options\.toml") as error:
        parsed("run", "--config", str(file))
    assert message in str(error.value)


def test_required_options_may_come_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "evaluate.toml"
    file.write_text('model = "m.gguf"\n')
    with pytest.raises(UsageError, match="missing --text"):
        parsed("evaluate", "--config", str(file))
    file.write_text('corpus = "c"\noutput = "o"\nresume = true\n')
    chosen = parsed("train", "--config", str(file), "--no-resume")
    assert isinstance(chosen, options.TrainOptions)
    assert (chosen.corpus, chosen.output, chosen.resume) == (Path("c"), Path("o"), False)
    file.write_text('sources = ["a.txt", "b.txt"]\noutput = "o"\n')
    for arguments, sources in (([], ("a.txt", "b.txt")), (["c.txt", "d.txt"], ("c.txt", "d.txt"))):
        chosen = parsed("data", "--config", str(file), *arguments)
        assert isinstance(chosen, options.DataOptions)
        assert chosen.sources == sources


@pytest.mark.parametrize(
    ("text", "value"), [("3M", 3_000_000), ("2.5k", 2500), ("4096", 4096), ("1B", 10**9)]
)
def test_counts_are_read_as_people_write_them(text: str, value: int) -> None:
    assert options.count(text) == value


def test_a_closed_pipe_is_not_an_error() -> None:
    command = f"{sys.executable} -P -m linnet --help | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert "usage: linnet" in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is full")
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["run", "-n", "4", "Once"]])
def test_a_result_that_cannot_be_written_is_told_from_a_file(arguments: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "linnet", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    told = f"linnet {arguments[0]}: No space left on device: standard output\n"
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "-n", "4", "--seed", "1", "Once"], 0),
        (["run", "-m", "nowhere.gguf", "hi"], 2),
        (["list", "--json"], 0),
        (["dance"], 2),
        (["train"], 2),
    ],
)
def test_a_message_that_cannot_be_written_changes_nothing(arguments: list[str], code: int) -> None:
    expected = linnet(*arguments)
    command = [sys.executable, "-P", "-m", "linnet", *arguments]
    read, write = os.pipe()
    os.close(read)  # nobody reads
    targets = [write, *(os.open(path, os.O_WRONLY) for path in ("/dev/full",) if os.path.exists(path))]
    for target in targets:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=target, text=True, check=False)
        os.close(target)
        assert (done.returncode, done.stdout) == (code, expected.stdout)


def test_no_verb_prints_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in cli.VERBS)


def test_help_of_every_option_names_its_default() -> None:
    for verb, (config, _) in cli.VERBS.items():
        text = io.StringIO()
        parser = cli.build_parser()
        with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", text)
            parser.parse_args([verb, "--help"])
        flat = " ".join(text.getvalue().split())
        for field in dataclasses.fields(config):
            default = options.default_of(field)
            assert not default or f"(default: {default})" in flat, (verb, field.name)


def test_ctrl_c_while_the_command_is_still_imported_is_quiet() -> None:
    code = """
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "linnet.options":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from linnet.__main__ import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (cli.INTERRUPTED, "", "")


def test_nothing_is_imported_before_ctrl_c_is_quiet() -> None:
    code = "import sys; before = set(sys.modules); import linnet.__main__; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"__future__", "linnet", "linnet.__main__"}


def test_a_text_that_ctrl_c_ended_is_printed_and_the_exit_code_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from linnet.engine.session import Session

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "eval", interrupt)
    assert cli.main(["run", "--json", "hi"]) == cli.INTERRUPTED
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "interrupted"


def test_a_path_with_the_character_zero_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "show.toml"
    file.write_text('source = "a\\u0000b"\n')
    with pytest.raises(UsageError, match=r"source: .* is not a path"):
        parsed("show", "--config", str(file))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no file that never ends")
@pytest.mark.parametrize("flag", ["--config", "--json-schema", "--grammar"])
def test_a_file_that_never_ends_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "Hi", flag, "/dev/zero"]) == 2
    assert "/dev/zero has more than" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no file that never ends")
@pytest.mark.parametrize("verb", ["run", "embed"])
def test_a_pipe_that_never_ends_is_refused(verb: str) -> None:
    with open("/dev/zero", "rb") as endless:
        command = [sys.executable, "-P", "-m", "linnet", verb]
        done = subprocess.run(command, stdin=endless, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"linnet {verb}: standard input holds more than 32 MB; pipe in less\n"


def test_a_refused_renaming_names_both_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def rename(*_: object) -> NoReturn:
        os.rename(tmp_path / "none", tmp_path / "new")
        raise AssertionError

    monkeypatch.setattr("linnet.cli._call", rename)
    assert cli.main(["list"]) == 2
    expected = f"linnet list: No such file or directory: {tmp_path / 'none'} -> {tmp_path / 'new'}\n"
    assert capsys.readouterr().err == expected


def test_too_little_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr("linnet.cli._call", fail)
    assert cli.main(["list"]) == 2
    assert capsys.readouterr().err == "linnet list: there is not enough memory; give it less to hold\n"
