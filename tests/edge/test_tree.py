import os
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from pisyncd.config.schema import WatchRoot
from pisyncd.core.errors import SourceChanged, SourceGone
from pisyncd.sources.tree import Report, Tree, sight
from tests.edge.other_user import as_nobody, readable

__all__ = ["readable"]  # a fixture


def tree(path: Path, **more: object) -> Tree:
    return Tree(WatchRoot(path=path, name="root", **more))  # type: ignore[arg-type]


def found(tree: Tree, under: bytes = b"", report: Report | None = None) -> list[bytes]:
    return sorted(each.path for batch in tree.scan(under, report=report) for each in batch)


def fill(base: Path, *names: str) -> None:
    for name in names:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_places_that_cannot_be_read_are_named_and_the_rest_is_found(readable: Path) -> None:
    fill(readable, "open/a", "closed/b", "names-only/c", "d")
    (readable / "closed").chmod(0o700)
    (readable / "names-only").chmod(0o744)

    def scan() -> tuple[list[bytes], list[tuple[bytes, str]]]:
        report = Report()
        return found(tree(readable), report=report), sorted(report.unreadable)

    paths, unreadable = as_nobody(scan)
    assert paths == [b"d", b"open/a"]
    assert unreadable == [(b"closed", "Permission denied"), (b"names-only/c", "Permission denied")]


def test_a_root_that_cannot_be_read_or_is_gone(readable: Path) -> None:
    readable.chmod(0o700)
    assert "PermissionError" in as_nobody(lambda: found(tree(readable)))
    with pytest.raises(FileNotFoundError):
        found(tree(readable / "missing"))
    with pytest.raises(FileNotFoundError):
        found(tree(readable), b"missing")
    assert tree(readable / "missing").identity() is None


def test_what_is_no_regular_file_is_passed_over(readable: Path) -> None:
    fill(readable, "a")
    os.mkfifo(readable / "fifo")
    (readable / "loop").symlink_to(".")
    (readable / "dangling").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(readable / "socket"))
        assert found(tree(readable)) == [b"a"]


def test_each_directory_is_entered_before_it_is_read(readable: Path) -> None:
    fill(readable, "a/b/c/d", "e")
    entered: list[bytes] = []

    def enter(directory: bytes) -> None:
        entered.append(directory)
        fill(readable, os.fsdecode(directory + b"/late").lstrip("/"))

    paths = sorted(each.path for batch in tree(readable).scan(enter=enter) for each in batch)
    assert sorted(entered) == [b"", b"a", b"a/b", b"a/b/c"]
    assert paths == [b"a/b/c/d", b"a/b/c/late", b"a/b/late", b"a/late", b"e", b"late"]


def test_a_directory_that_vanishes_during_the_scan(readable: Path) -> None:
    fill(readable, *(f"{name}/x" for name in "abc"))
    report = Report()

    def enter(directory: bytes) -> None:
        for name in "abc":
            if directory and directory != name.encode():
                shutil.rmtree(readable / name, ignore_errors=True)

    paths = [each.path for batch in tree(readable).scan(enter=enter, report=report) for each in batch]
    assert len(paths) == 1
    assert report.unreadable_count == 0


def test_own_files_are_never_looked_at(readable: Path) -> None:
    fill(readable, "a", "state/outbox.db", "state/spool/x", "token")
    own = Tree(WatchRoot(path=readable, name="root"), [readable / "state", readable / "token", readable / "later"])
    assert found(own) == [b"a"]
    fill(readable, "later/b")
    assert found(own) == [b"a"]
    assert own.look(b"", [b"a", b"token", b"gone"]).keys() == {b"a"}


def test_databases_are_recognised_by_what_is_in_them(readable: Path) -> None:
    for name in ("app.db", "no-suffix", "x.dat"):
        db = sqlite3.connect(readable / name)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t (x)")
        db.execute("INSERT INTO t VALUES (1)")
        db.commit()
        fill(readable, f"{name}-note")
        kept = db if name == "app.db" else db.close()
        if kept is not None:
            live = kept
    (readable / "named.db").write_bytes(b"y" * 1000)
    (readable / "block").write_bytes(b"z" * 4096)
    (readable / "lonely-wal").write_bytes(b"w")
    kinds = {each.path: each.kind for batch in tree(readable).scan() for each in batch}
    live.close()
    databases = {path for path, kind in kinds.items() if kind == "sqlite"}
    assert databases == {b"app.db", b"no-suffix", b"x.dat"}
    plain = {b"named.db", b"block", b"lonely-wal", b"app.db-note", b"no-suffix-note", b"x.dat-note"}
    assert kinds.keys() - databases == plain


def test_looking_at_the_wal_shows_the_database(readable: Path) -> None:
    db = sqlite3.connect(readable / "app.db")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE t (x)")
    seen = tree(readable).look(b"", [b"app.db-wal", b"app.db-shm", b"app.db-journal"])
    db.close()
    assert {each.path for each in seen.values()} == {b"app.db"}
    assert len(seen) == 3


def test_sight(readable: Path) -> None:
    fill(readable, "a")
    full = os.fsencode(readable / "a")
    assert sight("root", b"a", full, 5) == tree(readable).look(b"", [b"a"])[b"a"]
    with pytest.raises(SourceGone):
        sight("root", b"b", full + b"b", 5)
    with pytest.raises(SourceChanged):
        sight("root", b"", os.fsencode(readable), 5)


def test_a_path_of_four_thousand_bytes(readable: Path) -> None:
    descriptor = os.open(readable, os.O_RDONLY)
    for _ in range(15):
        os.mkdir("d" * 255, dir_fd=descriptor)
        below = os.open("d" * 255, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    assert found(tree(readable)) == [b"/".join([b"d" * 255] * 15 + [b"file"])]
