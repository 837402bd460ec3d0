"""Offline: no verb but ``pull``, and ``fit`` of a model that is elsewhere, opens a connection."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import linnet
from linnet.run.model import BUNDLED_MODEL

TALKERS = {
    "socket",
    "http",
    "urllib.request",
    "ftplib",
    "smtplib",
    "asyncio",
    "requests",
    "httpx",
    "huggingface_hub",
}
MAY_TALK = {"linnet/formats/hub.py"}

GUARD = """
import os, sys

def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        print("a connection was opened:", event, arguments, file=sys.stderr)
        os._exit(9)

sys.addaudithook(guard)
from linnet import cli
sys.exit(cli.main(sys.argv[1:]))
"""

MODEL = str(BUNDLED_MODEL)
COMMANDS = {
    "run": ["-m", MODEL, "-n", "2", "hi"],
    "data": ["text.txt", "-o", "corpus", "--vocab-size", "300"],
    "convert": [MODEL, "-o", "folder"],
    "quantize": [MODEL, "-o", "m.gguf", "--type", "q4_0"],
    "evaluate": ["-m", MODEL, "--text", "text.txt"],
    "show": [MODEL],
    "bench": ["-m", MODEL, "--threads", "1", "--repeat", "1", "--prompt-tokens", "4", "--decode-tokens", "2"],
    "list": [],
    "rm": ["nothing"],
    "cp": [MODEL, "mine"],
    "completion": ["bash"],
}


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_a_verb_opens_no_connection(verb: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 200)
    command = [sys.executable, "-P", "-c", GUARD, verb, *COMMANDS[verb]]
    environment = {**os.environ, "LINNET_HOME": str(tmp_path / "store")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if verb == "rm" else 0), done.stderr


def test_the_guard_sees_a_connection(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "LINNET_HOME": str(tmp_path)}
    command = [sys.executable, "-P", "-c", GUARD, "pull", "org/name"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 9


def test_nothing_else_could_open_one() -> None:
    """Only the room of the Hub imports what can talk to other machines."""
    root = Path(linnet.__file__).parent
    found = {}
    for path in root.rglob("*.py"):
        name = path.relative_to(root.parent).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom)
                else []
            )  # fmt: skip
            if any(module in TALKERS or module.split(".")[0] in TALKERS for module in modules):
                found[name] = modules
    assert set(found) <= MAY_TALK, found
