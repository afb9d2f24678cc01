"""The only place that sends webhooks: one signed POST, whose end is a value.

The address is judged where the connection is made: by the resolver for names and once more by the maker of sockets, so
neither a name that changes nor a spelling that a resolver understands leads elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult

from cloud.rules import delivery, signing, targets
from cloud.rules.delivery import Attempted
from cloud.rules.targets import Network
from cloud.store.webhooks import Endpoint
from pisyncd import __version__

log = structlog.get_logger()

ANSWER_BYTES_MAX = 1024
#: The status decides; how the answer's body begins is only for the log.
ANSWER_S = 1.0

#: The addresses of a name. Raises OSError.
Lookup = Callable[[str], Awaitable[Sequence[str]]]


class TargetRefused(OSError):
    """A webhook must not go there."""


class Names:
    """Looks names up, each in one thread at most: a name server that hangs for one holds up no other.

    The threads are daemons, so that none of them holds up the end of the process either.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str) -> list[str]:
        found = self._under_way.get(host)
        if found is None:
            found = self._under_way[host] = asyncio.get_running_loop().create_future()
            found.add_done_callback(partial(self._done, host))
            threading.Thread(target=_look, args=(host, found), name="webhook-names", daemon=True).start()
        return await asyncio.shield(found)

    def _done(self, host: str, found: asyncio.Future[list[str]]) -> None:
        del self._under_way[host]
        if not found.cancelled():
            found.exception()


def _look(host: str, found: asyncio.Future[list[str]]) -> None:
    try:
        tell = partial(found.set_result, _addresses(host))
    except (OSError, UnicodeError) as error:
        tell = partial(found.set_exception, OSError(str(error)) if isinstance(error, UnicodeError) else error)
    # The loop may be closed by the time a name server answers.
    with contextlib.suppress(RuntimeError):
        found.get_loop().call_soon_threadsafe(tell)


