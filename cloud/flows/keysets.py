"""The public keys that users' tokens are signed with: a JWKS (RFC 7517), from a file or an address."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import jwt
import msgspec
import structlog

from pisyncd.core import link
from pisyncd.core.errors import ConfigError, TransientError

log = structlog.get_logger()

ALGORITHMS = ("RS256", "ES256", "EdDSA")
REFRESH_MIN_S = 60.0
AGE_MAX_S = 3600.0
FETCH_TIMEOUT_S = 5.0
BYTES_MAX = 1024 * 1024

#: Key id and key; the id is '' when the key has none.
Keys = tuple[tuple[str, jwt.PyJWK], ...]


class KeysUnavailable(TransientError):
    """The issuer's keys cannot be had now."""

    code = "keys-unavailable"


class _Set(msgspec.Struct, frozen=True):
    keys: list[dict[str, msgspec.Raw]]


class KeySet:
    """Keys that are fetched when first needed, again when they are old, and when a token names one that is not there.

    At most once a minute, by whoever comes first; when that fails the ones from before stay.
    """

    def __init__(self, where: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._where = where
        self._clock = clock
        self._keys: Keys = ()
        self._asked_at = float("-inf")
        self._fresh_at = float("-inf")
        self._failed = ""
        self._lock = asyncio.Lock()
        self.generation = 0

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of that id for that algorithm, or None. Raises KeysUnavailable when nobody can say."""
        await self.keep_fresh()
        found = self._pick(kid, algorithm)
        if found is None:
            await self._refresh()
            found = self._pick(kid, algorithm)
        if found is None and self._failed:
            raise KeysUnavailable(f"the issuer's keys cannot be had: {self._failed}", retry_after_s=REFRESH_MIN_S)
        return found

    async def keep_fresh(self) -> None:
        """Fetches keys that are old; nobody waits for a fetch that another has begun."""
        if self._keys and self._clock() - self._fresh_at > AGE_MAX_S and not self._lock.locked():
            await self._refresh()

    def _pick(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        fitting = [key for known, key in self._keys if key.algorithm_name == algorithm and (not kid or known == kid)]
        # A token that names no key can only be meant for the one there is.
        return fitting[0] if len(fitting) == 1 or (fitting and kid) else None

    async def _refresh(self) -> None:
        async with self._lock:
            if self._clock() - self._asked_at < REFRESH_MIN_S:
                return
            self._asked_at = self._clock()
            try:
                keys = parse(await self._fetch())
            except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
                self._failed = str(error)[:200] or type(error).__name__
                log.warning("keys.not_fetched", where=self._where, error=self._failed, kept=len(self._keys))
                return
            self._failed = ""
            self._fresh_at = self._clock()
            if _shown(keys) != _shown(self._keys):
                self.generation += 1
                log.info("keys.fetched", where=self._where, keys=[kid for kid, _ in keys])
            self._keys = keys

    async def _fetch(self) -> bytes:
        if "://" not in self._where:
            return await asyncio.to_thread(_read, self._where)
        timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            # A redirect could lead away from TLS.
            http.get(self._where, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"answered with {answer.status}")
            body = bytearray()
            async for part in answer.content.iter_chunked(65_536):
                body += part
                if len(body) > BYTES_MAX:
                    raise ValueError(f"more than {BYTES_MAX} bytes")
            return bytes(body)


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(BYTES_MAX)


def _shown(keys: Keys) -> list[tuple[str, str]]:
    return [(kid, repr(sorted(key._jwk_data.items()))) for kid, key in keys]


def parse(body: bytes) -> Keys:
    """The keys of a JWKS that are for signatures and of a kind that is allowed. Raises ValueError when it is none."""
    try:
        found = msgspec.json.decode(body, type=_Set)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"this is no JWKS: {error}") from None
    keys = []
    for raw in found.keys:
        # One key of a kind that is not known here must not hide the others.
        with contextlib.suppress(msgspec.DecodeError, jwt.PyJWTError, ValueError, TypeError, RecursionError):
            data = {name: msgspec.json.decode(value) for name, value in raw.items()}
            if data.get("kty") == "oct" or data.get("use", "sig") != "sig" or "d" in data:
                continue
            key = jwt.PyJWK(data)
            if key.algorithm_name in ALGORITHMS:
                keys.append((str(data.get("kid", "")), key))
    return tuple(keys)


def check(where: str) -> None:
    """Whether `jwt_jwks` can be meant. Raises ConfigError: neither https nor a file with keys."""
    if "://" in where:
        parts = urlsplit(where)
        if parts.scheme != "https" and not (parts.scheme == "http" and link.is_loopback(parts.hostname or "")):
            raise ConfigError("jwt_jwks has to be an https address or a file", hint="keys from http could be anybody's")
        return
    try:
        keys = parse(_read(where))
    except (OSError, ValueError) as error:
        raise ConfigError(f"jwt_jwks: {where}: {error}", hint='a file like {"keys": [...]}') from error
    if not keys:
        raise ConfigError(f"jwt_jwks: {where} holds no public key", hint=f"for one of {', '.join(ALGORITHMS)}")
