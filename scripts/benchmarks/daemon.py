"""What the daemon uses, how quickly a file arrives, and whether copies of live databases are sound."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rig.cloud import Cloud
from rig.device import Device
from rig.process import cpu_seconds, memory_mb
from rig.wait import DeadlinePassedError, until

from benchmarks import ours, trees
from benchmarks.ground import Ground, loopback
from benchmarks.result import Options, Result, Skipped
from benchmarks.syncthing import SYNCTHING, complete, pair

Line = Result | Skipped

IDLE_MB_MAX = 50.0
SENDING_MB_MAX = 80.0
IDLE_CPU_S_MAX = 0.06
_IDLE_S = 60.0


def _watch_idle(pid: int) -> tuple[float, float]:
    """Return the resident set in MB and the CPU seconds used in 60 s."""
    before, started = cpu_seconds(pid), time.monotonic()
    time.sleep(_IDLE_S)
    used = (cpu_seconds(pid) - before) * 60 / (time.monotonic() - started)
    return memory_mb(pid)[0], used


def idle(options: Options) -> Iterator[Line]:
    """5,000 files watched, everything delivered, nothing to do."""
    with loopback() as ground:
        trees.lan(ground.source, 5_000, 20_000_000)
        with ours.pair(ground) as (cloud, device):
            device.start()
            until("everything is delivered", lambda: len(cloud.files(ours.DEVICE_ID)) >= 5_000, within_s=300, poll_s=1)
            until("nothing is owed", lambda: ours.owed(device) == 0, within_s=60, poll_s=1)
            peak = memory_mb(device.process.pid)[1]
            after_sending = _watch_idle(device.process.pid)
            device.stop()
            # A daemon that has been started anew is what a school's device is most of its days.
            device.start()
            until("the first scan is over", lambda: ours.has_scanned(device), within_s=60, poll_s=1)
            resident, cpu_s = _watch_idle(device.process.pid)
            details = {"files": 5_000, "after_sending_cpu_s": after_sending[1]}
        yield Result(
            benchmark="idle",
            metric="rss",
            value=resident,
            unit="MB",
            bound="at_most",
            limit=IDLE_MB_MAX,
            details=details,
        )
        yield Result(
            benchmark="idle",
            metric="rss_after_sending_all",
            value=after_sending[0],
            unit="MB",
            bound="at_most",
            limit=IDLE_MB_MAX,
            details={"files": 5_000, "peak_mb": peak},
        )
        yield Result(
            benchmark="idle",
            metric="cpu_per_60_s",
            value=cpu_s,
            unit="s",
            bound="at_most",
            limit=IDLE_CPU_S_MAX,
            details=details,
        )
        if options.thorough and not options.alone:
            yield from _syncthing_idle(ground, resident, cpu_s)


def _syncthing_idle(ground: Ground, our_mb: float, our_cpu_s: float) -> Iterator[Line]:
    missing = SYNCTHING.missing()
    if missing:
        yield Skipped(benchmark="idle", tool="syncthing", reason=missing)
        return
    near, far = pair(ground, ground.source, ground.scratch("syncthing-copy"))
    until("syncthing has sent everything", complete(far, 5_000), within_s=300, poll_s=1)
    # `syncthing serve` supervises the process that does the work.
    pids = _descendants(near.process.pid)
    before, started = sum(map(cpu_seconds, pids)), time.monotonic()
    time.sleep(_IDLE_S)
    used = (sum(map(cpu_seconds, pids)) - before) * 60 / (time.monotonic() - started)
    resident = sum(memory_mb(pid)[0] for pid in pids)
    yield Result(benchmark="idle", tool="syncthing", metric="rss", value=resident, unit="MB", ratio=our_mb / resident)
    ratio = our_cpu_s / used if used else None
    yield Result(benchmark="idle", tool="syncthing", metric="cpu_per_60_s", value=used, unit="s", ratio=ratio)


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += _descendants(int(child))
    return found


def _p95(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.95))]


def _arrivals(folder: Path, arrived: Callable[[str], bool], rounds: int) -> list[float]:
    """Write small files one after the other; return how long each took from close until it had arrived."""
    times = []
    for index in range(rounds):
        name = f"progress-{time.time_ns()}.json"
        (folder / name).write_bytes(os.urandom(1024))
        closed = time.perf_counter()
        until(f"{name} ({index}) arrives", lambda name=name: arrived(name), within_s=60, poll_s=0.01)  # type: ignore[misc]
        times.append(time.perf_counter() - closed)
    return times


def latency(options: Options) -> Iterator[Line]:
    """A 1 KB file, from its close until the cloud shows it; debounce 0.5 s."""
    rounds = 100 if options.thorough else 40
    with loopback() as ground:
        with ours.pair(ground, settings={"settle": {"debounce_s": 0.5}}) as (cloud, device):
            device.start()

            def arrived(name: str) -> bool:
                path = f"/api/devices/{ours.DEVICE_ID}/files/source/{name}"
                return cloud.ask("HEAD", path, key=cloud.viewer).status == 200

            times = _arrivals(ground.source, arrived, rounds)
        own = _p95(times)
        yield Result(
            benchmark="latency",
            metric="p95",
            value=own,
            unit="s",
            bound="at_most",
            limit=1.0,
            details={"median_s": round(sorted(times)[len(times) // 2], 3), "rounds": rounds, "debounce_s": 0.5},
        )
        if options.alone:
            return
        for tool, measure in (("syncthing", _syncthing_latency), ("lsyncd", _lsyncd_latency)):
            if shutil.which(tool) is None:
                yield Skipped(benchmark="latency", tool=tool, reason=f"{tool} is not installed")
                continue
            try:
                theirs = _p95(measure(ground, rounds // 2))
            except (OSError, RuntimeError, DeadlinePassedError) as error:
                yield Skipped(benchmark="latency", tool=tool, reason=str(error)[:500])
                continue
            finally:
                ground.clear()
            yield Result(benchmark="latency", tool=tool, metric="p95", value=theirs, unit="s", ratio=own / theirs)


def _syncthing_latency(ground: Ground, rounds: int) -> list[float]:
    folder, copy = ground.scratch("syncthing-folder"), ground.scratch("syncthing-copy")
    (folder / "first").write_bytes(b"first")
    _, far = pair(ground, folder, copy, delay_s=1)
    until("syncthing works", complete(far, 1), within_s=120)
    return _arrivals(folder, lambda name: (copy / name).exists(), rounds)


def _lsyncd_latency(ground: Ground, rounds: int) -> list[float]:
    folder, copy = ground.scratch("lsyncd-folder"), ground.scratch("lsyncd-copy")
    config = ground.work / "lsyncd.lua"
    config.write_text(
        f'settings {{ nodaemon = true, inotifyMode = "CloseWrite" }}\n'
        f'sync {{ default.rsync, source = "{folder}", target = "{copy}", delay = 1 }}\n'
    )
    (folder / "first").write_bytes(b"first")
    ground.serve("lsyncd", ["lsyncd", str(config)], side="near")
    until("lsyncd works", lambda: (copy / "first").exists(), within_s=60)
    return _arrivals(folder, lambda name: (copy / name).exists(), rounds)


# Keeps the sum of all accounts at zero in every transaction; a copy that is not of one moment shows another sum.
WRITER = """
import random, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA wal_autocheckpoint=100")
db.execute("CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER, pad BLOB)")
db.execute("CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, amount INTEGER, pad BLOB)")
if not db.execute("SELECT count(*) FROM account").fetchone()[0]:
    db.execute("BEGIN")
    db.executemany("INSERT INTO account (balance, pad) VALUES (0, ?)", ((random.randbytes(400),) for _ in range(8000)))
    db.execute("COMMIT")
