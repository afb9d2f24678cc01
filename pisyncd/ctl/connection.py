"""One request to the daemon over its Unix socket. Only the standard library, so that pisyncctl starts at once."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import Any
from urllib.parse import urlencode

TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 16 * 1024 * 1024

EXIT_UNREACHABLE = 69
EXIT_INTERNAL = 70


class Trouble(Exception):
    """No useful answer: what happened, what to do, and the exit code."""

    def __init__(self, detail: str, hint: str, exit_code: int, code: str = "unreachable") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.exit_code = exit_code
        self.code = code


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """The daemon behind a socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get(self, route: str, **query: object) -> dict[str, Any]:
        """The answer's JSON. Bytes in the query are sent as they are. Raises Trouble."""
        asked = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", f"{route}?{urlencode(asked)}" if asked else route, None)

    def post(
        self, route: str, body: dict[str, object] | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> dict[str, Any]:
        """The answer's JSON. Raises Trouble."""
        return self._ask("POST", route, body, timeout_s)

    def _ask(
        self, method: str, target: str, body: dict[str, object] | None, timeout_s: float = TIMEOUT_S
    ) -> dict[str, Any]:
        with contextlib.closing(_UnixConnection(self._path, timeout_s)) as connection:
            try:
                raw = None if body is None else json.dumps(body).encode("ascii")
                headers = {} if raw is None else {"Content-Type": "application/json"}
                connection.request(method, target, body=raw, headers=headers)
                response = connection.getresponse()
                status, text = response.status, response.read(ANSWER_BYTES_MAX)
            except (OSError, http.client.HTTPException) as error:
                raise _unreachable(error, self._path, timeout_s) from error
        try:
            answer = json.loads(text)
            assert isinstance(answer, dict)
        except (ValueError, AssertionError):
            raise Trouble(f"{self._path} answers, but it is not pisyncd", "check --socket", EXIT_UNREACHABLE) from None
        if status >= 400 and "code" in answer:
            exit_code = EXIT_INTERNAL if status >= 500 else 1
            raise Trouble(answer.get("detail", ""), answer.get("hint", ""), exit_code, answer["code"])
        return answer


def _unreachable(error: Exception, path: str, timeout_s: float) -> Trouble:
    if isinstance(error, FileNotFoundError):
        return Trouble(f"pisyncd is not running ({path} is not there)", _START, EXIT_UNREACHABLE, "not-running")
    if isinstance(error, ConnectionRefusedError):
        return Trouble(f"pisyncd is not running (nobody answers on {path})", _START, EXIT_UNREACHABLE, "not-running")
    if isinstance(error, PermissionError):
        hint = "use sudo, or join the group: `sudo usermod -aG pisync $USER`, then log in again"
        return Trouble(f"you may not use {path}", hint, EXIT_UNREACHABLE, "permission-denied")
    if isinstance(error, TimeoutError):
        hint = "`journalctl -u pisyncd -n 50` shows what it does; systemd restarts it when it is stuck"
        return Trouble(f"pisyncd does not answer within {timeout_s:.0f} s", hint, EXIT_UNREACHABLE, "no-answer")
    return Trouble(f"{path}: {error}", _START, EXIT_UNREACHABLE)


_START = "`systemctl status pisyncd` says why; `sudo systemctl start pisyncd` starts it"
