"""Bundles: many files in one upload, and what a hostile one can try."""

from __future__ import annotations

import os
import tarfile
import time

import msgspec
import pytest
from backports import zstd

from cloud.flows import unpack
from cloud.flows.terms import Policy
from cloud.store import uploads as rows
from pisyncd.core import wire
from tests.cloud.conftest import Cloud
from tests.cloud.tus_helpers import Device, Reply, bundle_of, member, reused, sha256, tar_of


@pytest.fixture
async def device(cloud: Cloud) -> Device:
    return await Device.enroll(cloud)


@pytest.fixture
async def lite(cloud_lite: Cloud) -> Device:
    return await Device.enroll(cloud_lite)


async def deliver(device: Device, packed: bytes) -> Reply:
    return await device.upload(packed, kind=b"bundle", sha256=sha256(packed).encode())


async def refusals(device: Device, reply: Reply) -> dict[str, str]:
    status = await device.status(reply.headers["Location"])
    assert status["entries"]["refused"] == len(status["refused"])
    assert all(entry["hint"] for entry in status["refused"])
    return {entry["path"]: entry["code"] for entry in status["refused"]}


async def test_names_contents_and_times_come_through(device: Device) -> None:
    names = [
        b"r/plain",
        "r/größe".encode(),
        b"r/\xff\xfe",
        b"r/line\nbreak",
        b"r/" + b"n" * 255,
        b"r/" + b"d/" * 1000 + b"x",
    ]
    files = {name: os.urandom(1000) + name for name in names}
    reply = await deliver(device, bundle_of(member(name, data) for name, data in files.items()))
    assert reply.state == "published"
    listed = await device.listed()
    assert {row["path_b64"] for row in listed.values()} == {wire.base64.b64encode(name).decode() for name in names}
    assert all(row["mtime_ms"] == 1700000000123 for row in listed.values())
    for name, data in files.items():
        quoted = "".join(
            chr(byte) if 48 <= byte < 58 or 97 <= byte < 123 or byte == 47 else f"%{byte:02X}" for byte in name
        )
        assert (await device.download(quoted)).body == data


async def test_an_entry_that_is_bad_is_refused_alone(device: Device) -> None:
    known = (await device.upload(b"known", path=b"r/known"), sha256(b"known"))[1]
    packed = bundle_of(
        [
            member(b"r/good", b"good"),
            member(b"r/torn", b"torn", digest=sha256(b"whole")),
            member(b"r/unsigned", b"x", pax={wire.PAX_SHA256: "", wire.PAX_MTIME: "1"}),
            member(b"r/time", b"x", pax={wire.PAX_MTIME: "soon"}),
            member(b"../../etc/passwd", b"x"),
            member(b"/etc/passwd", b"x"),
            member(b"r//x", b"x"),
            member(b"r/" + b"x" * 256, b"x"),
            member(b"r/link", kind=tarfile.SYMTYPE),
            member(b"r/hard", kind=tarfile.LNKTYPE),
            member(b"r/device", kind=tarfile.CHRTYPE),
            member(b"r/block", kind=tarfile.BLKTYPE),
            member(b"r/pipe", kind=tarfile.FIFOTYPE),
            member(b"r/folder", kind=tarfile.DIRTYPE),
            reused(b"r/again", known, 5),
            reused(b"r/lied", known, 6),
            reused(b"r/never", sha256(b"never"), 5),
            member(b"r/half-reused", b"x", pax={wire.PAX_REUSE: "1", wire.PAX_SIZE: "1"}),
            reused(b"r/within", sha256(b"good"), 4),
            member(b"r/last", b"last"),
        ]
    )
    reply = await deliver(device, packed)
    assert reply.state == "partial"
    assert await refusals(device, reply) == {
        "r/torn": "checksum-mismatch",
        "r/unsigned": "entry-invalid",
        "r/time": "entry-invalid",
        "../../etc/passwd": "path-invalid",
        "/etc/passwd": "path-invalid",
        "r//x": "path-invalid",
        "r/" + "x" * 256: "path-invalid",
        "r/link": "entry-invalid",
        "r/hard": "entry-invalid",
        "r/device": "entry-invalid",
        "r/block": "entry-invalid",
        "r/pipe": "entry-invalid",
        "r/folder/": "path-invalid",
        "r/lied": "content-missing",
        "r/never": "content-missing",
        "r/half-reused": "entry-invalid",
    }
    assert set(await device.listed()) == {"r/known", "r/good", "r/again", "r/within", "r/last"}
    counts = (await device.status(reply.headers["Location"]))["entries"]
    assert counts == {"published": 2, "reused": 2, "refused": 16}
    for path, data in (("r/again", b"known"), ("r/within", b"good"), ("r/last", b"last")):
        assert (await device.download(path)).body == data


async def test_of_equal_paths_the_last_wins(lite: Device) -> None:
    reply = await deliver(lite, bundle_of([member(b"r/x", b"first"), member(b"r/y", b"y"), member(b"r/x", b"last")]))
    assert reply.state == "published"
    assert (await lite.listed())["r/x"]["versions"] == 1
    assert (await lite.download("r/x")).body == b"last"


async def test_equal_contents_are_kept_once_and_empty_files_are_fine(lite: Device) -> None:
    data = os.urandom(50_000)
    big = os.urandom(3 << 20)
    packed = bundle_of(
        [
            *(member(b"r/same%d" % number, data) for number in range(5)),
            member(b"r/empty", b""),
            member(b"r/big", big),
            member(b"r/big-again", big),
            member(b"r/big-torn", big[::-1], digest=sha256(b"x")),
            member(b"r/after", b"after"),
        ]
    )
    reply = await deliver(lite, packed)
    assert await refusals(lite, reply) == {"r/big-torn": "checksum-mismatch"}
    blob = lite.cloud.services.uploads.blobs.content_path(reply.headers["Location"].rpartition("/")[2])
    assert blob.stat().st_size == len(data) + len(big) + len(b"after")
    for path, expected in (("r/same4", data), ("r/empty", b""), ("r/big-again", big), ("r/after", b"after")):
        assert (await lite.download(path)).body == expected


