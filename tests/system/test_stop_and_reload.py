"""Ending in good order, and reading the configuration anew without losing what runs."""

from __future__ import annotations

import json
import threading

import pytest
from conftest import MakeDevice
from rig import judge, trees
from rig.cloud import Cloud
from rig.device import Device
from rig.link import FaultyLink
from rig.wait import until


def test_a_stopped_device_loses_no_byte_that_it_sent(
    shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice
) -> None:
    device = make_device(shared_cloud, link=link)
    files = {b"lesson.mp4": trees.small(1, largest=2_000_000)[b"large.bin"]}
    trees.write(judge.learning(device), files)
    link.throttle(1_000_000)
    device.start()
    until("some of it is sent", lambda: link.up_bytes > 500_000)
    assert device.stop() == 0, device.process.tail()
    assert not judge.holds(shared_cloud, device, files)
    link.throttle(None)
    assert device.once() == 0
    judge.delivered(shared_cloud, device)
    # A step ends at the end of its chunk: nothing of the content is sent twice.
    assert link.up_bytes < 2_000_000 * 1.05


def test_a_stop_does_not_wait_for_a_dead_link(shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud, link=link, settings={"stop": {"drain_s": 1}, "transfer": {"stall_s": 600}})
    trees.write(judge.learning(device), trees.small(2, largest=900_000))
    link.stall_after(100_000)
    device.start()
    until("the link has stalled", lambda: link.up_bytes >= 100_000)
    assert device.stop() == 0, device.process.tail()
    link.resume()
    assert device.once() == 0
    judge.delivered(shared_cloud, device)


def test_a_stopped_cloud_ends_in_good_order(own_cloud: Cloud, make_device: MakeDevice) -> None:
    with FaultyLink(own_cloud.address) as link:
        device = make_device(own_cloud, link=link)
        trees.write(judge.learning(device), trees.small(3, largest=2_000_000))
        link.throttle(2_000_000)
        device.start()
        until("some of it is sent", lambda: link.up_bytes > 500_000)
        ending = threading.Thread(target=own_cloud.stop)
        ending.start()
        until("the cloud has ended", lambda: own_cloud.process.exit_code() is not None)
        ending.join()
        assert own_cloud.process.exit_code() == 0, own_cloud.process.tail()
        own_cloud.start()
        files = trees.read(judge.learning(device))
        until("everything arrives", lambda: judge.holds(own_cloud, device, files))
        assert device.stop() == 0
        judge.delivered(own_cloud, device)


def test_a_good_configuration_is_taken_over_without_a_restart(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud)
    device.start()
    pid = device.process.pid
    added = device.root / "added"
    trees.write(added, {b"new.txt": b"of the new root"})
    device.watch.append(added)
    device.write_config()
    device.reload()
    path = b"added/new.txt"
    until("the new root's file arrives", lambda: path in shared_cloud.files(device.device_id))
    assert shared_cloud.content(device.device_id, path) == b"of the new root"
    assert device.process.running()
    assert device.process.pid == pid
    assert device.stop() == 0


def test_a_bad_configuration_is_refused_and_the_old_one_stays(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud)
    device.start()
    good = device.config.read_text()
    device.config.write_text(good.replace('"debounce_s": 0.1', '"debounce_s": "soon"'))
    device.reload()
    fault = until("the fault is reported", lambda: config_fault(device))
    assert "debounce_s" in fault
    files = {b"still.txt": b"still works"}
    trees.write(judge.learning(device), files)
    until("a file arrives under the old configuration", lambda: judge.holds(shared_cloud, device, files))
    device.config.write_text(good)
    device.reload()
    until("the fault is gone", lambda: not config_fault(device))
    assert device.stop() == 0


@pytest.mark.parametrize("broken", ["state_dir", "ca_file"])
def test_a_configuration_that_reads_well_but_cannot_be_opened_is_refused(
    shared_cloud: Cloud, make_device: MakeDevice, broken: str
) -> None:
    device = make_device(shared_cloud)
    device.start()
    good = device.config.read_text()
    changed = json.loads(good)
    if broken == "state_dir":
        changed["state_dir"] = "/proc/no-such-place"
    else:
        authorities = device.root / "ca.pem"
        authorities.write_text("no certificate at all")
        changed["cloud"] |= {"ca_file": str(authorities), "url": "https://127.0.0.1:9"}
    device.config.write_text(json.dumps(changed))
    device.reload()
    fault = until("the fault is reported", lambda: fault_after_restart(device))
    assert "/proc/no-such-place" in fault or "cloud.ca_file" in fault
    files = {b"still.txt": b"still works"}
    trees.write(judge.learning(device), files)
    until("a file arrives under the old configuration", lambda: judge.holds(shared_cloud, device, files))
    device.config.write_text(good)
    device.reload()
    until("the fault is gone", lambda: fault_after_restart(device) == "")
    assert device.stop() == 0


def fault_after_restart(device: Device) -> str | None:
    """Return the fault, None while the socket is away between two runs."""
    try:
        return config_fault(device)
    except OSError:
        return None


def config_fault(device: Device) -> str:
    fault = device.status()["config_fault"]
    assert isinstance(fault, str)
    return fault


def test_a_wrong_configuration_at_the_start_ends_with_78(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud, settings={"sync": {"interval_s": 5}})
    assert device.once() == 78
    log = device.process.tail()
    assert "interval_s" in log
    assert "60" in log
