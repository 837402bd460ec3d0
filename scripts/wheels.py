"""Builds the wheel of every target from this one machine, and checks each.

    python scripts/wheels.py [TARGET...] [-o dist]

Needs the packages hatchling and ziglang. What is checked of every wheel: its tag, that
it holds one library of the right format and processor that exports the whole header,
and that this library asks the system for nothing newer than its tag promises. The wheel of
this machine is installed in a fresh virtual environment, where its library is loaded.
(tests/test_core_aarch64.py runs the C tests of Linux aarch64 under an emulator.)
"""

from __future__ import annotations

import argparse
import os
import re
import struct
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "core"))  # core/build.py belongs to no package: it runs with nothing installed
import build  # noqa: E402

MODEL_LIMIT = 6_000_000  # bytes of the bundled model
OLDEST_GLIBC = (2, 17)


class WheelError(RuntimeError):
    """A wheel that must not be published."""


@dataclass(frozen=True)
class Expected:
    """What the library of a target must be."""

    format: str  # "elf", "mach-o" or "pe"
    machine: int  # the processor, as that format numbers it
    needs: str  # regular expression of the only libraries it may ask the system for


_GLIBC = r"libc\.so\.6|libm\.so\.6|libpthread\.so\.0|ld-linux-\w+(-\w+)?\.so\.\d"
_WINDOWS = r"(?i:kernel32|kernelbase|ntdll|msvcrt|ucrtbase|advapi32|api-ms-win-[\w-]+)\.dll"
_MACOS = r"/usr/lib/libSystem\.B\.dylib"

EXPECTED = {
    "linux-x86_64": Expected("elf", 62, _GLIBC),
    "linux-aarch64": Expected("elf", 183, _GLIBC),
    "macos-arm64": Expected("mach-o", 0x0100000C, _MACOS),
    "macos-x86_64": Expected("mach-o", 0x01000007, _MACOS),
    "windows-x86_64": Expected("pe", 0x8664, _WINDOWS),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build and check the wheels of all targets.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(EXPECTED)} (default: all)")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", help="folder for the wheels")
    given = parser.parse_args(arguments)
    unknown = set(given.targets) - set(EXPECTED)
    if unknown:
        parser.error(f"unknown target {', '.join(sorted(unknown))}")
    failed = False
    targets = list(dict.fromkeys(given.targets)) or list(EXPECTED)
    given.output.mkdir(parents=True, exist_ok=True)  # two hatchlings that both find none would both make it
    with ThreadPoolExecutor(max_workers=2) as pool:
        made = {target: pool.submit(make_wheel, target, given.output) for target in targets}
        for target, line in made.items():
            try:
                print(line.result(), flush=True)
            except WheelError as error:
                print(f"{target}: {error}", file=sys.stderr)
                failed = True
    return int(failed)


def make_wheel(target: str, folder: Path) -> str:
    """Builds, checks and, where this machine can, installs the wheel of ``target``; returns a line about it.

    Raises WheelError.
    """
    wheel = build_wheel(target, folder)
    library = check_wheel(wheel, target)
    host = build.TARGETS[target] == build.host_target()
    ran = run_installed(wheel) if host else "not run: no such machine here"
    return f"{wheel.name}: {wheel.stat().st_size:,} bytes, library {library:,} bytes; {ran}"


# ---- build -------------------------------------------------------------------------------


