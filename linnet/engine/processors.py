"""How many threads this process may really run at once."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "quota period" in microseconds, or "max period"


def available_processors() -> int:
    """Processors in this process's affinity mask, at most its cgroup CPU quota; at least 1."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        processors = os.cpu_count() or 1
    return max(1, min(processors, _cgroup_quota(processors)))


def _cgroup_quota(unlimited: int) -> int:
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
        return unlimited if quota == "max" else round(int(quota) / int(period))
    except (OSError, ValueError):
        return unlimited
