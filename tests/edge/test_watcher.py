import asyncio
import contextlib
import errno
import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from pisyncd.activities.watcher import Watcher
from pisyncd.config.schema import Settle, WatchRoot
from pisyncd.core.errors import StorageBusy
from pisyncd.core.settle import Sighting
from pisyncd.sources import inotify

DEBOUNCE_S, FORCE_S, RESCAN_S = 10.0, 60.0, 3600.0


class Clock:
    """Monotonic time stands still until it is moved; wall time runs on and is moved with it, or stepped."""

    def __init__(self) -> None:
        self.moved_ms = 0
        self.stepped_ms = 0

    def boottime_ms(self) -> int:
        return self.moved_ms

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.moved_ms + self.stepped_ms

    def move(self, seconds: float) -> None:
        self.moved_ms += int(seconds * 1000)


@dataclass
class Added:
    new: int
    changed: int = 0


@dataclass
class Offered:
    """Keeps what is offered, like the outbox, and forgets nothing."""

    batches: list[list[Sighting]] = field(default_factory=list)
    trouble: list[Exception] = field(default_factory=list)

    async def add(self, sightings: Sequence[Sighting]) -> Added:
        if self.trouble:
            raise self.trouble.pop()
        self.batches.append(list(sightings))
        return Added(new=len(sightings))

    def take(self) -> list[bytes]:
        """The paths offered since the last call, in order."""
        paths = sorted(each.path for batch in self.batches for each in batch)
        self.batches.clear()
        return paths


class Bench:
    def __init__(self, tmp_path: Path) -> None:
        self.base = tmp_path
        self.root = tmp_path / "root"
        self.root.mkdir()
        self.state = tmp_path / "root" / "state"
        self.clock = Clock()
        self.offered = Offered()
        self.woken = 0
        self.watcher: Watcher = self.watch()

    def watch(self, **more: object) -> Watcher:
        roots = [WatchRoot(path=self.root, name="root", exclude=("*.tmp", "cache/**"), priority=7)]
        return Watcher(
            roots,
            Settle(debounce_s=DEBOUNCE_S, force_s=FORCE_S, rescan_s=RESCAN_S),
            self.offered,
            self.clock,
            wake_uploader=self._wake,
            avoid=[self.state],
            chance=lambda: 0.5,
            **more,  # type: ignore[arg-type]
        )

    def _wake(self) -> None:
        self.woken += 1

    def write(self, name: str | bytes, data: bytes = b"x") -> Path:
        path = self.root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.age(path, 0)
        return path

    def age(self, path: Path, seconds: float) -> None:
        """Makes it look as if it was written so long ago."""
        stamp = self.clock.wall_ms() * 1_000_000 - int(seconds * 1e9)
        os.utime(path, ns=(stamp, stamp))

    async def step(self) -> list[bytes]:
        """One step; what it offered."""
        await self.watcher.step()
        return self.offered.take()

    async def pass_time(self, seconds: float = DEBOUNCE_S) -> list[bytes]:
        self.clock.move(seconds)
        return await self.step()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.watcher.close()


async def test_what_is_there_at_start_is_offered_at_once_when_it_is_old(bench: Bench) -> None:
    bench.age(bench.write("a/b/old.json"), 100)
    bench.write("fresh.json")
    assert await bench.step() == [b"a/b/old.json"]
    assert bench.woken == 1
    assert await bench.pass_time(DEBOUNCE_S - 1) == []
    assert await bench.pass_time(1.1) == [b"fresh.json"]
    (sighting,) = [each for each in [await _look(bench, b"fresh.json")] if each]
    status = (bench.root / "fresh.json").stat()
    assert sighting == Sighting(
        root="root", path=b"fresh.json", size=1, mtime_ns=status.st_mtime_ns, inode=status.st_ino, priority=7
    )


async def _look(bench: Bench, path: bytes) -> Sighting | None:
    await bench.watcher.sweep()
    return next((each for batch in bench.offered.batches for each in batch if each.path == path), None)


