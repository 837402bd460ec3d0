"""How many processors a process may use, read from made-up /proc and cgroup trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from linnet.engine.processors import available_processors

PROCESSORS = 8


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(PROCESSORS)), raising=False)


class Machine:
    """A /proc/self and the cgroup file systems it says are mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"
        self.proc.mkdir()
        (self.proc / "cgroup").touch()
        (self.proc / "mountinfo").write_text("22 27 0:21 / /proc rw,relatime - proc proc rw\n")

    def mount(self, name: str, kind: str, options: str, root: str = "/") -> Path:
        point = self.folder / name
        with (self.proc / "mountinfo").open("a") as file:
            file.write(f"30 23 0:28 {root} {point} rw,nosuid shared:4 - {kind} {kind} {options}\n")
        return point

    def join(self, line: str) -> None:
        with (self.proc / "cgroup").open("a") as file:
            file.write(line + "\n")

    def processors(self) -> int:
        return available_processors(self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def v2(group: Path, quota: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.max").write_text(quota + "\n")


def v1(group: Path, quota: int, period: int = 100_000) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (group / "cpu.cfs_period_us").write_text(f"{period}\n")


def test_no_cgroups(machine: Machine, tmp_path: Path) -> None:
    assert machine.processors() == PROCESSORS
    assert available_processors(tmp_path / "nowhere") == PROCESSORS
    machine.join("not a line of Linux")
    assert machine.processors() == PROCESSORS


@pytest.mark.parametrize(
    ("quota", "processors"),
    [
        ("max 100000", PROCESSORS),
        ("200000 100000", 2),
        ("25000 50000", 1),
        ("1000 100000", 1),
        ("140000 100000", 1),
        ("150000 100000", 2),
        ("250000 100000", 3),  # not to the even neighbour
        ("9900000 100000", PROCESSORS),
        ("", PROCESSORS),
        ("100000", PROCESSORS),
        ("100000 0", PROCESSORS),
    ],
)
def test_quota(machine: Machine, quota: str, processors: int) -> None:
    v2(machine.mount("cgroup", "cgroup2", "rw"), quota)
    machine.join("0::/")
    assert machine.processors() == processors


@pytest.mark.parametrize("tight", ["", "system.slice", "system.slice/own.service"])
def test_smallest_quota_of_nested_groups(machine: Machine, tight: str) -> None:
    root = machine.mount("cgroup", "cgroup2", "rw,nsdelegate")
    (root / "system.slice" / "own.service").mkdir(parents=True)
    v2(root / "system.slice", "600000 100000")
    v2(root / tight, "300000 100000")
    v2(root / "system.slice" / "another.service", "100000 100000")
    machine.join("0::/system.slice/own.service")
    assert machine.processors() == 3


def test_version_1(machine: Machine) -> None:
    root = machine.mount("cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
    v1(root, -1)
    v1(root / "docker", 400_000)
    v1(root / "docker" / "a1", -1)
    machine.join("4:memory:/docker/b2")
    machine.join("3:cpu,cpuacct:/docker/a1")
    assert machine.processors() == 4


def test_both_versions(machine: Machine) -> None:
    """The hybrid layout: the controller is in a tree of version 1, another tree holds the processes."""
    v1(machine.mount("cpu", "cgroup", "rw,cpu") / "job", 50_000, 10_000)
    v1(machine.mount("cpuacct", "cgroup", "rw,cpuacct") / "job", 100_000)  # another controller
    machine.mount("unified", "cgroup2", "rw").mkdir()
    for line in ("2:cpuacct:/job", "1:cpu:/job", "1:name=systemd:/init.scope", "0::/init.scope"):
        machine.join(line)
    assert machine.processors() == 5


def test_container_that_sees_the_path_of_its_host(machine: Machine) -> None:
    """Without a cgroup namespace the group's folder is mounted as the root of the tree."""
    root = machine.mount("cgroup", "cgroup", "rw,cpu", root="/docker/a1")
    v1(root, 600_000)
    v1(root / "worker", 200_000)
    v1(machine.folder, 100_000)  # above the mount point: not a cgroup
    machine.join("1:cpu:/docker/a1/worker")
    assert machine.processors() == 2


@pytest.mark.parametrize("path", ["/", "/docker", "/docker/a12", "/../other"])
def test_group_outside_of_the_mounted_tree(machine: Machine, path: str) -> None:
    v2(machine.mount("cgroup", "cgroup2", "rw", root="/docker/a1"), "300000 100000")
    machine.join(f"0::{path}")
    assert machine.processors() == 3


def test_this_machine() -> None:
    assert 1 <= available_processors() <= PROCESSORS
