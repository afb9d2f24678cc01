"""A boot of its own for a process: a new boot id, a monotonic clock that begins, and a wall clock that may be wrong."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

_WRONG_CLOCK = Path(__file__).parent / "wrongclock"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def possible() -> bool:
    """Tell whether this machine lets us make namespaces."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "--time", "--boottime", "1", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Boot:
    """A place whose processes believe that the machine has just been switched on."""

    def __init__(self, root: Path, *, clock_off_s: int = 0) -> None:
        """`clock_off_s`: how far the wall clock is off. `root` gets a file with the boot id."""
        self.boot_id = str(uuid.uuid4())
        self._file = root / f"boot-{self.boot_id[:8]}"
        self._file.write_text(self.boot_id + "\n")
        self._clock_off_s = clock_off_s

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs there; the boot begins with the process."""
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        prepare = f'mount --bind "$0" {_BOOT_ID} && exec "$@"'
        return [
            "env", f"PYTHONPATH={_WRONG_CLOCK}", f"PISYNC_TEST_CLOCK_OFF_S={self._clock_off_s}",
            "unshare", "--mount", "--time", f"--boottime={-int(uptime_s)}", "--kill-child=KILL",
            "sh", "-c", prepare, str(self._file), *arguments,
        ]  # fmt: skip

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Open an ordinary connection."""
        return socket.create_connection((host, port), timeout=timeout_s)
