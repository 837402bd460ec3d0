"""Compiles the core: the shared library of the Python package, and its C test programs.

    python core/build.py                                  the library, in place, for this machine
    python core/build.py --target macos-arm64 -o FILE     the library for another machine
    python core/build.py --programs core/tests -o DIR     one program per core/tests/*.c (or of one file)
    python core/build.py --programs core/tests -o DIR --sanitize
    python core/build.py --programs core/fuzz -o DIR --fuzz

Needs only the standard library and a C11 compiler: ``zig cc`` of the ``ziglang``
package, or the command in LINNET_CC (which may hold arguments). zig brings the
headers and libraries of every target with it, so it needs nothing of the machine.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CORE = Path(__file__).resolve().parent
ENGINE = CORE.parent / "linnet" / "engine"


class CompileError(RuntimeError):
    """The compiler is missing or refused a file; the message holds what it said."""


@dataclass(frozen=True)
class Target:
    """A kind of machine the core is built for."""

    os: str  # "linux", "macos", "windows", or "other": built with the defaults of the compiler
    arch: str  # "x86_64", "aarch64", ...
    triple: str = ""  # for zig; "" = this machine
    wheel_tag: str = ""  # platform tag of a wheel built by zig; "" = that of this machine

    @property
    def library_name(self) -> str:
        return {"macos": "liblinnet.dylib", "windows": "linnet.dll"}.get(self.os, "liblinnet.so")


# The version in a triple is the oldest system the result runs on, and so is that of the tag.
TARGETS = {
    "linux-x86_64": Target("linux", "x86_64", "x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64"),
    "linux-aarch64": Target("linux", "aarch64", "aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64"),
    "macos-arm64": Target("macos", "aarch64", "aarch64-macos.11.0", "macosx_11_0_arm64"),
    "macos-x86_64": Target("macos", "x86_64", "x86_64-macos.10.15", "macosx_10_15_x86_64"),
    "windows-x86_64": Target("windows", "x86_64", "x86_64-windows-gnu", "win_amd64"),
}

# No contraction of a*b+c to a fused multiply-add behind our back: the scalar kernels are
# the oracle, and must give the same bits from every compiler and on every machine.
COMMON_FLAGS = ["-std=c11", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", f"-I{CORE}"]
STRICT_FLAGS = ["-Wall", "-Wextra", "-Werror"]
RELEASE_FLAGS = ["-O3", "-DNDEBUG"]
SANITIZE_FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]

# Files of one instruction set: the processors they exist for, and their flags. They are entered only
# after the processor was asked; all other files are compiled for the plainest processor of its kind.
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mf16c"]
ISA_FILES = {
    "avx2.c": ("x86_64", ["-mavx2", "-mfma", "-mf16c"]),
    "avx512.c": ("x86_64", _AVX512),
    "amx.c": ("x86_64", [*_AVX512, "-mamx-tile", "-mamx-int8"]),
    "neon.c": ("aarch64", []),
    "neon_dotprod.c": ("aarch64", ["-mcpu=generic+dotprod"]),  # zig does not take -march
}


def host_target() -> Target:
    """The target of the running Python. Anything unknown (musl, BSD, ...) has no triple."""
    name = sysconfig.get_platform()  # "linux-x86_64", "macosx-11.0-arm64", "win-amd64"
    arch = name.rsplit("-", 1)[-1]
    if sys.platform == "darwin":
        return TARGETS["macos-arm64" if platform.machine() == "arm64" else "macos-x86_64"]
    if name == "win-amd64":
        return TARGETS["windows-x86_64"]
    if name in TARGETS and platform.libc_ver()[0] == "glibc":
        return TARGETS[name]
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(arch, arch)
    return Target("windows" if sys.platform == "win32" else "other", arch)


def sources(target: Target) -> list[Path]:
    """The C files of the core for ``target``, in a fixed order."""
    files = [path for room in (".", "kernels", "tokenizer") for path in sorted((CORE / room).glob("*.c"))]
    return [path for path in files if _isa(path)[0] in ("", target.arch)]


def _isa(path: Path) -> tuple[str, list[str]]:
    """The only architecture ("" = any) a file is for, and the flags it needs."""
    return ISA_FILES.get(path.name, ("", []))


def uses_zig() -> bool:
    return not os.environ.get("LINNET_CC", "").strip()


def compiler() -> list[str]:
    """The command that compiles: LINNET_CC, else zig. Raises CompileError when there is neither."""
    if not uses_zig():
        command = shlex.split(os.environ["LINNET_CC"])
        if shutil.which(command[0]) is None:
            raise CompileError(f"LINNET_CC names '{command[0]}', which is not on PATH")
        return command
    if importlib.util.find_spec("ziglang") is None:
        raise CompileError("no compiler: run 'pip install ziglang', or name one in LINNET_CC")
    return [sys.executable, "-m", "ziglang", "cc"]


def _target_flags(target: Target, *, static: bool = False) -> list[str]:
    if not uses_zig():
        return []
    triple = target.triple
    if static:
        triple = f"{target.arch}-linux-musl"
    # zig would otherwise build for the very processor of this machine, and trap on undefined behaviour.
    flags = ["-mcpu=baseline", "-fno-sanitize=undefined"]
    if target.arch == "aarch64":
        # Otherwise instructions are ordered for a small in-order core: the products then keep two vectors in
        # flight and spill. (To zig, -mtune would mean -mcpu.)
        flags += ["-Xclang", "-tune-cpu", "-Xclang", "neoverse-n1"]
    return [*(["-target", triple] if triple else []), *flags]


def compile_library(out: Path, target: Target | None = None, *, strict: bool = False) -> Path:
    """Builds the shared library at ``out``, which appears only when it is whole.

    ``strict`` turns warnings into errors. Raises CompileError.
    """
    target = target or host_target()
    pic = [] if target.os == "windows" else ["-fPIC"]
    machine = _target_flags(target)
    flags = [*COMMON_FLAGS, *RELEASE_FLAGS, *(STRICT_FLAGS if strict else []), *pic, *machine]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".linnet-", dir=out.parent) as folder:
        objects = _compile_objects(sources(target), Path(folder), flags)
        library = Path(folder) / target.library_name
        link = ["-shared", *_link_flags(target), *machine]
        _call([*compiler(), *link, *objects, "-o", library, *_libraries(target)])
        os.replace(library, out)
    return out


def compile_programs(
    mains: Sequence[Path],
    folder: Path,
    target: Target | None = None,
    *,
    sanitize: Sequence[str] = (),
    strict: bool = False,
) -> list[Path]:
    """Links each file of ``mains`` with the whole core into ``folder``; returns the programs.

    With a ``target`` (Linux, other than this machine) they are static, to run under an emulator.
    ``sanitize`` names sanitizers such as "address"; zig has no run-time for them, so LINNET_CC
    must then be a clang or gcc. Raises CompileError.
    """
    if sanitize and uses_zig():
        raise CompileError("sanitizers need a clang or gcc: name one in LINNET_CC")
    machine = _target_flags(target or host_target(), static=target is not None)
    flags = [*COMMON_FLAGS, *(STRICT_FLAGS if strict else []), *machine]
    flags += [*SANITIZE_FLAGS, f"-fsanitize={','.join(sanitize)}"] if sanitize else RELEASE_FLAGS
    static = ["-static"] if target else []
    folder.mkdir(parents=True, exist_ok=True)
    target = target or host_target()
    programs = [folder / (main.stem + (".exe" if target.os == "windows" else "")) for main in mains]
    with tempfile.TemporaryDirectory(prefix=".linnet-", dir=folder) as temporary:
        files = sources(target)
        objects = _compile_objects([*files, *mains], Path(temporary), flags)
        shared, own = objects[: len(files)], objects[len(files) :]
        _call_all(
            [*compiler(), *flags, *static, main, *shared, "-o", program, *_libraries(target)]
            for main, program in zip(own, programs, strict=True)
        )
    return programs


def _compile_objects(files: Sequence[Path], folder: Path, flags: Sequence[str]) -> list[Path]:
    objects = [folder / f"{path.parent.name}-{path.stem}.o" for path in files]
    _call_all(
        [*compiler(), *flags, *_isa(path)[1], "-c", path, "-o", built]
        for path, built in zip(files, objects, strict=True)
    )
    return objects


def _link_flags(target: Target) -> list[str]:
    """No symbol table beyond what is exported; nothing undefined but the system's own."""
    if target.os == "macos":
        return ["-Wl,-install_name,@rpath/liblinnet.dylib"]
    if target.os == "linux":
        return ["-Wl,-s", "-Wl,-z,defs", "-Wl,-soname,liblinnet.so"]
    return ["-s"]