def build_wheel(target: str, folder: Path) -> Path:
    """Builds the wheel of ``target`` into ``folder`` and returns it. Raises WheelError."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder.resolve())]
    environment = os.environ | {"LINNET_TARGET": target}
    environment.pop("LINNET_CC", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise WheelError(f"hatchling failed:\n{done.stdout}{done.stderr}")
    tag = build.TARGETS[target].wheel_tag
    found = sorted(folder.glob(f"linnet-*-py3-none-{tag}.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise WheelError(f"no wheel tagged {tag} was made:\n{done.stdout}{done.stderr}")
    return found[-1]


# ---- check -------------------------------------------------------------------------------


def check_wheel(wheel: Path, target: str) -> int:
    """Checks the wheel of ``target`` and returns the bytes of its library. Raises WheelError."""
    tag, inside = build.TARGETS[target].wheel_tag, f"linnet/engine/{build.TARGETS[target].library_name}"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = next(name for name in names if name.endswith(".dist-info/WHEEL"))
        if f"Tag: py3-none-{tag}\n" not in archive.read(about).decode():
            raise WheelError(f"{about} does not say Tag: py3-none-{tag}")
        libraries = [name for name in names if name.endswith((".so", ".dylib", ".dll"))]
        if libraries != [inside]:
            raise WheelError(f"wanted {inside} alone, found {libraries}")
        models = sum(item.file_size for item in archive.infolist() if item.filename.endswith(".gguf"))
        if models > MODEL_LIMIT:
            raise WheelError(f"the bundled model has {models:,} bytes, more than {MODEL_LIMIT:,}")
        library = archive.read(libraries[0])
    check_library(library, EXPECTED[target])
    return len(library)


def check_library(library: bytes, expected: Expected) -> None:
    """Checks format, processor, exports and needs of a shared library. Raises WheelError."""
    kind, machine = library_machine(library)
    if (kind, machine) != (expected.format, expected.machine):
        raise WheelError(f"the library is {kind} for machine {machine:#x}, not {expected}")
    header = (ROOT / "core" / "linnet.h").read_text(encoding="utf-8")
    for name in re.findall(r"^LN_API .*?\b(ln_\w+)\(", header, re.MULTILINE):
        if name.encode() + b"\0" not in library:
            raise WheelError(f"the library does not export {name}")
    for needed in needed_libraries(library, kind):
        if not re.fullmatch(expected.needs, needed):
            raise WheelError(f"the library asks for {needed}, which not every machine has")
    newest = max(glibc_versions(library), default=OLDEST_GLIBC) if kind == "elf" else OLDEST_GLIBC
    if newest > OLDEST_GLIBC:  # pip trusts the tag: the library would fail to load on the user's machine
        raise WheelError(f"the library needs glibc {'.'.join(map(str, newest))}, its tag promises 2.17")


def library_machine(library: bytes) -> tuple[str, int]:
    """Format and processor number of a 64-bit little-endian shared library."""
    if library[:6] == b"\x7fELF\x02\x01":
        return "elf", struct.unpack_from("<H", library, 18)[0]
    if library[:4] == b"\xcf\xfa\xed\xfe":
        return "mach-o", struct.unpack_from("<I", library, 4)[0]
    if library[:2] == b"MZ":
        header = struct.unpack_from("<I", library, 0x3C)[0]
        if library[header : header + 4] == b"PE\0\0":
            return "pe", struct.unpack_from("<H", library, header + 4)[0]
    return "unknown", 0


def needed_libraries(library: bytes, kind: str) -> set[str]:
    """Names of the libraries the system must have. For Mach-O and PE: every name of one it holds."""
    if kind == "elf":
        return set(_elf_needed(library))
    pattern = rb"[\w.-]+\.dll\b" if kind == "pe" else rb"[@/][\w./-]+\.dylib"
    own = {"linnet.dll", "@rpath/liblinnet.dylib"}
    return {name.decode() for name in re.findall(pattern, library)} - own


def glibc_versions(library: bytes) -> set[tuple[int, ...]]:
    """The GLIBC_x.y symbol versions an ELF library asks for (section .gnu.version_r)."""
    names = set()
    for kind, offset, strings in _elf_sections(library):
        if kind != 0x6FFFFFFE:  # SHT_GNU_verneed
            continue
        while True:
            _, count, _, auxiliary, following = struct.unpack_from("<HHIII", library, offset)
            at = offset + auxiliary
            for _ in range(count):
                name, step = struct.unpack_from("<II", library, at + 8)
                names.add(_text(library, strings + name))
                at += step
            if not following:
                break
            offset += following
    found = (re.fullmatch(r"GLIBC_([\d.]+)", name) for name in names)
    return {tuple(int(part) for part in match[1].split(".")) for match in found if match}


def _elf_needed(library: bytes) -> Iterator[str]:
    for kind, offset, strings in _elf_sections(library):
        if kind != 6:  # SHT_DYNAMIC
            continue
        while True:
            tag, value = struct.unpack_from("<qQ", library, offset)
            if tag == 0:
                break
            if tag == 1:  # DT_NEEDED
                yield _text(library, strings + value)
            offset += 16


def _elf_sections(library: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, file offset, and file offset of the linked string table, of every section."""
    (start,) = struct.unpack_from("<Q", library, 40)
    size, count = struct.unpack_from("<HH", library, 58)
    rows = [struct.unpack_from("<IIQQQQI", library, start + index * size) for index in range(count)]
    for _, kind, _, _, offset, _, link in rows:
        yield kind, offset, rows[link][4]


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


# ---- run ---------------------------------------------------------------------------------


def run_installed(wheel: Path) -> str:
    """Installs ``wheel`` in a fresh virtual environment and says what its library can use.

    Raises WheelError.
    """
    code = "from linnet.engine.library import library; print(library().ln_isa_list().decode())"
    with tempfile.TemporaryDirectory(prefix="linnet-wheel-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "Scripts" if os.name == "nt" else "bin", "python"))
        _call([python, "-m", "pip", "install", "--quiet", str(wheel)], Path(folder))
        return f"installed, can use {_call([python, '-c', code], Path(folder))}"


def _call(command: list[str], folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise WheelError(f"{' '.join(command)} gave {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip().replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
