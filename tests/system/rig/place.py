"""Where a process runs: on this machine, or in one of the emulator's network namespaces."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Place(Protocol):
    """Somewhere to start processes and to open connections from."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs these arguments there."""

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Return a TCP connection opened from there."""


class Here:
    """This machine, with no detour."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments unchanged."""
        return list(arguments)

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Open an ordinary connection."""
        return socket.create_connection((host, port), timeout=timeout_s)


class SocketConnection(http.client.HTTPConnection):
    """An HTTP connection over whatever socket `opened` returns (a Unix socket, a namespace)."""

    def __init__(self, opened: Callable[[], socket.socket], timeout_s: float) -> None:
        """Connect lazily, as HTTPConnection does."""
        super().__init__("localhost", timeout=timeout_s)
        self._opened = opened

    def connect(self) -> None:
        """Open the socket."""
        self.sock = self._opened()


class Answer:
    """An HTTP answer, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        """Read the body to its end."""
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self) -> Any:
        """Return the body parsed."""
        return json.loads(self.body)


def ask(
    opened: Callable[[], socket.socket],
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    timeout_s: float = 30.0,
) -> Answer:
    """Make one request on a connection of its own; OSError when there is no answer."""
    with contextlib.closing(SocketConnection(opened, timeout_s)) as connection:
        try:
            connection.request(method, path, body=body, headers=headers or {})
            return Answer(connection.getresponse())
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
