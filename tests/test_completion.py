"""``linnet completion``: what a shell offers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from linnet import cli

BASH = shutil.which("bash")


def script(shell: str) -> str:
    command = [sys.executable, "-P", "-m", "linnet", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["qu"], {"quantize"}),
        (["run", "--kv-type", "q"], {"q8_0", "q4_0"}),
        (["run", "--top"], {"--top-k", "--top-p"}),
        (["run", "-m", "org/a"], {"org/a:q4_0", "org/ab:q8_0"}),
        (["show", "org/ab:"], {"org/ab:q8_0"}),
        (["completion", "z"], {"zsh"}),
        (["fit", "--type", ""], set()),  # files, as bash itself offers them
        (["convert", "a", "-o", ""], set()),
        (["run", "--config", ""], set()),
        (["run", "--no-sp"], {"--no-speculate"}),
        (["run", "--json", "--see"], {"--seed"}),
    ],
)
def test_bash_offers(tmp_path: Path, words: list[str], offered: set[str]) -> None:
    odd = (
        "org--ac$(touch gone)",
        "org--ac`touch gone`",
        "org--a c",
        "org--a\n\x1b",
        "-m",
        "org--ac*",
        "a--b--c",
    )
    for name, type in (("org--a", "q4_0"), ("org--ab", "q8_0"), *((name, "q4_0") for name in odd)):
        (tmp_path / "models" / name / type).mkdir(parents=True)
    linnet = tmp_path / "linnet"
    linnet.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m linnet "$@"\n')
    linnet.chmod(0o755)
    asked = " ".join(f"'{word}'" for word in ["linnet", *words])
    code = f"{script('bash')}\nCOMP_WORDS=({asked}); COMP_CWORD={len(words)}; _linnet; echo ${{COMPREPLY[@]}}"
    environment = {**os.environ, "LINNET_HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(BASH), "--norc", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == offered
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_name_every_verb_and_parse_where_the_shell_is(shell: str, tmp_path: Path) -> None:
    text = script(shell)
    assert all(verb in text for verb in cli.VERBS)
    assert "linnet completion names" in text
    assert shell != "fish" or (" -l type -r " in text and " -l no-speculate" in text)
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)
