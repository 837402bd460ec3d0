"""Time, memory and energy of this process, each with its source.

What cannot be read is reported as not readable, never as zero.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

_IMPORTED_AT = time.monotonic()
_SYS_CLASS = Path("/sys/class")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_UPDATE_SECONDS = 10.0  # a RAPL counter of 32 bits wraps round after a few minutes of full power


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
    """Joules spent, and where the number came from; ``joules`` is None when it cannot be read.

    ``source`` then says why. ``parts`` holds the joules of each counter that was added
    up; an ``estimated`` number is watts that the user named times the time.
    """

    joules: float | None
    source: str
    parts: dict[str, float] = field(default_factory=dict)
    estimated: bool = False

    def per_token(self, tokens: int) -> str:
        """A phrase for people: joules per token and the source."""
        if self.joules is None:
            return f"energy: {self.source}"
        if not tokens:
            return "energy: no token to divide it by"
        about = "about " if self.estimated else ""
        return f"{about}{self.joules / tokens:.3g} J/token ({self.source})"

    def as_json(self, tokens: int) -> dict[str, object]:
        """The object that ``--json`` prints."""
        return {
            "joules": self.joules,
            "joules_per_token": self.joules / tokens if self.joules is not None and tokens else None,
            "source": self.source,
            "estimated": self.estimated,
            "parts": self.parts,
        }


class _Counter(Protocol):
    """Something that counts energy. ``problem`` says why it cannot, where it cannot."""

    problem: str

    def joules(self) -> dict[str, float]:
        """Joules since construction by part; empty when nothing could be read."""


class EnergyMeter:
    """Measures the energy used between its construction and :meth:`read`.

    Sources: the counters of the processor packages and their memory (RAPL) and of the
    GPUs (NVML), added up, whoever uses them; else what a battery that discharges says of
    the whole machine; else ``watts`` times the time, which is an estimate. ``update``
    is called now and then by whoever measures for minutes, so that no counter wraps
    round unseen. ``sys_class`` and ``nvml`` are where they are looked for.
    """

    def __init__(
        self,
        watts: float | None = None,
        sys_class: Path = _SYS_CLASS,
        nvml: Callable[[], Any] | None = None,
    ) -> None:
        self._started = self._updated = time.monotonic()
        self._watts = watts
        self._chips: list[_Counter] = [_Rapl(sys_class / "powercap"), _Gpus(nvml or _load_nvml)]
        self._battery = _Battery(sys_class / "power_supply")

    def update(self) -> None:
        """Reads the counters, if the last time is a while ago."""
        now = time.monotonic()
        if now - self._updated >= _UPDATE_SECONDS:
            self._updated = now
            for counter in (*self._chips, self._battery):
                counter.joules()

    def read(self) -> Energy:
        """Energy since construction."""
        elapsed = time.monotonic() - self._started
        for counters in (self._chips, [self._battery]):
            parts: dict[str, float] = {}
            for counter in counters:
                parts.update(counter.joules())
            joules = sum(parts.values())
            if joules > 0:  # a counter that stands still measures nothing
                return Energy(joules, " + ".join(parts), parts)
        if self._watts is not None:
            return Energy(self._watts * elapsed, f"estimate at {self._watts:g} W", {}, estimated=True)
        problems = [counter.problem for counter in (*self._chips, self._battery) if counter.problem]
        return Energy(None, "; ".join(["not readable here", *problems]))


# ---- RAPL ---------------------------------------------------------------------------


class _Zone:
    """One energy counter of the kernel's powercap interface, in microjoules.

    https://www.kernel.org/doc/html/latest/power/powercap/powercap.html
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self._range = _number(path / "max_energy_range_uj")
        self._last = _number(path / "energy_uj")
        self._total = 0

    def joules(self) -> float | None:
        """Joules since construction; None as soon as the counter cannot be read or followed."""
        now = _number(self._path / "energy_uj")
        if now is None or self._last is None or (now < self._last and not self._range):
            self._last = None
            return None
        spent = now - self._last
        if spent < 0:  # it wrapped round: it counts from 0 to max_energy_range_uj, both included
            spent += (self._range or 0) + 1
        self._last = now
        self._total += spent
        return self._total / 1e6


