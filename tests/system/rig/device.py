"""The device as a process: its configuration, its runs, and its status socket."""

from __future__ import annotations

import copy
import json
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import place
from .process import BIN, Child

# Quick enough for a test to wait on conditions, within what the configuration allows.
QUICK: dict[str, dict[str, Any]] = {
    "settle": {"debounce_s": 0.1, "force_s": 5},
    "sync": {"retry_delay_s": 1},
    "backoff": {"base_s": 0.1, "cap_s": 1, "item_base_s": 0.2, "item_cap_s": 1},
    "probe": {"interval_s": 1, "timeout_s": 5},
    "disk": {"free_floor_bytes": 0, "free_floor_percent": 0},
    "transfer": {"chunk_bytes_min": 65536, "chunk_bytes_start": 65536, "chunk_bytes_max": 65536, "stall_s": 10},
    "stop": {"drain_s": 5},
}


class Device:
    """`pisyncd` with a state directory and a configuration of its own."""

    def __init__(
        self,
        root: Path,
        *,
        device_id: str,
        token: str,
        url: str,
        watch: Sequence[Path | dict[str, Any]],
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        where: place.Place | None = None,
        state: Path | None = None,
        quick: bool = True,
    ) -> None:
        """Write token and configuration below `root`.

        `settings` are merged section by section over QUICK, or over the daemon's own defaults with `quick` false.
        """
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.device_id = device_id
        self.state = state or root / "state"
        # A Unix socket's path has room for about 100 characters.
        self._runtime = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
        self.process = Child("pisyncd", root / "pisyncd.log")
        self.config = root / "pisyncd.yaml"
        self.url = url
        self.watch: list[Path | dict[str, Any]] = list(watch)
        self.settings: dict[str, dict[str, Any]] = copy.deepcopy(QUICK) if quick else {}
        for section, values in (settings or {}).items():
            self.settings.setdefault(section, {}).update(values)
        self._where = where or place.Here()
        self._token_file = root / "token"
        self._token_file.write_text(token)
        self._token_file.chmod(0o600)
        self.write_config()

    def write_config(self) -> None:
        """Write the configuration from `url`, `watch` and `settings`. JSON is YAML."""
        roots = [root if isinstance(root, dict) else {"path": str(root)} for root in self.watch]
        whole = {
            "device_id": self.device_id,
            "state_dir": str(self.state),
            "runtime_dir": str(self._runtime),
            "watch": roots,
            "cloud": {"url": self.url, "token_file": str(self._token_file)},
        }
        for section, values in self.settings.items():
            whole[section] = {**whole.get(section, {}), **values}  # type: ignore[dict-item]
        self.config.write_text(json.dumps(whole, indent=2))

    def _start(self, verb: str, env: Mapping[str, str] | None) -> None:
        command = [str(BIN / "pisyncd"), verb, "--config", str(self.config)]
        self.process.start(self._where.command(command), env)

    def once(self, within_s: float = 60.0, env: Mapping[str, str] | None = None) -> int:
        """Run one full cycle and return the exit code: 0 everything delivered, 75 not."""
        self._start("once", env)
        return self.process.wait(within_s)

    def move(self, where: place.Place) -> None:
        """Run somewhere else from the next start on."""
        self._where = where

    @property
    def socket(self) -> Path:
        """Return the path of its socket."""
        return self._runtime / "pisyncd.sock"

    def begin_once(self, env: Mapping[str, str] | None = None) -> None:
        """Start one full cycle and do not wait for it."""
        self._start("once", env)

    def begin_run(self, env: Mapping[str, str] | None = None) -> None:
        """Start the daemon and do not wait for it."""
        self._start("run", env)

    def start(self, env: Mapping[str, str] | None = None, within_s: float = 30.0) -> None:
        """Start the daemon and wait until its socket answers."""
        self._start("run", env)
        self.process.ready("answers", lambda: self.ask("GET", "/healthz").status in (200, 503), within_s)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        try:
            connection.connect(str(self._runtime / "pisyncd.sock"))
        except OSError:
            connection.close()
            raise
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> place.Answer:
        """Make one request on the socket; keyword arguments become headers with `_` as `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return place.ask(self._connect, method, path, headers=sent, body=body)

    def status(self) -> Any:
        """Return what GET /status says."""
        return self.ask("GET", "/status").json()

    def kill_now(self) -> None:
        """End it without warning and do not wait for its end."""
        self.process.kill_now()

    def kill(self) -> None:
        """End it without warning, as a power cut does."""
        self.process.kill()

    def stop(self, within_s: float = 30.0) -> int:
        """End it in good order and return the exit code."""
        return self.process.stop(within_s)

    def reload(self) -> None:
        """Ask it to read its configuration anew."""
        self.process.signal(signal.SIGHUP)

    def close(self) -> None:
        """End it if it runs and remove what lies outside `root`."""
        self.process.kill()
        shutil.rmtree(self._runtime, ignore_errors=True)
