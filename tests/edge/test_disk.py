import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pisyncd.core.errors import SourceChanged, SourceGone, SourceUnreadable, StorageBusy
from pisyncd.sources import disk, held
from pisyncd.sources.disk import Source, fingerprint, hash_file, read_small

NAMES = [b"plain", b"\xff\xfe.bin", b"two\nlines", b"n" * 255, "Übung é".encode(), b" ", b"%41?#&"]


def make(tmp_path: Path, name: bytes = b"file", data: bytes = b"some bytes") -> bytes:
    path = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(path)).write_bytes(data)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, disk.BLOCK_BYTES, 3 * disk.BLOCK_BYTES + 17])
def test_reads_what_is_there(tmp_path: Path, name: bytes, size: int) -> None:
    data = os.urandom(size)
    path = make(tmp_path, name, data)
    expected = fingerprint(path)
    assert expected == disk.Fingerprint(size, 1_000_000_000 * 10**9, Path(os.fsdecode(path)).stat().st_ino)
    digest = hashlib.sha256(data).digest()
    assert hash_file(path, expected) == digest
    assert read_small(path, expected) == (data, digest)
    with Source(path, expected) as source:
        parts = [source.read(offset, 1_000_000) for offset in range(0, size, 1_000_000)]
        source.check()
    assert b"".join(parts) == data


def _touch(path: Path) -> None:
    os.utime(path, (1, 1))


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")
    os.utime(path, (1_000_000_000, 1_000_000_000))


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, (1_000_000_000, 1_000_000_000))
    other.rename(path)


def _link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [_touch, _append, _replace, _link, _directory, _fifo])
def test_a_file_that_is_another_one_now_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = Path(os.fsdecode(make(tmp_path)))
    expected = fingerprint(path)
    change(path)
    for read in (hash_file, read_small, Source):
        with pytest.raises(SourceChanged):
            read(path, expected)  # type: ignore[operator]


@pytest.mark.parametrize("change", [_touch, _append, lambda path: os.truncate(path, 3)])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = Path(os.fsdecode(make(tmp_path, data=bytes(2 * disk.BLOCK_BYTES))))
    expected = fingerprint(path)

    def interfere() -> bool:
        change(path)
        return False

    with pytest.raises(SourceChanged):
        hash_file(path, expected, interfere)


def test_a_file_written_this_very_moment_is_read_after_the_clock_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "busy"
    now_ns = 1_800_000_000_000_000_000
    waits = []

    def write_again(seconds: float) -> None:
        waits.append(seconds)
        path.write_bytes(b"1")
        os.utime(path, ns=(now_ns + 10_000_000, now_ns + 10_000_000))  # as a later tick would stamp it

    monkeypatch.setattr(time, "sleep", write_again)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    path.write_bytes(b"0")
    os.utime(path, ns=(now_ns, now_ns))
    with pytest.raises(SourceChanged):
        read_small(path, fingerprint(path))
    assert len(waits) == 1
    assert 0 < waits[0] < 0.05
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert read_small(path, fingerprint(path))[0] == b"1"
    assert len(waits) == 1


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    path = make(tmp_path)
    expected = fingerprint(path)
    Path(os.fsdecode(path)).unlink()
    with pytest.raises(SourceGone):
        fingerprint(path)
    with pytest.raises(SourceGone):
        hash_file(path, expected)
    with pytest.raises(SourceGone):
        hash_file(path + b"/below", expected)


def test_a_name_that_is_too_long_is_a_trouble_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable) as caught:
        fingerprint(tmp_path / ("n" * 256))
    assert caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(make(tmp_path)))
    path.chmod(0)
    with pytest.raises(SourceUnreadable) as caught:
        hash_file(path, fingerprint(path))
    assert caught.value.code == "source-unreadable"


def test_five_gigabytes_can_be_seen_and_hashing_them_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 5_000_000_000)
    expected = fingerprint(path)
    assert expected.size == 5_000_000_000
    blocks = iter(range(4))
    with pytest.raises(disk.Stopped):
        hash_file(path, expected, lambda: next(blocks, None) is None)
    with Source(path, expected) as source:
        assert source.read(4_999_999_990, 100) == bytes(10)


def test_too_many_open_files_is_nobodys_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageBusy) as caught:
        raise disk.trouble(OSError(24, "Too many open files"), b"x\xff")
    assert caught.value.code == "too-many-open-files"
    assert caught.value.detail == "x\\xff: Too many open files"


def test_a_held_file_is_not_opened_by_others_and_closing_waits(tmp_path: Path) -> None:
    path = make(tmp_path)
    expected = fingerprint(path)
    with held.hold(path):
        with pytest.raises(held.Held):
            read_small(path, expected)
        open_now = {os.readlink(f"/proc/self/fd/{name}") for name in _descriptors()}
        assert os.fsdecode(path) in open_now  # closing it would have dropped the locks on it
    assert read_small(path, expected)[0] == b"some bytes"
    assert os.fsdecode(path) not in {os.readlink(f"/proc/self/fd/{name}") for name in _descriptors()}


def test_a_hold_waits_until_the_file_is_closed(tmp_path: Path) -> None:
    path = make(tmp_path)
    source = Source(path, fingerprint(path))
    order = []

    def hold() -> None:
        with held.hold(path):
            order.append("held")

    waiting = threading.Thread(target=hold)
    waiting.start()
    order.append("closed")
    source.close()
    waiting.join()
    assert order == ["closed", "held"]


def _descriptors() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")]
