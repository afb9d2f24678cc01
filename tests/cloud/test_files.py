"""Lists, versions and downloads of a device's files."""

from __future__ import annotations

import base64
import os
from urllib.parse import quote

import pytest

from cloud.store import files as files_store
from tests.cloud.conftest import Cloud
from tests.cloud.tus_helpers import Device, bundle_of, member, sha256


@pytest.fixture
async def device(cloud: Cloud) -> Device:
    return await Device.enroll(cloud)


@pytest.fixture
async def lite(cloud_lite: Cloud) -> Device:
    return await Device.enroll(cloud_lite)


async def listing(device: Device, query: str = "", **headers: str):  # type: ignore[no-untyped-def]
    return await device.send("GET", f"/api/devices/{device.device_id}/files{query}", headers=headers)


async def test_files_are_listed_by_path_in_pages(device: Device) -> None:
    names = sorted([b"a/%03d" % number for number in range(25)] + [b"b/\xff\xfe", "b/ü".encode(), b"c"])
    await device.upload(bundle_of(member(name, name) for name in names), kind=b"bundle")
    found: list[bytes] = []
    query = "?limit=10"
    while True:
        reply = await listing(device, query)
        assert reply.status == 200
        found += [base64.b64decode(row["path_b64"]) for row in reply.body["data"]]
        assert reply.body["pagination"]["total"] == 28
        assert reply.body["pagination"]["total_pages"] == 3
        cursor = reply.body["pagination"]["next_cursor"]
        if cursor is None:
            break
        query = f"?limit=10&cursor={cursor}"
    assert found == names
    second = await listing(device, "?limit=10&page=2")
    assert [row["path"] for row in second.body["data"]] == [f"a/{number:03d}" for number in range(10, 20)]
    row = second.body["data"][0]
    assert (row["size"], row["sha256"], row["version"], row["versions"]) == (5, sha256(b"a/010"), 1, 1)
    for prefix, count in (("a/", 25), ("a/01", 10), ("b/%FF", 1), ("b/%C3%BC", 1), ("b", 2), ("z", 0), ("", 28)):
        assert (await listing(device, f"?prefix={prefix}")).body["pagination"]["total"] == count
        assert (await listing(device, f"?search={prefix}")).body["pagination"]["total"] == count


@pytest.mark.parametrize("query", ["?limit=0", "?limit=x", "?limit=9999999", "?page=0", "?cursor=%21", "?page=-1"])
async def test_a_query_that_cannot_be_answered_is_refused(lite: Device, query: str) -> None:
    assert (await listing(lite, query)).status == 422


async def test_versions_are_kept_and_can_be_fetched(device: Device) -> None:
    for number in range(1, 6):
        await device.upload(b"version %d" % number, path=b"r/x", mtime_ms=b"%d" % number)
    reply = await device.download("r/x?versions&limit=3")
    assert [row["version"] for row in reply.body["data"]] == [5, 4, 3]
    assert reply.body["pagination"]["total"] == 5
    cursor = reply.body["pagination"]["next_cursor"]
    rest = await device.download(f"r/x?versions&limit=3&cursor={cursor}")
    assert [(row["version"], row["mtime_ms"]) for row in rest.body["data"]] == [(2, 2), (1, 1)]
    assert rest.body["pagination"]["next_cursor"] is None
    for number in range(1, 6):
        got = await device.download(f"r/x?version={number}")
        assert (got.body, got.headers["PiSync-Version"]) == (b"version %d" % number, str(number))
    assert (await device.download("r/x")).body == b"version 5"
    assert (await device.download("r/x?version=6")).status == 404
    assert (await device.download("r/x?version=0")).status == 422
    assert (await device.download("r/y?versions")).status == 404


async def test_a_download_says_what_it_is(device: Device) -> None:
    data = os.urandom(5000)
    name = b'r/we"ird\r\n;\xff/na\\me;x=\n\xc3\xbc.txt'
    await device.upload(data, path=name)
    reply = await device.download(quote(name))
    assert reply.status == 200
    assert reply.body == data
    assert reply.headers["ETag"] == f'"{sha256(data)}"'
    digest = base64.b64encode(bytes.fromhex(sha256(data))).decode()
    assert reply.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Type"] == "application/octet-stream"
    shown = reply.headers["Content-Disposition"]
    assert shown == "attachment; filename=\"na_me_x____.txt\"; filename*=UTF-8''na%5Cme%3Bx%3D%0A%C3%BC.txt"
    head = await device.send("HEAD", f"/api/devices/pi-1/files/{quote(name)}")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "5000", b"")
    etag = reply.headers["ETag"]
    for said in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        unchanged = await device.download(quote(name), **{"If-None-Match": said})
        assert (unchanged.status, unchanged.body) == (304, b"")
    assert (await device.download(quote(name), **{"If-None-Match": '"other"'})).status == 200


async def test_the_longest_path_can_be_fetched(lite: Device) -> None:
    name = b"/".join([b"\xfe" * 255] * 16)
    await lite.upload(b"deep", path=name)
    assert (await lite.download(quote(name))).body == b"deep"