@pytest.mark.parametrize("stepped_s", [-400 * 86_400.0, 400 * 86_400.0], ids=["clock is behind", "clock is ahead"])
async def test_a_wrong_clock_keeps_nothing_back(bench: Bench, stepped_s: float) -> None:
    bench.write("a.json")
    bench.clock.stepped_ms = int(stepped_s * 1000)
    assert await bench.step() == [b"a.json"]
    bench.write("b.json")
    bench.clock.stepped_ms = 0
    assert await bench.step() == []
    assert await bench.pass_time() == [b"b.json"]


async def test_a_file_is_offered_when_nothing_wrote_to_it_for_the_debounce_time(bench: Bench) -> None:
    await bench.step()
    bench.write("a.json", b"1")
    assert await bench.step() == []
    assert bench.watcher.settling_s("root", b"a.json") == DEBOUNCE_S
    bench.clock.move(6)
    bench.write("a.json", b"12")
    assert await bench.step() == []
    assert await bench.pass_time(6) == []
    assert await bench.pass_time(4) == [b"a.json"]
    assert await bench.pass_time() == []
    assert bench.watcher.settling_s("root", b"a.json") is None


async def test_a_file_that_is_never_quiet_is_offered_after_force_s(bench: Bench) -> None:
    await bench.step()
    offers = []
    for _ in range(14):
        bench.write("busy.log", b"x")
        offers.append(await bench.pass_time(5))
    assert [index for index, each in enumerate(offers) if each] == [12]


async def test_names_of_any_kind(bench: Bench) -> None:
    await bench.step()
    names = [b"\xff\xfe.bin", b"two\nlines", b"n" * 255, "Übung é".encode(), b" ", b"-rf", b"a\\b", b"*?[x]"]
    for name in names:
        bench.write(name)
        bench.write(b"dir \xe9\n/" + name, b"")
    await bench.step()
    expected = sorted([*names, *(b"dir \xe9\n/" + name for name in names)])
    assert await bench.pass_time(DEBOUNCE_S + 1) == expected


async def test_excluded_files_and_own_files_are_not_offered(bench: Bench) -> None:
    bench.write("state/outbox.db")
    bench.write("cache/deep/a")
    await bench.step()
    for name in ("state/new", "cache/deep/b", "x.tmp", "deep/y.tmp", "deep/z", "state/sub/new"):
        bench.write(name)
    await bench.step()
    assert await bench.pass_time(DEBOUNCE_S + 1) == [b"deep/z"]
    assert await bench.pass_time(RESCAN_S) == [b"deep/z"]


async def test_only_regular_files_of_the_root(bench: Bench) -> None:
    outside = bench.base / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"s")
    (bench.root / "linked-dir").symlink_to(outside)
    (bench.root / "linked-file").symlink_to(outside / "secret")
    inside = bench.write("inside")
    (bench.root / "linked-inside").symlink_to(inside)
    os.mkfifo(bench.root / "fifo")
    await bench.step()
    (bench.root / "late-link").symlink_to(outside)
    (outside / "more").write_bytes(b"m")
    await bench.step()
    assert await bench.pass_time(DEBOUNCE_S + 1) == [b"inside"]


async def test_a_directory_exchanged_for_a_link_leads_nowhere(bench: Bench) -> None:
    outside = bench.base / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"secret")
    bench.write("dir/a")
    await bench.step()
    bench.write("dir/a", b"again")
    await bench.step()
    shutil.rmtree(bench.root / "dir")
    (bench.root / "dir").symlink_to(outside)
    assert await bench.pass_time(DEBOUNCE_S + 1) == []


async def test_the_root_may_be_a_link(bench: Bench) -> None:
    real = bench.base / "real"
    bench.root.rmdir()
    real.mkdir()
    bench.root.symlink_to(real)
    await bench.step()
    (real / "sub").mkdir()
    (real / "sub" / "a").write_bytes(b"x")
    await bench.step()
    assert await bench.pass_time(DEBOUNCE_S + 1) == [b"sub/a"]


