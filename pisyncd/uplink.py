"""The only HTTP client of the device: every request proves itself, every failure is mapped once, here.

Uploads follow tus 1.0.0 (creation, creation-with-upload, checksum, termination). An answer counts only with the proof
that it comes from our cloud; anything else is a portal's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
import structlog

from pisyncd import __version__, answers, holding
from pisyncd.answers import Answer, ChangesAnswer, ContentsAnswer, ProbeAnswer, Progress, StatusAnswer
from pisyncd.core import encodings, recordwire, wire
from pisyncd.core.errors import CloudBusy, LinkDown, Rejected, UploadGone, WaitCut
from pisyncd.core.link import Observation
from pisyncd.meters import Goodput
from pisyncd.runtime.activity import beat
from pisyncd.tcp import Connections, authorities

log = structlog.get_logger()

Body = bytes | AsyncIterator[bytes] | None
Seen = Callable[[Observation, str, str | None], None]

ANSWER_BYTES_MAX = 16 * 1024 * 1024
PIECE_BYTES = 64 * 1024
#: Below it the header of the encoding costs more than it saves.
COMPRESS_BYTES_MIN = 512


class Uplink:
    """Requests to one cloud with one device token.

    `seen` hears of each answer or its absence; `told_time` gets the cloud's proven wall time in milliseconds.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str,
        connect_timeout_s: float,
        stall_s: float,
        ca_file: Path | None,
        seen: Seen,
        told_time: Callable[[int], None],
        goodput: Goodput,
    ) -> None:
        self._base = url.rstrip("/")
        self._token = token
        self._stall_s = stall_s
        self._connect_timeout_s = connect_timeout_s
        # always our own: see runtime/memory.py for why aiohttp's knows no authorities
        self._tls = authorities(ca_file) if url.startswith("https:") else None
        self._seen = seen
        self._told_time = told_time
        self._session: aiohttp.ClientSession | None = None
        self.goodput = goodput
        #: A token that may hold when the other does not, and who hears that it did.
        self.spare_token: str | None = None
        self.fell_back: Callable[[], None] = lambda: None
        self.began_sending: Callable[[], None] = lambda: None
        self.connections = Connections(silence_s=stall_s)

    @property
    def host(self) -> str:
        return urlsplit(self._base).hostname or ""

    async def close(self) -> None:
        """Closes all connections; the next request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def token(self) -> str:
        """What requests go with now."""
        return self._token

    def renew(self, token: str) -> None:
        """Requests from now on go with this token; those under way end with theirs."""
        self._token = token

    async def probe(self, timeout_s: float) -> ProbeAnswer:
        """Asks our cloud to prove itself. Raises what _call raises.

        A cloud that was set back may know only the token before the last one: the spare one is tried as well.
        """
        try:
            return await self._probe(timeout_s)
        except LinkDown as error:
            if error.code != "portal" or self.spare_token is None:
                raise
            current, self._token = self._token, self.spare_token
            try:
                answer = await self._probe(timeout_s)
            except BaseException:
                self._token = current
                raise
            self.spare_token = None
            self.fell_back()
            return answer

    async def _probe(self, timeout_s: float) -> ProbeAnswer:
        challenge = secrets.token_urlsafe(16)
        answer = await self._call("GET", f"/api/probe?challenge={challenge}", challenge=challenge, stall_s=timeout_s)
        return answers.decode(answer, ProbeAnswer)

    async def measure(self, count: int) -> None:
        """Sends `count` random bytes to learn the speed where no real transfer has told it."""
        began_s = time.monotonic()
        await self._call(
            "POST", "/api/probe", headers={"Content-Type": "application/octet-stream"}, body=os.urandom(count)
        )
        self.goodput.learn(count, time.monotonic() - began_s)

    async def create(
        self,
        *,
        length: int,
        metadata: dict[str, bytes | None],
        body: Body = None,
        headers: dict[str, str] | None = None,
    ) -> Progress:
        """Creates an upload, with the first bytes of it when `body` is given."""
        sent = {
            "Tus-Resumable": wire.TUS_VERSION,
            "Upload-Length": str(length),
            "Upload-Metadata": wire.encode_metadata(metadata),
            **(headers or {}),
        }
        if body is not None:
            sent["Content-Type"] = wire.OFFSET_STREAM
        answer = await self._call("POST", "/api/files", headers=sent, body=body)
        location = answer.headers.get("Location", "")
        return answers.progress(answer, self._absolute(location), length)

    async def head(self, url: str) -> Progress:
        """Asks for the offset. Raises UploadGone when the cloud does not know the upload."""
        answer = await self._call("HEAD", url, headers={"Tus-Resumable": wire.TUS_VERSION})
        return answers.progress(answer, url, None)

    async def append(self, url: str, offset: int, body: Body, headers: dict[str, str]) -> Progress:
        """Sends bytes from `offset` on. Raises OffsetMismatch, UploadGone and what _call raises."""
        sent = {
            "Tus-Resumable": wire.TUS_VERSION,
            "Upload-Offset": str(offset),
            "Content-Type": wire.OFFSET_STREAM,
            **headers,
        }
        return answers.progress(await self._call("PATCH", url, headers=sent, body=body), url, None)

    async def status(self, url: str) -> wire.UploadStatus:
        """What became of an upload and its entries."""
        return answers.decode(await self._call("GET", url), StatusAnswer).data

    async def terminate(self, url: str) -> None:
        """Drops an upload that is no longer wanted; one that is gone already is fine."""
        with contextlib.suppress(UploadGone):
            await self._call("DELETE", url, headers={"Tus-Resumable": wire.TUS_VERSION})

    async def batch(self, batch: wire.Batch, timeout_s: float) -> wire.BatchAnswer:
        """Delivers messages; the answer carries the watermarks."""
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        body = msgspec.json.encode(batch)
        if len(body) >= COMPRESS_BYTES_MIN:
            body = encodings.zstd_packed(body)
            headers["Content-Encoding"] = "zstd"
        answer = await self._call("POST", "/api/telemetry/batch", headers=headers, body=body, stall_s=timeout_s)
        return answers.decode(answer, wire.BatchAnswer)

    async def contents(self, device_id: str) -> AsyncIterator[list[bytes]]:
        """Pages of the SHA-256 digests that the cloud has from this device."""
        cursor = ""
        while True:
            path = f"/api/devices/{device_id}/contents?limit={wire.CONTENTS_PAGE_MAX}{cursor}"
            page = answers.decode(await self._call("GET", path), ContentsAnswer)
            yield [bytes.fromhex(each) for each in page.data]
            if page.pagination.next_cursor is None:
                return
            cursor = f"&cursor={page.pagination.next_cursor}"

    async def changes(
        self,
        *,
        since: str | None,
        types: tuple[str, ...] = (),
        wait_s: float,
        limit: int,
        rules_etag: str,
        writer: str = "",
        timeout_s: float,
    ) -> recordwire.Changes:
        """What has changed since a cursor (None: all), held by the cloud for up to `wait_s` until there is something.

        Raises CursorExpired, WaitCut when the wait was ended on the way, TooLarge when the limit should be smaller, and
        what _call raises.
        """
        asked = {
            "since": since or "",
            "types": ",".join(types),
            "wait": f"{wait_s:.0f}" if wait_s else "",
            "limit": str(limit),
            "rules": rules_etag,
            "writer": writer,
        }
        query = "&".join(f"{name}={quote(value)}" for name, value in asked.items() if value)
        answer = await self._call("GET", f"/api/changes?{query}", stall_s=timeout_s, held_s=wait_s)
        return answers.decode(answer, ChangesAnswer).data

    def _absolute(self, location: str) -> str:
        if not location.startswith("/"):
            # an address elsewhere would carry the token to a stranger
            raise Rejected("the cloud gave an upload an address outside itself", code="location-invalid")
        parts = urlsplit(self._base)
        return f"{parts.scheme}://{parts.netloc}{location}"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0,
                ssl=self._tls or True,
                socket_factory=self.connections.make,
                keepalive_timeout=75.0,
                ttl_dns_cache=60,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers={"User-Agent": f"pisyncd/{__version__}"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                auto_decompress=True,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _call(
        self,
        method: str,
        where: str,
        *,
        headers: dict[str, str] | None = None,
        body: Body = None,
        challenge: str | None = None,
        stall_s: float | None = None,
        held_s: float | None = None,
    ) -> Answer:
        """One request. Raises LinkDown without a proven answer, and what `answers.refusal` makes of a refusing one.

        `held_s`: the cloud may take so long before it begins to answer, and then as long as bytes come, at most
        holding.READ_S_MAX. What cuts such a wait on the way is WaitCut, and no sign of a bad link.
        """
        challenge = challenge or secrets.token_urlsafe(12)
        url = where if where.startswith("http") else self._base + where
        # by the same word this request is found in the log of the cloud
        request_id = secrets.token_hex(8)
        # one token for the whole request: another may take its place meanwhile
        token = self._token
        sent = {
            "Authorization": f"Bearer {token}",
            **(headers or {}),
            wire.CHALLENGE_HEADER: challenge,
            wire.REQUEST_ID_HEADER: request_id,
        }
        began_s = time.monotonic()
        try:
            answer = await self._exchange(method, url, sent, body, stall_s or self._stall_s, held_s)
        except LinkDown as error:
            if held_s and holding.was_cut(error, time.monotonic() - began_s):
                raise WaitCut(error.detail) from error
            self._seen("no-answer", error.detail, None)
            raise
        if held_s and holding.is_proxys_end(answer.status, time.monotonic() - began_s):
            raise WaitCut(f"a proxy on the way answered {answer.status}")
        log.debug("request.answered", method=method, path=where, status=answer.status, request_id=request_id)
        self._judge(answer, token, challenge, url)
        if answer.status < 300:
            return answer
        if answer.status >= 400:
            log.info("request.refused", method=method, path=where, status=answer.status, request_id=request_id)
        raise answers.refusal(answer)

    async def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: Body, stall_s: float, held_s: float | None
    ) -> Answer:
        patience_s = stall_s + (held_s or 0.0)
        try:
            async with asyncio.timeout(patience_s) as deadline, self._sending(body):
                data = self._counted(body, deadline, stall_s) if body is not None else None
                async with self._open().request(
                    method,
                    url,
                    headers=_sized(headers, body),
                    data=data,
                    allow_redirects=False,
                    middlewares=() if held_s is None else (holding.once,),
                ) as response:
                    body_read = await (
                        _read_whole(response) if held_s is None else holding.read_page(response, deadline, stall_s)
                    )
                    return Answer(status=response.status, headers=response.headers, body=body_read)
        except TimeoutError as error:
            raise LinkDown(f"no answer within {patience_s:.0f} s", code="link-stalled") from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            hint = "check the clock of this device (`pisyncctl status`) and cloud.ca_file"
            raise LinkDown(
                f"the cloud's certificate is not trusted: {error}", code="tls-untrusted", hint=hint
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise LinkDown(f"no answer: {error or type(error).__name__}") from error

    @contextlib.asynccontextmanager
    async def _sending(self, body: Body) -> AsyncIterator[None]:
        if body is not None:
            self.began_sending()
        with self.goodput.sending() if body is not None else contextlib.nullcontext():
            yield

    async def _counted(self, body: bytes | AsyncIterator[bytes], deadline: asyncio.Timeout, stall_s: float) -> Any:
        loop = asyncio.get_running_loop()
        async for piece in _pieces(body):
            yield piece
            # a slow link takes an hour for what a fast one had taken in seconds when the chunk was sized
            beat()
            self.goodput.add(len(piece))
            deadline.reschedule(loop.time() + stall_s)

    def _judge(self, answer: Answer, token: str, challenge: str, url: str) -> None:
        """Raises LinkDown unless the answer proves that it is our cloud's; then tells who listens."""
        if wire.proof_holds(token, challenge, answer.headers.get(wire.PROOF_HEADER)):
            if answer.status in (502, 503, 504):
                self._seen("cloud-busy", f"the cloud answers {answer.status}", None)
            else:
                self._seen("proven", "our cloud has proven itself", None)
            told = answer.headers.get(wire.TIME_HEADER, "")
            if told.isascii() and told.isdigit() and len(told) < 16:
                self._told_time(int(told))
            return
        if answer.status >= 500 or answer.status == 429:
            self._seen("cloud-busy", f"the way to the cloud answers {answer.status}", None)
            raise CloudBusy(f"the way to the cloud answers {answer.status}", retry_after_s=answers.retry_after(answer))
        portal = answer.headers.get("Location") or url
        self._seen("portal", "somebody else answers in our cloud's place", portal)
        raise LinkDown(
            "somebody else answers in our cloud's place (a captive portal?)",
            code="portal",
            hint=f"open {portal} in a browser on this network and sign in; or check cloud.url and the token",
            portal_url=portal,
        )


async def _read_whole(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > ANSWER_BYTES_MAX:
            raise LinkDown("the answer has no end", code="answer-too-large")
    return bytes(content)


async def _pieces(body: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        for start in range(0, len(body), PIECE_BYTES):
            yield body[start : start + PIECE_BYTES]
        return
    async for piece in body:
        yield piece


def _sized(headers: dict[str, str], body: Body) -> dict[str, str]:
    return {**headers, "Content-Length": str(len(body))} if isinstance(body, bytes) else headers
