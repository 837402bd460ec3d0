"""Compiles and runs the C test programs of core/tests/, plain and under sanitizers."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import pytest
from c_programs import PROGRAMS, SOURCES, build, run

CLANG = next((name for name in ("clang-19", "clang") if shutil.which(name)), None)


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
    run(sys.executable, "-c", start, str(processor), program)


@pytest.mark.slow
def test_threads_under_thread_sanitizer(tmp_path: Path) -> None:
    if CLANG is None:
        pytest.skip("the sanitizers need clang")
    program = SOURCES / "test_threads.c"
    run(build(tmp_path, of=program, compiler=f"{CLANG} -g -fsanitize=thread") / "test_threads")


@pytest.mark.slow
def test_plain_processor_gets_no_illegal_instruction(tmp_path: Path) -> None:
    """An emulated processor of 2008, without AVX: all but the scalar kernels must stay shut."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or platform.machine() != "x86_64":
        pytest.skip("needs qemu-x86_64 on an x86-64 machine")
    program = build(tmp_path, of=SOURCES / "test_kernels.c") / "test_kernels"
    assert "scalar: ok" in run(emulator, "-cpu", "Nehalem", program)
