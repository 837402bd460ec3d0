"""What must not depend on speed: the same bits however work is cut, and no work when idle.

    python benchmarks/invariants.py [-m MODEL] [--tokens 300] [--idle-seconds 2]

For each instruction set of this processor a text is evaluated with 1 to 4 threads, in passes of 1 to 256
tokens, alone and beside another sequence; the logits of all its tokens are hashed. Then a text is drawn and
the processor time of the silent process is read. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import linnet
from linnet.engine.library import library
from linnet.engine.model import Model
from linnet.engine.session import Session, Workspace
from linnet.run.model import BUNDLED_MODEL

THREADS = (1, 2, 3, 4)
BATCHES = (1, 2, 7, 16, 33, 256)


def logits_hash(model: Model, ids: list[int], isa: str, threads: int, batch: int) -> str:
    """Hash of the logits of all ``ids``, evaluated in passes of ``batch`` tokens."""
    workspace = Workspace(model, kv_tokens=2 * len(ids) + 128, n_threads=threads, n_batch=batch, isa=isa)
    with Session(workspace, len(ids)) as session:
        return hashlib.sha256(session.eval_all(ids).tobytes()).hexdigest()[:16]


def last_logits_hash(model: Model, ids: list[int], isa: str, company: bool) -> str:
    """Hash of the logits after ``ids``, which go by one at a time, alone or beside a longer sequence."""
    workspace = Workspace(model, kv_tokens=2 * len(ids) + 256, n_threads=2, isa=isa)
    session, other = Session(workspace, len(ids)), Session(workspace, len(ids) + 64)
    other.eval(ids[:64])
    for token in ids:
        workspace.eval([(session, [token]), (other, [ids[0]])] if company else [(session, [token])])
    return hashlib.sha256(session.logits.tobytes()).hexdigest()[:16]


def idle_share(path: Path, seconds: float) -> float:
    """Processor time over wall time of this process after a text is complete."""
    model = linnet.load(path)
    model.generate("Once upon a time", max_tokens=32, seed=1)
    time.sleep(0.05)  # the pool goes to sleep
    cpu, wall = time.process_time(), time.perf_counter()
    time.sleep(seconds)
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--idle-seconds", type=float, default=2.0)
    chosen = parser.parse_args()
    model = Model.open(chosen.model)
    ids = [(7 * i * i + 11) % model.vocab_size for i in range(chosen.tokens)]
    found: dict[str, Any] = {}
    for isa in library().ln_isa_list().decode().split():
        every = {logits_hash(model, ids, isa, threads, batch) for threads in THREADS for batch in BATCHES}
        steps = {last_logits_hash(model, ids[:100], isa, company) for company in (False, True)}
        found[isa] = {"logits": sorted(every), "last_logits": sorted(steps)}
        same = len(every) == len(steps) == 1
        print(
            f"{isa:<8} {len(THREADS)} numbers of threads x {len(BATCHES)} batch sizes, alone and in company: "
            f"{'the same bits' if same else 'DIFFERENT BITS'}"
        )
    found["idle_share"] = idle_share(chosen.model, chosen.idle_seconds)
    print(f"processor time while idle: {found['idle_share']:.2%}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