async def test_quickly_nested_new_directories_lose_nothing(bench: Bench) -> None:
    await bench.step()
    expected = []
    for branch in range(5):
        path = bench.root / f"b{branch}"
        for depth in range(10):
            path /= f"d{depth}"
            path.mkdir(parents=True)
            (path / "file").write_bytes(b"x")
            expected.append(os.fsencode(path.relative_to(bench.root)) + b"/file")
    await bench.step()
    (path / "later").write_bytes(b"x")
    expected.append(os.fsencode(path.relative_to(bench.root)) + b"/later")
    await bench.step()
    assert await bench.pass_time(DEBOUNCE_S + 1) == sorted(expected)
    assert bench.watcher.status[0].watches == 1 + 5 + 5 * 10


async def test_a_directory_moved_here_and_renamed(bench: Bench) -> None:
    await bench.step()
    outside = bench.base / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "a").write_bytes(b"x")
    outside.rename(bench.root / "moved")
    await bench.step()
    assert await bench.pass_time(DEBOUNCE_S + 1) == [b"moved/deep/a"]
    (bench.root / "moved").rename(bench.root / "renamed")
    await bench.step()
    assert await bench.pass_time(DEBOUNCE_S + 1) in ([b"renamed/deep/a"], [])  # its mtime is old: offered at once
    bench.write("renamed/deep/a", b"changed")
    await bench.step()
    assert await bench.pass_time(DEBOUNCE_S + 1) == [b"renamed/deep/a"]


async def test_a_directory_moved_away_is_forgotten(bench: Bench) -> None:
    bench.write("dir/deep/a")
    await bench.pass_time()
    (bench.root / "dir").rename(bench.base / "elsewhere")
    await bench.step()
    (bench.base / "elsewhere" / "deep" / "b").write_bytes(b"x")
    assert await bench.pass_time(DEBOUNCE_S + 1) == []
    await bench.step()
    assert bench.watcher.status[0].watches == 1


async def test_renamed_and_hard_linked_files_are_offered(bench: Bench) -> None:
    await bench.step()
    (bench.base / "part").write_bytes(b"x")
    (bench.base / "part").rename(bench.root / "whole")
    (bench.base / "original").write_bytes(b"x")
    (bench.root / "hard").hardlink_to(bench.base / "original")
    await bench.step()
    assert await bench.pass_time(DEBOUNCE_S + 1) == [b"hard", b"whole"]


async def test_a_file_that_vanishes_while_it_settles_is_not_offered(bench: Bench) -> None:
    await bench.step()
    bench.write("gone").unlink()
    bench.write("dir/gone")
    await bench.step()
    shutil.rmtree(bench.root / "dir")
    assert await bench.pass_time(DEBOUNCE_S + 1) == []
    assert bench.watcher.status[0].settling == 0


async def test_many_changes_collapse_and_nothing_is_lost(bench: Bench) -> None:
    await bench.step()
    for index in range(129):
        bench.write(f"one/{index:04}")
    await bench.step()
    assert bench.watcher.status[0].settling == 1
    expected = [b"one/%04d" % index for index in range(129)]
    assert await bench.pass_time(DEBOUNCE_S + 1) == expected
    for directory in range(10):
        for index in range(60):
            bench.write(f"many/{directory}/{index:04}")
    await bench.step()
    assert bench.watcher.status[0].settling <= 512
    assert len(set(await bench.pass_time(DEBOUNCE_S + 1)) - set(expected)) == 600


async def test_a_storm_without_end_is_offered_after_force_s(bench: Bench) -> None:
    await bench.step()
    offered: set[bytes] = set()
    for round_ in range(14):
        for index in range(150):
            bench.write(f"storm/{index}", b"%d" % round_)
        offered |= set(await bench.pass_time(5))
    assert len(offered) == 150


