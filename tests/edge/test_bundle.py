import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pisyncd.core.errors import SourceChanged, SourceGone
from pisyncd.sources import bundle, disk
from pisyncd.sources.bundle import BundleEntry, BundleInfo

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGE = 1 << 30


def entry(path: Path, wire_path: bytes, data: bytes, *, key: int = 0, mtime_ms: int = 1_700_000_000_123) -> BundleEntry:
    path.write_bytes(data)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    source = os.fsencode(path)
    return BundleEntry(key=key, wire_path=wire_path, source=source, expected=disk.fingerprint(path), mtime_ms=mtime_ms)


def unpack(path: Path) -> list[tuple[bytes, bytes, dict[str, str]]]:
    """(name, content, PISYNC headers) of each member, as Python's tarfile reads them."""
    archive = zstd.decompress(path.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8", errors="surrogateescape") as tar:
        members = []
        for member in tar:
            assert member.isreg()
            content = tar.extractfile(member)
            assert content is not None
            headers = {key: value for key, value in member.pax_headers.items() if key.startswith("PISYNC.")}
            members.append((os.fsencode(member.name), content.read(), headers))
    return members


def proven(info: BundleInfo, path: Path) -> None:
    data = path.read_bytes()
    assert (info.length, info.sha256) == (len(data), hashlib.sha256(data).digest())


NAMES = [
    b"root/a.json",
    b"root/" + b"d" * 255 + b"/" + b"n" * 255,
    b"root/\xff\xfe.bin",
    b"root/two\nlines\n",
    "root/Übung é/名前".encode(),
    b"root/" + b"x" * 94,
    b"root/" + b"x" * 95,
    b"root/" + b"x" * 96,
    b"root/a=b c",
    b"root/ ",
    b"root/" + b"/".join([b"deep"] * 300),
]


def test_what_was_packed_is_what_tarfile_reads(tmp_path: Path) -> None:
    entries = [
        entry(tmp_path / str(index), name, os.urandom(index * 700), key=index) for index, name in enumerate(NAMES)
    ]
    info = bundle.write(entries, tmp_path / "out", bytes_max=LARGE)
    proven(info, tmp_path / "out")
    assert (info.skipped, info.left) == ([], [])
    members = unpack(tmp_path / "out")
    assert [name for name, _, _ in members] == NAMES
    for (_, content, headers), (key, sha256, size), source in zip(members, info.packed, entries, strict=True):
        assert content == Path(os.fsdecode(source.source)).read_bytes()
        assert sha256 == hashlib.sha256(content).digest()
        assert (key, size) == (source.key, len(content))
        assert headers == {"PISYNC.sha256": sha256.hex(), "PISYNC.mtime_ms": "1700000000123"}


def test_tar_unpacks_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = [name for name in NAMES if len(name) < 4000]
    entries = [
        entry(tmp_path / "in" / str(index), name, b"content %d" % index, key=index) for index, name in enumerate(names)
    ]
    bundle.write(entries, tmp_path / "out", bytes_max=LARGE)
    (tmp_path / "out.tar").write_bytes(zstd.decompress((tmp_path / "out").read_bytes()))
    subprocess.run(["tar", "-xf", "out.tar", "--warning=no-unknown-keyword"], cwd=tmp_path, check=True)
    for index, name in enumerate(names):
        assert (tmp_path / os.fsdecode(name)).read_bytes() == b"content %d" % index
        assert int((tmp_path / os.fsdecode(name)).stat().st_mtime) == 1_700_000_000


def test_content_that_the_cloud_has_is_not_sent_again(tmp_path: Path) -> None:
    first = entry(tmp_path / "1", b"root/1", b"first" * 100, key=1)
    second = entry(tmp_path / "2", b"root/2", b"second" * 100, key=2)
    third = entry(tmp_path / "3", b"root/3", b"third", key=3)
    known = hashlib.sha256(b"first" * 100).digest()
    claimed = hashlib.sha256(b"second" * 100).digest()
    entries = [first, _with_reuse(second, claimed), third]
    info = bundle.write(entries, tmp_path / "out", bytes_max=LARGE, known=lambda sha256: sha256 == known)
    assert info.packed == [(1, known, 500), (2, claimed, 600), (3, hashlib.sha256(b"third").digest(), 5)]
    reused = [{"PISYNC.sha256": known.hex(), "PISYNC.mtime_ms": "1700000000123", "PISYNC.reuse": "1"}] * 2
    expected = [
        (b"root/1", b"", reused[0] | {"PISYNC.size": "500"}),
        (b"root/2", b"", reused[1] | {"PISYNC.size": "600", "PISYNC.sha256": claimed.hex()}),
    ]
    assert unpack(tmp_path / "out")[:2] == expected
    assert unpack(tmp_path / "out")[2][:2] == (b"root/3", b"third")


def _with_reuse(source: BundleEntry, sha256: bytes) -> BundleEntry:
    return BundleEntry(
        key=source.key,
        wire_path=source.wire_path,
        source=source.source,
        expected=source.expected,
        mtime_ms=source.mtime_ms,
        reuse_sha256=sha256,
    )


def test_a_file_that_changed_or_went_is_skipped_and_the_others_go_on(tmp_path: Path) -> None:
    entries = [entry(tmp_path / str(key), b"root/%d" % key, b"content", key=key) for key in range(5)]
    (tmp_path / "1").write_bytes(b"longer content")
    (tmp_path / "2").unlink()
    (tmp_path / "3").write_bytes(b"CONTENT")
    entries[3] = _with_reuse(entries[3], bytes(32))
    info = bundle.write(entries, tmp_path / "out", bytes_max=LARGE)
    proven(info, tmp_path / "out")
    assert [key for key, _, _ in info.packed] == [0, 4]
    assert [(key, type(error)) for key, error in info.skipped] == [
        (1, SourceChanged),
        (2, SourceGone),
        (3, SourceChanged),
    ]
    assert [name for name, _, _ in unpack(tmp_path / "out")] == [b"root/0", b"root/4"]


def test_nothing_at_all(tmp_path: Path) -> None:
    info = bundle.write([], tmp_path / "out", bytes_max=LARGE)
    proven(info, tmp_path / "out")
    assert unpack(tmp_path / "out") == []


@pytest.mark.parametrize("compressible", [True, False])
def test_it_stays_below_its_limit_and_says_what_is_left(tmp_path: Path, compressible: bool) -> None:
    limit = 200_000
    data = [bytes(30_000) if compressible else os.urandom(30_000) for _ in range(60)]
    entries = [entry(tmp_path / str(key), b"root/%d" % key, each, key=key) for key, each in enumerate(data)]
    info = bundle.write(entries, tmp_path / "out", bytes_max=limit)
    proven(info, tmp_path / "out")
    assert info.length <= limit
    assert info.length > limit - 40_000 or not info.left
    assert [key for key, _, _ in info.packed] + info.left == list(range(60))
    assert bool(info.left) is not compressible
    assert [content for _, content, _ in unpack(tmp_path / "out")] == data[: len(info.packed)]


def test_at_least_one_file_is_taken(tmp_path: Path) -> None:
    entries = [entry(tmp_path / str(key), b"root/%d" % key, os.urandom(5000), key=key) for key in range(3)]
    info = bundle.write(entries, tmp_path / "out", bytes_max=10)
    assert [key for key, _, _ in info.packed] == [0]
    assert info.left == [1, 2]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    entries = [entry(tmp_path / "1", b"root/1", b"x")]
    with pytest.raises(OSError, match="No such file"):
        bundle.write(entries, tmp_path / "missing" / "out", bytes_max=LARGE)
    (tmp_path / "full.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        bundle.write(entries, tmp_path / "full", bytes_max=LARGE)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["1"]


def test_memory_does_not_grow_with_the_bundle(tmp_path: Path) -> None:
    source = entry(tmp_path / "1", b"root/1", os.urandom(1_000_000))
    tracemalloc.start()
    try:
        info = bundle.write((source for _ in range(60)), tmp_path / "out", bytes_max=LARGE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(info.packed) == 60
    assert peak < 10_000_000


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and name.strip(b"/") == name),
    data=st.binary(max_size=2000),
    mtime_ms=st.integers(-(10**13), 10**15),
)
def test_any_name_any_content_any_time(tmp_path: Path, name: bytes, data: bytes, mtime_ms: int) -> None:
    bundle.write([entry(tmp_path / "in", name, data, mtime_ms=mtime_ms)], tmp_path / "out", bytes_max=LARGE)
    ((found, content, headers),) = unpack(tmp_path / "out")
    assert (found, content, headers["PISYNC.mtime_ms"]) == (name, data, str(mtime_ms))
