"""FaultyLink: a TCP proxy between device and cloud that can be made as bad as the field.

It runs an event loop in its own thread; every method may be called from the test's thread at any time.

    with FaultyLink(cloud.address, seed=7) as link:
        link.cut_after(64_000)          # the connection breaks after 64,000 more bytes towards the cloud
        link.throttle(20_000)           # bytes per second, both directions
        link.answer(PORTAL)             # a captive portal answers every request itself
        link.down()                     # connections are refused
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")

# Small, so that what a killed sender has already given to the kernel stays below one chunk.
_SOCKET_BUFFER_BYTES = 16 * 1024
_PIECE_BYTES = 16 * 1024
_HEAD_BYTES_MAX = 64 * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What the link says itself instead of passing a request on; `only` limits it to some (method, path)."""

    status: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    only: Callable[[str, str], bool] = lambda _method, _path: True

    def encode(self) -> bytes:
        """Return the bytes of the answer."""
        lines = [f"HTTP/1.1 {self.status}", *(f"{name}: {value}" for name, value in self.headers)]
        lines += [f"Content-Length: {len(self.body)}", "Connection: close", "", ""]
        return "\r\n".join(lines).encode() + self.body


_HTML = ("Content-Type", "text/html; charset=utf-8")
PORTAL = Answer(status="200 OK", headers=(_HTML,), body=b"<html><h1>Welcome to FreeWifi. Please sign in.</h1></html>")
PORTAL_REDIRECT = Answer(status="302 Found", headers=(("Location", "http://login.freewifi.example/welcome"), _HTML))
ERROR_500 = Answer(status="500 Internal Server Error", headers=(_HTML,), body=b"<h1>Internal Server Error</h1>")
ERROR_503 = Answer(status="503 Service Unavailable", headers=(_HTML,), body=b"<h1>Service Unavailable</h1>")


