"""One child process: its log, its end, and what it uses."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .wait import PATIENCE, until

BIN = Path(sys.executable).parent
# A test run that is killed takes its daemons with it.
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Child:
    """A process whose output goes to a file; it is started and ended any number of times."""

    def __init__(self, name: str, log: Path) -> None:
        """Name it for messages; nothing runs yet."""
        self.name = name
        self.log = log
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start it; its output is appended to the log."""
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*_ENDS_WITH_US, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            )

    @property
    def pid(self) -> int:
        """Return the id of the running process."""
        if self._popen is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._popen.pid

    def exit_code(self) -> int | None:
        """Return how it ended, or None while it runs or when it was never started."""
        return None if self._popen is None else self._popen.poll()

    def running(self) -> bool:
        """Tell whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        if self.running():
            os.kill(self.pid, number)

    def kill_now(self) -> None:
        """End it without warning and do not wait for its end."""
        self.signal(signal.SIGKILL)

    def kill(self) -> None:
        """End it without warning, as a power cut does."""
        self.signal(signal.SIGKILL)
        if self._popen is not None:
            self._popen.wait(timeout=10)

    def stop(self, within_s: float = 30.0) -> int:
        """Ask it to end (SIGTERM) and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within_s)

    def wait(self, within_s: float = 60.0) -> int:
        """Wait for its end and return its exit code; TimeoutError with the log when it does not end."""
        if self._popen is None:
            raise RuntimeError(f"{self.name} was not started")
        try:
            return self._popen.wait(timeout=within_s * PATIENCE)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {within_s:g} s\n{self.tail()}") from None

    def tail(self, lines: int = 40) -> str:
        """Return the end of its log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def ready(self, what: str, look: object, within_s: float) -> None:
        """Wait until `look()` is true; a process that ends meanwhile is reported with its log."""

        def check() -> bool:
            if not self.running():
                raise RuntimeError(f"{self.name} ended with {self.exit_code()}\n{self.tail()}")
            return bool(callable(look) and look())

        until(f"{self.name} {what}", check, within_s=within_s)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its threads have used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory_mb(pid: int) -> tuple[float, float]:
    """Return the resident set of a process now and at its highest, in MB (10^6 bytes)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    now, peak = (int(status[field].split()[0]) * 1024 / 1e6 for field in ("VmRSS", "VmHWM"))
    return now, peak
