import contextlib
import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pisyncd.core.errors import PiSyncError, SourceChanged, SourceGone, SourceUnreadable
from pisyncd.sources import disk, held
from pisyncd.sources import sqlite as source
from pisyncd.sources.sqlite import Corrupt, Locked, Snapshot, is_database, snapshot
from tests.edge.other_user import as_nobody, readable

__all__ = ["readable"]  # a fixture

ROWS = 400

# Moves balance between rows for ever, in transactions over many pages; their sum never changes, and every row of a
# transaction carries its number.
WRITER = f"""
import random, sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
db.execute("PRAGMA wal_autocheckpoint=20")
db.execute("PRAGMA synchronous=OFF")
db.execute("PRAGMA cache_size=4")
turn, chance = 0, random.Random(7)
print("ready", flush=True)
while True:
    turn += 1
    db.execute("BEGIN IMMEDIATE")
    for _ in range(15):
        a, b, n = chance.randrange({ROWS}), chance.randrange({ROWS}), chance.randrange(100)
        db.execute("UPDATE t SET balance = balance - ?, turn = ? WHERE id = ?", (n, turn, a))
        db.execute("UPDATE t SET balance = balance + ?, turn = ? WHERE id = ?", (n, turn, b))
    db.execute("UPDATE turns SET done = ?", (turn,))
    db.execute("COMMIT")
"""


