"""The installed package: light, importable without its extras, and complete."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import linnet

ROOT = Path(__file__).resolve().parent.parent
EXTRAS_ONLY = (
    "torch", "tokenizers", "transformers", "pyarrow", "matplotlib", "safetensors", "huggingface_hub",
)  # fmt: skip
ROOMS_OF_EXTRAS = ("linnet.train", "linnet.data")


def module_name(path: Path) -> str:
    parts = path.relative_to(Path(linnet.__file__).parent.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


RUNTIME = sorted(
    name
    for path in Path(linnet.__file__).parent.rglob("*.py")
    if (name := module_name(path)) != "linnet.__main__" and not name.startswith(ROOMS_OF_EXTRAS)
)

BLOCK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS_ONLY!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked by this test")

sys.meta_path.insert(0, Blocked())
"""


def python(code: str, *arguments: str) -> str:
    """Runs code in a fresh process away from the checkout and returns what it printed."""
    command = [sys.executable, *arguments, "-c", code]
    done = subprocess.run(command, cwd=Path(sys.prefix), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_runtime_is_found() -> None:
    assert {"linnet.cli", "linnet.engine.library", "linnet.formats.gguf"} <= set(RUNTIME)


def test_every_runtime_module_imports_without_the_extras() -> None:
    python(BLOCK + f"import importlib\nfor name in {RUNTIME!r}: importlib.import_module(name)")


def test_import_linnet_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import linnet; print(*set(sys.modules) - before)"
    loaded = python(code).split()
    assert [name for name in loaded if name.startswith("linnet")] == ["linnet"]
    assert {name.partition(".")[0] for name in loaded} - {"linnet"} <= sys.stdlib_module_names


def test_import_linnet_changes_no_environment() -> None:
    code = """
import logging, os
before = dict(os.environ)
import linnet
print(before == dict(os.environ), logging.root.handlers)
"""
    assert python(code).split() == ["True", "[]"]


def test_help_needs_no_numpy() -> None:
    code = "import sys, linnet.cli; print('numpy' in sys.modules, 'rich' in sys.modules)"
    assert python(code).split() == ["False", "False"]


def test_a_start_reads_what_it_needs_and_no_more() -> None:
    code = """
import sys
from linnet import cli, options
known, learn = [], options.add_arguments
options.add_arguments = lambda parser, config: (known.append(config.__name__), learn(parser, config))
sys.stdout = sys.stderr
cli.main(["run", "-n", "1", "Once"])
costly = {"numpy", "rich", "jinja2", "tomllib", "difflib"}
print(*known, *costly.intersection(sys.modules), file=sys.__stdout__)
"""
    assert python(code).split() == ["RunOptions"]


def test_version_is_that_of_the_core() -> None:
    from linnet.engine.library import library

    assert library().ln_version().decode() == linnet.__version__


def test_marked_as_typed() -> None:
    assert (Path(linnet.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
def test_wheel_holds_the_package_and_its_library(tmp_path: Path) -> None:
    """Built here, for this machine, and held against the files of the checkout."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("building a wheel needs hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"linnet-{linnet.__version__}-py3-none-")
    with zipfile.ZipFile(wheel) as archive:
        held = {item.filename: item.file_size for item in archive.infolist()}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "linnet").rglob("*.py")}
    assert sources <= set(held)
    assert sum(name.endswith((".so", ".dylib", ".dll")) for name in held) == 1
    models = {path.relative_to(ROOT).as_posix() for path in (ROOT / "linnet" / "models").glob("*.gguf")}
    assert models == {name for name in held if name.endswith(".gguf")}
    assert sum(held[name] for name in models) <= 6_000_000
    assert [name for name in held if not name.startswith(("linnet/", "linnet-"))] == []
