"""The cloud as its API shows it, over one kept connection of the standard library's client."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One path in the cloud: raw wire path, the current content and how many versions there are."""

    path: bytes
    sha256: str
    size: int
    versions: int


class CloudView:
    """Reads as the holder of `key`. Raises OSError or http.client.HTTPException when the cloud does not answer."""

    def __init__(self, port: int, key: str, device_id: str) -> None:
        self._port = port
        self._key = key
        self._device = urllib.parse.quote(device_id, safe="")
        self._connection: http.client.HTTPConnection | None = None

    def files(self) -> dict[bytes, Stored]:
        """Everything the device has delivered, by raw wire path."""
        found: dict[bytes, Stored] = {}
        for row in self._pages(f"/api/devices/{self._device}/files"):
            path = base64.b64decode(row["path_b64"])
            found[path] = Stored(path=path, sha256=row["sha256"], size=row["size"], versions=row["versions"])
        return found

    def history(self) -> list[dict[str, Any]]:
        """The newest sync events of the device."""
        return list(self._get(f"/api/device/{self._device}/sync-history?limit=20")["data"])

    def read(self, path: bytes, take: Callable[[bytes], object] | None = None) -> str:
        """Hands the content to `take` block by block; answers its SHA-256 as computed here."""
        digest = hashlib.sha256()
        with self._answer(f"/api/devices/{self._device}/files/{urllib.parse.quote(path)}") as answer:
            while block := answer.read(BLOCK_BYTES):
                digest.update(block)
                if take is not None:
                    take(block)
        return digest.hexdigest()

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        cursor = ""
        while True:
            more = f"&cursor={urllib.parse.quote(cursor, safe='')}" if cursor else ""
            page = self._get(f"{path}?limit=500{more}")
            yield from page["data"]
            cursor = page["pagination"].get("next_cursor") or ""
            if not cursor:
                return

    def _get(self, path: str) -> dict[str, Any]:
        with self._answer(path) as answer:
            whole: dict[str, Any] = json.loads(answer.read())
        return whole

    @contextlib.contextmanager
    def _answer(self, path: str) -> Iterator[http.client.HTTPResponse]:
        try:
            answer = self._ask(path)
        except (OSError, http.client.HTTPException):
            # The server closes connections that were idle; the second try opens a new one.
            self.close()
            answer = self._ask(path)
        try:
            if answer.status != 200:
                raise http.client.HTTPException(f"GET {path}: {answer.status} {answer.read(500)!r}")
            yield answer
        except BaseException:
            self.close()
            raise

    def _ask(self, path: str) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {self._key}"})
        return self._connection.getresponse()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
