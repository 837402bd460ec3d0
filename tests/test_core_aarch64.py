"""The C test programs as they are compiled for Arm, under an emulator."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from c_programs import PROGRAMS, build, run

EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
# They test what is above the kernels, and go through all tables where no emulator is needed. Here those of
# kernels, attention and the decoder do.
FOR_ONE_TABLE = {"test_adapters", "test_sessions", "test_states"}


@pytest.fixture(scope="module")
def aarch64(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if EMULATOR is None or importlib.util.find_spec("ziglang") is None:
        pytest.skip("needs qemu-aarch64, and ziglang to cross-compile")
    return build(tmp_path_factory.mktemp("aarch64"), "--target", "linux-aarch64", compiler="")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_program(aarch64: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor with every extension, which runs all tables."""
    if name in FOR_ONE_TABLE:
        monkeypatch.setenv("LINNET_FIRST_ISA_ONLY", "1")
    printed = run(EMULATOR, "-cpu", "max", aarch64 / name)
    assert name != "test_kernels" or tables_of(printed) == ["dotprod", "neon", "scalar"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_kernels", "test_attention"])
def test_program_on_an_early_processor(aarch64: Path, name: str) -> None:
    """Of ARMv8-A without extensions: the tables it cannot run must stay shut."""
    printed = run(EMULATOR, "-cpu", "cortex-a53", aarch64 / name)
    assert name != "test_kernels" or tables_of(printed) == ["neon", "scalar"]


def tables_of(printed: str) -> list[str]:
    """The tables of kernels that test_kernels says it has run."""
    return re.findall(r"^(\w+): ok$", printed, re.MULTILINE)
