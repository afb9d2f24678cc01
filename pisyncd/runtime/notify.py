"""What systemd is told: ready, reloading, stopping, a status line, and that the daemon is alive (sd_notify(3)).

Outside systemd every call does nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

import sdnotify  # type: ignore[import-untyped]

STATUS_MAX = 200
SEND_S = 1.0


class Notifier:
    """Speaks to the socket that systemd names in NOTIFY_SOCKET."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        # Without the variable sdnotify opens a socket and drops it.
        self._systemd = sdnotify.SystemdNotifier() if environ.get("NOTIFY_SOCKET") else None
        if self._systemd is not None and self._systemd.socket is not None:
            # A systemd that hangs must not hang the event loop.
            self._systemd.socket.settimeout(SEND_S)
        self.watchdog_interval_s = watchdog_interval_s(environ)

    def ready(self, status: str) -> None:
        """Started, or reloaded."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """Reading the configuration again; ready() ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1", _status("stopping"))

    def status(self, text: str) -> None:
        """The line that `systemctl status pisyncd` shows."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """Alive. Call it only when that is true."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._systemd is not None and self._systemd.socket is not None:
            self._systemd.socket.close()
            self._systemd = None

    def _send(self, *lines: str) -> None:
        if self._systemd is not None:
            with contextlib.suppress(OSError):
                self._systemd.notify("\n".join(lines))


def watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Half of WATCHDOG_USEC: how often to feed the watchdog. None when it is off or another process's."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit() and int(usec) > 0):
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(usec) / 2_000_000


def _status(text: str) -> str:
    # sdnotify sends latin-1 and swallows what does not fit, and a newline would begin another field.
    plain = " ".join(text.split()).encode("ascii", "replace").decode("ascii")
    return f"STATUS={plain[:STATUS_MAX]}"
