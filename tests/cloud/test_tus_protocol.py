"""tus 1.0.0 as the specification says it, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import random

import aiohttp
import pytest
from backports import zstd

from tests.cloud.conftest import Cloud, StartCloud
from tests.cloud.tus_helpers import STREAM, TUS, Device, bundle_of, checksum, member, sha256


@pytest.fixture
async def device(cloud: Cloud) -> Device:
    return await Device.enroll(cloud)


@pytest.fixture
async def lite(cloud_lite: Cloud) -> Device:
    return await Device.enroll(cloud_lite)


async def test_options_say_what_the_server_can_do_without_a_token(lite: Device) -> None:
    for path in ("/api/files", "/api/files/" + "0" * 32):
        reply = await lite.send("OPTIONS", path, headers={"Authorization": "", "Tus-Resumable": "9"})
        assert reply.status == 204
        assert reply.headers["Tus-Version"] == "1.0.0"
        assert set(reply.headers["Tus-Extension"].split(",")) >= {
            "creation", "creation-with-upload", "creation-defer-length", "checksum", "expiration", "termination",
            "concatenation",
        }  # fmt: skip
        assert reply.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"
        assert int(reply.headers["Tus-Max-Size"]) > 5 * 1024**3


async def test_a_file_arrives_in_pieces(device: Device) -> None:
    data = os.urandom(300_000)
    created = await device.create(len(data), path=b"root/a \xff\n.bin", sha256=sha256(data).encode(), mtime_ms=b"1234")
    assert created.status == 201
    at = created.headers["Location"]
    assert at.startswith("/api/files/")
    assert "Upload-Expires" in created.headers
    first = await device.patch(at, 0, data[:100_000])
    assert (first.status, first.offset, first.state) == (204, 100_000, None)
    asked = await device.head(at)
    assert (asked.status, asked.offset, asked.state) == (200, 100_000, "receiving")
    assert asked.headers["Upload-Length"] == str(len(data))
    assert "path " + base64.b64encode(b"root/a \xff\n.bin").decode() in asked.headers["Upload-Metadata"]
    assert asked.headers["Cache-Control"] == "no-store"
    last = await device.patch(at, 100_000, data[100_000:])
    assert (last.status, last.offset, last.state) == (204, len(data), "published")
    again = await device.head(at)
    assert (again.offset, again.state) == (len(data), "published")
    assert (await device.status(at))["entries"] == {"published": 1, "reused": 0, "refused": 0}
    assert (await device.download("root/a%20%FF%0A.bin")).body == data


async def test_creation_with_upload(device: Device) -> None:
    data = b"small" * 1000
    whole = await device.create(len(data), data=data, path=b"r/whole")
    assert (whole.status, whole.offset, whole.state) == (201, len(data), "published")
    part = await device.create(len(data), data=data[:1234], path=b"r/part")
    assert (part.status, part.offset, part.state) == (201, 1234, None)
    rest = await device.patch(part.headers["Location"], 1234, data[1234:])
    assert (rest.status, rest.state) == (204, "published")
    assert (await device.download("r/part")).body == data


async def test_creation_with_upload_of_a_length_said_later_and_of_a_content_known_before(device: Device) -> None:
    late = await device.create(None, data=b"abc", headers={"Upload-Defer-Length": "1"}, path=b"r/late")
    assert (late.status, late.offset, late.state) == (201, 3, None)
    assert (await device.patch(late.headers["Location"], 3, b"d", Upload_Length="4")).state == "published"
    known = await device.create(4, data=b"abcd", path=b"r/again", sha256=sha256(b"abcd").encode(), reuse=None)
    assert (known.status, known.offset, known.state) == (201, 4, "published")
    assert (await device.download("r/again")).body == b"abcd"


async def test_an_empty_file_needs_no_body(device: Device) -> None:
    reply = await device.create(0, path=b"r/empty", sha256=sha256(b"").encode())
    assert (reply.status, reply.offset, reply.state) == (201, 0, "published")
    assert (await device.download("r/empty")).body == b""
    again = await device.create(0, data=b"", path=b"r/empty2")
    assert (again.status, again.state) == (201, "published")


async def test_a_length_may_be_said_later(device: Device) -> None:
    created = await device.create(None, headers={"Upload-Defer-Length": "1"}, path=b"r/late")
    at = created.headers["Location"]
    asked = await device.head(at)
    assert asked.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in asked.headers
    assert (await device.patch(at, 0, b"abc")).offset == 3
    assert (await device.patch(at, 3, b"", Upload_Length="2")).code == "length-too-small"
    assert (await device.patch(at, 3, b"de", Upload_Length="6")).offset == 5
    changed = await device.patch(at, 5, b"f", Upload_Length="7")
    assert (changed.status, changed.code) == (400, "length-fixed")
    assert (await device.patch(at, 5, b"f", Upload_Length="6")).state == "published"
    assert (await device.download("r/late")).body == b"abcdef"


async def test_a_deferred_length_equal_to_what_arrived_finishes_with_an_empty_body(lite: Device) -> None:
    created = await lite.create(None, headers={"Upload-Defer-Length": "1"}, path=b"r/late")
    at = created.headers["Location"]
    await lite.patch(at, 0, b"abc")
    assert (await lite.patch(at, 3, b"", Upload_Length="3")).state == "published"


async def test_a_wrong_offset_is_answered_with_the_right_one(lite: Device) -> None:
    at = (await lite.create(10, path=b"r/x")).headers["Location"]
    await lite.patch(at, 0, b"abcd")
    for wrong in (0, 3, 5, 10, 11):
        reply = await lite.patch(at, wrong, b"zz")
        assert (reply.status, reply.code, reply.offset) == (409, "offset-mismatch", 4)
    assert (await lite.head(at)).offset == 4


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
async def test_a_bad_checksum_moves_nothing(device: Device, algorithm: str) -> None:
    data = os.urandom(9 << 20)
    at = (await device.create(len(data) + 4, path=b"r/c")).headers["Location"]
    wrong = await device.patch(at, 0, data, **checksum(b"other", algorithm))
    assert (wrong.status, wrong.code, wrong.offset) == (460, "checksum-mismatch", 0)
    assert (await device.head(at)).offset == 0
    good = await device.patch(at, 0, data, **checksum(data, algorithm))
    assert (good.status, good.offset) == (204, len(data))
    wrong = await device.patch(at, len(data), b"tail", **checksum(b"liat", algorithm))
    assert wrong.status == 460
    assert (await device.patch(at, len(data), b"tail", **checksum(b"tail", algorithm))).state == "published"
    assert (await device.download("r/c")).body == data + b"tail"


@pytest.mark.parametrize(
    ("said", "code"),
    [("md5 1B2M2Y8AsgTpgAmY7PhCfg==", 400), ("sha1 !!!", 400), ("sha256 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", 400), ("", 400)],
)
async def test_a_checksum_that_cannot_be_read_is_refused(lite: Device, said: str, code: int) -> None:
    at = (await lite.create(3, path=b"r/x")).headers["Location"]
    reply = await lite.patch(at, 0, b"abc", Upload_Checksum=said)
    assert (reply.status, reply.code) == (code, "header-invalid")
    assert (await lite.head(at)).offset == 0


async def test_a_creation_with_a_bad_checksum_leaves_nothing(lite: Device) -> None:
    reply = await lite.create(3, data=b"abc", headers=checksum(b"abd"), path=b"r/x")
    assert reply.status == 460
    assert "Location" not in reply.headers
    assert await lite.listed() == {}


async def test_a_body_beyond_the_length_is_refused_and_counts_nothing(lite: Device) -> None:
    at = (await lite.create(6, path=b"r/x")).headers["Location"]
    await lite.patch(at, 0, b"ab")
    reply = await lite.patch(at, 2, b"cdefg")
    assert (reply.status, reply.code, reply.offset) == (413, "body-too-long", 2)

    async def unknown_length():  # type: ignore[no-untyped-def]
        yield b"cd"
        yield b"efg"

    reply = await lite.patch(at, 2, unknown_length())
    assert (reply.status, reply.offset) == (413, 2)
    assert (await lite.head(at)).offset == 2
    assert (await lite.patch(at, 2, b"cdef")).state == "published"
    assert (await lite.download("r/x")).body == b"abcdef"


async def test_an_upload_larger_than_the_limit_is_refused(start_cloud: StartCloud) -> None:
    lite = await Device.enroll(await start_cloud(upload_bytes_max=1000))
    reply = await lite.create(1001, path=b"r/x")
    assert (reply.status, reply.code, reply.headers["Tus-Max-Size"]) == (413, "upload-too-large", "1000")
    created = await lite.create(None, headers={"Upload-Defer-Length": "1"}, path=b"r/x")
    at = created.headers["Location"]
    assert (await lite.patch(at, 0, b"x" * 1001)).status == 413
    assert (await lite.patch(at, 0, b"", Upload_Length="1001")).status == 413


async def test_versions_content_types_and_numbers_are_checked(lite: Device) -> None:
    at = (await lite.create(5, path=b"r/x")).headers["Location"]
    for method, path in (("POST", "/api/files"), ("PATCH", at), ("HEAD", at), ("DELETE", at)):
        for version in ("0.2.2", ""):
            reply = await lite.send(method, path, headers={"Tus-Resumable": version})
            assert reply.status == 412, method
            assert reply.headers["Tus-Version"] == "1.0.0"
    wrong = await lite.send("PATCH", at, data=b"a", headers={"Upload-Offset": "0", "Content-Type": "text/plain"})
    assert (wrong.status, wrong.code) == (415, "content-type")
    wrong = await lite.create(5, data=b"a", headers={"Content-Type": "application/json"})
    assert wrong.status == 415
    for number in ("-1", "+1", "1.0", "", "0x1", "٣", "9" * 17, "1 "):
        reply = await lite.send("POST", "/api/files", headers={"Upload-Length": number.encode().decode("latin-1")})
        assert reply.status in (400, 201) and (reply.status == 400 or number == "1 "), number
        if number.isascii() and number.strip() == number:
            reply = await lite.patch(at, 0, b"a", Upload_Offset=number)
            assert (reply.status, reply.code) == (400, "header-invalid"), number
    assert (await lite.send("PATCH", at, data=b"a", headers=STREAM)).status == 400
    assert (await lite.send("POST", "/api/files")).status == 400
    both = await lite.create(5, headers={"Upload-Defer-Length": "1"})
    assert both.status == 400
    assert (await lite.create(None, headers={"Upload-Defer-Length": "2"})).status == 400


@pytest.mark.parametrize(
    "header",
    ["path", "path !!", "path YQ==,path YQ==", " ", "kind eA==", "sha256 eA==", "mtime_ms eA==", "é YQ=="],
)
async def test_metadata_that_cannot_be_read_is_refused(lite: Device, header: str) -> None:
    reply = await lite.create(5, headers={"Upload-Metadata": header})
    assert reply.status == (201 if header in ("path", " ") else 400)


async def tries(device: Device, path: str) -> set[int]:
    """The statuses of everything that can be done with one upload."""
    found = set()
    for method in ("HEAD", "PATCH", "DELETE", "GET"):
        data = b"ab" if method == "PATCH" else None
        found.add((await device.send(method, path, data=data, headers={"Upload-Offset": "0", **STREAM})).status)
    return found


async def test_unknown_ended_and_foreign_uploads(device: Device) -> None:
    other = await Device.enroll(device.cloud, "pi-2")
    at = (await device.create(5, path=b"r/x")).headers["Location"]
    for path in ("/api/files/" + "0" * 32, "/api/files/x", "/api/files/..%2F..%2Fetc", "/api/files/" + "A" * 32):
        assert await tries(device, path) == {404}
    assert await tries(other, at) == {404}
    assert (await device.send("HEAD", at, headers={"Authorization": "Bearer nobody"})).status == 401
    assert (await device.send("DELETE", at)).status == 204
    assert await tries(device, at) == {410}


async def test_terminating_a_published_upload_keeps_the_version(lite: Device) -> None:
    at = (await lite.upload(b"kept", path=b"r/x")).headers["Location"]
    assert (await lite.send("DELETE", at)).status == 204
    assert (await lite.head(at)).status == 410
    assert (await lite.download("r/x")).body == b"kept"


async def test_methods_can_be_overridden(lite: Device) -> None:
    at = (await lite.create(5, path=b"r/x")).headers["Location"]
    over = {"X-HTTP-Method-Override": "PATCH", "Upload-Offset": "0", **STREAM}
    assert (await lite.send("POST", at, data=b"hello", headers=over)).state == "published"
    assert (await lite.send("POST", at, headers={"X-HTTP-Method-Override": "HEAD"})).offset == 5
    assert (await lite.send("POST", at, headers={"X-HTTP-Method-Override": "PUT"})).status == 405
    assert (await lite.send("PUT", at)).status == 405


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
async def test_bodies_may_be_compressed_and_offsets_count_decoded_bytes(device: Device, encoding: str) -> None:
    squeeze = zstd.compress if encoding == "zstd" else gzip.compress
    data = b"the same line again\n" * 200_000
    at = (await device.create(len(data), path=b"r/z", sha256=sha256(data).encode())).headers["Location"]
    cut = 1_500_000
    first = await device.patch(at, 0, squeeze(data[:cut]), Content_Encoding=encoding, **checksum(data[:cut]))
    assert (first.status, first.offset) == (204, cut)
    wrong = await device.patch(at, cut, squeeze(data[cut:]), Content_Encoding=encoding, **checksum(b"x"))
    assert (wrong.status, wrong.offset) == (460, cut)
    two_frames = squeeze(data[cut : cut + 9]) + squeeze(data[cut + 9 :])
    assert (await device.patch(at, cut, two_frames, Content_Encoding=encoding)).state == "published"
    assert (await device.download("r/z")).body == data


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
async def test_a_compressed_body_that_is_broken_or_bombs_counts_nothing(lite: Device, encoding: str) -> None:
    def squeeze(plain: bytes) -> bytes:
        options = {zstd.CompressionParameter.checksum_flag: 1}
        return zstd.compress(plain, options=options) if encoding == "zstd" else gzip.compress(plain)

    data = os.urandom(400_000)
    at = (await lite.create(len(data), path=b"r/z")).headers["Location"]
    packed = squeeze(data)
    for broken in (packed[:-7], b"nonsense" * 10, packed[:1000] + b"\xff" * 20 + packed[1020:], packed + b"x"):
        reply = await lite.patch(at, 0, broken, Content_Encoding=encoding)
        assert (reply.status, reply.offset) in ((400, 0), (413, 0)), reply
    bomb = squeeze(bytes(200 << 20))
    assert len(bomb) < 1 << 20
    reply = await lite.patch(at, 0, bomb, Content_Encoding=encoding)
    assert (reply.status, reply.code, reply.offset) == (413, "body-too-long", 0)
    assert (await lite.patch(at, 0, packed, Content_Encoding="br")).status == 415
    assert (await lite.head(at)).offset == 0
    assert (await lite.patch(at, 0, packed, Content_Encoding=encoding)).state == "published"


async def test_a_window_too_large_for_the_decoder_is_refused(lite: Device) -> None:
    data = os.urandom(1000)
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    packed = packer.compress(data) + packer.flush()
    at = (await lite.create(len(data), path=b"r/z")).headers["Location"]
    reply = await lite.patch(at, 0, packed, Content_Encoding="zstd")
    assert (reply.status, reply.offset) in ((400, 0), (204, 1000))


async def test_the_whole_is_verified(device: Device) -> None:
    reply = await device.upload(b"torn", path=b"r/x", sha256=sha256(b"whole").encode())
    assert (reply.state, reply.headers["Upload-Error"]) == ("refused", "checksum-mismatch")
    at = reply.headers["Location"]
    asked = await device.head(at)
    assert (asked.offset, asked.state, asked.headers["Upload-Error"]) == (4, "refused", "checksum-mismatch")
    status = await device.status(at)
    assert (status["state"], status["error_code"]) == ("refused", "checksum-mismatch")
    assert status["hint"]
    assert await device.listed() == {}


@pytest.mark.parametrize(
    "path", [b"/etc/passwd", b"a/../b", b"a//b", b"a/./b", b"a\0b", b"a/" + b"x" * 256, b"x/" * 2100]
)
async def test_hostile_paths_are_refused_at_the_end(lite: Device, path: bytes) -> None:
    reply = await lite.upload(b"x", path=path)
    assert (reply.state, reply.headers["Upload-Error"]) == ("refused", "path-invalid")
    assert await lite.listed() == {}


async def test_content_that_was_delivered_before_is_published_at_once(device: Device) -> None:
    data = os.urandom(100_000)
    digest = sha256(data).encode()
    missing = await device.create(len(data), path=b"r/a", sha256=digest, reuse=None)
    assert (missing.status, missing.offset, missing.state) == (201, 0, None)
    assert (await device.patch(missing.headers["Location"], 0, data)).state == "published"
    reuse = await device.create(len(data), path=b"r/b", sha256=digest, reuse=None)
    assert (reuse.status, reuse.offset, reuse.state) == (201, len(data), "published")
    assert (await device.status(reuse.headers["Location"]))["entries"] == {"published": 0, "reused": 1, "refused": 0}
    assert (await device.download("r/b")).body == data
    lied = await device.create(len(data) - 1, path=b"r/c", sha256=digest, reuse=None)
    assert (lied.offset, lied.state) == (0, None)
    other = await Device.enroll(device.cloud, "pi-2")
    foreign = await other.create(len(data), path=b"r/b", sha256=digest, reuse=None)
    assert (foreign.offset, foreign.state) == (0, None)


async def test_sending_again_makes_no_new_version(device: Device) -> None:
    for data in (b"one", b"one", b"two", b"two", b"one"):
        assert (await device.upload(data, path=b"r/x", sha256=sha256(data).encode())).state == "published"
    listed = await device.listed()
    assert listed["r/x"]["version"] == listed["r/x"]["versions"] == 3
    assert (await device.download("r/x?version=2")).body == b"two"


async def test_a_finished_upload_can_be_asked_again_when_the_answer_was_lost(device: Device) -> None:
    at = (await device.upload(b"data", path=b"r/x")).headers["Location"]
    again = await device.patch(at, 4, b"")
    assert (again.status, again.offset, again.state) == (204, 4, "published")
    assert (await device.patch(at, 4, b"more")).status == 413
    assert (await device.patch(at, 0, b"data")).status == 409


async def test_parts_become_a_whole(device: Device) -> None:
    pieces = [os.urandom(70_000), b"", os.urandom(1)]
    parts = []
    for piece in pieces:
        created = await device.create(len(piece), headers={"Upload-Concat": "partial"})
        at = created.headers["Location"]
        if piece:
            assert (await device.patch(at, 0, piece)).state is None
        asked = await device.head(at)
        assert (asked.headers["Upload-Concat"], asked.offset) == ("partial", len(piece))
        parts.append(at)
    whole = b"".join(pieces) + pieces[0]
    final = await device.create(
        None,
        headers={"Upload-Concat": "final;" + " ".join([*parts, device.cloud.url + parts[0]])},
        path=b"r/whole",
        sha256=sha256(whole).encode(),
    )
    assert (final.status, final.state) == (201, "published")
    at = final.headers["Location"]
    asked = await device.head(at)
    assert asked.headers["Upload-Concat"] == "final;" + " ".join([*parts, parts[0]])
    assert asked.offset == len(whole)
    assert (await device.patch(at, 0, b"x")).status == 403
    assert (await device.download("r/whole")).body == whole


async def test_parts_that_are_unfinished_foreign_or_whole_make_no_whole(lite: Device) -> None:
    other = await Device.enroll(lite.cloud, "pi-2")
    unfinished = (await lite.create(5, headers={"Upload-Concat": "partial"})).headers["Location"]
    foreign = (await other.create(1, data=b"x", headers={"Upload-Concat": "partial"})).headers["Location"]
    alone = (await lite.upload(b"x", path=b"r/x")).headers["Location"]
    for part, status in ((unfinished, 409), (foreign, 404), (alone, 409), ("/api/files/" + "0" * 32, 404), ("/x", 400)):
        reply = await lite.create(None, headers={"Upload-Concat": f"final;{part}"})
        assert reply.status == status, part
    for said in ("final", "final;", "whole", "final;" + "a" * 32 + "?x"):
        assert (await lite.create(None, headers={"Upload-Concat": said})).status == 400
    assert (await lite.create(3, headers={"Upload-Concat": f"final;{alone}"})).status == 400


async def test_a_client_that_knows_nothing_of_paths_gets_a_name(lite: Device) -> None:
    await lite.upload(b"1", filename=b"picture.png")
    at = (await lite.upload(b"2")).headers["Location"]
    assert set(await lite.listed()) == {"picture.png", "unnamed/" + at.rpartition("/")[2]}


async def test_many_uploads_side_by_side(device: Device) -> None:
    files = {f"r/{number}": os.urandom(20_000) for number in range(30)}
    await asyncio.gather(*(device.upload(data, path=name.encode()) for name, data in files.items()))
    listed = await device.listed()
    assert {name: row["sha256"] for name, row in listed.items()} == {name: sha256(data) for name, data in files.items()}


async def test_a_bundle_arrives(device: Device) -> None:
    files = {f"root/f{number}".encode(): os.urandom(number * 7) for number in range(50)}
    packed = bundle_of(member(path, data) for path, data in files.items())
    reply = await device.upload(packed, kind=b"bundle", sha256=sha256(packed).encode())
    assert reply.state == "published"
    assert (await device.status(reply.headers["Location"]))["entries"] == {"published": 50, "reused": 0, "refused": 0}
    for path in (b"root/f0", b"root/f1", b"root/f49"):
        assert (await device.download(path.decode())).body == files[path]
    again = await device.upload(packed, kind=b"bundle")
    assert again.state == "published"
    assert all(row["version"] == 1 for row in (await device.listed()).values())


METHODS = ("POST", "PATCH", "HEAD", "DELETE", "GET", "OPTIONS", "PUT")
SAID: dict[str, tuple[str, ...]] = {
    "Tus-Resumable": ("1.0.0", "1.0.0", "1.0.0", "1.0", ""),
    "Upload-Length": ("0", "5", "99999999999", "-1", "x", "9" * 40),
    "Upload-Offset": ("0", "5", "3", "-1", "x", "9" * 16),
    "Upload-Defer-Length": ("1", "0", "x"),
    "Upload-Concat": ("partial", "final", "final;/api/files/" + "0" * 32, "final;x", "\xff"),
    "Upload-Checksum": ("sha256 AAAA", "sha1 " + "A" * 27 + "=", "md5 x", "sha256", "\xe9"),
    "Upload-Metadata": ("path cg==", "path", "kind YnVuZGxl,path AA==", "a b c", ",,,", "sha256 " + "A" * 40, "\xe9"),
    "Content-Type": (STREAM["Content-Type"], STREAM["Content-Type"], "text/plain", "multipart/form-data", "x"),
    "Content-Encoding": ("zstd", "gzip", "br", "identity", "deflate", "\xff"),
    "X-HTTP-Method-Override": ("PATCH", "HEAD", "DELETE", "TRACE"),
    "Expect": ("100-continue",),
}
BODIES = (None, b"", b"hello", b"\x28\xb5\x2f\xfd\x00", b"\x1f\x8b\x08\x00", bytes(70_000))


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_that_a_client_says_is_a_fault_of_the_server(lite: Device, seed: int) -> None:
    dice = random.Random(seed)
    at = [(await lite.create(5, path=b"r/x")).headers["Location"] for _ in range(3)] + ["/api/files", "/api/files/x"]
    for _ in range(120):
        names = dice.sample(sorted(SAID), dice.randrange(1, 8))
        headers = {name: dice.choice(SAID[name]) for name in names}
        method, path, body = dice.choice(METHODS), dice.choice(at), dice.choice(BODIES)
        reply = await lite.send(method, path, data=body, headers=headers)
        assert reply.status < 500, (seed, method, path, headers, body and len(body))
        if reply.status >= 400 and method != "HEAD":
            assert reply.headers["Content-Type"] == "application/problem+json"
            assert reply.code


async def test_asking_for_the_offset_keeps_the_connection(lite: Device) -> None:
    opened: list[int] = []
    trace = aiohttp.TraceConfig()

    async def connected(*_: object) -> None:
        opened.append(1)

    trace.on_connection_create_end.append(connected)
    at = lite.cloud.url + (await lite.create(10)).headers["Location"]
    async with aiohttp.ClientSession(headers={**lite.auth, **TUS}, trace_configs=[trace]) as session:
        for method in ("HEAD", "HEAD", "GET"):
            async with session.request(method, at) as answer:
                assert answer.status == 200
                await answer.read()
    assert len(opened) == 1
