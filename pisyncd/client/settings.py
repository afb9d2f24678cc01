"""What a client is told once: where events go, who the learner is, where they wait."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, cast
from urllib.parse import urlsplit

SOCKET = "/run/pisyncd/pisyncd.sock"
_UNFIT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_FIT_IN_A_HEADER = re.compile(r"[!-~]{1,8192}")


class Options(TypedDict, total=False):
    """What TelemetryClient and SyncClient take by keyword. All of it is optional.

    application     names the queue; the program's own name otherwise
    path            the queue's file; $XDG_STATE_HOME/pisync/APPLICATION.db otherwise
    socket          the daemon's Unix socket; $PISYNC_SOCKET or /run/pisyncd/pisyncd.sock otherwise
    url             http://127.0.0.1:PORT of the daemon, or https://... of the cloud, instead of the socket
    token           for `url`: a token of the daemon's or the cloud's, or a user's JWT
    user_id         UUID of the learner (header PiSync-User); with a JWT its `sub` counts
    session_id      UUID of the session that events belong to where they do not say
    source          `web`, `mobile` or `api` (default)
    flush_count     send when so many events wait (10)
    flush_s         send after so many seconds at the latest (12)
    exit_s          wait so long at the exit of the program for what still waits to be sent (2)
    timeout_s       give up on one request after so many seconds (15)
    events_max      keep at most so many events in the queue (10,000)
    bytes_max       and at most so many bytes (8 MiB)
    """

    application: str
    path: str | os.PathLike[str]
    socket: str | os.PathLike[str]
    url: str
    token: str
    user_id: str | uuid.UUID
    session_id: str | uuid.UUID
    source: Literal["web", "mobile", "api"]
    flush_count: int
    flush_s: float
    exit_s: float
    timeout_s: float
    events_max: int
    bytes_max: int


class Connection(TypedDict, total=False):
    """What RecordsClient takes by keyword: `socket`, `url`, `token`, `timeout_s` as in Options; all optional."""

    socket: str | os.PathLike[str]
    url: str
    token: str
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options, checked, with every default filled in. `url` is None for the socket."""

    path: Path
    socket: str
    url: str | None
    token: str | None
    user_id: str
    session_id: str | None
    source: str
    flush_count: int = 10
    flush_s: float = 12.0
    exit_s: float = 2.0
    timeout_s: float = 15.0
    events_max: int = 10_000
    bytes_max: int = 8 * 1024 * 1024

    @property
    def where(self) -> str:
        """The destination, for people."""
        return self.url or self.socket


def read(options: Options) -> Settings:
    """Raises ValueError for what can only be a mistake in the program: an address or an id that is none."""
    if strangers := sorted(options.keys() - Options.__annotations__.keys()):
        raise TypeError(f"{strangers[0]!r} is no option; there are {', '.join(Options.__annotations__)}")
    token = options.get("token") or None
    check_token(token)
    source = options.get("source", "api")
    if source not in ("web", "mobile", "api"):
        raise ValueError(f"source is web, mobile or api, not {source!r}")
    user = options.get("user_id")
    session = options.get("session_id")
    given = {
        name: _positive(name, value)
        for name in ("flush_count", "flush_s", "exit_s", "timeout_s", "events_max", "bytes_max")
        if (value := options.get(name)) is not None
    }
    return Settings(
        path=queue_path(options),
        socket=os.fspath(options.get("socket") or os.environ.get("PISYNC_SOCKET") or SOCKET),
        url=_url(options["url"]) if options.get("url") else None,
        token=token,
        user_id=_uuid("user_id", user) if user else "",
        session_id=_uuid("session_id", session) if session else None,
        source=source,
        **given,  # type: ignore[arg-type]
    )


def read_connection(options: Connection) -> Settings:
    """Raises ValueError as `read` does, TypeError for an option that is none."""
    if strangers := sorted(options.keys() - Connection.__annotations__.keys()):
        raise TypeError(f"{strangers[0]!r} is no option; there are {', '.join(Connection.__annotations__)}")
    return read(cast(Options, options))


def check_token(token: str | None) -> None:
    """Raises ValueError for what would break a header."""
    if token is not None and not _FIT_IN_A_HEADER.fullmatch(token):
        raise ValueError("a token is printable ASCII without spaces")


def queue_path(options: Options) -> Path:
    """The file in which events wait."""
    if path := options.get("path"):
        return Path(path).absolute()
    name = _UNFIT_IN_A_NAME.sub("-", options.get("application") or Path(sys.argv[0] or "python").stem).strip(".-")
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    # Without a home the path stays as it is and cannot be made: the queue is then kept in memory.
    return Path(os.path.expanduser(state)) / "pisync" / f"{name[:64] or 'application'}.db"  # noqa: PTH111


def bound_user(url: str | None, token: str | None) -> str | None:
    """The user that a token speaks for alone: a JWT's `sub`; None where the header PiSync-User names the user.

    The token is not verified here, the cloud does that. The daemon's socket asks for no token.
    """
    parts = (token or "").split(".")
    if url is None or len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return str(uuid.UUID(claims["sub"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _positive(name: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise ValueError(f"{name} is a number that is not negative, not {value!r}")
    return value


def _url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError(f"url is http://127.0.0.1:PORT or https://host[:port][/path], not {url!r}")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        # Whoever listens on the way could read the token and the events.
        raise ValueError(f"url is http only on this machine, elsewhere https: {url!r}")
    if parts.port == 0 or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"url is not an address: {url!r}")
    return url.rstrip("/")


def _uuid(name: str, value: str | uuid.UUID) -> str:
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise ValueError(f"{name} is a UUID, not {value!r}") from None
