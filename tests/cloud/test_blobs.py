"""The blob store on a real file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cloud.store.blobs import FREE_CHECK_BYTES, BlobStore, StorageFull

ID = "ab" * 16
OTHER = "cd" * 16


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def put(store: BlobStore, upload: str, data: bytes, offset: int = 0) -> None:
    with store.append(upload, offset) as blob:
        blob.write(data)
        blob.commit()


def test_the_offset_is_the_size_of_what_is_there(store: BlobStore) -> None:
    assert store.offset(ID) == 0
    put(store, ID, b"hello")
    put(store, ID, b" world", 5)
    assert store.offset(ID) == 11
    assert store.open_upload(ID).read() == b"hello world"


def test_what_lies_beyond_the_offset_is_forgotten(store: BlobStore) -> None:
    put(store, ID, b"hello world")
    put(store, ID, b"!", 5)
    assert store.open_upload(ID).read() == b"hello!"


def test_a_hole_is_never_made(store: BlobStore) -> None:
    put(store, ID, b"abc")
    with pytest.raises(FileNotFoundError):
        store.append(ID, 4)


def test_rewind_forgets_and_commit_promises(store: BlobStore) -> None:
    with store.append(ID, 0) as blob:
        blob.write(b"good")
        assert (blob.offset, blob.committed) == (4, 0)
        assert blob.commit() == 4
        blob.write(b"bad")
        blob.rewind(4)
        assert (blob.offset, blob.committed) == (4, 4)
        blob.write(b"better")
        blob.rewind(2)
        assert (blob.offset, blob.committed) == (2, 2)
    assert store.offset(ID) == 2


def test_publishing_twice_is_harmless(store: BlobStore) -> None:
    put(store, ID, b"data")
    store.publish(ID)
    store.publish(ID)
    assert store.offset(ID) == 0
    assert store.moved_bytes(ID) == 4
    assert store.open_content(ID).read() == b"data"
    assert store.open_upload(ID, moved=True).read() == b"data"
    with pytest.raises(FileNotFoundError):
        store.publish(OTHER)


def test_a_pack_takes_the_place_of_one_that_a_crash_left(store: BlobStore) -> None:
    for data in (b"first", b"second"):
        with store.pack(ID) as pack:
            pack.write(data)
            pack.commit()
        store.publish_pack(ID)
    assert store.open_content(ID).read() == b"second"


def test_parts_are_concatenated(store: BlobStore) -> None:
    put(store, ID, b"one")
    put(store, OTHER, b"two")
    assert store.concatenate("ef" * 16, [ID, OTHER, "00" * 16, ID]) == 9
    assert store.open_upload("ef" * 16).read() == b"onetwoone"


def test_discarding_leaves_what_is_published(store: BlobStore) -> None:
    put(store, ID, b"x")
    store.publish(ID)
    put(store, ID, b"y")
    store.discard(ID)
    store.discard(ID)
    assert store.offset(ID) == 0
    assert store.open_content(ID).read() == b"x"


def test_the_free_floor_holds(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, free_floor_bytes=1 << 62)
    with store.append(ID, 0) as blob, pytest.raises(StorageFull) as full:
        blob.write(b"x")
    assert (full.value.code, full.value.retry_after_s) == ("storage-full", 60)
    assert store.offset(ID) == 0


def test_a_full_disk_keeps_what_did_fit(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    room = FREE_CHECK_BYTES + 1000

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        fits = data[: max(0, room - offset)]
        if not fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, fits, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with store.append(ID, 0) as blob:
        with pytest.raises(StorageFull):
            blob.write(bytes(room + 5000))
        assert blob.commit() == room
    assert store.offset(ID) == room


def test_other_errors_are_not_taken_for_a_full_disk(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    with store.append(ID, 0) as blob, pytest.raises(OSError, match="Input/output"):
        blob.write(b"x")


def test_old_files_are_listed_for_the_janitor(store: BlobStore) -> None:
    put(store, ID, b"x")
    put(store, OTHER, b"y")
    os.utime(store.upload_path(ID), (1000, 1000))
    assert [[path.name for path in found] for found in store.names(store.uploads, 2000)] == [[ID]]


def test_a_store_can_be_opened_again(tmp_path: Path) -> None:
    put(BlobStore(tmp_path), ID, b"x")
    assert BlobStore(tmp_path).offset(ID) == 1
