"""From Enter to the first token: seconds, peak memory, and what the installation takes on disk.

    python benchmarks/startup.py [--runs 9]

Runs the installed ``linnet run`` in fresh processes and watches it from outside: the time until the
first byte on standard output, and the peak resident memory the kernel reports of the ended process.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

COMMAND = [sys.executable, "-P", "-m", "linnet", "run", "-n", "32", "--seed", "1", "Once upon a time"]
NAME = re.compile(r"[\w.-]+")  # of a requirement (PEP 508)
LIMITS = {"first_token_s": 0.3, "peak_rss_mb": 90.0, "installed_mb_beyond_numpy": 40.0}


def first_token() -> tuple[float, float]:
    """Seconds to the first byte and peak resident megabytes of one run."""
    started = time.perf_counter()
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read(1)
    seconds = time.perf_counter() - started
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.stdout.close()
    if status:
        raise SystemExit("linnet run failed; run it by hand to see why")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def installed_megabytes(package: str, seen: set[str]) -> float:
    """Bytes on disk of a package and all it requires without extras, numpy apart."""
    if package.lower() in seen | {"numpy"}:
        return 0.0
    seen.add(package.lower())
    distribution = metadata.distribution(package)
    files = {Path(str(file.locate())) for file in distribution.files or ()}
    total = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    for requirement in distribution.requires or ():
        if "extra ==" not in requirement:
            total += installed_megabytes(NAME.match(requirement).group(), seen)  # type: ignore[union-attr]
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    runs = [first_token() for _ in range(parser.parse_args().runs + 1)][1:]  # the first fills the page cache
    found = {
        "first_token_s": statistics.median(seconds for seconds, _ in runs),
        "peak_rss_mb": statistics.median(peak for _, peak in runs),
        "installed_mb_beyond_numpy": installed_megabytes("linnet", set()),
    }
    for name, value in found.items():
        verdict = "kept" if value <= LIMITS[name] else "BROKEN"
        print(f"{name:<28} {value:8.3f}   limit {LIMITS[name]:g}   {verdict}")
    print(json.dumps({**found, "runs": len(runs), "limits": LIMITS}))


if __name__ == "__main__":
    main()
