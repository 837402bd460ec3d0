"""The ``linnet`` command: a table of verbs, each imported when it is called."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from linnet import __version__, options
from linnet.display import one_line, visible_json
from linnet.errors import LinnetError

VERBS: dict[str, tuple[type, str]] = {  # verb: (its options, "module:function"), in the order of the path
    "run": (options.RunOptions, "linnet.run.terminal.run:run"),
    "embed": (options.EmbedOptions, "linnet.run.terminal.embed:embed"),
    "rerank": (options.RerankOptions, "linnet.run.terminal.rerank:rerank"),
    "data": (options.DataOptions, "linnet.data.corpus:data"),
    "train": (options.TrainOptions, "linnet.train.pretrain:train"),
    "convert": (options.ConvertOptions, "linnet.export.convert:convert"),
    "quantize": (options.QuantizeOptions, "linnet.quantize.quantize:quantize"),
    "evaluate": (options.EvaluateOptions, "linnet.evaluate.evaluate:evaluate"),
    "show": (options.ShowOptions, "linnet.run.show:show"),
    "bench": (options.BenchOptions, "linnet.run.bench:bench"),
    "fit": (options.FitOptions, "linnet.run.fit:fit"),
    "pull": (options.PullOptions, "linnet.store.pull:pull"),
    "list": (options.ListOptions, "linnet.store.list:list_models"),
    "rm": (options.RmOptions, "linnet.store.rm:rm"),
    "cp": (options.CpOptions, "linnet.store.cp:cp"),
    "completion": (options.CompletionOptions, "linnet.completion:completion"),
}

USAGE_ERROR = 2  # exit code of every error that the user can mend
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, like every other error, instead of the whole usage."""
        print(f"{self.prog}: {one_line(message)}; see '{self.prog} --help'", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; reads no file and imports no verb.

    With ``only`` no other verb knows its options: those of all take longer than the rest of a start.
    """
    parser = _Parser(
        prog="linnet",
        description="Make small language models and run them on this machine, offline.",
        epilog="'linnet VERB --help' explains a verb. 'linnet run' needs no model: one is bundled.",
    )
    parser.add_argument("--version", action="version", version=f"linnet {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for verb, (config, _) in VERBS.items():
        about = (config.__doc__ or "").strip()
        child = verbs.add_parser(verb, help=about.rstrip("."), description=about)
        if only in (None, verb):
            options.add_arguments(child, config)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns the exit code: 0, 2 for an error the user can mend, 130 when interrupted.

    Also where what was made until then is the result: a text that Ctrl-C ended.
    """
    _prepare_process()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser(next((verb for verb in arguments[:1] if verb in VERBS), None))
    given = vars(parser.parse_args(arguments))
    verb = given.pop("verb")
    if verb is None:
        parser.print_help()
        return 0
    try:
        result = _call(verb, given)
        sys.stdout.flush()  # here, where a closed pipe can still be caught
        return INTERRUPTED if result.get("finish_reason") == "interrupted" else 0
    except LinnetError as error:
        print(f"linnet {verb}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt as stopped:
        print("", *stopped.args, sep="\n", file=sys.stderr)  # what the terminal shows of Ctrl-C ends its line
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of standard output went away, as `head` does; the interpreter
        # would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print(f"linnet {verb}: there is not enough memory; give it less to hold", file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:  # the system refused what no stage expected: a name too long, a broken disk
        files = [str(name) for name in (error.filename, error.filename2) if name]  # two of a renaming
        told = f"{error.strerror}: {' -> '.join(files)}" if files else str(error)
        print(f"linnet {verb}: {one_line(told)}", file=sys.stderr)
        return USAGE_ERROR


def _prepare_process() -> None:
    """Standard streams that can be used as they are, and an orderly end on SIGTERM and SIGHUP.

    A closed stream becomes the null device; what a terminal or a legacy code page
    cannot show becomes ``?`` instead of an error. What cannot be written to standard error is lost.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open to the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        stream = sys.stdout
        sys.stdout = _Results(
            stream.buffer,
            stream.encoding,
            "replace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = _Messages(sys.stderr.buffer, sys.stderr.encoding, "replace", line_buffering=True)
    for name in ("SIGTERM", "SIGHUP"):
        with contextlib.suppress(AttributeError, ValueError):  # Windows; not the main thread
            signal.signal(getattr(signal, name), _end)


class _Results(io.TextIOWrapper):
    """A stream whose errors say which one it is: the system's would seem to be about a file that was made."""

    def write(self, text: str) -> int:
        with _standard_output():
            return super().write(text)

    def flush(self) -> None:
        with _standard_output():
            super().flush()


@contextlib.contextmanager
def _standard_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


class _Messages(io.TextIOWrapper):
    """A stream whose messages are lost where they cannot be written: on a full disk, to a reader that left.

    They are about a result and none of it: a text on standard output is there without them, and what failed
    is known by the exit code.
    """

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)  # unwinds, so that half-written outputs are removed


def _call(verb: str, given: dict[str, Any]) -> dict[str, object]:
    config, address = VERBS[verb]
    chosen: Any = options.from_arguments(config, given)
    module, function = address.split(":")
    stage: Callable[[Any], dict[str, object]] = getattr(importlib.import_module(module), function)
    result = stage(chosen)
    if chosen.json and result:  # of several processes that train together, one has a result
        print(visible_json(json.dumps(result, ensure_ascii=False, allow_nan=False)))
    return result
