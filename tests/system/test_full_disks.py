"""A full disk stops nothing for good: the error is clear, nothing is lost, and it goes on when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeDevice
from rig import judge, trees
from rig.cloud import Cloud
from rig.device import Device
from rig.link import FaultyLink
from rig.wait import until

SmallDisk = Callable[[str, int], Path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Make small file systems in memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted: list[Path] = []

    def make(name: str, size: int) -> Path:
        path = tmp_path / name
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "pisync-test", str(path)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"mounting is not allowed here: {done.stderr.decode(errors='replace').strip()}")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def grow(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (64 * 1024, 4096, 512, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return ballast


def finish(cloud: Cloud, device: Device) -> None:
    files = trees.read(judge.learning(device))
    until("everything arrives", lambda: judge.holds(cloud, device, files), within_s=60)
    assert device.stop() == 0, device.process.tail()
    judge.delivered(cloud, device)


def test_no_room_on_the_device(shared_cloud: Cloud, make_device: MakeDevice, small_disk: SmallDisk) -> None:
    disk = small_disk("device-disk", 8_000_000)
    device = make_device(shared_cloud)
    device.state = disk / "state"
    device.write_config()
    device.start()
    until("the outbox is there", lambda: (device.state / "outbox.db").exists())
    ballast = fill(disk)
    trees.write(judge.learning(device), trees.small(1, count=30))
    until("a technician is told", lambda: room_complaint(device))
    assert device.process.running()
    ballast.unlink()
    finish(shared_cloud, device)


def room_complaint(device: Device) -> str:
    """Return what the device says of its full disk, in its status or its log; '' when it says nothing."""
    status: dict[str, Any] = device.status()
    assert status["losses_total"] == 0
    if status["disk"]["free_bytes"] and status["disk"]["enough"]:
        return ""
    return " ".join([status["summary"], *status["advice"], device.process.tail()])


def test_a_device_with_a_full_disk_from_the_start(
    shared_cloud: Cloud, make_device: MakeDevice, small_disk: SmallDisk
) -> None:
    disk = small_disk("device-disk", 8_000_000)
    device = make_device(shared_cloud)
    device.state = disk / "state"
    device.write_config()
    trees.write(judge.learning(device), trees.small(2))
    ballast = fill(disk)
    code = device.once()
    assert code not in (0, 70), "neither done nor a crash"
    assert any(word in device.process.tail() for word in ("full", "space", "room")), device.process.tail()
    ballast.unlink()
    assert device.once() == 0
    judge.delivered(shared_cloud, device)


@pytest.mark.parametrize("floor", [0, 4_000_000], ids=["to the last byte", "with a floor"])
def test_no_room_in_the_cloud(tmp_path: Path, make_device: MakeDevice, small_disk: SmallDisk, floor: int) -> None:
    disk = small_disk("cloud-disk", 6_000_000)
    cloud = Cloud(tmp_path / "cloud", data=disk / "data")
    cloud.start(env={"PISYNC_CLOUD_FREE_FLOOR_BYTES": str(floor)})
    try:
        with FaultyLink(cloud.address) as link:
            device = make_device(cloud, link=link)
            content = trees.small(3, largest=12_000_000)[b"large.bin"]
            trees.write(judge.learning(device), {b"large.bin": content, b"small.txt": b"small"})
            device.start()
            until("the device is told", lambda: "room" in device.status()["link"]["backoff_reason"])
            status = device.status()
            assert status["losses_total"] == 0
            assert not [failure for failure in status["failures"] if failure["final"]], status["failures"]
            assert cloud.process.running(), cloud.process.tail()
            grow(disk, 60_000_000)
            # A technician who has made room need not wait for the next attempt.
            assert device.ask("POST", "/sync").status < 300
            finish(cloud, device)
            # Waiting for room must not cost the content again and again.
            assert link.up_bytes < 2 * len(content)
    finally:
        cloud.kill()
