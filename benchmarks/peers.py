"""The engines that benchmarks/compare.py measures; each runs in a process of its own, started as

    python benchmarks/peers.py '{"engine": "llama.cpp", "model": "model.gguf", "threads": 2, ...}'

The process opens the model, evaluates its first tokens and writes a line of JSON: what it is, or {"skip":
reason}. Then every line {"seed", "n_prompt", "n_new"} on its standard input is answered by {"prefill_s",
"decode_s"}: the seconds from a prompt (of each sequence) to the logits behind it, and the seconds of n_new
further tokens of each sequence. Tokens are given, not drawn, except by OpenVINO, whose time includes its own
greedy choice.

Only the standard library is imported before an engine is: the time to the first token is one of the figures,
and the interpreter may be one that Linnet is not installed for.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any, Protocol

Prompts = list[list[int]]  # token ids of each sequence, all of one length
N_RESERVED = 2  # the last ids of a vocabulary are control tokens


class SkipError(Exception):
    """Why an engine cannot be measured here."""


@dataclass(frozen=True)
class Request:
    """What an engine is opened with. ``n_ctx`` is that of each sequence."""

    engine: str
    model: str
    threads: int
    vocab_size: int
    n_ctx: int
    n_sequences: int = 1
    isa: str = ""  # of Linnet; "" = the best
    library: str = ""  # folder of another llama.cpp than the one installed


class Engine(Protocol):
    """A model that is open: ``__init__`` takes a :class:`Request` and raises SkipError."""

    def timed(self, prompts: Prompts, n_new: int) -> tuple[float, float]:
        """Seconds to the logits behind ``prompts``, and of ``n_new`` steps of all sequences.

        The same prompts again may be taken from what is kept of the last call, so the first of the
        two times is one of evaluating them only when they are new.
        """

    def facts(self) -> dict[str, Any]:
        """Version and settings, for the record."""


class Linnet:
    """Ours, through its Python API."""

    def __init__(self, request: Request) -> None:
        from pathlib import Path

        from linnet.engine.model import Model
        from linnet.engine.session import Session, Workspace

        self._model = Model.open(Path(request.model))
        self._workspace = Workspace(
            self._model,
            kv_tokens=request.n_ctx * request.n_sequences,
            n_threads=request.threads,
            isa=request.isa or None,
        )
        self._sessions = [Session(self._workspace, request.n_ctx) for _ in range(request.n_sequences)]
        self._prompts: Prompts = []

    def _eval(self, pieces: Prompts) -> None:
        """Appends a piece to every timeline, all of them in one call."""
        self._workspace.eval(list(zip(self._sessions, pieces, strict=True)))

    def timed(self, prompts: Prompts, n_new: int) -> tuple[float, float]:
        started = time.perf_counter()
        known = len(prompts[0]) if prompts == self._prompts else 0
        for session in self._sessions:
            session.truncate(known)
        if not known:
            self._eval(prompts)
            self._prompts = prompts
        prefilled = time.perf_counter()
        for step in range(n_new):
            self._eval([[prompt[step % len(prompt)]] for prompt in prompts])
        return prefilled - started, time.perf_counter() - prefilled

    def facts(self) -> dict[str, Any]:
        from linnet import __version__

        return {
            "version": __version__,
            "isa": self._workspace.isa,
            "bytes_per_token": self._model.bytes_per_token,
        }


class LlamaCpp:
    """llama.cpp through the C functions that llama-cpp-python binds, with the defaults of llama.cpp.

    Weights are mapped and repacked, the cache is f16, threads are kept between calls, as llama.cpp's own
    programs do. Flash attention is its default; ``plain`` switches it off, which is faster for some figures.
    """

    N_BATCH = 2048  # tokens per llama_decode, the default; evaluated in pieces of 512

    def __init__(self, request: Request, plain: bool = False) -> None:
        self._api = api = _llama_bindings(request.library)
        self._log = api.llama_log_callback(lambda *_: None)  # kept, as the library keeps a pointer to it
        api.llama_log_set(self._log, None)
        api.llama_backend_init()
        options = api.llama_model_default_params()
        self._model = api.llama_model_load_from_file(request.model.encode(), options)
        if not self._model:
            raise SkipError(f"llama.cpp cannot open {request.model}")
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = request.n_ctx * request.n_sequences, request.n_sequences
        settings.n_threads = settings.n_threads_batch = request.threads
        settings.n_batch, settings.n_ubatch = self.N_BATCH, 512
        if plain:
            settings.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = api.llama_init_from_model(self._model, settings)
        if not self._context:
            raise SkipError(f"llama.cpp cannot make a context of {settings.n_ctx} tokens")
        self._keep_threads(request.threads)
        self._memory = api.llama_get_memory(self._context)
        self._batch = api.llama_batch_init(self.N_BATCH, 0, 1)
        self._prompts: Prompts = []

    def _keep_threads(self, n: int) -> None:
        """Without a pool of its own a context makes new threads for every token (except under OpenMP)."""
        library = self._api._lib
        if not hasattr(library, "ggml_threadpool_new"):
            return
        params = ctypes.create_string_buffer(1024)  # ggml_threadpool_params is 532 bytes
        library.ggml_threadpool_params_init(params, ctypes.c_int(n))
        library.ggml_threadpool_new.restype = ctypes.c_void_p
        pool = ctypes.c_void_p(library.ggml_threadpool_new(params))
        library.llama_attach_threadpool(ctypes.c_void_p(self._context), pool, pool)

    def timed(self, prompts: Prompts, n_new: int) -> tuple[float, float]:
        started = time.perf_counter()
        n_prompt = len(prompts[0])
        if prompts == self._prompts:
            self._api.llama_memory_seq_rm(self._memory, -1, n_prompt, -1)
        else:
            self._api.llama_memory_clear(self._memory, True)
            width = self.N_BATCH // len(prompts)
            for begin in range(0, n_prompt, width):
                self._decode([prompt[begin : begin + width] for prompt in prompts], begin, n_prompt - 1)
            self._prompts = prompts
        prefilled = time.perf_counter()
        for step in range(n_new):
            position = n_prompt + step
            self._decode([[prompt[step % n_prompt]] for prompt in prompts], position, position)
        return prefilled - started, time.perf_counter() - prefilled

    def _decode(self, pieces: Prompts, begin: int, last: int) -> None:
        """Evaluates a piece of every sequence from position ``begin``; waits for the logits at ``last``."""
        batch, n = self._batch, 0
        for sequence, piece in enumerate(pieces):
            for position, token in enumerate(piece, begin):
                batch.token[n], batch.pos[n], batch.n_seq_id[n] = token, position, 1
                batch.seq_id[n][0], batch.logits[n] = sequence, position == last
                n += 1
        batch.n_tokens = n
        if status := self._api.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returned {status}")
        self._api.llama_synchronize(self._context)

    def facts(self) -> dict[str, Any]:
        return {
            "version": metadata.version("llama-cpp-python"),
            "system": self._api.llama_print_system_info().decode().strip(),
        }


def _llama_bindings(library: str) -> ModuleType:
    """The module of C functions alone: what the package imports besides would count as time to load."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None:
        raise SkipError("llama-cpp-python is not installed; pip install 'linnet[peers]'")
    if library:
        os.environ["LLAMA_CPP_LIB_PATH"] = library
    package = ModuleType("llama_cpp")
    package.__path__ = list(found.submodule_search_locations or [])
    sys.modules["llama_cpp"] = package
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    except (OSError, RuntimeError) as error:  # FileNotFoundError too
        raise SkipError(f"the library of llama.cpp does not load: {error}") from None