def create(path: Path | bytes, mode: str = "wal", rows: int = ROWS) -> None:
    with contextlib.closing(sqlite3.connect(os.fsdecode(path), isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, balance INTEGER, turn INTEGER DEFAULT 0, fill TEXT)")
        db.execute("CREATE TABLE turns (done INTEGER)")
        db.execute("INSERT INTO turns VALUES (0)")
        db.executemany("INSERT INTO t VALUES (?, 1000, 0, ?)", [(index, "x" * 300) for index in range(rows)])


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A process that keeps writing to the database."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def judge(copy: Path, rows: int = ROWS) -> int:
    """Raises unless the copy is sound; gives the number of the last transaction in it."""
    with contextlib.closing(sqlite3.connect(f"file:{copy}?immutable=1", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*), sum(balance) FROM t").fetchone() == (rows, rows * 1000)
        (done,) = db.execute("SELECT done FROM turns").fetchone()
        assert db.execute("SELECT max(turn) FROM t").fetchone() == (done,)
        return int(done)


def beside(path: Path) -> dict[str, int]:
    return {each.name: each.stat().st_size for each in path.parent.iterdir()}


def proven(shot: Snapshot, copy: Path) -> None:
    data = copy.read_bytes()
    assert (shot.size, shot.sha256) == (len(data), hashlib.sha256(data).digest())


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_every_copy_of_a_live_database_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(source, "BUSY_S", 120.0)  # the writer of this test never rests
    live = tmp_path / "live" / "learner.db"
    live.parent.mkdir()
    create(live, mode)
    turns = set()
    with writing(live):
        for index in range(25):
            copy = tmp_path / f"copy{index}"
            proven(snapshot(live, copy), copy)
            turns.add(judge(copy))
    assert len(turns) > 1
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["live", *(f"copy{n}" for n in range(25))])


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_large_database_under_a_steady_writer_comes_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(source, "BUSY_S", 120.0)
    monkeypatch.setattr(source, "ONE_GO_BYTES", 0)
    monkeypatch.setattr(source, "STEP_PAGES", 1)
    live = tmp_path / "live.db"
    create(live, mode)
    with writing(live):
        for index in range(5):
            snapshot(live, tmp_path / f"copy{index}")
            judge(tmp_path / f"copy{index}")


def test_an_unchanged_database_gives_the_same_bytes_however_it_is_used(tmp_path: Path) -> None:
    live = tmp_path / "live" / "a.db"
    live.parent.mkdir()
    create(live)
    quiet = snapshot(live, tmp_path / "quiet")
    assert beside(live).keys() == {"a.db"}
    with contextlib.closing(sqlite3.connect(live, isolation_level=None)) as db:
        db.execute("UPDATE t SET turn = 0 WHERE id = 0")
        opened = snapshot(live, tmp_path / "opened")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        checkpointed = snapshot(live, tmp_path / "checkpointed")
    again = snapshot(live, tmp_path / "again")
    assert quiet.sha256 == opened.sha256 == checkpointed.sha256 == again.sha256
    assert snapshot(live, tmp_path / "and again").source == again.source
    with contextlib.closing(sqlite3.connect(live, isolation_level=None)) as db:
        db.execute("UPDATE t SET turn = 5 WHERE id = 0")
    changed = snapshot(live, tmp_path / "changed")
    assert changed.sha256 != again.sha256
    assert changed.source != again.source


@pytest.mark.parametrize("name", [b"\xff\xfe.db", b"two\nlines", b"%41?mode=rw#&.db", b"n" * 240, "Übung.db".encode()])
def test_names_of_any_kind(tmp_path: Path, name: bytes) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    create(path)
    assert is_database(path)
    snapshot(path, tmp_path / "copy")
    judge(tmp_path / "copy")
    assert sorted(os.listdir(os.fsencode(tmp_path))) == sorted([name, b"copy"])


def test_the_wal_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    live = tmp_path / "live" / "a.db"
    live.parent.mkdir()
    create(live)
    with contextlib.closing(sqlite3.connect(live, isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.executemany("UPDATE t SET fill = ? WHERE id = ?", [("y" * 300, index) for index in range(ROWS)])
        before = {name: (live.parent / name).read_bytes() for name in ("a.db", "a.db-wal")}
        snapshot(live, tmp_path / "copy")
        assert before == {name: (live.parent / name).read_bytes() for name in before}
        assert beside(live).keys() == {"a.db", "a.db-wal", "a.db-shm"}
    with contextlib.closing(sqlite3.connect(tmp_path / "copy")) as db:
        assert db.execute("SELECT count(*) FROM t WHERE fill LIKE 'y%'").fetchone() == (ROWS,)


CRASH = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size=2")
db.execute("PRAGMA synchronous=OFF")
db.execute("UPDATE turns SET done = 9")
db.execute("UPDATE t SET turn = 9 WHERE id = 1")
db.execute("BEGIN")
db.execute("UPDATE t SET balance = 0, fill = 'torn'")
os.kill(os.getpid(), 9)
"""


def crashed(directory: Path, mode: str) -> Path:
    """A database whose program was killed in the middle of a transaction that had reached the disk in part."""
    path = directory / "a.db"
    create(path, mode)
    subprocess.run([sys.executable, "-c", CRASH, str(path)], check=False)
    return path


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_what_a_crash_left_is_recovered_in_the_copy_only(tmp_path: Path, mode: str) -> None:
    directory = tmp_path / "live"
    directory.mkdir()
    path = crashed(directory, mode)
    companion = path.with_name("a.db-wal" if mode == "wal" else "a.db-journal")
    before = (path.read_bytes(), companion.read_bytes())
    assert len(before[1]) > 512
    snapshot(path, tmp_path / "copy")
    assert judge(tmp_path / "copy") == 9
    assert (path.read_bytes(), companion.read_bytes()) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy", "live"]


@pytest.mark.parametrize("state", ["live", "closed", "crashed wal", "wal without shm", "crashed delete"])
def test_a_database_in_a_directory_that_we_may_only_read(readable: Path, state: str) -> None:
    directory, spool = readable / "live", readable / "spool"
    directory.mkdir()
    spool.mkdir()
    spool.chmod(0o777)
    path = directory / "a.db"
    with contextlib.ExitStack() as stack:
        match state:
            case "live":
                create(path)
                stack.enter_context(writing(path))
            case "closed":
                create(path)
            case "crashed delete":
                crashed(directory, "delete")
            case _:
                crashed(directory, "wal")
                if state == "wal without shm":
                    (directory / "a.db-shm").unlink()
        names = beside(path).keys()
        assert isinstance(as_nobody(lambda: snapshot(path, spool / "copy")), Snapshot)
        assert names == beside(path).keys()
    judge(spool / "copy")


def test_a_locked_database_is_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BUSY_S", 0.05)
    for mode in ("delete", "wal"):
        path = tmp_path / mode
        create(path, mode)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("BEGIN EXCLUSIVE")
            db.execute("UPDATE turns SET done = 1")
            with pytest.raises(Locked) as caught:
                snapshot(path, tmp_path / "copy")
            assert caught.value.hint
            db.execute("ROLLBACK")
        snapshot(path, tmp_path / "copy")
        judge(tmp_path / "copy")


def _cut(path: Path) -> None:
    os.truncate(path, 20_000)


def _zero(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(8192))


def _scramble(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * 30_000)


@pytest.mark.parametrize("damage", [_cut, _zero, _scramble])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_damaged_database_is_an_error_with_a_hint(tmp_path: Path, damage: Callable[[Path], None], mode: str) -> None:
    path = tmp_path / "a.db"
    create(path, mode)
    damage(path)
    with pytest.raises(Corrupt) as caught:
        snapshot(path, tmp_path / "copy")
    assert caught.value.code == "sqlite-corrupt"
    assert "recover" in caught.value.hint
    assert [each.name for each in tmp_path.iterdir()] == ["a.db"]


def test_a_header_without_a_database(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(source.MAGIC + bytes(600))
    assert is_database(path)
    with pytest.raises(Corrupt):
        snapshot(path, tmp_path / "copy")
    path.write_bytes(source.MAGIC)
    with pytest.raises(PiSyncError):
        snapshot(path, tmp_path / "copy")


def test_rows_that_break_their_own_rules_do_not_keep_a_database_back(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE t (x INTEGER CHECK (x > 0))")
        db.execute("PRAGMA ignore_check_constraints=ON")
        db.execute("INSERT INTO t VALUES (-1)")
        db.execute("PRAGMA ignore_check_constraints=OFF")
        assert db.execute("PRAGMA quick_check").fetchall() != [("ok",)]
    snapshot(path, tmp_path / "copy")


def test_what_is_no_database_or_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with pytest.raises(SourceGone):
        snapshot(path, tmp_path / "copy")
    assert not is_database(path)
    for data in (b"", b"SQLite", b"x" * 4096):
        path.write_bytes(data)
        assert not is_database(path)
        with pytest.raises(SourceChanged):
            snapshot(path, tmp_path / "copy")
    (tmp_path / "real.db").symlink_to(path)
    assert not is_database(tmp_path / "real.db")
    with pytest.raises((SourceChanged, SourceUnreadable)):
        snapshot(tmp_path / "real.db", tmp_path / "copy")
    os.mkfifo(tmp_path / "fifo")
    assert not is_database(tmp_path / "fifo")


def test_a_snapshot_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    create(path)
    with pytest.raises(disk.Stopped):
        snapshot(path, tmp_path / "copy", lambda: True)
    assert [each.name for each in tmp_path.iterdir()] == ["a.db"]


def test_a_probe_during_a_snapshot_does_not_drop_its_locks(tmp_path: Path) -> None:
    """Closing any descriptor of a file drops the process's locks on it, and a writer could tear the snapshot."""
    path = tmp_path / "a.db"
    create(path, "delete")
    probed = []

    def probe() -> bool:
        if not probed:
            thread = threading.Thread(target=lambda: probed.append(is_database(path)))
            thread.start()
            thread.join()
            subprocess.run([sys.executable, "-c", TRY_WRITE, str(path)], check=True)
        return False

    snapshot(path, tmp_path / "copy", probe)
    assert probed == [True]


TRY_WRITE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    db.execute("BEGIN EXCLUSIVE")
except sqlite3.OperationalError:
    sys.exit(0)
sys.exit("it was not locked")
"""


def test_names_of_companions() -> None:
    assert source.main_of(b"a.db-wal") == b"a.db"
    assert source.main_of(b"a-shm") == b"a"
    assert source.main_of(b"a.db-journal") == b"a.db"
    assert source.main_of(b"a.db-mj1A2B3C4D5") == b"a.db"
    assert source.main_of(b"-wal") is None
    assert source.main_of(b"a-walk") is None


def test_a_held_database_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    create(path)
    with held.hold(os.fsencode(path)):
        assert is_database(path)
