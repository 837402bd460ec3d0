"""The generated ctypes bindings agree with core/linnet.h and with the compiled library."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from c_programs import build, run

import linnet
from linnet.engine import _bindings
from linnet.engine.library import library

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "bindings.py"


@pytest.fixture(scope="module")
def bindings() -> ModuleType:
    """scripts/bindings.py as a module."""
    spec = importlib.util.spec_from_file_location("linnet_scripts_bindings", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_committed_file_is_what_the_header_says() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_installed_file_is_the_committed_one() -> None:
    committed = (ROOT / "linnet" / "engine" / "_bindings.py").read_text(encoding="utf-8")
    assert Path(_bindings.__file__).read_text(encoding="utf-8") == committed


def test_library_exports_every_function() -> None:
    missing = [name for name in _bindings.FUNCTIONS if not hasattr(library(), name)]
    assert missing == []


def test_handles_of_different_kinds_do_not_mix() -> None:
    model = ctypes.POINTER(_bindings.ln_model)()
    with pytest.raises(ctypes.ArgumentError):
        library().ln_tokenizer_close(model)


def test_struct_layouts_are_those_of_the_compiler(tmp_path: Path) -> None:
    """Sizes and offsets as a C compiler computes them: a wrong one would corrupt memory silently."""
    structs = {
        name: kind
        for name, kind in vars(_bindings).items()
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure) and hasattr(kind, "_fields_")
    }
    assert len(structs) >= 6
    lines = [f'printf("{name} %zu\\n", sizeof({name}));' for name in structs] + [
        f'printf("{name}.{field[0]} %zu\\n", offsetof({name}, {field[0]}));'
        for name, kind in structs.items()
        for field in kind._fields_
    ]
    main = tmp_path / "layout.c"
    main.write_text('#include <stdio.h>\n#include "linnet.h"\nint main(void) {' + "".join(lines) + "}\n")
    told = dict(line.split() for line in run(build(tmp_path, of=main) / "layout").splitlines())
    expected = {name: ctypes.sizeof(kind) for name, kind in structs.items()}
    for name, kind in structs.items():
        expected |= {f"{name}.{field[0]}": getattr(kind, field[0]).offset for field in kind._fields_}
    assert {name: int(value) for name, value in told.items()} == expected


def test_reads_every_kind_of_declaration(bindings: ModuleType) -> None:
    header = bindings.parse(
        """
        /* ---- a section ---- */

        #define LN_LIMIT 12 /* a limit */
        typedef enum ln_kind { LN_A = 0, LN_B = -1, /* the second */ } ln_kind;
        typedef struct ln_thing ln_thing;
        /* A pair. */
        typedef struct ln_pair {
            float x[2]; /* both */
            ln_kind kind;
        } ln_pair;

        /* Left alone by a blank line. */

        LN_API void ln_use(ln_thing *a, const ln_pair *b, const char *text, float *out, ln_thing **made);
        """
    )
    values = {item.name: item.value for item in header.constants}
    assert values == {"LN_LIMIT": "12", "LN_A": "0", "LN_B": "-1"}
    pair = next(struct for struct in header.structs if struct.name == "ln_pair")
    assert pair.doc == "A pair."
    assert [(field.name, field.ctype) for field in pair.fields] == [("x", "c_float * 2"), ("kind", "c_int")]
    (use,) = header.functions
    assert (use.result, use.doc) == ("None", "")
    assert use.arguments == (
        "POINTER(ln_thing)",
        "POINTER(ln_pair)",
        "c_char_p",
        "c_void_p",
        "POINTER(POINTER(ln_thing))",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nint stray;", "line 2: cannot read 'int stray;'"),
        ("#define LN_X (1 << 3)", "line 1: cannot read"),
        ("LN_API int32_t ln_f(struct tm *when);", "no rule for the type 'struct tm"),
        ("LN_API int32_t ln_f(int32_t);", "needs a type and a name"),
        ("typedef struct ln_s { long p; } ln_s;", "no rule for a field of type 'long'"),
        ("typedef struct ln_s { struct tm *p; } ln_s;", "no rule for the type 'struct tm"),
    ],
)
def test_refuses_what_it_cannot_read(bindings: ModuleType, text: str, said: str) -> None:
    with pytest.raises(bindings.HeaderError, match=said):
        bindings.parse(text)


def test_the_core_and_the_package_are_of_one_version() -> None:
    assert library().ln_version().decode() == linnet.__version__
