"""Compiles and runs the C test programs of core/tests/, plain and under sanitizers."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "core" / "build.py"
PROGRAMS = sorted(path.stem for path in (ROOT / "core" / "tests").glob("*.c"))
QEMU_AARCH64 = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
CLANG = next((name for name in ("clang-19", "clang") if shutil.which(name)), None)


def build(folder: Path, *arguments: str, compiler: str | None = None) -> Path:
    environment = os.environ | ({} if compiler is None else {"LINNET_CC": compiler})
    command = [sys.executable, BUILD, "--strict", "--programs", ROOT / "core" / "tests", "-o", folder]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run(program: Path) -> None:
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, f"{program.name} gave {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if CLANG is None:
        pytest.skip("the sanitizers need clang")
    return build(tmp_path_factory.mktemp("sanitized"), "--sanitize", compiler=CLANG)


def test_there_are_programs() -> None:
    assert PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(plain: Path, name: str) -> None:
    run(plain / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_under_sanitizers(sanitized: Path, name: str) -> None:
    run(sanitized / name)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_threads_share_one_processor(plain: Path) -> None:
    """More threads than processors: whoever waits has to let the others run."""
    processor = min(os.sched_getaffinity(0))
    program = plain / "test_threads"
    start = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])]); os.execv(sys.argv[2], sys.argv[2:])"
    command = [sys.executable, "-c", start, str(processor), program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_threads_under_thread_sanitizer(tmp_path: Path) -> None:
    if CLANG is None:
        pytest.skip("the sanitizers need clang")
    run(build(tmp_path, compiler=f"{CLANG} -g -fsanitize=thread") / "test_threads")


@pytest.mark.slow
def test_plain_processor_gets_no_illegal_instruction(plain: Path) -> None:
    """An emulated processor of 2008, without AVX: all but the scalar kernels must stay shut."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or platform.machine() != "x86_64":
        pytest.skip("needs qemu-x86_64 on an x86-64 machine")
    command = [emulator, "-cpu", "Nehalem", plain / "test_kernels"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scalar: ok" in done.stdout


@pytest.fixture(scope="module")
def aarch64(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if QEMU_AARCH64 is None or importlib.util.find_spec("ziglang") is None:
        pytest.skip("needs qemu-aarch64, and ziglang to cross-compile")
    return build(tmp_path_factory.mktemp("aarch64"), "--target", "linux-aarch64", compiler="")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_kernels", "test_attention"])
@pytest.mark.parametrize(
    ("processor", "tables"), [("cortex-a53", ["neon", "scalar"]), ("max", ["dotprod", "neon", "scalar"])]
)
def test_kernels_of_arm_processors(aarch64: Path, name: str, processor: str, tables: list[str]) -> None:
    """An early ARMv8-A processor and one with every extension run all the tables they can, and no other."""
    command = [QEMU_AARCH64, "-cpu", processor, aarch64 / name]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    if name == "test_kernels":
        assert re.findall(r"^(\w+): ok$", done.stdout, re.MULTILINE) == tables
