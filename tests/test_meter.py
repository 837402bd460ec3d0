"""Energy of a process from fake counters: RAPL, NVML, batteries, and what is said where there are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ctypes import POINTER, c_uint, c_ulonglong, cast
from pathlib import Path
from typing import Any

import pytest

from linnet.run import meter
from linnet.run.meter import Energy, EnergyMeter


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(meter.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def no_gpu() -> None:
    return None


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def rapl(root: Path, zone: str, name: str, microjoules: int, largest: int = 262_143_328_850) -> Path:
    folder = root / "powercap" / f"intel-rapl:{zone}"
    return write(folder, name=name, energy_uj=microjoules, max_energy_range_uj=largest)


def open_meter(root: Path, watts: float | None = None, nvml: Any = no_gpu) -> EnergyMeter:
    return EnergyMeter(watts, sys_class=root, nvml=nvml)


# ---- RAPL ---------------------------------------------------------------------------


def test_packages_and_their_memory_are_added_and_parts_of_them_are_not(tmp_path: Path) -> None:
    zones = {"0": "package-0", "0:0": "core", "0:1": "dram", "1": "package-1", "2": "psys"}
    folders = [rapl(tmp_path, zone, name, 1_000_000) for zone, name in zones.items()]
    counting = open_meter(tmp_path)
    for folder, joules in zip(folders, (5, 3, 1, 4, 20), strict=True):
        write(folder, energy_uj=1_000_000 + joules * 1_000_000)
    energy = counting.read()
    assert energy.joules == 10
    assert energy.parts == {"RAPL package": 9, "RAPL memory": 1}
    assert energy.source == "RAPL package + RAPL memory"
    assert not energy.estimated


def test_a_counter_that_wraps_round_goes_on(tmp_path: Path, clock: Clock) -> None:
    package = rapl(tmp_path, "0", "package-0", 9_000_000, largest=9_999_999)
    counting = open_meter(tmp_path)
    for microjoules in (2_000_000, 1_000_000):  # 3 J, then 9 J: two rounds
        write(package, energy_uj=microjoules)
        clock.now += 60
        counting.update()
    write(package, energy_uj=1_500_000)
    assert counting.read().joules == pytest.approx(12.5)


def test_counters_are_not_read_at_every_update(tmp_path: Path, clock: Clock) -> None:
    package = rapl(tmp_path, "0", "package-0", 9_000_000, largest=9_999_999)
    counting = open_meter(tmp_path)
    clock.now += 0.01
    write(package, energy_uj="nonsense")
    counting.update()
    write(package, energy_uj=9_500_000)
    assert counting.read().joules == 0.5


@pytest.mark.parametrize("after", ["", "nonsense", "-", "1\n2"])
def test_a_counter_that_cannot_be_read_any_more_is_not_zero(tmp_path: Path, after: str) -> None:
    rapl(tmp_path, "0", "package-0", 5)
    second = rapl(tmp_path, "1", "package-1", 5)
    counting = open_meter(tmp_path)
    write(tmp_path / "powercap" / "intel-rapl:0", energy_uj=1_000_000)
    write(second, energy_uj=after)
    assert counting.read().joules is None


def test_a_counter_that_stands_still_measures_nothing(tmp_path: Path) -> None:
    rapl(tmp_path, "0", "package-0", 0)
    energy = open_meter(tmp_path).read()
    assert energy.joules is None
    assert "0" not in energy.per_token(10)


def test_a_smaller_value_of_unknown_range_is_not_guessed(tmp_path: Path) -> None:
    package = rapl(tmp_path, "0", "package-0", 9_000_000)
    (package / "max_energy_range_uj").unlink()
    counting = open_meter(tmp_path)
    write(package, energy_uj=1)
    assert counting.read().joules is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs permissions of a POSIX file system")
def test_counters_of_root_are_named_as_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rapl(tmp_path, "0", "package-0", 5)
    monkeypatch.setattr(meter.os, "access", lambda *_: False)  # root may read any file
    monkeypatch.setattr(meter, "_number", lambda _: None)
    assert (
        open_meter(tmp_path).read().source == "not readable here; the RAPL counters are readable by root only"
    )


# ---- NVML ---------------------------------------------------------------------------


class FakeNvml:
    """NVIDIA's library with one number per GPU: J, or None for GPUs that only know their power."""

    def __init__(self, counters: list[float | None], watts: float = 0.0) -> None:
        self.counters, self.watts = counters, watts

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, n: Any) -> int:
        cast(n, POINTER(c_uint))[0] = len(self.counters)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: Any) -> int:
        device._obj.value = index + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, millijoules: Any) -> int:
        joules = self.counters[device.value - 1]
        if joules is None:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        cast(millijoules, POINTER(c_ulonglong))[0] = int(joules * 1000)
        return 0

    def nvmlDeviceGetPowerUsage(self, device: Any, milliwatts: Any) -> int:
        cast(milliwatts, POINTER(c_uint))[0] = int(self.watts * 1000)
        return 0


