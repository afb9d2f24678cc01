"""A bad link delays and never loses, tears or doubles; a stranger's answer is no answer."""

from __future__ import annotations

import itertools

import pytest
from conftest import MakeDevice
from rig import judge, trees
from rig import link as links
from rig.cloud import Cloud
from rig.device import Device
from rig.link import FaultyLink
from rig.wait import until


def everything_arrives(cloud: Cloud, device: Device, within_s: float = 60) -> None:
    files = trees.read(judge.learning(device))
    until("everything arrives", lambda: judge.holds(cloud, device, files), within_s=within_s, poll_s=0.2)
    until("nothing is owed", lambda: owed(device) == 0)
    assert device.stop() == 0
    judge.delivered(cloud, device)


def owed(device: Device) -> int:
    queue = device.status()["queue"]
    return int(queue["files"]["count"] + queue["messages"]["count"])


@pytest.mark.parametrize("seed", range(3))
def test_connections_that_break_again_and_again(shared_cloud: Cloud, make_device: MakeDevice, seed: int) -> None:
    with FaultyLink(shared_cloud.address, seed=seed) as link:
        link.cut_each(3_000, 150_000)
        device = make_device(shared_cloud, link=link)
        trees.write(judge.learning(device), trees.small(seed, largest=900_000))
        device.start()
        everything_arrives(shared_cloud, device)
        assert link.cuts > 0


def test_answers_that_are_cut_short(shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice) -> None:
    link.truncate_responses(150)
    device = make_device(shared_cloud, link=link)
    trees.write(judge.learning(device), trees.small(4))
    device.start()
    until("answers were cut short several times", lambda: link.cuts >= 5)
    assert owed(device) > 0
    link.truncate_responses(None)
    everything_arrives(shared_cloud, device)


def test_a_stalled_link(shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud, link=link, settings={"transfer": {"stall_s": 1}, "probe": {"timeout_s": 1}})
    trees.write(judge.learning(device), trees.small(5, largest=900_000))
    link.stall_after(200_000)
    device.start()
    until("the link has stalled", lambda: link.up_bytes >= 200_000)
    until("the daemon has noticed", lambda: device.status()["link"]["state"] != "full")
    link.resume()
    everything_arrives(shared_cloud, device)


def test_no_cloud_at_all(shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice) -> None:
    link.down()
    device = make_device(shared_cloud, link=link)
    trees.write(judge.learning(device), trees.small(6))
    assert device.once() == 75
    device.start()
    until("everything waits", lambda: owed(device) > 0)
    assert not shared_cloud.files(device.device_id)
    link.up()
    everything_arrives(shared_cloud, device)
    # Being offline is not a failed sync.
    assert {event["sync_status"] for event in shared_cloud.history(device.device_id)} == {"success"}


@pytest.mark.parametrize("portal", [links.PORTAL, links.PORTAL_REDIRECT], ids=["page", "redirect"])
def test_a_captive_portal(shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice, portal: links.Answer) -> None:
    link.answer(portal)
    device = make_device(shared_cloud, link=link)
    trees.write(judge.learning(device), trees.small(7))
    assert device.once() == 75
    device.start()
    until("the portal is recognised", lambda: device.status()["link"]["state"] == "portal")
    if portal is links.PORTAL_REDIRECT:
        assert device.status()["link"]["portal_url"] == "http://login.freewifi.example/welcome"
    assert not any(request.method in ("POST", "PATCH") for request in link.answered), "a portal is given nothing"
    assert owed(device) > 0
    link.answer(None)
    everything_arrives(shared_cloud, device)


@pytest.mark.parametrize("error", [links.ERROR_500, links.ERROR_503], ids=["500", "503"])
def test_an_ailing_cloud_is_left_alone_and_nothing_fails_for_good(
    shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice, error: links.Answer
) -> None:
    link.answer(error)
    device = make_device(shared_cloud, link=link)
    trees.write(judge.learning(device), trees.small(8))
    device.start()
    until("it was tried several times", lambda: len(link.answered) >= 3)
    status = device.status()
    assert status["link"]["state"] != "full"
    assert (status["failures_total"], status["losses_total"]) == (0, 0)
    link.answer(None)
    everything_arrives(shared_cloud, device)


def test_retry_after_is_obeyed(shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice) -> None:
    wait_s = 2
    link.answer(links.too_many(wait_s, only=lambda method, path: path.startswith("/api/files")))
    device = make_device(shared_cloud, link=link, settings={"transfer": {"parallel_max": 1}})
    trees.write(judge.learning(device), trees.small(9, largest=200_000))
    device.start()
    until("it was asked to wait three times", lambda: len(link.answered) >= 3)
    times = [request.at_s for request in link.answered]
    assert all(later - earlier >= wait_s for earlier, later in itertools.pairwise(times)), times
    link.answer(None)
    everything_arrives(shared_cloud, device)
