"""Expiry, forgetting, orphans."""

from __future__ import annotations

import os
from email.utils import parsedate_to_datetime

import pytest

from cloud.flows.housekeeping import Housekeeping
from cloud.services import wall_ms
from tests.cloud.conftest import Cloud
from tests.cloud.tus_helpers import Device, bundle_of, member

DAY_MS = 24 * 3_600_000


class Time:
    def __init__(self) -> None:
        self.shift_ms = 0

    def now_ms(self) -> int:
        return wall_ms() + self.shift_ms

    def days(self, number: int) -> None:
        self.shift_ms += number * DAY_MS


@pytest.fixture
async def device(cloud: Cloud) -> Device:
    return await Device.enroll(cloud)


@pytest.fixture
def clock(device: Device) -> Time:
    clock = Time()
    uploads = device.cloud.services.uploads
    uploads._now_ms = clock.now_ms
    return clock


@pytest.fixture
def keeper(device: Device, clock: Time) -> Housekeeping:
    services = device.cloud.services
    return Housekeeping(
        services.db, services.uploads, clock.now_ms, monotonic=lambda: clock.now_ms() / 1000, orphan_age_s=3600
    )


async def test_an_unfinished_upload_expires_and_is_forgotten_later(
    device: Device, clock: Time, keeper: Housekeeping
) -> None:
    created = await device.create(10, path=b"r/x")
    at = created.headers["Location"]
    await device.patch(at, 0, b"hello")
    expires = parsedate_to_datetime(created.headers["Upload-Expires"]).timestamp() * 1000
    assert abs(expires - wall_ms() - 60 * DAY_MS) < 60_000
    clock.days(59)
    assert await keeper.expire() == 0
    assert (await device.head(at)).offset == 5
    clock.days(2)
    assert await keeper.expire() == 1
    assert (await device.head(at)).status == 410
    assert not device.cloud.services.uploads.blobs.upload_path(at.rpartition("/")[2]).exists()
    clock.days(59)
    assert await keeper.expire() == 0
    clock.days(2)
    assert await keeper.expire() == 1
    assert (await device.head(at)).status == 404


async def test_an_upload_that_goes_on_is_kept_longer(device: Device, clock: Time, keeper: Housekeeping) -> None:
    at = (await device.create(10, path=b"r/x")).headers["Location"]
    clock.days(50)
    await device.patch(at, 0, b"hello")
    clock.days(50)
    assert await keeper.expire() == 0
    assert (await device.patch(at, 5, b"world")).state == "published"


async def test_what_is_published_outlives_its_upload(device: Device, clock: Time, keeper: Housekeeping) -> None:
    at = (await device.upload(b"kept", path=b"r/x")).headers["Location"]
    refused = await device.upload(bundle_of([member(b"r/ok", b"ok"), member(b"../x", b"x")]), kind=b"bundle")
    assert refused.state == "partial"
    clock.days(61)
    assert await keeper.expire() == 2
    assert (await device.head(at)).status == 404
    assert (await device.download("r/x")).body == b"kept"
    assert (await device.download("r/ok")).body == b"ok"


async def test_nobodys_bytes_are_removed_and_nothing_else(device: Device, clock: Time, keeper: Housekeeping) -> None:
    blobs = device.cloud.services.uploads.blobs
    half = (await device.create(10, path=b"r/half")).headers["Location"]
    await device.patch(half, 0, b"hello")
    await device.upload(b"published", path=b"r/x")
    await device.upload(bundle_of([member(b"r/b", b"packed")]), kind=b"bundle")
    orphans = [
        blobs.upload_path("00" * 16),
        blobs.pack_path("11" * 16),
        blobs.content_path("22" * 16),
        blobs.uploads / "33" / "not-an-id",
    ]
    young = blobs.upload_path("44" * 16)
    for path in (*orphans, young):
        path.write_bytes(b"x")
    for path in (*blobs.uploads.glob("*/*"), *blobs.contents.glob("*/*")):
        if path != young:
            os.utime(path, (1000, 1000))
    assert await keeper.sweep() == 4
    assert young.exists()
    assert not any(path.exists() for path in orphans)
    assert (await device.patch(half, 5, b"world")).state == "published"
    for path, data in (("r/half", b"helloworld"), ("r/x", b"published"), ("r/b", b"packed")):
        assert (await device.download(path)).body == data
    assert await keeper.sweep() == 0


async def test_an_upload_somebody_is_at_work_on_does_not_expire(
    device: Device, clock: Time, keeper: Housekeeping
) -> None:
    at = (await device.create(10, path=b"r/x")).headers["Location"]
    upload = at.rpartition("/")[2]
    clock.days(61)
    async with device.cloud.services.uploads._locks.hold(upload):
        assert await keeper.expire() == 0
    assert await keeper.expire() == 1
