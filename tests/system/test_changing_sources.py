"""What changes while it is read is superseded, never published torn; databases are captured whole."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeDevice
from rig import judge, trees
from rig.cloud import Cloud, sha256
from rig.link import FaultyLink
from rig.wait import until

SIZE = 600_000

# Each commit changes two rows by the same amount in opposite directions and adds one entry.
WRITER = """
import random, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, pad BLOB)")
db.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY, amount INTEGER, pad BLOB)")
db.execute("BEGIN")
db.executemany("INSERT INTO account (balance, pad) VALUES (0, ?)", ((random.randbytes(300),) for _ in range(1000)))
db.execute("COMMIT")
print("ready", flush=True)
while sys.stdin.readline():
    for _ in range(20):
        db.execute("BEGIN IMMEDIATE")
        one, other = random.sample(range(1, 1001), 2)
        db.execute("UPDATE account SET balance = balance - 7 WHERE id = ?", (one,))
        db.execute("INSERT INTO entry (amount, pad) VALUES (7, ?)", (random.randbytes(200),))
        db.execute("UPDATE account SET balance = balance + 7 WHERE id = ?", (other,))
        db.execute("COMMIT")
    print("written", flush=True)
"""


@contextlib.contextmanager
def writer(database: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that writes twenty transactions for each line that it is given."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


class Pump:
    """Makes the writer write all the time until the block ends."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # About a hundred transactions a second, with moments in between in which a snapshot can be taken.
        while not self._ended.wait(0.2):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            self._process.stdout.readline()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def judge_copy(copy: Path) -> tuple[int, int]:
    """Return (entries, sum of balances) of a copy that must open whole."""
    with contextlib.closing(sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM account").fetchone() == (1000,)
        ((entries, last),) = db.execute("SELECT count(*), coalesce(max(id), 0) FROM entry").fetchall()
        assert entries == last
        ((total,),) = db.execute("SELECT sum(balance) FROM account").fetchall()
        return int(entries), int(total)


def test_a_live_database_is_captured_whole_each_time(
    shared_cloud: Cloud, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device(shared_cloud, settings={"settle": {"debounce_s": 0.2, "force_s": 0.5}})
    path = b"learning/progress.db"
    database = judge.learning(device) / "progress.db"

    def versions() -> int:
        stored = shared_cloud.files(device.device_id).get(path)
        return stored.versions if stored else 0

    with writer(database) as process:
        device.start()
        with Pump(process):
            until("five versions have arrived", lambda: versions() >= 5, within_s=60)
        copy = tmp_path / "copy.db"
        entries = []
        for number in range(1, versions() + 1):
            copy.write_bytes(shared_cloud.content(device.device_id, path, number))
            count, total = judge_copy(copy)
            assert total == 0, f"version {number} is of more than one moment"
            entries.append(count)
        assert entries == sorted(entries)
        final = sqlite3.connect(database).execute("SELECT count(*) FROM entry").fetchone()[0]

        def last_is_there() -> bool:
            copy.write_bytes(shared_cloud.content(device.device_id, path))
            return bool(judge_copy(copy)[0] == final)

        until("the last state has arrived", last_is_there)
    assert set(shared_cloud.files(device.device_id)) == {path}, "neither -wal nor -shm is sent"
    assert device.stop() == 0


def sent_beyond(link: FaultyLink, up_bytes: int) -> bool:
    return link.up_bytes > up_bytes


def test_a_file_that_changes_while_it_is_sent_is_never_torn(
    shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice
) -> None:
    link.throttle(1_500_000)
    device = make_device(shared_cloud, link=link, settings={"transfer": {"compress": False}})
    target = judge.learning(device) / "growing.bin"
    written: set[str] = set()
    path = b"learning/growing.bin"

    def rewrite(number: int) -> bytes:
        content = (b"%08d" % number) * (SIZE // 8)
        written.add(sha256(content))
        # In place, in pieces: a reader can see half of the old and half of the new.
        with target.open("r+b" if target.exists() else "wb", buffering=0) as file:
            for at in range(0, SIZE, SIZE // 4):
                file.write(content[at : at + SIZE // 4])
        return content

    rewrite(0)
    device.start()
    for number in range(1, 6):
        before = link.up_bytes
        until("it is being sent", functools.partial(sent_beyond, link, before + 150_000))
        last = rewrite(number)
    until("the last state arrives", lambda: judge.holds(shared_cloud, device, {b"growing.bin": last}))
    stored = shared_cloud.files(device.device_id)[path]
    for version in range(1, stored.versions + 1):
        assert sha256(shared_cloud.content(device.device_id, path, version)) in written, f"version {version} is torn"
    assert device.stop() == 0


def test_a_file_that_goes_away_while_it_is_sent_holds_up_nothing(
    shared_cloud: Cloud, link: FaultyLink, make_device: MakeDevice
) -> None:
    link.throttle(1_500_000)
    device = make_device(shared_cloud, link=link)
    gone = judge.learning(device) / "gone.bin"
    gone.write_bytes(os.urandom(SIZE * 3))
    device.start()
    until("it is being sent", lambda: link.up_bytes > 200_000)
    gone.unlink()
    files = {b"other.txt": b"the other one"}
    trees.write(judge.learning(device), files)
    until("the other file arrives", lambda: judge.holds(shared_cloud, device, files))
    assert b"learning/gone.bin" not in shared_cloud.files(device.device_id)
    until("nothing waits", lambda: device.status()["queue"]["files"]["count"] == 0)
    assert device.stop() == 0


@pytest.mark.parametrize("whole", [True, False], ids=["renamed into place", "written in place"])
def test_every_state_between_is_either_sent_or_superseded(
    shared_cloud: Cloud, make_device: MakeDevice, whole: bool
) -> None:
    device = make_device(shared_cloud)
    device.start()
    target = judge.learning(device) / "state.json"
    contents = [f'{{"state": {number}}}'.encode() for number in range(30)]
    for number, content in zip(itertools.count(), contents):
        if whole:
            part = device.root / f"part-{number}"
            part.write_bytes(content)
            part.replace(target)
        else:
            target.write_bytes(content)
    until("the last state arrives", lambda: judge.holds(shared_cloud, device, {b"state.json": contents[-1]}))
    stored = shared_cloud.files(device.device_id)[b"learning/state.json"]
    path = b"learning/state.json"
    seen = [shared_cloud.content(device.device_id, path, version) for version in range(1, stored.versions + 1)]
    assert set(seen) <= set(contents)
    assert seen == sorted(set(seen), key=contents.index)
    assert device.stop() == 0


def test_once_ends_though_a_file_can_never_be_read(shared_cloud: Cloud, make_device: MakeDevice) -> None:
    device = make_device(shared_cloud)
    learning = judge.learning(device)
    trees.write(learning, {b"fine": b"fine\n"})
    # a path that is longer than the kernel takes, however often it is tried
    at = os.open(learning, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("x" * 200, dir_fd=at)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("unreachable", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    assert device.once() == 75
    assert set(shared_cloud.files(device.device_id)) == {b"learning/fine"}
