"""A cloud that was restored from an older copy gets again what it has forgotten."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from conftest import MakeDevice
from rig import judge, trees
from rig.cloud import Cloud
from rig.device import Device
from rig.wait import until


def some(seed: int, folder: bytes) -> dict[bytes, bytes]:
    """Return five files of a folder."""
    chance = random.Random(seed)
    return {folder + b"/%d" % number: trees.noise(chance, 3000) for number in range(5)}


def forget(cloud: Cloud, device: Device, backup: Path) -> None:
    """Let the device deliver twice, and put the cloud back to between the two."""
    assert device.once() == 0
    assert cloud.stop() == 0
    shutil.copytree(cloud.data, backup)
    cloud.start()
    trees.write(judge.learning(device), some(2, b"after-the-copy"))
    assert device.once() == 0
    cloud.kill()
    shutil.rmtree(cloud.data)
    shutil.copytree(backup, cloud.data)
    cloud.start()


@pytest.mark.parametrize("verb", ["once", "run"])
def test_what_a_restored_cloud_has_forgotten_is_sent_again(
    own_cloud: Cloud, make_device: MakeDevice, tmp_path: Path, verb: str
) -> None:
    device = make_device(own_cloud)
    assert own_cloud.viewer
    trees.write(judge.learning(device), some(1, b"before-the-copy"))
    forget(own_cloud, device, tmp_path / "backup")
    trees.write(judge.learning(device), some(3, b"after-the-return"))
    files = trees.read(judge.learning(device))
    if verb == "once":
        assert device.once() == 0
    else:
        device.start()
        assert device.ask("POST", "/sync").status < 300
        until("everything is there again", lambda: judge.holds(own_cloud, device, files))
        assert device.stop() == 0
    have = own_cloud.files(device.device_id)
    assert set(have) == set(judge.wire_paths(files))
    assert {stored.versions for stored in have.values()} == {1}
    assert judge.holds(own_cloud, device, files)