class OpenVino:
    """OpenVINO GenAI, which reads the GGUF file itself, with its defaults (a cache of 8 bits among them).

    It keeps the keys and values of prompts it has seen.
    """

    def __init__(self, request: Request) -> None:
        try:
            import numpy
            import openvino
            import openvino_genai
        except ImportError as error:
            raise SkipError(f"{error}; pip install openvino-genai, or name an --openvino-python") from None
        self._numpy, self._openvino, self._genai = numpy, openvino, openvino_genai
        try:
            self._pipeline = openvino_genai.LLMPipeline(
                request.model, "CPU", INFERENCE_NUM_THREADS=request.threads
            )
        except RuntimeError as error:
            reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
            raise SkipError(f"OpenVINO cannot open {os.path.basename(request.model)}: {reason}") from None

    def timed(self, prompts: Prompts, n_new: int) -> tuple[float, float]:
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = n_new + 1, True, False
        ids = self._numpy.array(prompts, self._numpy.int64)
        mask = self._numpy.ones_like(ids)
        inputs = self._genai.TokenizedInputs(self._openvino.Tensor(ids), self._openvino.Tensor(mask))
        metrics = self._pipeline.generate(inputs, config).perf_metrics
        if metrics.get_num_generated_tokens() != len(prompts) * (n_new + 1):
            raise RuntimeError(f"OpenVINO wrote {metrics.get_num_generated_tokens()} tokens")
        first = metrics.get_ttft().mean / 1e3
        return first, metrics.get_generate_duration().mean / 1e3 - first

    def facts(self) -> dict[str, Any]:
        return {"version": self._genai.__version__}


ENGINES: dict[str, Callable[[Request], Engine]] = {
    "linnet": Linnet,
    "llama.cpp": LlamaCpp,
    "llama.cpp-plain": functools.partial(LlamaCpp, plain=True),
    "openvino": OpenVino,
}


def prompts_of(seed: int, n_sequences: int, n_prompt: int, vocab_size: int) -> Prompts:
    """Token ids that scatter over the vocabulary; other ones for every seed and sequence."""
    usable = vocab_size - N_RESERVED
    numbers = iter(range(seed * 1_000_003, seed * 1_000_003 + n_sequences * n_prompt))
    return [[next(numbers) * 2654435761 % usable for _ in range(n_prompt)] for _ in range(n_sequences)]


def serve(request: Request) -> None:
    """Opens the model and answers until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        engine = ENGINES[request.engine](request)
        first = prompts_of(0, request.n_sequences, 4, request.vocab_size)
        engine.timed(first, 0)
        answer({"first_token_at": time.monotonic(), **engine.facts()})
        for line in sys.stdin:
            given = json.loads(line)
            prompts = prompts_of(given["seed"], request.n_sequences, given["n_prompt"], request.vocab_size)
            prefill_s, decode_s = engine.timed(prompts, given["n_new"])
            answer({"prefill_s": prefill_s, "decode_s": decode_s})
    except SkipError as reason:
        answer({"skip": str(reason)})
    except Exception as error:
        answer({"skip": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    serve(Request(**json.loads(sys.argv[1])))