class _Rapl:
    """The processor packages and, where they are counted apart, their memory."""

    def __init__(self, powercap: Path) -> None:
        named = {path: _text(path / "name") or "" for path in sorted(powercap.glob("intel-rapl:*"))}
        # Other zones (core, uncore, psys) are parts of these or hold them: they would count twice.
        found = {path: name for path, name in named.items() if re.match(r"package|dram", name)}
        self._zones = [_Zone(path, _rapl_part(name)) for path, name in found.items()]
        self.problem = ""
        if any(not os.access(path / "energy_uj", os.R_OK) for path in found):
            self.problem = "the RAPL counters are readable by root only"

    def joules(self) -> dict[str, float]:
        parts: dict[str, float] = {}
        for zone in self._zones:
            spent = zone.joules()
            if spent is None:  # a sum without it would say too little
                return {}
            parts[zone.name] = parts.get(zone.name, 0.0) + spent
        return parts


def _rapl_part(name: str) -> str:
    return "RAPL package" if name.startswith("package") else "RAPL memory"


# ---- NVML ---------------------------------------------------------------------------


def _load_nvml() -> Any:
    """NVIDIA's management library, or None where there is no driver."""
    if sys.platform != "win32" and not _NVIDIA_DRIVER.exists():
        return None
    try:
        return ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None


class _Gpus:
    """All NVIDIA GPUs: their energy counters, or power over time where they have none (before Volta).

    https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self.problem = ""
        self._nvml = load()
        self._gpus: list[tuple[Any, _Power | float]] = []
        if self._nvml is None or self._nvml.nvmlInit_v2() != 0:
            return
        n = ctypes.c_uint()
        if self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(n)) == 0:
            for index in range(n.value):
                self._add(index)

    def _add(self, index: int) -> None:
        device = ctypes.c_void_p()
        if self._nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
            return
        counted = self._counted(device)
        self._gpus.append((device, counted if counted is not None else _Power(self._watts(device))))

    def joules(self) -> dict[str, float]:
        total, n_read = 0.0, 0
        for device, start in self._gpus:
            if isinstance(start, _Power):
                spent = start.joules(self._watts(device))
            else:
                counted = self._counted(device)
                spent = None if counted is None else counted - start
            if spent is not None:
                total += spent
                n_read += 1
        return {"NVML GPU": total} if n_read else {}

    def _counted(self, device: Any) -> float | None:
        millijoules = ctypes.c_ulonglong()
        failed = self._nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules))
        return None if failed else millijoules.value / 1e3

    def _watts(self, device: Any) -> float | None:
        milliwatts = ctypes.c_uint()
        failed = self._nvml.nvmlDeviceGetPowerUsage(device, ctypes.byref(milliwatts))
        return None if failed else milliwatts.value / 1e3


# ---- power over time, and the battery ------------------------------------------------


class _Power:
    """Energy from readings of power: between two of them their mean times the time."""

    def __init__(self, watts: float | None) -> None:
        self._watts = watts
        self._at = time.monotonic()
        self._total = 0.0

    def joules(self, watts: float | None) -> float | None:
        """Joules since construction, given what the meter says now; None once a reading was missing."""
        now = time.monotonic()
        if watts is None or self._watts is None:
            self._watts = None
            return None
        self._total += (self._watts + watts) / 2 * (now - self._at)
        self._watts, self._at = watts, now
        return self._total


class _Battery:
    """A battery that discharges feeds the whole machine, screen included."""

    def __init__(self, power_supply: Path) -> None:
        self.problem = ""
        self._folder = power_supply
        self._power = _Power(self._watts())

    def joules(self) -> dict[str, float]:
        spent = self._power.joules(self._watts())
        return {} if spent is None else {"battery": spent}

    def _watts(self) -> float | None:
        powers = [
            power
            for battery in sorted(self._folder.glob("*"))
            if _text(battery / "type") == "Battery"
            and _text(battery / "scope") != "Device"  # of a mouse or a headset
            and _text(battery / "status") == "Discharging"
            and (power := _battery_watts(battery)) is not None
        ]
        return sum(powers) if powers else None


def _battery_watts(battery: Path) -> float | None:
    """Watts a battery gives. Its driver may report power or current and voltage, of either sign."""
    power = _number(battery / "power_now")
    if power:
        return abs(power) / 1e6
    current, voltage = _number(battery / "current_now"), _number(battery / "voltage_now")
    return abs(current) * voltage / 1e12 if current and voltage else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None
