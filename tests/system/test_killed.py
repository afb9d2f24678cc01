"""kill -9 of the device and of the cloud at random moments: everything arrives exactly once, and little is sent twice.

Each test prints its seed in its name; the moments are counted in bytes on the link, so that a seed means the same on
a slow machine and on a fast one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from conftest import MakeDevice
from rig import judge, trees
from rig.cloud import Cloud
from rig.device import Device
from rig.link import FaultyLink
from rig.wait import until

CHUNK_BYTES = 16 * 1024
PARALLEL = 2
SETTINGS = {
    "transfer": {
        "parallel_max": PARALLEL,
        "chunk_bytes_min": CHUNK_BYTES,
        "chunk_bytes_start": CHUNK_BYTES,
        "chunk_bytes_max": CHUNK_BYTES,
        "bundle_file_bytes_max": 50_000,
        "compress": False,
    }
}
# What a restart says beside the content: probes, questions for offsets, reports.
WORDS_PER_START = 6_000
# Heads of requests and of the bundle's entries, as a share of the content.
HEADS = 0.06


def tree(seed: int) -> dict[bytes, bytes]:
    """Return a bundle's worth of small files and two larger ones, 600 KB together, none of it compressible."""
    chance = random.Random(seed)
    files = trees.small(seed, count=8, largest=chance.randrange(250_000, 400_000))
    files[b"video/second.bin"] = trees.noise(chance, 200_000)
    return files


def fits(link: FaultyLink, files: dict[bytes, bytes], ends: int) -> None:
    """Raise AssertionError when more was sent than the content and one unacknowledged chunk per transfer and end."""
    content = sum(map(len, files.values()))
    allowed = content * (1 + HEADS) + (ends + 1) * WORDS_PER_START + ends * PARALLEL * CHUNK_BYTES
    assert link.up_bytes <= allowed, f"{link.up_bytes} sent for {content}, {ends} ends, {allowed:.0f} allowed"


@pytest.mark.parametrize("seed", range(25))
def test_the_device_is_killed(shared_cloud: Cloud, make_device: MakeDevice, seed: int) -> None:
    chance = random.Random(1000 + seed)
    files = tree(seed)
    total = sum(map(len, files.values()))
    with FaultyLink(shared_cloud.address, seed=seed) as link:
        device = make_device(shared_cloud, link=link, settings=SETTINGS)
        trees.write(judge.learning(device), files)
        ends = 0
        for _ in range(chance.randint(1, 3)):
            if chance.random() < 0.7:
                link.when_sent(chance.randrange(total // 2), device.kill_now)
            else:
                link.when_answered(chance.randrange(12_000), device.kill_now)
            if device.once() == 0:
                break
            ends += 1
        link.forget_alarms()
        assert device.once() == 0
        judge.delivered(shared_cloud, device)
        fits(link, files, ends)


@pytest.fixture(scope="module")
def killed_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One cloud for all seeds, with all that earlier ends have left in it."""
    cloud = Cloud(tmp_path_factory.mktemp("killed-cloud"))
    cloud.start()
    yield cloud
    cloud.kill()


def owes_nothing(device: Device) -> bool:
    queue = device.status()["queue"]
    return bool(queue["files"]["count"] == 0 and queue["messages"]["count"] == 0)


@pytest.mark.parametrize("seed", range(25, 50))
def test_the_cloud_is_killed(killed_cloud: Cloud, make_device: MakeDevice, seed: int) -> None:
    chance = random.Random(1000 + seed)
    files = tree(seed)
    total = sum(map(len, files.values()))
    with FaultyLink(killed_cloud.address, seed=seed) as link:
        device = make_device(killed_cloud, link=link, settings=SETTINGS)
        trees.write(judge.learning(device), files)
        ends = 0
        device.begin_run()
        for _ in range(chance.randint(1, 2)):
            if chance.random() < 0.7:
                link.when_sent(chance.randrange(total // 2), killed_cloud.kill_now)
            else:
                link.when_answered(chance.randrange(12_000), killed_cloud.kill_now)
            until(
                "the cloud is dead or has everything",
                lambda: not killed_cloud.process.running() or judge.holds(killed_cloud, device, files),
            )
            link.forget_alarms()
            if not killed_cloud.process.running():
                ends += 1
                killed_cloud.start()
        until("everything arrives", lambda: judge.holds(killed_cloud, device, files))
        until("nothing is owed", lambda: owes_nothing(device))
        assert device.stop() == 0
        judge.delivered(killed_cloud, device)
        fits(link, files, ends)