def _addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class _Guard(AbstractResolver):
    """Gives a name's addresses that webhooks may go to. Raises TargetRefused when it has only others."""

    def __init__(self, lookup: Lookup, allow: Sequence[Network], *, plain: bool) -> None:
        self._lookup = lookup
        self._allow = allow
        self._plain = plain

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = [address for text in await self._lookup(host) if (address := targets.parse_address(text)) is not None]
        usable = [each for each in found if targets.permitted(each, self._allow, plain=self._plain)]
        if not found:
            raise OSError(f"{host} has no address")
        if not usable:
            raise TargetRefused(f"{host} is {', '.join(map(str, found))[:200]}")
        return [
            ResolveResult(
                hostname=host,
                host=str(each),
                port=port,
                family=socket.AF_INET if each.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for each in usable
        ]

    def socket(self, info: Any) -> socket.socket:
        """Makes the socket for an address, the last moment at which it can be looked at."""
        family, kind, proto, _, where = info
        address = targets.parse_address(str(where[0]))
        if address is None or not targets.permitted(address, self._allow, plain=self._plain):
            raise TargetRefused(f"{where[0]} is no address that webhooks may go to")
        return socket.socket(family=family, type=kind, proto=proto)

    async def close(self) -> None:
        """Holds nothing."""


class Poster:
    """Sends webhooks. Use it inside a running loop and close it."""

    def __init__(
        self,
        allow: Sequence[Network],
        now_ms: Callable[[], int],
        *,
        timeout_s: float = 10.0,
        lookup: Lookup | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.allow = tuple(allow)
        self._now_ms = now_ms
        self._lookup: Lookup = lookup or Names()
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def addresses(self, host: str) -> Sequence[str]:
        """What a name stands for now; nothing when it cannot be looked up."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._lookup(host)
        except (OSError, UnicodeError):
            return []

    async def post(self, endpoint: Endpoint, *, event_id: str, body: bytes, attempt: int) -> Attempted:
        """One attempt, whatever comes of it."""
        at_ms, begun_s = self._now_ms(), time.monotonic()
        headers = signing.headers(
            endpoint.secrets(at_ms), event_id=event_id, timestamp_s=at_ms // 1000, attempt=attempt, body=body
        )
        status, error, retry_after, answer = None, None, "", ""
        judged = _judge(endpoint.url, self.allow)
        if isinstance(judged, targets.Fault):
            error, answer = judged.code, judged.detail
        else:
            try:
                async with asyncio.timeout(self.timeout_s):
                    status, retry_after, answer = await self._exchange(judged.scheme, endpoint.url, headers, body)
                error = delivery.error_of(status)
            except (aiohttp.ClientError, OSError, ValueError) as fault:
                error, answer = _meaning(fault)
            except Exception as fault:
                # An attempt that ended without a meaning would be made again at once, for ever.
                log.exception("delivery.broken", endpoint=endpoint.id)
                error, answer = "internal", type(fault).__name__
        return Attempted(
            at_ms=at_ms,
            duration_ms=round((time.monotonic() - begun_s) * 1000),
            status_code=status,
            error=error,
            retry_after=retry_after,
            answer=answer,
        )

    async def _exchange(self, scheme: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, str, str]:
        session = self._session(scheme)
        try:
            return await _exchange(session, url, headers, body)
        except aiohttp.ServerDisconnectedError:
            # The server closed the kept connection just when it was used again; it is no failure of the endpoint.
            return await _exchange(session, url, headers, body)

    def _session(self, scheme: str) -> aiohttp.ClientSession:
        session = self._sessions.get(scheme)
        if session is None:
            guard = _Guard(self._lookup, self.allow, plain=scheme == "http")
            connector = aiohttp.TCPConnector(limit=0, resolver=guard, socket_factory=guard.socket)
            session = self._sessions[scheme] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                # What an answer unpacks to is its sender's choice.
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding",),
                headers={"User-Agent": f"PiSync/{__version__}", "Content-Type": "application/json"},
            )
        return session

    async def close(self) -> None:
        """Ends all connections."""
        for session in self._sessions.values():
            await session.close()


@lru_cache(maxsize=1024)
def _judge(url: str, allow: tuple[Network, ...]) -> targets.Target | targets.Fault:
    return targets.judge(url, allow)


async def _exchange(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], body: bytes
) -> tuple[int, str, str]:
    async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
        text = await _beginning(answer)
        return answer.status, answer.headers.get("Retry-After", "")[:64], text


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """Up to 1 KB; a body that stalls or breaks off changes nothing about the status."""
    data, content = b"", answer.content
    try:
        if content.is_eof() and content.total_bytes <= ANSWER_BYTES_MAX:
            data = await answer.read()
        else:
            async with asyncio.timeout(ANSWER_S):
                while len(data) < ANSWER_BYTES_MAX and (more := await content.read(ANSWER_BYTES_MAX - len(data))):
                    data += more
    except (aiohttp.ClientError, OSError):
        answer.close()
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


def _meaning(fault: Exception) -> tuple[str, str]:
    """(code, what the system said)."""
    inner = getattr(fault, "os_error", None) or fault
    if isinstance(inner, TargetRefused):
        return "target-refused", str(inner)
    if isinstance(fault, TimeoutError):
        return "timeout", "no answer in time"
    kinds: tuple[tuple[type[Exception], str], ...] = (
        (aiohttp.ClientConnectorDNSError, "dns"),
        (aiohttp.ClientSSLError, "tls"),
        (aiohttp.ClientOSError, "connect"),
        (aiohttp.InvalidURL, "url"),
        (aiohttp.ClientError, "answer-broken"),
        (OSError, "connect"),
    )
    code = next((code for kind, code in kinds if isinstance(fault, kind)), "answer-broken")
    return code, f"{type(inner).__name__}: {inner}".replace("\0", "")[:300]
