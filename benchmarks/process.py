"""One engine of peers.py in a process of its own: started, asked, stopped while it is not asked, ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peers
from peers import SkipError

ANSWER_SECONDS = 900.0  # an engine that takes longer hangs


class EngineProcess:
    """One engine of peers.py with a model open. Raises SkipError when it cannot be, or stops answering."""

    def __init__(self, python: str, request: peers.Request) -> None:
        _check_memory(Path(request.model))
        environment = dict(os.environ)
        if python != sys.executable:
            environment.pop("PYTHONPATH", None)  # the packages of this interpreter are not that one's
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._name = request.engine
        started = time.monotonic()
        self._process = subprocess.Popen(
            [python, peers.__file__, json.dumps(asdict(request))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
        )  # fmt: skip
        try:
            self.facts = self._answer()
        except SkipError:
            self.close()
            raise
        self.first_token_s = self.facts.pop("first_token_at") - started

    def ask(self, seed: int, n_prompt: int, n_new: int) -> dict[str, float]:
        """Seconds of one evaluation, as peers.py describes them."""
        question = json.dumps({"seed": seed, "n_prompt": n_prompt, "n_new": n_new})
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended; why, is found out below
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(ANSWER_SECONDS, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            raise SkipError(self._cause_of_death())
        answer: dict[str, Any] = json.loads(line)
        if "skip" in answer:
            raise SkipError(answer["skip"])
        return answer

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        said = [line.strip() for line in self._log.read().splitlines() if line.strip()][-1:]
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return " ".join([f"{self._name} {how}", *(f"({line[:200]})" for line in said)])

    def peak_rss_bytes(self) -> int:
        """The most memory the process has held at once."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            return int(re.findall(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)[0]) * 1024
        except (OSError, IndexError):
            raise SkipError("peak memory of a process is not readable on this system") from None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Lets the process run inside the block only, so that no waiting thread of it disturbs the others."""
        if hasattr(signal, "SIGSTOP"):
            self._process.send_signal(signal.SIGCONT)
            yield
            self._process.send_signal(signal.SIGSTOP)
        else:
            yield
            time.sleep(1)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_memory(model: Path) -> None:
    """A machine that runs out of memory would end another process than the one to blame."""
    try:
        available = int(re.findall(r"^MemAvailable:\s*(\d+) kB$", Path("/proc/meminfo").read_text(), re.M)[0])
    except (OSError, IndexError):
        return
    needed = 2 * model.stat().st_size  # mapped, and repacked
    if available * 1024 < needed:
        free = available * 1024 / 1e9
        raise SkipError(f"{needed / 1e9:.1f} GB of memory may be needed, {free:.1f} GB are available")
