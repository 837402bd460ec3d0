"""The C test programs of core/tests/: building them for a machine, and running one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "core" / "tests"
PROGRAMS = sorted(path.stem for path in SOURCES.glob("*.c"))


def build(folder: Path, *arguments: str, of: Path = SOURCES, compiler: str | None = None) -> Path:
    """Compiles ``of``, one .c file or all of a folder, into ``folder``, which it returns."""
    environment = os.environ | ({} if compiler is None else {"LINNET_CC": compiler})
    command = [sys.executable, ROOT / "core" / "build.py", "--strict", "--programs", of, "-o", folder]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run(*command: str | Path) -> str:
    """Runs a program, perhaps behind an emulator, and returns what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=600)
    name = " ".join(map(str, command))
    assert done.returncode == 0, f"{name} gave {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
