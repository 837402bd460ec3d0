"""What must not depend on speed: the same bits however work is cut, and no work when idle.

    python benchmarks/invariants.py [-m MODEL] [--tokens 300] [--idle-seconds 2]

For each instruction set of this processor a text is evaluated with 1 to 4 threads, in passes of 1 to 256
tokens, alone and beside another sequence; the logits of all its tokens are hashed. Of an encoder the hidden
states are, in passes that hold the text or several. Then a text is drawn, or a vector made, and the
processor time of the silent process is read. The last line is one JSON object.
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


def hidden_hash(model: Model, ids: list[int], isa: str, threads: int, batch: int, company: bool) -> str:
    """Hash of the hidden states of ``ids``, alone or between others, in passes of ``batch`` such texts."""
    n_batch = batch * len(ids)
    workspace = Workspace(model, kv_tokens=8 * len(ids) + 512, n_threads=threads, n_batch=n_batch, isa=isa)
    texts = [ids[:50], ids, ids[10:]] if company else [ids]
    found = workspace.eval_hidden([(Session(workspace), text) for text in texts])
    return hashlib.sha256(found[len(texts) // 2].tobytes()).hexdigest()[:16]


def hashes(model: Model, ids: list[int], isa: str) -> tuple[set[str], set[str]]:
    """Of all ways to cut the work, and of a text alone and in company."""
    if not model.causal:
        every = {
            hidden_hash(model, ids, isa, threads, batch, True) for threads in THREADS for batch in (1, 2, 4)
        }
        return every, {hidden_hash(model, ids, isa, 2, 1, company) for company in (False, True)}
    every = {logits_hash(model, ids, isa, threads, batch) for threads in THREADS for batch in BATCHES}
    return every, {last_logits_hash(model, ids[:100], isa, company) for company in (False, True)}


def idle_share(path: Path, seconds: float) -> float:
    """Processor time over wall time of this process after a text is complete."""
    model = linnet.load(path)
    if model.model.causal:
        model.generate("Once upon a time", max_tokens=32, seed=1)
    else:
        model.embed(["Once upon a time"])
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
    n_tokens = chosen.tokens if model.causal else min(chosen.tokens, model.max_seq_len)
    ids = [(7 * i * i + 11) % model.vocab_size for i in range(n_tokens)]
    found: dict[str, Any] = {}
    for isa in library().ln_isa_list().decode().split():
        every, company = hashes(model, ids, isa)
        found[isa] = {"logits": sorted(every), "company": sorted(company)}
        same = len(every) == len(company) == 1
        print(
            f"{isa:<8} {len(THREADS)} numbers of threads, all batch sizes, alone and in company: "
            f"{'the same bits' if same else 'DIFFERENT BITS'}"
        )
    found["idle_share"] = idle_share(chosen.model, chosen.idle_seconds)
    print(f"processor time while idle: {found['idle_share']:.2%}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
