"""The cloud as a process, and what an operator sees of it over HTTP."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import place
from .process import BIN, Child


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """A file as the cloud lists it; `path` is the raw wire path."""

    path: bytes
    sha256: str
    size: int
    versions: int


class Cloud:
    """`pisync-cloud serve` with a data directory of its own; it keeps its port over restarts."""

    def __init__(
        self,
        root: Path,
        *,
        database: str | None = None,
        host: str = "127.0.0.1",
        where: place.Place | None = None,
        data: Path | None = None,
    ) -> None:
        """Prepare; nothing runs yet. `root` receives the log, `data` (or root/data) the data."""
        root.mkdir(parents=True, exist_ok=True)
        self.data = data or root / "data"
        self.host = host
        self.port = free_port()
        self.process = Child("pisync-cloud", root / "cloud.log")
        self._database = ["--database", database] if database else []
        self._where = where or place.Here()
        self._viewer: str | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port."""
        return self.host, self.port

    @property
    def url(self) -> str:
        """Return the address as a URL."""
        return f"http://{self.host}:{self.port}"

    def start(self, *, env: Mapping[str, str] | None = None, within_s: float = 60.0) -> None:
        """Start it and wait until it answers its health check."""
        serve = ["serve", "--host", self.host, "--port", str(self.port), "--data", str(self.data), *self._database]
        self.process.start(self._where.command([str(BIN / "pisync-cloud"), *serve]), env)
        self.process.ready("answers", lambda: self.ask("GET", "/api/health").status < 500, within_s)

    def _secret(self, *arguments: str) -> str:
        command = [str(BIN / "pisync-cloud"), *arguments, "--data", str(self.data), *self._database]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip().splitlines()[-1]

    def enroll(self, device_id: str) -> str:
        """Return the token of a new device."""
        return self._secret("enroll", device_id)

    def key(self, name: str, role: str) -> str:
        """Return a new access key."""
        return self._secret("key", "create", name, "--role", role)

    def ask(
        self, method: str, path: str, *, key: str | None = None, body: bytes | None = None, **headers: str
    ) -> place.Answer:
        """Make one request; keyword arguments become headers with `_` as `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        return place.ask(lambda: self._where.connect(self.host, self.port, 30.0), method, path, headers=sent, body=body)

    @property
    def viewer(self) -> str:
        """Return a viewer's key, made on first use."""
        if self._viewer is None:
            self._viewer = self.key("system-test-viewer", "viewer")
        return self._viewer

    def data_of(self, path: str) -> Any:
        """Return the `data` of a GET as a viewer."""
        return self._read(path)["data"]

    def _read(self, path: str) -> Any:
        answer = self.ask("GET", path, key=self.viewer)
        if answer.status != 200:
            raise AssertionError(f"GET {path}: {answer.status} {answer.body[:2000]!r}")
        return answer.json()

    def _pages(self, path: str) -> Iterator[Any]:
        cursor = ""
        while True:
            joiner = "&" if "?" in path else "?"
            page = self._read(f"{path}{joiner}limit=500" + (f"&cursor={urllib.parse.quote(cursor)}" if cursor else ""))
            yield from page["data"]
            cursor = page["pagination"].get("next_cursor") or ""
            if not cursor:
                return

    def files(self, device_id: str) -> dict[bytes, Stored]:
        """Return everything that this device has delivered, by wire path."""
        found: dict[bytes, Stored] = {}
        for entry in self._pages(f"/api/devices/{device_id}/files"):
            path = base64.b64decode(entry["path_b64"])
            if path in found:
                raise AssertionError(f"{path!r} is listed twice")
            found[path] = Stored(path=path, sha256=entry["sha256"], size=entry["size"], versions=entry["versions"])
        return found

    def content(self, device_id: str, path: bytes, version: int | None = None) -> bytes:
        """Return the bytes of a file as the cloud serves them."""
        address = f"/api/devices/{device_id}/files/{urllib.parse.quote(path)}"
        if version is not None:
            address += f"?version={version}"
        answer = self.ask("GET", address, key=self.viewer)
        if answer.status != 200:
            raise AssertionError(f"GET {address}: {answer.status} {answer.body[:500]!r}")
        return answer.body

    def history(self, device_id: str) -> list[dict[str, Any]]:
        """Return the sync events of a device, newest first."""
        return list(self._pages(f"/api/device/{device_id}/sync-history"))

    def kill_now(self) -> None:
        """End it without warning and do not wait for its end."""
        self.process.kill_now()

    def kill(self) -> None:
        """End it without warning."""
        self.process.kill()

    def stop(self) -> int:
        """End it in good order; a body under way may take its drain time of 30 s."""
        return self.process.stop(within_s=60)


def sha256(content: bytes) -> str:
    """Return the checksum as the cloud names it."""
    return hashlib.sha256(content).hexdigest()
