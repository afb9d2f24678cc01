"""What the field does to an upload: cut connections, zombies, restarts, full disks."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backports import zstd

from cloud.flows.receive import digest_of
from cloud.flows.uploads import Uploads
from cloud.store import blobs as blob_store
from cloud.store import uploads as rows
from tests.cloud.conftest import Cloud, StartCloud
from tests.cloud.tus_helpers import Device, bundle_of, checksum, member, sha256, until


@pytest.fixture
async def lite(cloud_lite: Cloud) -> Device:
    return await Device.enroll(cloud_lite)


def uploads_of(device: Device) -> Uploads:
    return device.cloud.services.uploads


def stored(device: Device, at: str) -> int:
    return uploads_of(device).blobs.upload_path(at.rpartition("/")[2]).stat().st_size


async def restarted(device: Device, start: StartCloud) -> Device:
    """The same data under a new service, as after a kill: nothing of the old one's memory is left."""
    settings = device.cloud.services.settings
    cloud = await start(data=settings.data, database=settings.database)
    return Device(cloud, device.device_id, device.auth)


@pytest.mark.parametrize("how", ["reset", "half-close"])
async def test_a_cut_body_keeps_what_arrived(lite: Device, how: str) -> None:
    data = os.urandom(3_000_000)
    at = (await lite.create(len(data), path=b"r/x", sha256=sha256(data).encode())).headers["Location"]
    wire = await lite.patching(at, 0, len(data))
    await wire.write(data[:1_234_567])
    if how == "reset":
        # A reset throws away what the kernel still holds, so wait until the service has it.
        await until(lambda: asyncio.sleep(0, _size(lite, at) >= 1_234_567 - (1 << 20)))
        wire.cut()
    else:
        wire.writer.write_eof()

    async def settled() -> int:
        busy = not _size(lite, at) or uploads_of(lite)._locks.held(at.rpartition("/")[2])
        return 0 if busy else (await lite.status(at))["offset"]

    offset = await until(settled)
    assert offset == 1_234_567 if how == "half-close" else 0 < offset <= 1_234_567
    assert (await lite.head(at)).offset == offset == stored(lite, at)
    assert (await lite.patch(at, offset, data[offset:])).state == "published"
    assert (await lite.download("r/x")).body == data


def _size(device: Device, at: str) -> int:
    path = uploads_of(device).blobs.upload_path(at.rpartition("/")[2])
    return path.stat().st_size if path.exists() else 0


