"""Three devices by wrong clocks and a cloud, all killed at random moments: every copy of every record ends the same.

And every write that was answered is shown, was overwritten by one that had seen it, or is named in a conflict.
"""

from __future__ import annotations

import http.client
import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeDevice
from rig import boot
from rig.boot import Boot
from rig.cloud import Cloud
from rig.device import Device
from rig.link import FaultyLink
from rig.wait import until

DAY_S = 86_400
OFFS_S = (-900 * DAY_S, 300, 0)
SITE = "school-9"
PATHS = ("progress/p1", "profile/u1", "enrollment/e1")
ROUNDS = 3


class School:
    """Writes at devices and at the cloud; `written` are the values that were answered, by path and field."""

    def __init__(self, cloud: Cloud, devices: list[Device], chance: random.Random) -> None:
        self.cloud = cloud
        self.devices = devices
        self.chance = chance
        self.key = cloud.key("killed", "operator")
        self.counted = 0
        self.written: list[tuple[str, str]] = []

    def write(self, device: Device | None) -> None:
        """One PATCH, or a PUT of what is not there yet; a write that nobody answered may be there or not."""
        path, number = self.chance.choice(PATHS), len(self.written)
        value = f"w-{number}"
        fields: dict[str, Any] = {"lesson": value, "siteId": SITE}
        answer = self._told(device, "PATCH", path, fields)
        if answer.status == 404:
            answer = self._told(device, "PUT", path, fields)
        assert answer.status in (200, 201), answer.body
        self.written.append((path, value))

    def _told(self, device: Device | None, method: str, path: str, fields: dict[str, Any]) -> Any:
        body, where = json.dumps({"fields": fields}).encode(), f"/api/records/{path}"
        if device is not None:
            return device.ask(method, where, body, Content_Type="application/json")
        return self.cloud.ask(method, where, key=self.key, body=body, Content_Type="application/json")

    def shown(self, device: Device | None, path: str) -> Any:
        where = f"/api/records/{path}"
        answer = device.ask("GET", where) if device else self.cloud.ask("GET", where, key=self.key)
        data = answer.json().get("data") or {}
        return data.get("version"), data.get("fields")

    def agrees(self) -> bool:
        """Whether all four show the same, and nothing waits."""
        try:
            for path in PATHS:
                if any(self.shown(device, path) != self.shown(None, path) for device in self.devices):
                    return False
            return all(device.status()["queue"]["messages"]["count"] == 0 for device in self.devices)
        except (OSError, http.client.HTTPException):
            return False


def started(device: Device) -> bool:
    """Starts the device; the one that was killed may hold its lock for a moment more."""
    try:
        device.start()
    except RuntimeError:
        return False
    return True


def moved(device: Device, root: Path, off_s: int) -> None:
    if boot.possible():
        device.move(Boot(root, clock_off_s=off_s))


@pytest.mark.parametrize("seed", [1])
def test_all_are_killed(own_cloud: Cloud, make_device: MakeDevice, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with FaultyLink(own_cloud.address, seed=seed) as link:
        devices = [make_device(own_cloud, link=link) for _ in OFFS_S]
        school = School(own_cloud, devices, chance)
        for device, off_s in zip(devices, OFFS_S, strict=True):
            subscribe(school, device)
            moved(device, tmp_path, off_s)
            device.start()
        for _ in range(ROUNDS):
            a_round(school, link, tmp_path)
        link.forget_alarms()
        link.up()
        until("all show the same", school.agrees, within_s=60)
        check(school)


def subscribe(school: School, device: Device) -> None:
    path = f"/api/devices/{device.device_id}/subscriptions"
    body = json.dumps({"site": [SITE], "group": [], "user": []}).encode()
    answer = school.cloud.ask("PUT", path, key=school.key, body=body, Content_Type="application/json")
    assert answer.status == 200, answer.body


def a_round(school: School, link: FaultyLink, root: Path) -> None:
    """Apart for a while; then together, and one of them and the cloud die in the middle of it."""
    chance = school.chance
    link.down()
    for _ in range(6):
        school.write(chance.choice([*school.devices, None]))
    victim, dead = chance.choice(school.devices), list[Device | Cloud]()

    def kill(one: Device | Cloud) -> None:
        dead.append(one)
        one.kill_now()

    link.when_sent(chance.randrange(6_000), lambda: kill(victim))
    link.when_answered(chance.randrange(6_000), lambda: kill(school.cloud))
    link.up()
    until("one of them is dead, or all is exchanged", lambda: dead or school.agrees())
    link.forget_alarms()
    for one in dead:
        one.kill()  # until it has ended
    if school.cloud in dead:
        school.cloud.start()
    if victim in dead:
        moved(victim, root, chance.choice(OFFS_S))
        until("the old one is gone", lambda: started(victim))


def check(school: School) -> None:
    """The last value is shown or named; an earlier one may have been overwritten by who had seen it."""
    told = json.dumps(list(school.cloud._pages("/api/conflicts")))
    newest = {}
    for path, value in school.written:
        newest[path] = value
    for path, value in newest.items():
        _, fields = school.shown(None, path)
        assert fields["lesson"] == value or f'"{value}"' in told or f'\\"{value}\\"' in told, (path, value, fields)
    for device in school.devices:
        assert device.status()["losses"] == 0 or "message-refused" not in json.dumps(device.status())
