"""How many threads this process may really run at once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_processors(proc: Path = Path("/proc/self")) -> int:
    """Processors in this process's affinity mask, at most the CPU quota of its cgroups; at least 1.

    A quota of 1.5 processors rounds up to 2 threads, one of 1.4 down to 1. Under a quota of q processors
    n > q threads run for q/n of each period (100 ms, mostly) and stand still for the rest. Where n unhindered
    threads are S(n) times as fast as one, that makes S(n) q/n on average, and the thread beyond floor(q)
    pays for itself if this is more than S(n - 1). For 2 threads: at S(2) = 1.5, as when memory limits
    them, from q = 1.33 on; at S(2) = 1.9 from q = 1.05. A half leans to the thread too few: it costs
    some speed, but does not stutter.
    """
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        processors = os.cpu_count() or 1
    try:
        quota = min(_quotas(proc), default=math.inf)
    except (OSError, ValueError):  # no /proc, or not as Linux writes it
        quota = math.inf
    return max(1, math.floor(min(processors, quota) + 0.5))


def _quotas(proc: Path) -> Iterator[float]:
    """The processors that each cgroup around this process grants it, in either version of cgroups.

    A quota binds all groups below it. See proc_pid_mountinfo(5) and cgroups(7) for the two files.
    """
    memberships = (proc / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    mounts = (proc / "mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    group_of = {}  # controller -> path of the group below the root of its hierarchy; "" is version 2
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        group_of.update(dict.fromkeys(controllers.split(","), path))
    for line in mounts:
        mount, _, filesystem = line.partition(" - ")
        root, point = mount.split()[3:5]
        kind, _, options = filesystem.split()[:3]
        controller = "" if kind == "cgroup2" else "cpu"
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            yield from map(_quota, _groups(Path(point), root, group_of.get(controller, "/")))


def _groups(point: Path, root: str, path: str) -> list[Path]:
    """The folders of the group at ``path`` and of those around it, as far as they are mounted: at ``point``
    lies the group ``root``. A container may see a path of the host there, which says nothing."""
    inside = os.path.relpath(path, root)
    if inside == "." or inside.startswith(".."):
        return [point]
    leaf = point / inside
    return [leaf, *leaf.parents[: len(Path(inside).parts)]]


def _quota(group: Path) -> float:
    """Microseconds of processor time per microsecond; infinite where there is no limit ("max", -1)."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = (
                (group / name).read_text().strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