print("ready", flush=True)
while True:
    db.execute("BEGIN IMMEDIATE")
    for _ in range(20):
        a, b, amount = random.randrange(1, 8001), random.randrange(1, 8001), random.randrange(1000)
        db.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, a))
        db.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, b))
        db.execute("INSERT INTO entry (a, b, amount, pad) VALUES (?, ?, ?, ?)", (a, b, amount, random.randbytes(100)))
    db.execute("COMMIT")
    time.sleep(0.002)
"""


def sound(database: Path) -> bool:
    """Tell whether a copy of the writer's database is whole and of one moment."""
    try:
        with contextlib.closing(sqlite3.connect(database)) as db:
            if db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return False
            accounts, total = db.execute("SELECT count(*), sum(balance) FROM account").fetchone()
            entries, last = db.execute("SELECT count(*), max(id) FROM entry").fetchone()
            # The writer commits twenty entries at a time.
            return bool(accounts == 8000 and total == 0 and entries == (last or 0) and entries % 20 == 0)
    except sqlite3.Error:
        return False


@contextlib.contextmanager
def writing(database: Path) -> Iterator[None]:
    """Keep changing a WAL database from another process."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(database)], stdout=subprocess.PIPE) as writer:
        try:
            if writer.stdout is None or writer.stdout.readline() != b"ready\n":
                raise RuntimeError("the database writer did not start")
            yield
        finally:
            writer.kill()


def _versions(cloud: Cloud, work: Path, device: Device, wanted: int) -> list[bool]:
    """Wait for so many versions of the database in the cloud and judge each."""
    path = b"source/learning.db"

    def count() -> int:
        stored = cloud.files(device.device_id).get(path)
        return stored.versions if stored else 0

    until("enough versions arrive", lambda: count() >= wanted, within_s=240, poll_s=0.5)
    judged = []
    for number in range(1, wanted + 1):
        copy = work / f"version-{number}.db"
        copy.write_bytes(cloud.content(device.device_id, path, number))
        judged.append(sound(copy))
        copy.unlink()
    return judged


def sqlite_copies(options: Options) -> Iterator[Line]:
    """Copies of a WAL database that a writer changes all the time: how many are sound."""
    wanted = 30 if options.thorough else 15
    with loopback() as ground:
        database = ground.source / "learning.db"
        settings = {"settle": {"debounce_s": 0.2, "force_s": 1}, "backoff": {"item_base_s": 0.2, "item_cap_s": 1}}
        with writing(database), ours.pair(ground, settings=settings) as (cloud, device):
            device.start()
            judged = _versions(cloud, ground.scratch("copies"), device, wanted)
            device.stop()
            yield Result(
                benchmark="sqlite-copies",
                metric="sound",
                value=judged.count(True),
                unit=f"of {wanted}",
                bound="equal",
                limit=wanted,
                details={"bytes": database.stat().st_size},
            )
            if options.alone:
                return
            if shutil.which("rsync") is None:
                yield Skipped(benchmark="sqlite-copies", tool="rsync", reason="rsync is not installed")
                return
            theirs = _rsync_copies(ground, wanted)
            yield Result(
                benchmark="sqlite-copies", tool="rsync", metric="sound", value=theirs.count(True), unit=f"of {wanted}"
            )


def _rsync_copies(ground: Ground, wanted: int) -> list[bool]:
    judged = []
    for number in range(wanted):
        copy = ground.scratch(f"rsync-copy-{number}")
        ground.run(["rsync", "-a", f"{ground.source}/", f"{copy}/"], check=False)
        judged.append(sound(copy / "learning.db"))
    return judged


def big_file(options: Options) -> Iterator[Line]:
    """One file of 5 GB: the daemon's highest resident set while it is sent."""
    size = 5_000_000_000
    with loopback() as ground:
        free = shutil.disk_usage(ground.work).free
        if free < 3 * size:
            yield Skipped(benchmark="big-file", tool="pisync", reason=f"only {free // 10**9} GB free, 15 GB are needed")
            return
        block = os.urandom(64_000_000 if options.thorough else 16_000_000)
        with (ground.source / "lesson.mp4").open("wb") as file:
            while file.tell() < size:
                file.write(block[: size - file.tell()])
        with ours.pair(ground) as (cloud, device), ours.Peak(device) as peak:
            started = time.perf_counter()
            code = device.once(within_s=900)
            seconds = time.perf_counter() - started
            cloud_mb = memory_mb(cloud.process.pid)[1]
            if code != 0:
                raise RuntimeError(f"pisyncd once ended with {code}\n{device.process.tail()}")
            stored = cloud.files(ours.DEVICE_ID)[b"source/lesson.mp4"]
        yield Result(
            benchmark="big-file",
            metric="peak_rss",
            value=peak.mb,
            unit="MB",
            bound="at_most",
            limit=SENDING_MB_MAX,
            details={"bytes": stored.size, "seconds": round(seconds, 1), "cloud_peak_mb": round(cloud_mb, 1)},
        )
