"""Records between a real device and a real cloud: at once while there is a link, later when there is none."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import MakeDevice
from rig.cloud import Cloud
from rig.device import Device
from rig.link import FaultyLink
from rig.wait import until

_USERS = itertools.count(1)
_KEYS: dict[str, str] = {}
LIVE_S = 5.0


class Pair:
    """A device that is subscribed to a user, and an operator who writes in the cloud."""

    def __init__(self, cloud: Cloud, device: Device) -> None:
        self.cloud, self.device = cloud, device
        if cloud.url not in _KEYS:
            _KEYS[cloud.url] = cloud.key("records-live", "operator")
        self.key = _KEYS[cloud.url]
        self.user = f"user-{next(_USERS)}-{device.device_id}"
        self.subscribe(self.user)

    def subscribe(self, *users: str) -> None:
        body = json.dumps({"site": [], "group": [], "user": users}).encode()
        path = f"/api/devices/{self.device.device_id}/subscriptions"
        answer = self.cloud.ask("PUT", path, key=self.key, body=body, Content_Type="application/json")
        assert answer.status == 200, answer.body

    @property
    def path(self) -> str:
        return f"/api/records/profile/{self.user}"

    def at_cloud(self, method: str = "GET", fields: dict[str, Any] | None = None, path: str = "") -> Any:
        return self._told(
            self.cloud.ask(method, path or self.path, key=self.key, body=_body(fields), Content_Type="application/json")
        )

    def at_device(self, method: str = "GET", fields: dict[str, Any] | None = None, path: str = "") -> Any:
        return self._told(
            self.device.ask(method, path or self.path, body=_body(fields), Content_Type="application/json")
        )

    @staticmethod
    def _told(answer: Any) -> Any:
        assert answer.status in (200, 201, 404), answer.body
        return answer.json()["data"]["fields"] if answer.status != 404 else None


def _body(fields: dict[str, Any] | None) -> bytes | None:
    return None if fields is None else json.dumps({"fields": fields}).encode()


def took_s(what: str, look: Callable[[], bool]) -> float:
    began_s = time.monotonic()
    until(what, look, within_s=LIVE_S)
    return time.monotonic() - began_s


@pytest.fixture
def pair(shared_cloud: Cloud, make_device: MakeDevice) -> Pair:
    return Pair(shared_cloud, make_device(shared_cloud))


def test_a_profile_is_at_the_other_end_within_seconds(pair: Pair) -> None:
    pair.device.start()
    pair.at_cloud("PUT", {"name": "Ada", "grade": 1})
    until("the first is there", lambda: pair.at_device() == {"name": "Ada", "grade": 1})
    down, up = [], []
    for grade in range(2, 5):
        pair.at_cloud("PATCH", {"grade": grade})
        down.append(took_s("it is on the device", lambda wanted=grade: pair.at_device()["grade"] == wanted))
        pair.at_device("PATCH", {"name": f"Ada {grade}"})
        up.append(took_s("it is in the cloud", lambda wanted=f"Ada {grade}": pair.at_cloud()["name"] == wanted))
    # a machine whose disk stalls for a minute must not fail it
    assert min(down) < LIVE_S
    assert min(up) < LIVE_S
    assert pair.at_cloud() == pair.at_device()


def test_both_sides_of_an_outage_are_there_afterwards(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    with FaultyLink(shared_cloud.address) as link:
        pair = Pair(shared_cloud, make_device(shared_cloud, link=link))
        pair.device.start()
        pair.at_cloud("PUT", {"name": "Ada"})
        until("the first is there", lambda: pair.at_device() == {"name": "Ada"})
        link.down()
        pair.at_device("PATCH", {"city": "Nairobi"})
        pair.at_cloud("PATCH", {"grade": 4})
        sync = pair.device.ask("POST", f"{pair.path}/sync")
        assert (sync.status, sync.json()["code"]) == (503, "offline")
        link.up()
        both = {"name": "Ada", "city": "Nairobi", "grade": 4}
        until("both are at the cloud", lambda: pair.at_cloud() == both)
        until("both are here", lambda: pair.at_device() == both)


def test_a_line_that_drops_what_is_quiet_and_a_cloud_that_starts_again_end_nothing(
    own_cloud: Cloud, make_device: MakeDevice
) -> None:
    with FaultyLink(own_cloud.address) as link:
        pair = Pair(own_cloud, make_device(own_cloud, link=link))
        pair.device.start()
        pair.at_cloud("PUT", {"grade": 1})
        until("the first is there", lambda: pair.at_device() == {"grade": 1})
        link.break_connections()
        pair.at_cloud("PATCH", {"grade": 2})
        until("the second is there", lambda: pair.at_device() == {"grade": 2})
        assert own_cloud.stop() == 0
        own_cloud.start()
        pair.at_cloud("PATCH", {"grade": 3})
        until("the third is there", lambda: pair.at_device() == {"grade": 3})


def test_sync_now_waits_until_both_have_it(pair: Pair) -> None:
    pair.device.start()
    until("it is online", lambda: pair.device.status()["link"]["state"] == "full")
    pair.at_device("PUT", {"name": "Ada"})
    answer = pair.device.ask("POST", f"{pair.path}/sync")
    assert answer.status == 200, answer.body
    assert answer.json()["data"]["sync_status"] == "synced"
    assert pair.at_cloud() == {"name": "Ada"}


def test_one_cycle_delivers_and_fetches(pair: Pair) -> None:
    pair.at_cloud("PUT", {"name": "Ada"})
    assert pair.device.once() == 0
    pair.device.process.kill()
    with FaultyLink(pair.cloud.address) as link:
        link.down()
        pair.device.url = link.url
        pair.device.write_config()
        pair.device.start()
        assert pair.at_device() == {"name": "Ada"}
        pair.at_device("PATCH", {"grade": 7})
        assert pair.device.stop() == 0
    pair.device.url = pair.cloud.url
    pair.device.write_config()
    assert pair.device.once() == 0
    assert pair.at_cloud() == {"name": "Ada", "grade": 7}


def test_what_a_device_is_not_subscribed_to_any_more_goes(pair: Pair) -> None:
    pair.device.start()
    pair.at_cloud("PUT", {"name": "Ada"})
    until("it is here", lambda: pair.at_device() is not None)
    pair.subscribe()
    until("it is gone", lambda: pair.at_device() is None)
    pair.subscribe(pair.user)
    until("it is here again", lambda: pair.at_device() == {"name": "Ada"})


def test_a_request_that_is_held_holds_up_neither_the_end_nor_a_new_configuration(pair: Pair) -> None:
    pair.device.start()
    pair.at_cloud("PUT", {"name": "Ada"})
    until("it is here", lambda: pair.at_device() is not None)
    pair.device.settings["records"] = {"wait_s": 0}
    pair.device.write_config()
    pair.device.reload()
    until("it goes on", lambda: b"config.reloaded" in pair.device.process.log.read_bytes())
    until("it answers", lambda: pair.device.ask("GET", "/healthz").status == 200)
    pair.at_cloud("PATCH", {"name": "Grace"})
    pair.device.ask("POST", "/sync")
    until("a person's sync fetches", lambda: pair.at_device() == {"name": "Grace"})
    assert pair.device.stop() == 0
    assert b"activity.cancelled" not in pair.device.process.log.read_bytes()