def too_many(retry_after_s: int, only: Callable[[str, str], bool] = lambda _method, _path: True) -> Answer:
    """Return a 429 that names when to come back."""
    return Answer(status="429 Too Many Requests", headers=(("Retry-After", str(retry_after_s)),), only=only)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A request that the link answered itself, at a time of the monotonic clock in seconds."""

    method: str
    path: str
    at_s: float


class FaultyLink:
    """The proxy. `up_bytes` and `down_bytes` count what it has passed on, towards the cloud and back."""

    def __init__(self, target: tuple[str, int], *, seed: int = 1) -> None:
        """Point at the cloud; `seed` decides where random cuts fall."""
        self._target = target
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-link", daemon=True)
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._rate: float | None = None
        self._free_at = {"up": 0.0, "down": 0.0}
        self._cut_budget: int | None = None
        self._cut_range: tuple[int, int] | None = None
        self._response_limit: int | None = None
        self._answer: Answer | None = None
        self._alarms: dict[str, tuple[int, Callable[[], None]]] = {}
        self.port = 0
        self.up_bytes = 0
        self.down_bytes = 0
        self.connections = 0
        self.cuts = 0
        self.answered: list[Request] = []

    @property
    def url(self) -> str:
        """Return the address to put into the device's configuration."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        """Start listening."""
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, ending every connection."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    def _set(self, change: Callable[[], None]) -> None:
        async def apply() -> None:
            change()

        self._call(apply())

    def retarget(self, target: tuple[str, int]) -> None:
        """Send connections to another address from now on."""
        self._target = target

    def down(self) -> None:
        """Break every connection and refuse new ones."""
        self._call(self._close())

    def up(self) -> None:
        """Listen again on the same port."""
        self._call(self._listen())

    def break_connections(self) -> None:
        """Break what is open now; new connections work."""
        self._set(self._abort_all)

    def stall(self) -> None:
        """Let no byte through, but keep connections open."""
        self._set(self._flowing.clear)

    def stall_after(self, up_bytes: int) -> None:
        """Let no byte through after this many more have gone towards the cloud."""
        self.when_sent(up_bytes, self._flowing.clear)

    def resume(self) -> None:
        """End a stall."""
        self._set(self._flowing.set)

    def throttle(self, bytes_per_s: float | None) -> None:
        """Limit each direction, all connections together; None takes the limit away."""
        self._rate = bytes_per_s

    def cut_after(self, up_bytes: int) -> None:
        """Break every connection once, after this many more bytes towards the cloud."""
        self._cut_budget = up_bytes

    def cut_each(self, low: int, high: int) -> None:
        """Break each new connection after a random number of bytes towards the cloud; (0, 0) ends it."""
        self._cut_range = (low, high) if high else None

    def when_sent(self, up_bytes: int, action: Callable[[], None]) -> None:
        """Call `action` once, in the link's thread, when this many more bytes have gone towards the cloud."""
        self._alarms["up"] = (self.up_bytes + up_bytes, action)

    def when_answered(self, down_bytes: int, action: Callable[[], None]) -> None:
        """Call `action` once, in the link's thread, when this many more bytes have come from the cloud.

        The bytes that make it so much are not passed on, so that the device cannot know what they said.
        """
        self._alarms["down"] = (self.down_bytes + down_bytes, action)

    def forget_alarms(self) -> None:
        """Take back what `when_sent` and `when_answered` have asked for."""
        self._set(self._alarms.clear)

    def _ring(self, way: str) -> None:
        alarm = self._alarms.get(way)
        if alarm is not None and (self.up_bytes if way == "up" else self.down_bytes) >= alarm[0]:
            del self._alarms[way]
            alarm[1]()

    def truncate_responses(self, after_bytes: int | None) -> None:
        """Break each connection after this many bytes of the cloud's answers."""
        self._response_limit = after_bytes

    def answer(self, answer: Answer | None) -> None:
        """Answer requests here instead of passing them on; None passes them on again."""

        def change() -> None:
            self._answer = answer
            self._abort_all()

        self._set(change)

    async def _listen(self) -> None:
        if self._server is not None:
            return
        self._flowing.set()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._accepted, sock=listener, limit=_PIECE_BYTES)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._abort_all()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _abort_all(self) -> None:
        for writer in tuple(self._pairs):
            _abort(writer)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._pairs.add(writer)
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            _abort(writer)
        finally:
            self._pairs.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b""
        answer = self._answer
        if answer is not None:
            head = await _read_head(reader)
            method, path = head.split(b" ", 2)[:2]
            if answer.only(method.decode(), path.decode()):
                self.answered.append(Request(method=method.decode(), path=path.decode(), at_s=time.monotonic()))
                await _say(answer, reader, writer)
                return
            head = _with_connection_close(head)
        server_reader, server_writer = await asyncio.open_connection(*self._target, limit=_PIECE_BYTES)
        self._pairs.add(server_writer)
        try:
            await self._carry(head, (reader, writer), (server_reader, server_writer))
        finally:
            self._pairs.discard(server_writer)
            server_writer.close()

    async def _carry(
        self,
        head: bytes,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        own_limit = self._chance.randint(*self._cut_range) if self._cut_range else None
        if head:
            server[1].write(head)
            self.up_bytes += len(head)
        up = asyncio.ensure_future(self._pump("up", client[0], server[1], self._meter_up(own_limit)))
        down = asyncio.ensure_future(self._pump("down", server[0], client[1], self._meter_down()))
        try:
            done, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            # The cloud has said all it will say: the client reads it and is told that nothing more comes.
            broken = any(task.exception() or task.result() for task in done)
            if not broken and up in done:
                broken = await down
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
        if broken:
            self.cuts += 1
            _abort(client[1])
            _abort(server[1])

    def _meter_up(self, own_limit: int | None) -> Callable[[int], int]:
        left = own_limit

        def grant(size: int) -> int:
            nonlocal left
            granted = min(size, size if left is None else left, size if self._cut_budget is None else self._cut_budget)
            if left is not None:
                left -= granted
            if self._cut_budget is not None:
                self._cut_budget -= granted
                if granted < size:
                    self._cut_budget = None
                    self._loop.call_soon(self._abort_all)
            self.up_bytes += granted
            return granted

        return grant

    def _meter_down(self) -> Callable[[int], int]:
        left = self._response_limit

        def grant(size: int) -> int:
            nonlocal left
            granted = size if left is None else min(size, left)
            if left is not None:
                left -= granted
            self.down_bytes += granted
            return granted

        return grant

    async def _pump(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, grant: Callable[[int], int]
    ) -> bool:
        """Move bytes until the end; True means that the connection has to be broken."""
        while True:
            await self._flowing.wait()
            rate = self._rate
            piece = await reader.read(_PIECE_BYTES if rate is None else max(1, min(_PIECE_BYTES, int(rate / 10))))
            if not piece:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return False
            await self._flowing.wait()
            granted = grant(len(piece))
            self._ring(way)
            writer.write(piece[:granted])
            await writer.drain()
            if granted < len(piece):
                return True
            if rate is not None:
                now = self._loop.time()
                self._free_at[way] = max(now, self._free_at[way]) + granted / rate
                await asyncio.sleep(self._free_at[way] - now)


def _abort(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        # Linger of zero makes the kernel send a reset, which is what a broken link looks like.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await reader.read(_PIECE_BYTES)
        if not piece or len(head) > _HEAD_BYTES_MAX:
            raise asyncio.IncompleteReadError(head, None)
        head += piece
    return head


def _with_connection_close(head: bytes) -> bytes:
    first, _, rest = head.partition(b"\r\n")
    return first + b"\r\nConnection: close\r\n" + rest.replace(b"Connection: keep-alive\r\n", b"", 1)


async def _say(answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer.encode())
    await writer.drain()
    writer.write_eof()
    # A reset would take the answer away from a client that is still sending its body.
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(5):
            while await reader.read(_PIECE_BYTES):
                pass
