"""What the unit's sandbox must allow, tried in one made by hand: another user, one capability, read-only disks."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

LEARNER, DAEMON = 1234, 1235
SETUP = """
set -e
mount --make-rprivate /
mount --bind {directory} {directory}
mount -o remount,bind,ro {directory}
mount --bind {directory}/state {directory}/state
mount -o remount,bind,rw {directory}/state
cd /
exec setpriv --reuid={daemon} --regid={daemon} --clear-groups --no-new-privs \\
    --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search \\
    {python} {program} {directory}
"""
PROGRAM = """
import asyncio, sys
from pathlib import Path
from pisyncd import log
from pisyncd.gateway.serving import bind
from pisyncd.sources import disk, sqlite

log.configure("error", "json")
root = Path(sys.argv[1])
try:
    (root / "learning/mine").write_bytes(b"x")
except OSError:
    print("cannot write")
private = root / "learning/private/deep.json"
print(disk.read_small(private, disk.fingerprint(private))[0].decode())
for name in ("closed.db", "live.db"):
    sqlite.snapshot(root / "learning" / name, root / "state" / name)
    print(name, (root / "state" / name).stat().st_size > 0)
asyncio.run(bind(root / "state/pisyncd.sock", "pisync")).close()
print("socket", oct((root / "state/pisyncd.sock").stat().st_mode & 0o777))
"""


def can_isolate() -> bool:
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("unshare", "setpriv", "mount")):
        return False
    return subprocess.run(["unshare", "-m", "mount", "--make-rprivate", "/"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_isolate(), reason="needs root and mount namespaces")
def test_the_service_reads_every_learners_files_and_writes_none(tmp_path: Path) -> None:
    for name in ("learning/private", "state"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "learning/private/deep.json").write_text('{"score": 1}')
    for name in ("closed.db", "live.db"):
        with_rows(tmp_path / "learning" / name).close()
    (tmp_path / "program.py").write_text(PROGRAM)
    setup = SETUP.format(directory=tmp_path, daemon=DAEMON, python=sys.executable, program=tmp_path / "program.py")
    live = with_rows(tmp_path / "learning/live.db")
    own(tmp_path)
    said = subprocess.run(["unshare", "-m", "sh", "-c", setup], capture_output=True, text=True, timeout=60)
    live.close()
    assert said.stdout.splitlines() == [
        "cannot write",
        '{"score": 1}',
        "closed.db True",
        "live.db True",
        "socket 0o660",
    ], said.stderr


def with_rows(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS marks (learner TEXT, mark INTEGER)")
    connection.execute("INSERT INTO marks VALUES ('a', 1)")
    connection.commit()
    return connection


def own(directory: Path) -> None:
    """The learner's files are the learner's alone, the state is the daemon's."""
    for path in [directory / "learning", *(directory / "learning").rglob("*")]:
        os.chown(path, LEARNER, LEARNER)
        path.chmod(0o700 if path.is_dir() else 0o600)
    os.chown(directory / "state", DAEMON, DAEMON)