@contextlib.contextmanager
def short_kernel_queue(events: int) -> Iterator[None]:
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    if not os.access(limit, os.W_OK):
        pytest.skip("needs root to shorten the kernel's queue")
    before = limit.read_text()
    limit.write_text(str(events))
    try:
        yield
    finally:
        limit.write_text(before)


async def test_dropped_events_lead_to_a_scan(bench: Bench) -> None:
    with short_kernel_queue(16):
        await bench.step()
    names = sorted(f"d{index % 7}/{index}".encode() for index in range(100))
    for name in names:
        bench.write(name)
    assert await bench.step() == []
    assert await bench.pass_time(DEBOUNCE_S + 1) == names
    bench.write("d3/after")
    await bench.step()
    assert await bench.pass_time() == [b"d3/after"]


def _refuse(code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("what", ["add_watch", "__init__"])
async def test_polls_and_says_so_when_the_kernel_grants_no_watch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    code = errno.ENOSPC if what == "add_watch" else errno.EMFILE
    with monkeypatch.context() as kernel:
        kernel.setattr(inotify.Inotify, what, _refuse(code))
        bench.age(bench.write("a"), 100)
        assert await bench.step() == [b"a"]
        (status,) = bench.watcher.status
        assert (status.mode, status.watches) == ("polling", 0)
        assert "polled" in status.warning
        assert "fs.inotify.max_user_" in status.hint
        bench.age(bench.write("b"), 100)
        assert b"b" in await bench.pass_time(60)
    await bench.pass_time(RESCAN_S)
    assert bench.watcher.status[0].mode == "inotify"
    assert bench.watcher.status[0].warning == ""


async def test_a_missing_root_is_waited_for(bench: Bench) -> None:
    bench.root.rmdir()
    pause_s = await bench.watcher.step()
    (status,) = bench.watcher.status
    assert status.mode == "missing"
    assert str(bench.root) in status.warning
    assert 0 < pause_s <= 30
    bench.age(bench.write("a"), 100)
    assert await bench.pass_time(pause_s) == [b"a"]
    assert bench.watcher.status[0].mode == "inotify"


async def test_a_root_that_is_removed_and_made_again(bench: Bench) -> None:
    bench.write("a")
    await bench.pass_time()
    shutil.rmtree(bench.root)
    await bench.step()
    assert bench.watcher.status[0].mode == "missing"
    bench.write("b")
    assert await bench.pass_time(10) == [b"b"]
    bench.write("sub/c")
    await bench.step()
    assert await bench.pass_time(DEBOUNCE_S + 1) == [b"sub/c"]


async def test_a_root_that_is_exchanged_between_two_looks(bench: Bench) -> None:
    await bench.step()
    shutil.rmtree(bench.root)
    bench.age(bench.write("b"), 100)
    assert await bench.step() == [b"b"]
    bench.root.rename(bench.base / "unplugged")
    bench.age(bench.write("c"), 100)
    assert await bench.step() == [b"c"]


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[None]:
    """A disk of its own at `path`."""
    if subprocess.run(["mount", "-t", "tmpfs", "disk", path], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


async def test_a_disk_that_is_plugged_in_and_out(bench: Bench) -> None:
    bench.age(bench.write("below"), 100)
    assert await bench.step() == [b"below"]
    with mounted(bench.root):
        bench.age(bench.write("on/disk"), 100)
        assert await bench.pass_time(30) == [b"on/disk"]
        bench.write("on/disk", b"again")
        await bench.step()
        assert await bench.pass_time() == [b"on/disk"]
    assert await bench.pass_time(30) == [b"below"]
    with mounted(bench.root):
        bench.age(bench.write("other"), 100)
        assert await bench.pass_time(30) == [b"other"]


async def test_a_whole_scan_comes_again_and_finds_what_the_kernel_did_not_tell(bench: Bench) -> None:
    path = bench.write("a")
    await bench.pass_time()
    assert bench.watcher.status[0].scanned_ago_s == 0
    other_name = bench.base / "outside"
    other_name.hardlink_to(path)
    other_name.write_bytes(b"longer")
    assert await bench.pass_time(RESCAN_S - 1) == []
    assert await bench.pass_time(1) == [b"a"]


async def test_an_outbox_in_trouble_loses_nothing(bench: Bench) -> None:
    bench.age(bench.write("a"), 100)
    bench.offered.trouble = [StorageBusy()]
    with pytest.raises(StorageBusy):
        await bench.step()
    assert await bench.step() == [b"a"]
    bench.write("b")
    await bench.step()
    bench.offered.trouble = [StorageBusy()]
    with pytest.raises(StorageBusy):
        await bench.pass_time()
    assert await bench.step() == [b"b"]
    bench.age(bench.write("new/c"), 100)
    bench.offered.trouble = [StorageBusy()]
    with pytest.raises(StorageBusy):
        await bench.step()
    assert b"new/c" in await bench.step()


async def test_a_scan_that_fails_is_tried_again_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.age(bench.write("a"), 100)
    with monkeypatch.context() as disk:
        disk.setattr(os, "scandir", _refuse(errno.EIO))
        assert await bench.step() == []
        (status,) = bench.watcher.status
        assert status.mode == "polling"
        assert "cannot be read" in status.warning
        assert await bench.pass_time(60) == []
    assert await bench.pass_time(60) == []
    assert await bench.pass_time(60) == [b"a"]
    assert bench.watcher.status[0].warning == ""


async def test_a_live_database_is_offered_as_one_and_not_too_often(bench: Bench) -> None:
    await bench.step()
    db = sqlite3.connect(bench.root / "live.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE t (x)")
    offers: list[bytes] = []
    for round_ in range(60):
        db.execute("INSERT INTO t VALUES (?)", (round_,))
        offers += await bench.pass_time(5)
    db.close()
    assert set(offers) == {b"live.db"}
    assert 3 <= len(offers) <= 5  # 300 s, once per force_s
    bench.write("note-wal")
    bench.write("plain.db", b"not a database")
    await bench.step()
    await bench.pass_time(DEBOUNCE_S + 1)
    await bench.watcher.sweep()
    kinds = {each.path: each.kind for batch in bench.offered.batches for each in batch}
    assert kinds == {b"live.db": "sqlite", b"note-wal": "file", b"plain.db": "file"}


async def test_a_write_to_the_wal_alone_is_a_change(bench: Bench) -> None:
    db = sqlite3.connect(bench.root / "live.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE t (x)")
    first = await _look(bench, b"live.db")
    db.execute("INSERT INTO t VALUES (1)")
    bench.offered.take()
    second = await _look(bench, b"live.db")
    db.close()
    assert first is not None
    assert second is not None
    assert second.kind == "sqlite"
    assert (first.size, first.mtime_ns) != (second.size, second.mtime_ns)


async def test_a_log_that_is_kept_open_is_offered_when_it_is_quiet(bench: Bench) -> None:
    await bench.step()
    with (bench.root / "app.jsonl").open("wb", buffering=0) as log:
        log.write(b"{}\n")
        await bench.step()
        assert await bench.pass_time() == [b"app.jsonl"]
        log.write(b"{}\n")
        await bench.step()
        assert await bench.pass_time() == []  # offered a moment ago
        assert await bench.pass_time(FORCE_S) == [b"app.jsonl"]


async def test_the_kernel_wakes_the_watcher(bench: Bench) -> None:
    await bench.step()
    waiting = asyncio.create_task(bench.watcher.wake.wait(3600))
    await asyncio.sleep(0)
    bench.write("a")
    await asyncio.wait_for(waiting, 30)
    assert await bench.step() == []
    assert await bench.pass_time() == [b"a"]


async def test_new_settings(bench: Bench) -> None:
    bench.age(bench.write("a"), 100)
    await bench.step()
    other = bench.base / "other"
    other.mkdir()
    (other / "b").write_bytes(b"")
    bench.age(other / "b", 100)
    settings = Settle(debounce_s=DEBOUNCE_S, force_s=FORCE_S, rescan_s=RESCAN_S)
    roots = [WatchRoot(path=bench.root, name="root", exclude=("*.tmp", "cache/**"), priority=7)]
    bench.watcher.configure([*roots, WatchRoot(path=other, name="other")], settings)
    assert await bench.step() == [b"b"]
    bench.watcher.configure([WatchRoot(path=other, name="other")], settings)
    bench.write("c")
    await bench.step()
    assert await bench.pass_time() == []
    assert [each.name for each in bench.watcher.status] == ["other"]


async def test_fifty_thousand_files_in_one_directory(bench: Bench) -> None:
    directory = bench.root / "many"
    directory.mkdir()
    stamp = time.time() - 100
    for index in range(50_000):
        path = f"{directory}/{index}"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.utime(path, (stamp, stamp))
    await bench.watcher.step()
    assert all(len(batch) <= 500 for batch in bench.offered.batches)
    assert len(set(bench.offered.take())) == 50_000


class Weather:
    """Does to a directory what programs and people do, by chance."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.chance = random.Random(seed)
        self.outside = bench.base / "outside"
        self.outside.mkdir()
        self.open_files: list[BinaryIO] = []

    def name(self, deep: int = 3) -> Path:
        parts = [self.chance.choice(["a", "b", "c \n", "d\udcff"]) for _ in range(self.chance.randint(1, deep))]
        return self.bench.root.joinpath(*parts)

    def act(self) -> None:
        actions = [self.write, self.write, self.write, self.keep_open, self.append, self.close, self.many]
        actions += [self.rename, self.rename, self.remove, self.move_out, self.move_in, self.nest]
        with contextlib.suppress(OSError):
            self.chance.choice(actions)()

    def write(self) -> None:
        path = self.name() / self.chance.choice("xyz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.chance.randbytes(self.chance.randint(0, 50)))

    def keep_open(self) -> None:
        path = self.name() / self.chance.choice("xyz")
        self.open_files.append(path.open("ab", buffering=0))

    def append(self) -> None:
        for file in self.open_files:
            file.write(b"more")

    def close(self) -> None:
        for file in self.open_files:
            file.close()
        self.open_files.clear()

    def many(self) -> None:
        directory = self.name()
        directory.mkdir(parents=True, exist_ok=True)
        for index in range(self.chance.choice([5, 140])):
            (directory / f"many{index}").write_bytes(b"m")

    def rename(self) -> None:
        self.name().rename(self.name())

    def remove(self) -> None:
        shutil.rmtree(self.name())

    def move_out(self) -> None:
        self.name().rename(self.outside / str(self.chance.randint(0, 3)))

    def move_in(self) -> None:
        (self.outside / str(self.chance.randint(0, 3))).rename(self.name())

    def nest(self) -> None:
        path = self.name()
        for part in "pqrst":
            path /= part
            path.mkdir(parents=True)
            (path / "x").write_bytes(part.encode())


@pytest.mark.parametrize("seed", range(20))
async def test_in_any_weather_every_file_is_offered_as_it_is_at_last(bench: Bench, seed: int) -> None:
    weather = Weather(bench, seed)
    queue = short_kernel_queue(64) if seed % 3 == 0 else contextlib.nullcontext()
    with queue:
        await bench.watcher.step()
    for _ in range(150):
        weather.act()
        if weather.chance.random() < 0.4:
            bench.clock.move(weather.chance.choice([0.1, 3.0, 11.0]))
            await bench.watcher.step()
    weather.close()
    for _ in range(8):
        await bench.watcher.step()
        bench.clock.move(FORCE_S)
    assert bench.watcher.status[0].mode == "inotify"
    assert bench.watcher.status[0].settling == 0
    last = {each.path: each for batch in bench.offered.batches for each in batch}
    bench.offered.batches.clear()
    await bench.watcher.sweep()
    present = [each for batch in bench.offered.batches for each in batch]
    assert [each for each in present if last.get(each.path) != each] == []