def _libraries(target: Target) -> list[str]:
    return [] if target.os in ("macos", "windows") else ["-lm", "-lpthread"]


def _call_all(commands: Iterable[Sequence[str | Path]]) -> None:
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(_call, commands))


def _call(command: Sequence[str | Path]) -> None:
    words = [os.fspath(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", env=_environment())
    if done.returncode:
        raise CompileError(f"{shlex.join(words)}\n{done.stderr or done.stdout}")
    if done.stderr:
        print(done.stderr, file=sys.stderr, end="")


@functools.cache
def _environment() -> dict[str, str]:
    """The environment of the compiler. zig needs a folder it can write its cache to."""
    environment = dict(os.environ)
    if environment.get("ZIG_GLOBAL_CACHE_DIR"):
        return environment
    home = environment.get("LOCALAPPDATA" if sys.platform == "win32" else "HOME", "")
    cache = environment.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else "")
    try:
        folder = Path(cache) / "zig"
        folder.mkdir(parents=True, exist_ok=True)
        if cache and os.access(folder, os.W_OK):
            return environment
    except OSError:
        pass
    temporary = tempfile.mkdtemp(prefix="linnet-zig-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return environment | {"ZIG_GLOBAL_CACHE_DIR": temporary}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compile the core of Linnet.")
    parser.add_argument("--target", choices=TARGETS, help="build for this machine instead of the present one")
    parser.add_argument("-o", "--output", type=Path, help="the library, or the folder of the programs")
    parser.add_argument("--programs", type=Path, metavar="PATH", help="one program per .c file there")
    parser.add_argument("--sanitize", action="store_true", help="programs with ASan and UBSan")
    parser.add_argument("--fuzz", action="store_true", help="the same with libFuzzer (clang only)")
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    given = parser.parse_args(arguments)
    target = TARGETS[given.target] if given.target else None
    sanitizers = ["address", "undefined"] if given.sanitize or given.fuzz else []
    try:
        if given.programs:
            if given.output is None:
                parser.error("--programs needs -o DIR")
            path = given.programs
            mains = [path] if path.is_file() else sorted(path.glob("*.c"))
            if not mains:
                raise CompileError(f"no .c file in {given.programs}")
            kinds = [*(["fuzzer"] if given.fuzz else []), *sanitizers]
            built = compile_programs(mains, given.output, target, sanitize=kinds, strict=given.strict)
        else:
            out = given.output or ENGINE / (target or host_target()).library_name
            built = [compile_library(out, target, strict=given.strict)]
    except CompileError as error:
        print(f"core/build.py: {error}", file=sys.stderr)
        return 1
    for path in built:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
