"""HTTP to the daemon's Unix socket or to an address. Every failure is mapped here, once; nothing lasts for ever."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pisyncd.client.settings import Settings

ANSWER_BYTES_MAX = 1024 * 1024
USER_HEADER = "PiSync-User"
#: What to do when nobody answers, for events.
QUEUED = "nothing is lost: events wait in the queue and are sent when it answers"


class Unreachable(Exception):
    """No answer: a stable code, what happened, what to do."""

    def __init__(self, code: str, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.hint = hint


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An HTTP answer. `body` is its decoded JSON, None where it is none."""

    status: int
    retry_after: str | None
    body: Any


class Link:
    """Connections to one destination, one at a time, kept open until `close`."""

    def __init__(self, settings: Settings, token: str | None, *, patience: str = QUEUED) -> None:
        self._settings = settings
        self._token = token
        self._patience = patience
        self._base = urlsplit(settings.url).path if settings.url else ""
        self._connection: _Connection | None = None

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        user_id: str = "",
        if_match: str | None = None,
        timeout_s: float | None = None,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        """One request, at most `timeout_s` long (the settings'), answered in `bytes_max`. Raises Unreachable."""
        # Of a batch, only what was refused needs to be named.
        headers = {"Accept": "application/json", "Prefer": "return=minimal"}
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"'
        if user_id:
            headers[USER_HEADER] = user_id
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        raw = None
        if body is not None:
            raw = body if isinstance(body, bytes) else json.dumps(body, allow_nan=False).encode("ascii")
            headers["Content-Type"] = "application/json"
        limit_s = self._settings.timeout_s if timeout_s is None else timeout_s
        try:
            return self._asked(method, self._base + path, raw, headers, limit_s, bytes_max)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _unreachable(error, self._settings, limit_s, self._patience) from error
        except BaseException:
            # Half an answer on a connection would be read as the next one.
            self.close()
            raise

    def _asked(
        self, method: str, target: str, raw: bytes | None, headers: Mapping[str, str], limit_s: float, bytes_max: int
    ) -> Answer:
        connection = self._connection = self._connection or _connection(self._settings)
        connection.until = time.monotonic() + limit_s
        connection.request(method, target, body=raw, headers=dict(headers))
        response = connection.getresponse()
        text = response.read(bytes_max + 1)
        if len(text) > bytes_max:
            raise http.client.HTTPException("the answer is larger than anything that is expected")
        return Answer(status=response.status, retry_after=response.getheader("Retry-After"), body=_decoded(text))

    def close(self) -> None:
        """Ends the connection; the next request makes a new one."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
        self._connection = None


class _Paced(io.RawIOBase):
    """Reads from a socket until a moment: a time limit per read would let a slow answer last for ever."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        super().__init__()
        self._sock = sock
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)


class _Connection(http.client.HTTPConnection):
    """A connection whose answers end by `until` (monotonic seconds)."""

    until = 0.0

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.url or "http://localhost")
        secure = parts.scheme == "https"
        super().__init__(parts.hostname or "", parts.port or (443 if secure else 80), timeout=settings.timeout_s)
        self._socket_path = None if settings.url else settings.socket
        self._secure = secure
        self.response_class = self._response  # type: ignore[assignment]

    def connect(self) -> None:
        if self._socket_path is not None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._socket_path)
            return
        super().connect()
        if self._secure:
            import ssl  # a tenth of a second on a Pi, and the socket does not need it

            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def request(self, *args: Any, **more: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(self.timeout)
        super().request(*args, **more)

    def _response(self, sock: socket.socket, *args: Any, **more: Any) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(sock, *args, **more)
        # The first reader stays: it is what keeps the socket open after `Connection: close`.
        response.kept = response.fp  # type: ignore[attr-defined]
        response.fp = io.BufferedReader(_Paced(sock, self.until))
        return response


def _connection(settings: Settings) -> _Connection:
    return _Connection(settings)


def _decoded(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _unreachable(error: Exception, settings: Settings, limit_s: float, patience: str) -> Unreachable:
    where = settings.where
    if isinstance(error, TimeoutError):
        return Unreachable("no-answer", f"{where} does not answer within {limit_s:g} s", patience)
    if settings.url is not None:
        return Unreachable("link-down", f"{where}: {_said(error)}", patience)
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return Unreachable("not-running", f"pisyncd is not running (nobody answers on {where})", patience)
    if isinstance(error, PermissionError):
        hint = "let the application's user join the group: `sudo usermod -aG pisync NAME`, then start it again"
        return Unreachable("permission-denied", f"this user may not use {where}", hint)
    return Unreachable("link-down", f"{where}: {_said(error)}", patience)


def _said(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:300]
