"""A request body read as it arrives, so that a cut, a stall or a newer request leaves what came before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import HttpVersion11, StreamReader, hdrs, web

from cloud.flows.receive import End
from cloud.rules import tus
from pisyncd.core.problems import Refusal

BUFFER_BYTES = 2 << 20


class Body:
    """Reads ahead up to 2 MiB while the bytes before are written. `end` is None until the body has ended."""

    def __init__(self, request: web.Request, *, stall_s: float) -> None:
        self._request = request
        self._content = request.content
        self._stall_s = stall_s
        self._chunks: list[bytes] = []
        self._size = 0
        self._something = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = False
        self.end: End | None = None
        self._pump: asyncio.Task[None] | None = None

    async def take(self) -> Sequence[bytes]:
        """Waits for bytes and gives all there are; with `end` set afterwards there are no more."""
        if self._pump is None and self.end is None:
            await _greet(self._request)
            self._pump = asyncio.create_task(self._run())
            self._pump.add_done_callback(self._ended)
        await self._something.wait()
        chunks, self._chunks, self._size = self._chunks, [], 0
        if self.end is None:
            self._something.clear()
        self._room.set()
        return chunks

    def stop(self) -> None:
        """Ends the body at what has arrived so far."""
        self._stopping = True
        if self._pump is not None:
            self._pump.cancel()
        else:
            self._finish(End.STOPPED)

    async def aclose(self) -> None:
        """Stops reading and waits until that has happened."""
        if self._pump is not None:
            self.stop()
            await asyncio.wait({self._pump})

    def _put(self, data: bytes) -> None:
        if data:
            self._chunks.append(data)
            self._size += len(data)
            self._something.set()

    def _ended(self, _pump: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step never reaches its own clean-up.
        if self.end is None:
            self._finish(End.STOPPED)

    def _finish(self, end: End) -> None:
        self.end = end
        self._something.set()

    async def _run(self) -> None:
        end = End.CUT
        try:
            while True:
                async with asyncio.timeout(self._stall_s):
                    data = await self._content.readany()
                if not data:
                    end = End.WHOLE
                    return
                self._put(data)
                if self._size >= BUFFER_BYTES:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            end = End.STALLED
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            end = End.STOPPED
        except Exception:
            # aiohttp reports a lost connection and broken framing in half a dozen ways; all mean that no more comes.
            end = End.CUT
        finally:
            if end is not End.WHOLE:
                self._put(_arrived(self._content))
            self._finish(end)


async def expected(_request: web.Request) -> None:
    """For routes: the body is asked for when it is known that it will be taken, not before anything was looked at."""


async def _greet(request: web.Request) -> None:
    """Asks a client that waits with `Expect: 100-continue` for its body."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp takes a writer that has written for an answer that has begun.
        request.writer.output_size = 0


def _arrived(content: StreamReader) -> bytes:
    """What lies in the stream's buffer: its public methods raise the connection's error before they hand that out."""
    return content._read_nowait(-1)


def encoding_of(request: web.Request) -> tuple[str, int | None]:
    """How the bytes of a body are still encoded, and its size in decoded bytes when known. Raises Refusal 415."""
    encoding = tus.encoding(request.headers.get(hdrs.CONTENT_ENCODING))
    if encoding is None:
        raise Refusal(
            415,
            "content-encoding",
            "this Content-Encoding is not known here",
            hint="use zstd, gzip or none",
            headers={hdrs.ACCEPT_ENCODING: "zstd, gzip"},
        )
    length = request.content_length if request.body_exists else 0
    if encoding == "identity" or not length:
        return "identity" if length == 0 else encoding, length
    return encoding, None