@pytest.mark.parametrize("packed", [False, True])
async def test_ranges(lite: Device, packed: bool) -> None:
    data = os.urandom(10_000)
    if packed:
        await lite.upload(
            bundle_of([member(b"r/0", b"x" * 999), member(b"r/x", data), member(b"r/z", b"y")]), kind=b"bundle"
        )
    else:
        await lite.upload(data, path=b"r/x")
    for said, expected, where in (
        ("bytes=0-0", data[:1], "bytes 0-0/10000"),
        ("bytes=100-199", data[100:200], "bytes 100-199/10000"),
        ("bytes=9990-", data[9990:], "bytes 9990-9999/10000"),
        ("bytes=-10", data[-10:], "bytes 9990-9999/10000"),
        ("bytes=-99999", data, "bytes 0-9999/10000"),
        ("bytes=9999-99999", data[-1:], "bytes 9999-9999/10000"),
    ):
        reply = await lite.download("r/x", Range=said)
        assert (reply.status, reply.body, reply.headers["Content-Range"]) == (206, expected, where)
    for said in ("bytes=10000-", "bytes=-0", "bytes=99999-100000"):
        reply = await lite.download("r/x", Range=said)
        assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */10000")
    for said in ("bytes=5-4", "bytes=", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6"):
        reply = await lite.download("r/x", Range=said)
        assert (reply.status, reply.body) == (200, data)
    etag = (await lite.download("r/x")).headers["ETag"]
    assert (await lite.download("r/x", Range="bytes=0-9", **{"If-Range": etag})).status == 206
    for stale in ('"other"', "Sun, 22 Nov 2026 04:36:20 GMT"):
        assert (await lite.download("r/x", Range="bytes=0-9", **{"If-Range": stale})).status == 200


async def test_who_may_read(device: Device) -> None:
    await device.upload(b"x", path=b"r/x")
    other = await Device.enroll(device.cloud, "pi-2")
    viewer = Device(device.cloud, "pi-1", await device.cloud.key("viewer"))
    nobody = Device(device.cloud, "pi-1", {})
    foreign = Device(device.cloud, "pi-1", other.auth)
    for asker, status in ((device, 200), (viewer, 200), (foreign, 403), (nobody, 401)):
        assert (await listing(asker)).status == status
        assert (await asker.download("r/x")).status == status
        assert (await asker.send("GET", "/api/devices/pi-1/contents")).status == status
    unknown = Device(device.cloud, "pi-9", viewer.auth)
    assert (await listing(unknown)).status == 404
    assert (await viewer.send("GET", "/api/devices/%00/files")).status == 404


@pytest.mark.parametrize("path", ["r", "r/x/", "r//x", "..%2F..%2Fetc%2Fpasswd", "%00", "R/x"])
async def test_a_path_is_a_key_and_nothing_else(lite: Device, path: str) -> None:
    await lite.upload(b"x", path=b"r/x")
    assert (await lite.download(path)).status == 404


async def test_contents_are_listed_for_a_fresh_outbox(device: Device) -> None:
    bodies = [b"%d" % number for number in range(12)]
    await device.upload(bundle_of(member(b"r/" + body, body) for body in bodies), kind=b"bundle")
    await device.upload(bodies[0], path=b"again")
    first = await device.send("GET", "/api/devices/pi-1/contents?limit=7")
    cursor = first.body["pagination"]["next_cursor"]
    rest = await device.send("GET", f"/api/devices/pi-1/contents?limit=7&cursor={cursor}")
    assert first.body["data"] + rest.body["data"] == sorted(sha256(body) for body in bodies)
    assert rest.body["pagination"]["next_cursor"] is None
    assert first.body["pagination"]["total"] == 12
    whole = await device.send("GET", "/api/devices/pi-1/contents")
    assert len(whole.body["data"]) == 12
    assert (await device.send("GET", "/api/devices/pi-1/contents?limit=10001")).status == 422
    assert (await device.send("GET", "/api/devices/pi-1/contents?cursor=x")).status == 422


async def test_totals_and_the_latest(device: Device) -> None:
    db = device.cloud.services.db
    empty = await files_store.totals(db, "pi-1")
    assert (empty.files, empty.length_bytes, empty.versions, empty.last_published_at_ms) == (0, 0, 0, None)
    await device.upload(b"12345", path=b"r/x")
    await device.upload(b"123", path=b"r/x")
    await device.upload(b"1", path=b"r/y")
    found = await files_store.totals(db, "pi-1")
    assert (found.files, found.length_bytes, found.versions) == (2, 4, 3)
    assert found.last_published_at_ms is not None
    assert [row.path for row in await files_store.list_files(db, "pi-1", after=b"r/x")] == [b"r/y"]


async def test_a_large_download_arrives_whole(lite: Device) -> None:
    data = os.urandom(8 << 20)
    await lite.upload(data, path=b"r/x")
    assert sha256((await lite.download("r/x")).body) == sha256(data)


@pytest.mark.parametrize(
    ("prefix", "beyond"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"", b"\xff" * 4097), (b"\xff", b"\xff" * 4097)],
)
def test_a_prefix_is_a_range(prefix: bytes, beyond: bytes) -> None:
    assert files_store.prefix_range(prefix) == (prefix, beyond)
