"""The applications that may use the port: a file with a line `name: token` for each, the token or its SHA-256."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from pathlib import Path

import structlog

from pisyncd.core import wire
from pisyncd.core.errors import ConfigError

log = structlog.get_logger()

FILE_BYTES_MAX = 1024 * 1024
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAME = re.compile(NAME_PATTERN)
_TOKEN = re.compile(r"[!-~]{16,512}")
_HASH = re.compile(r"[0-9a-f]{64}")
_OTHERS = stat.S_IRWXO | stat.S_IWGRP
_HINT = "make it with `pisyncd app-token NAME`"

_Seen = tuple[int, int, int, int]


class Tokens:
    """Reads the file again when it has changed, so that a new token works at once and a removed one no longer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: _Seen | None = None
        self._known: dict[str, str] = {}
        self._fault = ""

    def name_of(self, token: str) -> str | None:
        """Whose token it is; None when nobody's, or when the file cannot be trusted."""
        self._refresh()
        asked = wire.token_hash(token)
        found = None
        # All are compared, so that the time tells nothing.
        for name, known in self._known.items():
            if hmac.compare_digest(known, asked):
                found = name
        return found

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)
            if seen != self._seen:
                self._known = read(self._path)
                self._seen, self._fault = seen, ""
        except (OSError, ConfigError) as error:
            self._seen, self._known = None, {}
            detail = error.detail if isinstance(error, ConfigError) else f"{self._path}: {error.strerror}"
            if detail != self._fault:
                log.error("intake.tokens_unusable", detail=detail, hint=_HINT)
            self._fault = detail


def read(path: Path) -> dict[str, str]:
    """name -> SHA-256 of its token, 64 hex digits. Raises ConfigError, OSError."""
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        raw = file.read(FILE_BYTES_MAX + 1)
    if not stat.S_ISREG(mode) or mode & _OTHERS:
        raise _invalid(f"{path} can be read or written by others", f"chmod 0600 {path}")
    known: dict[str, str] = {}
    for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, _, token = (part.strip() for part in text.partition(":"))
        if not _NAME.fullmatch(name) or not _TOKEN.fullmatch(token) or name in known or len(raw) > FILE_BYTES_MAX:
            raise _invalid(
                f"{path}, line {number}: is not `name: token` with at least 16 signs, or the name is not new"
            )
        known[name] = token if _HASH.fullmatch(token) else wire.token_hash(token)
    return known


def add(path: Path, name: str, *, owner_like: Path) -> str:
    """A new token for `name`, whose old one works no longer; the file holds its hash only. Raises ConfigError, OSError.

    The file belongs to whom `owner_like` belongs to: root makes it, the daemon's user reads it.
    """
    if not _NAME.fullmatch(name):
        raise _invalid(f"{name[:80]!r} is not a name", "letters, digits, `.`, `_`, `-`; at most 64")
    known = read(path) if path.exists() else {}
    token = secrets.token_urlsafe(32)
    known[name] = wire.token_hash(token)
    text = "".join(f"{each}: {digest}\n" for each, digest in known.items())
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)
        if os.geteuid() == 0 and owner_like.exists():
            owner = owner_like.stat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        file.write("# name: SHA-256 of its token\n" + text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return token


def _invalid(detail: str, hint: str = _HINT) -> ConfigError:
    return ConfigError(detail, code="tokens-invalid", hint=hint)
