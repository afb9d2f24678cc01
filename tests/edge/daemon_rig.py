"""A real daemon that has no cloud, to be killed at any moment."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Nobody to wait for; a machine under load may take its time.
PATIENCE_S = 60.0
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()


class Connection(http.client.HTTPConnection):
    """HTTP over the daemon's socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Daemon:
    """`pisyncd run` with directories of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.intake = self.state / "intake"
        # A socket's path has room for about 100 characters.
        self._runtime = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
        self.socket = self._runtime / "pisyncd.sock"
        (root / "learning").mkdir()
        (root / "token").write_text("some-token-of-a-device")
        self._config = root / "pisyncd.yaml"
        whole = {
            "device_id": "pibox-1",
            "state_dir": str(self.state),
            "runtime_dir": str(self._runtime),
            "cloud": {"url": "http://127.0.0.1:9", "token_file": str(root / "token")},
            "watch": [{"path": str(root / "learning")}],
            "disk": {"free_floor_bytes": 0, "free_floor_percent": 0},
            "messages": {"queue_max": 1_000_000},
        }
        self._config.write_text(json.dumps(whole))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Runs until killed; returns when its socket answers."""
        with (self.root / "log").open("ab") as log:
            command = [*_ENDS_WITH_US, sys.executable, "-m", "pisyncd", "run", "--config", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
        self.until(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.root / "log").read_text()[-3000:]
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", "/healthz")[0] in (200, 503)
        return False

    def until(self, true: Any) -> None:
        """Waits for a condition."""
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end, (self.root / "log").read_text()[-3000:]
            time.sleep(0.01)

    def kill(self) -> None:
        """Without warning, as a power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """(status, JSON)."""
        with contextlib.closing(Connection(self.socket)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, None if body is None else json.dumps(body), named)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")

    def owed(self) -> list[tuple[str, str]]:
        """(id, body) of all learning messages in the outbox, whether the daemon runs or not."""
        with contextlib.closing(sqlite3.connect(self.state / "outbox.db")) as db:
            assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
            return db.execute(
                "SELECT id, body FROM messages WHERE stream LIKE 'learn%' ORDER BY stream, seq"
            ).fetchall()

    def close(self) -> None:
        """Ends it and removes what lies outside of its root."""
        self.kill()
        shutil.rmtree(self._runtime, ignore_errors=True)


@contextlib.contextmanager
def daemon(root: Path) -> Iterator[Daemon]:
    """Not started yet."""
    made = Daemon(root)
    try:
        yield made
    finally:
        made.close()
