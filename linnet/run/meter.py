"""Time, memory and energy of this process, each with its source.

What cannot be read is reported as not readable, never as zero.
"""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_IMPORTED_AT = time.monotonic()
_POWERCAP = Path("/sys/class/powercap")
_POWER_SUPPLY = Path("/sys/class/power_supply")


def process_age() -> float:
    """Seconds since this process started; on systems other than Linux, since this module was imported."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22, proc(5): ticks after boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, IndexError, ValueError):
        return time.monotonic() - _IMPORTED_AT


def peak_rss_bytes() -> int | None:
    """The most memory this process has held at once, or None where the system does not say.

    Linux: VmHWM, since ru_maxrss of a fresh process still counts its parent.
    """
    if sys.platform == "linux":
        peaks = re.findall(r"^VmHWM:\s*(\d+) kB$", _text(Path("/proc/self/status")) or "", re.MULTILINE)
        return int(peaks[0]) * 1024 if peaks else None
    if sys.platform == "win32":
        return _windows_peak()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _windows_peak() -> int | None:
    import ctypes

    class Counters(ctypes.Structure):  # PROCESS_MEMORY_COUNTERS, psapi.h
        _fields_ = (
            ("cb", ctypes.c_uint32),
            ("PageFaultCount", ctypes.c_uint32),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    counters = Counters(cb=ctypes.sizeof(Counters))
    windll = getattr(ctypes, "windll")  # noqa: B009 - exists on Windows only
    windll.kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    found = windll.psapi.GetProcessMemoryInfo(
        ctypes.c_void_p(windll.kernel32.GetCurrentProcess()), ctypes.byref(counters), counters.cb
    )
    return int(counters.PeakWorkingSetSize) if found else None


@dataclass(frozen=True)
class Energy:
    """Joules spent, and where the number came from; ``joules`` is None when it cannot be read."""

    joules: float | None
    source: str

    def per_token(self, tokens: int) -> str:
        """A phrase for people: joules per token and the source."""
        if self.joules is None or not tokens:
            return "energy: not readable here"
        return f"{self.joules / tokens:.3g} J/token ({self.source})"

    def as_json(self, tokens: int) -> dict[str, object]:
        """The object that ``--json`` prints."""
        readable = self.joules is not None and tokens > 0
        return {
            "joules": self.joules,
            "joules_per_token": self.joules / tokens if readable else None,  # type: ignore[operator]
            "source": self.source,
        }


class EnergyMeter:
    """Measures the energy used between its construction and :meth:`read`.

    Sources, the first that is readable: RAPL package counters (the whole processor,
    whoever uses it), then the battery's own power reading times the time.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._zones = [
            zone for zone in sorted(_POWERCAP.glob("intel-rapl:?")) if _number(zone / "energy_uj") is not None
        ]
        self._before = [_number(zone / "energy_uj") for zone in self._zones]

    def read(self) -> Energy:
        """Energy since construction."""
        if self._zones:
            return Energy(sum(map(self._spent, self._zones, self._before)), "RAPL package")
        watts = _battery_watts()
        if watts is not None:
            return Energy(watts * (time.monotonic() - self._started), "battery")
        return Energy(None, "not readable here")

    @staticmethod
    def _spent(zone: Path, before: int | None) -> float:
        after = _number(zone / "energy_uj")
        if before is None or after is None:
            return 0.0
        if after < before:  # the counter wrapped round
            after += _number(zone / "max_energy_range_uj") or 0
        return (after - before) / 1e6


def _battery_watts() -> float | None:
    for battery in sorted(_POWER_SUPPLY.glob("BAT*")):
        if _text(battery / "status") != "Discharging":
            continue
        power = _number(battery / "power_now")
        if power:
            return power / 1e6
        current, voltage = _number(battery / "current_now"), _number(battery / "voltage_now")
        if current and voltage:
            return current * voltage / 1e12
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.lstrip("-").isdigit() else None