def test_gpus_are_added_to_the_processor(tmp_path: Path) -> None:
    package = rapl(tmp_path, "0", "package-0", 0)
    gpus = FakeNvml([100.0, 50.0])
    counting = open_meter(tmp_path, nvml=lambda: gpus)
    gpus.counters = [107.0, 51.0]
    write(package, energy_uj=2_000_000)
    energy = counting.read()
    assert energy.parts == {"RAPL package": 2.0, "NVML GPU": 8.0}
    assert energy.joules == 10.0
    assert energy.per_token(100) == "0.1 J/token (RAPL package + NVML GPU)"


def test_a_gpu_without_a_counter_gives_power_over_time(tmp_path: Path, clock: Clock) -> None:
    gpu = FakeNvml([None], watts=30.0)
    counting = open_meter(tmp_path, nvml=lambda: gpu)
    gpu.watts = 50.0
    clock.now += 2
    assert counting.read() == Energy(80.0, "NVML GPU", {"NVML GPU": 80.0})


# ---- batteries ------------------------------------------------------------------------


def battery(root: Path, name: str, **files: object) -> Path:
    return write(root / "power_supply" / name, **{"type": "Battery", "status": "Discharging", **files})


def test_a_battery_that_discharges_gives_power_over_time(tmp_path: Path, clock: Clock) -> None:
    first = battery(tmp_path, "BAT0", power_now=4_000_000)
    battery(tmp_path, "BAT1", current_now=-1_000_000, voltage_now=12_000_000)
    battery(tmp_path, "hidpp_battery_0", scope="Device", power_now=9_000_000)
    battery(tmp_path, "BAT2", status="Charging", power_now=9_000_000)
    write(tmp_path / "power_supply" / "AC", type="Mains", online=0)
    counting = open_meter(tmp_path)
    write(first, power_now=8_000_000)
    clock.now += 10
    energy = counting.read()
    assert energy.joules == pytest.approx(10 * ((4 + 12) + (8 + 12)) / 2)
    assert energy.source == "battery"


def test_a_battery_plugged_in_meanwhile_is_not_readable(tmp_path: Path, clock: Clock) -> None:
    only = battery(tmp_path, "BAT0", power_now=4_000_000)
    counting = open_meter(tmp_path)
    write(only, status="Charging")
    clock.now += 10
    assert counting.read().joules is None


# ---- nothing to read, and estimates -----------------------------------------------------


def test_nothing_to_read_says_so_and_prints_no_number(tmp_path: Path) -> None:
    energy = open_meter(tmp_path).read()
    assert energy.per_token(10) == "energy: not readable here"
    assert energy.as_json(10)["joules"] is None
    assert energy.as_json(10)["joules_per_token"] is None


def test_an_estimate_is_made_on_request_only_and_labelled(tmp_path: Path, clock: Clock) -> None:
    counting = open_meter(tmp_path, watts=15)
    clock.now += 4
    energy = counting.read()
    assert energy.joules == 60
    assert energy.per_token(30) == "about 2 J/token (estimate at 15 W)"
    assert energy.as_json(30)["estimated"] is True


def test_what_is_measured_wins_over_an_estimate(tmp_path: Path) -> None:
    package = rapl(tmp_path, "0", "package-0", 0)
    counting = open_meter(tmp_path, watts=15)
    write(package, energy_uj=3_000_000)
    assert counting.read() == Energy(3.0, "RAPL package", {"RAPL package": 3.0})


def linnet_json(*arguments: str) -> Any:
    command = [sys.executable, "-P", "-m", "linnet", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_run_and_bench_report_joules_per_token() -> None:
    made = linnet_json("run", "-n", "8", "--watts", "10", "The cat")
    energy = made["energy"]
    assert energy["joules_per_token"] == pytest.approx(energy["joules"] / made["tokens"])
    assert energy["joules"] > 0
    measured = linnet_json(
        "bench",
        "--watts",
        "10",
        "--repeat",
        "1",
        "--threads",
        "1",
        "--prompt-tokens",
        "8",
        "--decode-tokens",
        "4",
    )
    assert measured["decode_joules_per_token"] > 0
    assert measured["prefill_joules_per_token"] > 0
    if energy["estimated"]:
        assert measured["energy_source"] == "estimate at 10 W"
        assert measured["decode_joules_per_token"] >= 10 / measured["decode_tok_s"]  # the meter is read too


@pytest.mark.parametrize("watts", ["0", "-3", "nan", "warm"])
def test_watts_are_a_number_above_zero(watts: str) -> None:
    command = [sys.executable, "-P", "-m", "linnet", "run", "--watts", watts, "hi"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not a number above zero" in done.stderr
