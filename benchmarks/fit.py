"""What ``linnet fit`` foresees against what a process really takes.

    python benchmarks/fit.py [--models FOLDER] [--cases 135m:q4_0 ...] [--n-ctx 512]

Every case is a random model of shapes.py, run in a process of its own that fills the whole context; its peak
is what Linux tells (VmHWM). Prints a line for each and, as the last one, a JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import shapes

from linnet.run.fit import open_outline

CASES = (
    "135m:q4_0", "135m:q4_k_m", "135m:q8_0", "135m:f16", "360m:q4_0", "360m:q4_k_m", "360m:q8_0", "360m:f16",
    "1b:q4_0", "1b:q8_0",
)  # fmt: skip
RUN = """
import sys
from linnet.run.terminal import run  # what linnet run imports
from linnet.run.meter import peak_rss_bytes
from linnet.run.model import load
path, n_ctx, threads, kv_type = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model = load(path, n_ctx=n_ctx, threads=threads, kv_type=kv_type)
ids = [i % 1000 for i in range(n_ctx - 8)]
for at in range(0, len(ids), 256):
    model.session.eval(ids[at : at + 256])
for token in range(8):
    model.session.eval([token])
print(peak_rss_bytes())
"""


def measured(path: Path, n_ctx: int, threads: int, kv_type: str) -> int:
    """Peak bytes of a process that loads the model and fills its context."""
    command = [sys.executable, "-P", "-c", RUN, str(path), str(n_ctx), str(threads), kv_type]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=shapes.DEFAULT_FOLDER, help="where files are kept")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="SHAPE:TYPE")
    parser.add_argument("--n-ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv-type", default="f16")
    given = parser.parse_args()
    rows = []
    for case in given.cases:
        shape, mix = case.split(":")
        path = shapes.model_path(given.models, shape, mix)
        plan = open_outline(path).plan(given.n_ctx, given.kv_type, given.threads)
        peak = measured(path, given.n_ctx, given.threads, given.kv_type)
        error = plan.total / peak - 1
        rows.append({"model": case, "foreseen": plan.total, "measured": peak, "error": error})
        print(
            f"{case:<12} foreseen {plan.total / 1e6:>8,.1f} MB  measured {peak / 1e6:>8,.1f} MB  {error:+.2%}"
        )
    worst = max(abs(row["error"]) for row in rows)
    print(json.dumps({"n_ctx": given.n_ctx, "kv_type": given.kv_type, "worst_error": worst, "models": rows}))


if __name__ == "__main__":
    main()