async def test_bytes_that_wait_in_the_buffer_when_the_connection_ends_are_kept(lite: Device) -> None:
    """aiohttp raises the connection's error before it hands out what it has already read."""
    data = os.urandom(700_000)
    at = (await lite.create(1_000_000, path=b"r/x")).headers["Location"]
    wire = await lite.patching(at, 0, 1_000_000)
    wire.writer.write(data)
    wire.writer.write_eof()
    await until(lambda: asyncio.sleep(0, _size(lite, at) == len(data)))
    assert (await lite.head(at)).offset == len(data)


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
async def test_a_cut_compressed_body_keeps_what_could_be_decoded(lite: Device, encoding: str) -> None:
    data = os.urandom(2_000_000)
    at = (await lite.create(len(data), path=b"r/x")).headers["Location"]
    packed = zstd.compress(data) if encoding == "zstd" else gzip.compress(data)
    wire = await lite.patching(at, 0, len(packed), Content_Encoding=encoding)
    wire.writer.write(packed[: len(packed) // 2])
    wire.writer.write_eof()
    await until(lambda: asyncio.sleep(0, _size(lite, at) > 700_000))
    offset = (await lite.head(at)).offset
    assert len(packed) // 2 - 300_000 < offset <= len(packed) // 2
    assert (await lite.patch(at, offset, data[offset:])).state == "published"
    assert (await lite.download("r/x")).body == data


async def test_a_cut_body_with_a_checksum_counts_nothing(lite: Device) -> None:
    data = os.urandom(10_000_000)
    at = (await lite.create(len(data), path=b"r/x")).headers["Location"]
    wire = await lite.patching(at, 0, len(data), **checksum(data))
    await wire.write(data[:9_500_000])
    await until(lambda: asyncio.sleep(0, uploads_of(lite)._locks.held(at.rpartition("/")[2])))
    wire.cut()
    assert (await lite.head(at)).offset == 0
    assert _size(lite, at) == 0
    assert (await lite.patch(at, 0, data, **checksum(data))).state == "published"


async def test_broken_chunks_end_the_body_at_what_was_good(start_cloud: StartCloud) -> None:
    lite = await Device.enroll(await start_cloud(upload_stall_s=0.2))
    at = (await lite.create(100, path=b"r/x")).headers["Location"]
    wire = await lite.raw("PATCH", at, {"Upload-Offset": "0", "Transfer-Encoding": "chunked"})
    await wire.write(b"5\r\nhello\r\n")
    await until(lambda: asyncio.sleep(0, _size(lite, at) == 5))
    await wire.write(b"zz\r\nwhatever")
    assert (await wire.answer()).split()[1] in (b"400", b"408")
    assert (await lite.head(at)).offset == 5


async def test_a_body_that_stalls_is_ended_and_kept(start_cloud: StartCloud) -> None:
    lite = await Device.enroll(await start_cloud(upload_stall_s=0.2))
    at = (await lite.create(100, path=b"r/x")).headers["Location"]
    wire = await lite.patching(at, 0, 100)
    await wire.write(b"hello")
    answer = await wire.answer()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"upload-offset: 5\r\n" in answer.lower()
    assert (await lite.head(at)).offset == 5


async def test_a_client_is_asked_for_its_body_only_when_it_will_be_taken(lite: Device) -> None:
    at = (await lite.create(5, path=b"r/x")).headers["Location"]
    wire = await lite.patching(at, 3, 5, Expect="100-continue")
    assert (await wire.answer()).startswith(b"HTTP/1.1 409 ")
    wire = await lite.patching(at, 0, 5, Expect="100-continue")
    assert (await wire.answer()).startswith(b"HTTP/1.1 100 ")
    await wire.write(b"hello")
    assert (await wire.answer()).startswith(b"HTTP/1.1 204 ")


async def test_an_early_refusal_does_not_spoil_the_connection(lite: Device) -> None:
    at = (await lite.create(1 << 20, path=b"r/x")).headers["Location"]
    wire = await lite.patching(at, 7, 1 << 20)
    await wire.write(bytes(1 << 20))
    assert (await wire.answer()).startswith(b"HTTP/1.1 409 ")


@pytest.mark.parametrize("newcomer", ["HEAD", "PATCH", "DELETE"])
async def test_a_newcomer_ends_a_dead_connection(lite: Device, newcomer: str) -> None:
    """The old connection hangs without a byte and without an end, as after a Wi-Fi drop."""
    data = os.urandom(500_000)
    at = (await lite.create(len(data), path=b"r/x")).headers["Location"]
    zombie = await lite.patching(at, 0, len(data))
    await zombie.write(data[:100_000])
    await until(lambda: asyncio.sleep(0, uploads_of(lite)._locks.held(at.rpartition("/")[2])))
    if newcomer == "DELETE":
        assert (await lite.send("DELETE", at)).status == 204
        assert (await lite.head(at)).status == 410
        return
    if newcomer == "HEAD":
        offset = (await lite.head(at)).offset
    else:
        conflict = await lite.patch(at, 400_000, b"x")
        assert conflict.status == 409
        offset = conflict.offset
    assert 0 <= offset <= 100_000
    # What the zombie sends from now on goes nowhere.
    await zombie.write(data[100_000:200_000])
    assert (await lite.head(at)).offset == offset
    assert (await lite.patch(at, offset, data[offset:])).state == "published"
    answer = await zombie.answer()
    assert answer.startswith(b"HTTP/1.1 409 ")
    assert (await lite.download("r/x")).body == data


async def test_many_writers_of_one_upload_never_corrupt_it(start_cloud: StartCloud) -> None:
    """Every writer goes on from the offset that it was told, over and over, against all the others."""
    lite = await Device.enroll(await start_cloud(rate_device_requests=0))
    data = os.urandom(2_000_000)
    at = (await lite.create(len(data), path=b"r/x", sha256=sha256(data).encode())).headers["Location"]

    async def insist(step: int) -> str:
        offset = 0
        while True:
            reply = await lite.patch(at, offset, data[offset : offset + step])
            if reply.state is not None:
                return reply.state
            if reply.status in (204, 409) and "Upload-Offset" in reply.headers:
                offset = reply.offset
            else:
                offset = (await until(lambda: _asked(lite, at))).offset

    states = await asyncio.gather(
        *(insist(step) for step in (100_000, 70_001, 33_333, 250_000)), return_exceptions=True
    )
    assert "published" in states, states
    assert (await lite.download("r/x")).body == data


async def _asked(device: Device, at: str):  # type: ignore[no-untyped-def]
    reply = await device.head(at)
    return reply if reply.status == 200 else None


async def test_a_restart_goes_on_from_the_disk(lite: Device, start_cloud: StartCloud) -> None:
    data = os.urandom(900_000)
    at = (await lite.create(len(data), path=b"r/x", sha256=sha256(data).encode())).headers["Location"]
    await lite.patch(at, 0, data[:500_000])
    again = await restarted(lite, start_cloud)
    assert (await again.head(at)).offset == 500_000
    assert (await again.patch(at, 500_000, data[500_000:])).state == "published"
    assert (await again.download("r/x")).body == data


async def test_a_stop_of_the_service_ends_bodies_and_keeps_them(lite: Device) -> None:
    at = (await lite.create(100, path=b"r/x")).headers["Location"]
    wire = await lite.patching(at, 0, 100)
    await wire.write(b"hello")
    await until(lambda: asyncio.sleep(0, _size(lite, at) == 5))
    uploads_of(lite).drain()
    answer = await wire.answer()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"upload-offset: 5\r\n" in answer.lower()
    assert (await lite.head(at)).offset == 5
    late = await lite.patch(at, 5, b"more")
    assert (late.status, late.code, late.headers["Retry-After"]) == (503, "service-stopping", "2")


async def test_a_sync_that_fails_promises_nothing(lite: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(5000)
    at = (await lite.create(len(data), path=b"r/x", sha256=sha256(data).encode())).headers["Location"]
    await lite.patch(at, 0, data[:1000])

    def fails(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fails)
    assert (await lite.patch(at, 1000, data[1000:])).status == 507
    monkeypatch.undo()
    assert (await lite.head(at)).offset == 1000 == _size(lite, at)
    assert (await lite.patch(at, 1000, data[1000:])).state == "published"


class PowerCut(Exception):
    """The process is gone from here on."""


STEPS = [
    ("publish", "before"),
    ("publish", "after"),
    ("publish_pack", "before"),
    ("publish_pack", "after"),
    ("finish", "before"),
    ("discard", "before"),
]


@pytest.mark.parametrize(("step", "when"), STEPS)
@pytest.mark.parametrize("kind", ["file", "bundle", "final"])
async def test_a_crash_between_any_two_steps_of_finishing_is_made_good(
    start_cloud: StartCloud, monkeypatch: pytest.MonkeyPatch, step: str, when: str, kind: str
) -> None:
    lite = await Device.enroll(await start_cloud())
    data = os.urandom(200_000)
    sent = bundle_of([member(b"r/x", data)]) if kind == "bundle" else data
    if kind == "final":
        parts = [
            (await lite.create(len(piece), data=piece, headers={"Upload-Concat": "partial"})).headers["Location"]
            for piece in (data[:70_000], data[70_000:])
        ]
        creating = lite.create(None, headers={"Upload-Concat": "final;" + " ".join(parts)}, path=b"r/x")
    else:
        at = (await lite.create(len(sent), path=b"r/x", kind=kind.encode())).headers["Location"]
        await lite.patch(at, 0, sent[:100])
        creating = lite.patch(at, 100, sent[100:])
    _crash(monkeypatch, step, when)
    reply = await creating
    assert reply.status in (500, 201, 204)
    monkeypatch.undo()
    again = await restarted(lite, start_cloud)
    await until(lambda: _downloaded(again, data))
    assert (await again.listed())["r/x"]["version"] == 1
    if kind == "bundle" or kind == "file":
        assert (await again.head(at)).state == "published"
        assert (await again.patch(at, len(sent), b"")).status == 204


async def _downloaded(device: Device, data: bytes) -> bool:
    return (await device.download("r/x")).body == data


def _crash(monkeypatch: pytest.MonkeyPatch, step: str, when: str) -> None:
    owner = rows if step == "finish" else blob_store.BlobStore
    real = getattr(owner, step)

    def dies(*arguments: object, **named: object) -> object:
        if when == "after":
            real(*arguments, **named)
        raise PowerCut

    monkeypatch.setattr(owner, step, dies)


async def test_the_last_byte_before_a_crash_is_enough(lite: Device, start_cloud: StartCloud) -> None:
    """All bytes are durable, nothing is published, and the client asks only with HEAD."""
    data = os.urandom(1000)
    at = (await lite.create(len(data), path=b"r/x", sha256=sha256(data).encode())).headers["Location"]
    with uploads_of(lite).blobs.append(at.rpartition("/")[2], 0) as blob:
        blob.write(data)
        blob.commit()
    again = await restarted(lite, start_cloud)
    asked = await until(lambda: _published(again, at))
    assert asked.offset == len(data)
    assert (await again.download("r/x")).body == data


async def _published(device: Device, at: str):  # type: ignore[no-untyped-def]
    reply = await device.head(at)
    return reply if reply.state == "published" else None


async def test_unverified_bytes_of_a_crash_do_not_survive_it(lite: Device, start_cloud: StartCloud) -> None:
    """Bytes of a body with a checksum never reach the upload before they are verified."""
    data = os.urandom(4_000_000)
    at = (await lite.create(len(data), path=b"r/x")).headers["Location"]
    wire = await lite.patching(at, 0, len(data), **checksum(data))
    await wire.write(data[:3_900_000])
    again = await restarted(lite, start_cloud)
    assert (await again.head(at)).offset == 0
    await wire.close()


async def test_a_full_disk_keeps_what_fits_and_goes_on_when_there_is_room(
    lite: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(40 << 20)
    at = (await lite.create(len(data), path=b"r/x", sha256=sha256(data).encode())).headers["Location"]
    room = 20 << 20
    blobs = uploads_of(lite).blobs
    path = blobs.upload_path(at.rpartition("/")[2])

    def shrinking(wanted: int = 0) -> None:
        used = path.stat().st_size if path.exists() else 0
        if used + wanted > room:
            raise blob_store.StorageFull(retry_after_s=60)

    monkeypatch.setattr(blobs, "require_room", shrinking)
    full = await lite.patch(at, 0, data)
    assert (full.status, full.code, full.headers["Retry-After"]) == (507, "storage-full", "60")
    assert full.body["retryable"] is True
    assert room - (2 << 20) < full.offset <= room + (2 << 20)
    asked = await lite.head(at)
    assert (asked.status, asked.offset) == (200, full.offset)
    again = await lite.patch(at, full.offset, data[full.offset :])
    assert again.status == 507
    monkeypatch.undo()
    assert (await lite.patch(at, again.offset, data[again.offset :])).state == "published"
    assert sha256((await lite.download("r/x")).body) == sha256(data)


async def test_a_free_floor_is_kept(start_cloud: StartCloud) -> None:
    lite = await Device.enroll(await start_cloud(free_floor_bytes=1 << 60))
    at = (await lite.create(5, path=b"r/x")).headers["Location"]
    reply = await lite.patch(at, 0, b"hello")
    assert (reply.status, reply.code, reply.offset) == (507, "storage-full", 0)
    assert (await lite.create(5, data=b"hello", path=b"r/x")).status == 507
    assert (await lite.head(at)).offset == 0


async def test_no_room_to_unpack_a_bundle_loses_nothing(lite: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = bundle_of([member(b"r/x", b"data")])
    at = (await lite.create(len(packed), kind=b"bundle")).headers["Location"]
    blobs = uploads_of(lite).blobs

    def no_pack(upload: str) -> blob_store.Appender:
        raise blob_store.StorageFull(retry_after_s=60)

    monkeypatch.setattr(blobs, "pack", no_pack)
    assert (await lite.patch(at, 0, packed)).status == 507
    asked = await lite.head(at)
    assert (asked.status, asked.offset, asked.state) == (200, len(packed), "verifying")
    monkeypatch.undo()
    assert (await lite.patch(at, len(packed), b"")).state == "published"


@pytest.fixture
async def tiny_disk(tmp_path: Path) -> AsyncIterator[Path]:
    """A real file system of 16 MiB."""
    where = tmp_path / "tiny"
    where.mkdir()
    mount = await asyncio.create_subprocess_exec(
        "mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(where), stderr=asyncio.subprocess.DEVNULL
    )
    if await mount.wait():
        pytest.skip("mounting takes root")
    try:
        yield where
    finally:
        await (await asyncio.create_subprocess_exec("umount", "-l", str(where))).wait()


@pytest.mark.parametrize("database", ["elsewhere", "on the same disk"])
async def test_a_really_full_disk(start_cloud: StartCloud, tiny_disk: Path, tmp_path: Path, database: str) -> None:
    where = tmp_path / "elsewhere.db" if database == "elsewhere" else tiny_disk / "pisync.db"
    device = await Device.enroll(await start_cloud(data=str(tiny_disk), database=str(where), free_floor_bytes=0))
    data = os.urandom(20 << 20)
    at = (await device.create(len(data), path=b"r/x", sha256=sha256(data).encode())).headers["Location"]
    full = await device.patch(at, 0, data)
    assert (full.status, full.code) == (507, "storage-full")
    assert full.offset == (await device.head(at)).offset > 8 << 20
    # Small uploads may still fit or not; each gets an answer that says when to come back, and is whole or not there.
    answers = [await device.create(200_000, data=data[:200_000], path=b"r/%d" % number) for number in range(3)]
    assert {answer.status for answer in answers} <= {201, 503, 507}
    assert all("Retry-After" in answer.headers for answer in answers if answer.status != 201)
    remount = await asyncio.create_subprocess_exec("mount", "-o", "remount,size=64m", str(tiny_disk))
    assert await remount.wait() == 0
    assert (await device.patch(at, full.offset, data[full.offset :])).state == "published"
    with uploads_of(device).blobs.open_content(at.rpartition("/")[2]) as stream:
        assert digest_of(stream).hexdigest() == sha256(data)
    published = sum(answer.status == 201 for answer in answers)
    assert len(await device.listed()) == published + 1


async def test_a_long_verification_is_answered_early_and_ends(lite: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = uploads_of(lite)
    gate = asyncio.Event()
    real = flow._publisher._publish_file

    async def slow(*arguments, **named):  # type: ignore[no-untyped-def]
        await gate.wait()
        return await real(*arguments, **named)

    monkeypatch.setattr(flow._publisher, "_publish_file", slow)
    monkeypatch.setattr(flow, "policy", type(flow.policy)(upload_bytes_max=1 << 40, keep_ms=10**9, answer_s=0.05))
    at = (await lite.create(5, path=b"r/x")).headers["Location"]
    reply = await lite.patch(at, 0, b"hello")
    assert (reply.status, reply.offset, reply.state) == (204, 5, "verifying")
    assert (await lite.head(at)).state == "verifying"
    assert (await lite.status(at))["state"] == "verifying"
    assert (await lite.patch(at, 5, b"")).state == "verifying"
    gate.set()
    await until(lambda: _published(lite, at))


async def test_the_digest_is_carried_along_and_nothing_is_read_twice(
    lite: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(uploads_of(lite)._publisher, "_hash_again", never)
    data = os.urandom(1_000_000)
    at = (await lite.create(len(data), path=b"r/x", sha256=sha256(data).encode())).headers["Location"]
    for start in range(0, len(data), 250_000):
        reply = await lite.patch(at, start, data[start : start + 250_000], **checksum(data[start : start + 250_000]))
        assert reply.status == 204, json.dumps(reply.body)
    assert reply.state == "published"
