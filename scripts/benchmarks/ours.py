"""PiSync as a side of a comparison: the daemon with its defaults, and what can be read off it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rig.cloud import Cloud
from rig.device import Device
from rig.process import memory_mb
from rig.wait import until

from benchmarks.ground import Ground

DEVICE_ID = "bench-device"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delivery:
    """How a delivery went: its time, the daemon's highest resident set, and what was sent over an emulated link."""

    seconds: float
    peak_mb: float
    up_stream_bytes: int = 0


@contextlib.contextmanager
def pair(
    ground: Ground,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    url: str | None = None,
    watch: Path | None = None,
) -> Iterator[tuple[Cloud, Device]]:
    """Start a cloud at the far end and prepare a device at the near end; both end with the block.

    The device runs with its defaults, but for the space that a benchmark machine may not have and for `settings`.
    """
    work = ground.scratch("pisync")
    cloud = Cloud(work / "cloud", host=ground.host, where=ground.far)
    cloud.start()
    merged: dict[str, dict[str, Any]] = {"disk": {"free_floor_bytes": 0, "free_floor_percent": 0}}
    for section, values in (settings or {}).items():
        merged.setdefault(section, {}).update(values)
    device = Device(
        work / "device",
        device_id=DEVICE_ID,
        token=cloud.enroll(DEVICE_ID),
        url=url or cloud.url,
        watch=[{"path": str(watch or ground.source), "name": "source"}],
        settings=merged,
        where=ground.near,
        quick=False,
    )
    try:
        yield cloud, device
    finally:
        device.close()
        cloud.stop()


class Peak:
    """Watches the highest resident set of a process while it lives."""

    def __init__(self, device: Device) -> None:
        """Begin when the block begins."""
        self._device = device
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.mb = 0.0

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            with contextlib.suppress(OSError, KeyError, ValueError, RuntimeError):
                self.mb = max(self.mb, memory_mb(self._device.process.pid)[1])

    def __enter__(self) -> Peak:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()


def tree_sums(root: Path, prefix: bytes = b"source/") -> dict[bytes, str]:
    """Return the SHA-256 of every file below `root` by wire path."""
    top = os.fsencode(root)
    sums: dict[bytes, str] = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                sums[prefix + os.path.relpath(path, top)] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def check(cloud: Cloud, source: Path) -> None:
    """Raise AssertionError unless the cloud holds exactly the source tree, one version of each file."""
    want = tree_sums(source)
    have = cloud.files(DEVICE_ID)
    wrong = [path for path in want.keys() | have.keys() if path not in have or have[path].sha256 != want.get(path)]
    again = [path for path, stored in have.items() if stored.versions != 1]
    if wrong or again:
        raise AssertionError(
            f"{len(wrong)} files differ, {len(again)} have more versions; first: {(wrong + again)[:3]}"
        )


def deliver(ground: Ground, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Delivery:
    """Send the source tree with `pisyncd once`; the time is that of the whole process."""
    with pair(ground, settings=settings) as (cloud, device), Peak(device) as peak:
        before = ground.network.restart_schedule() if ground.network else None
        started = time.perf_counter()
        code = device.once(within_s=ground.deadline_s)
        seconds = time.perf_counter() - started
        sent = ground.network.count().up_stream_bytes - before.up_stream_bytes if ground.network and before else 0
        if code != 0:
            raise RuntimeError(f"pisyncd once ended with {code}\n{device.process.tail()}")
        check(cloud, ground.source)
    return Delivery(seconds=seconds, peak_mb=peak.mb, up_stream_bytes=sent)


def owed(device: Device) -> int:
    """Return how many files and messages the device still owes."""
    queue = device.status()["queue"]
    return int(queue["files"]["count"]) + int(queue["messages"]["count"])


def has_scanned(device: Device) -> bool:
    """Return whether every root has been read once and nothing is owed."""
    return owed(device) == 0 and all(root["scanned_ago_s"] is not None for root in device.status()["roots"])


def deliver_running(ground: Ground, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Delivery:
    """Send the source tree with `pisyncd run`; the time ends when the cloud holds every file."""
    files = len(tree_sums(ground.source))
    with pair(ground, settings=settings) as (cloud, device), Peak(device) as peak:
        before = ground.network.restart_schedule() if ground.network else None
        started = time.perf_counter()
        device.start()
        until(
            "the cloud holds every file",
            lambda: len(cloud.files(DEVICE_ID)) >= files,
            within_s=ground.deadline_s,
            poll_s=0.25,
        )
        seconds = time.perf_counter() - started
        sent = ground.network.count().up_stream_bytes - before.up_stream_bytes if ground.network and before else 0
        device.stop()
        check(cloud, ground.source)
    return Delivery(seconds=seconds, peak_mb=peak.mb, up_stream_bytes=sent)