async def test_a_bundle_of_nothing_publishes_nothing(lite: Device) -> None:
    reply = await deliver(lite, bundle_of([]))
    assert reply.state == "published"
    assert await lite.listed() == {}


@pytest.mark.parametrize("members", [[], [member(b"r/a", b"a"), member(b"../b", b"b")]])
async def test_who_comes_late_to_finish_is_told_how_it_ended(device: Device, members: list[bytes]) -> None:
    reply = await deliver(device, bundle_of(members))
    services = device.cloud.services
    async with services.db.reading() as tx:
        row = await rows.get(tx, reply.headers["Location"].rpartition("/")[2])
    assert row is not None
    looked_earlier = msgspec.structs.replace(row, state="receiving")
    again = await services.uploads._publisher.finish(looked_earlier, None)
    assert (again.state, again.published, len(again.refusals)) == (reply.state, row.published, row.refused)


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def _broken() -> dict[str, bytes]:
    plain = tar_of([member(b"r/a", b"a" * 600), member(b"r/b", b"b" * 600)])
    packed = zstd.compress(plain)
    huge = bytearray(tar_of([member(b"r/a", b"x")]))
    huge[1024 + 124 : 1024 + 136] = b"77777777777\0"
    huge[1024 + 148 : 1024 + 156] = b" " * 8
    huge[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(huge[1024:1536])
    return {
        "empty": b"",
        "no zstd": os.urandom(500),
        "plain tar": plain,
        "cut stream": packed[:-5],
        "cut archive": zstd.compress(plain[:2000]),
        "no end": zstd.compress(plain[: plain.rindex(b"b") // 512 * 512 + 512]),
        "header checksum": zstd.compress(_flip(plain, 1024 + 10)),
        "nonsense behind the end": zstd.compress(plain + b"x" * 512),
        "two streams": packed + packed,
        "garbage behind the stream": packed + b"x",
        "size without data": zstd.compress(bytes(huge)),
        "pax lengths": zstd.compress(plain.replace(b"PISYNC.sha256=", b"PISYNC.sha256:", 1)),
        "pax too large": zstd.compress(tar_of([member(b"r/a", b"a", pax={"comment": "x" * 70_000})])),
        "base-256 size": zstd.compress(_flip(plain, 1024 + 124)),
    }


@pytest.mark.parametrize("name", sorted(_broken()))
async def test_a_broken_archive_is_refused_whole(lite: Device, name: str) -> None:
    reply = await deliver(lite, _broken()[name])
    assert (reply.state, reply.headers["Upload-Error"]) == ("refused", "bundle-invalid")
    assert await lite.listed() == {}
    upload = reply.headers["Location"].rpartition("/")[2]
    blobs = lite.cloud.services.uploads.blobs
    assert not blobs.upload_path(upload).exists()
    assert not blobs.pack_path(upload).exists()
    assert not blobs.content_path(upload).exists()


@pytest.mark.parametrize(
    ("limits", "packed"),
    [
        (unpack.Limits(decoded_bytes_max=1 << 20), bundle_of([member(b"r/zeros", bytes(64 << 20))])),
        (unpack.Limits(decoded_bytes_max=1 << 20), zstd.compress(bytes(64 << 20))[:-3]),
        (unpack.Limits(entries_max=10), bundle_of(member(b"r/%d" % number, b"") for number in range(11))),
    ],
    ids=["bomb", "bomb of zero blocks", "entries"],
)
async def test_a_bomb_ends_at_the_limit(lite: Device, limits: unpack.Limits, packed: bytes) -> None:
    lite.cloud.services.uploads._publisher._limits = limits
    reply = await deliver(lite, packed)
    assert (reply.state, reply.headers["Upload-Error"]) == ("refused", "bundle-too-large")
    assert await lite.listed() == {}


def test_the_default_limits_are_finite() -> None:
    limits = Policy(upload_bytes_max=1, keep_ms=1).unpack
    assert limits.decoded_bytes_max <= 4 << 30
    assert limits.entries_max <= 1_000_000


async def test_a_sparse_member_is_refused(lite: Device) -> None:
    packed = bundle_of([member(b"r/sparse", b"x", pax={"GNU.sparse.major": "1"}), member(b"r/ok", b"ok")])
    reply = await deliver(lite, packed)
    assert await refusals(lite, reply) == {"r/sparse": "entry-invalid"}


async def test_thousands_of_entries_are_one_pack_and_one_transaction(device: Device) -> None:
    files = [(b"r/%d/%d" % (number % 50, number), b"%d" % number * 20) for number in range(3000)]
    packed = bundle_of(member(path, data) for path, data in files)
    created = await device.create(len(packed), kind=b"bundle", sha256=sha256(packed).encode())
    at = created.headers["Location"]
    begun = time.perf_counter()
    reply = await device.patch(at, 0, packed)
    print(f"{len(files) / (time.perf_counter() - begun):.0f} entries/s")
    assert reply.state == "published"
    counted = await device.send("GET", "/api/devices/pi-1/files?limit=1")
    assert counted.body["pagination"]["total"] == 3000
    blobs = device.cloud.services.uploads.blobs
    assert sum(1 for _ in blobs.contents.glob("*/*")) == 1
    assert sum(1 for _ in blobs.uploads.glob("*/*")) == 0
    assert (await device.download("r/7/2957")).body == b"2957" * 20
