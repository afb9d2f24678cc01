"""One writer per upload: the newest request wins, and waits until the one before has really stopped.

A client that lost its connection comes back before the cloud has noticed. Its new request must neither be refused nor
write side by side with the old one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Preempted(Exception):
    """A newer request for the same upload took over."""


class _Turn:
    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.ended = False
        self.stop: Callable[[], None] | None = None

    def end(self) -> None:
        self.ended = True
        if self.stop is not None:
            self.stop()


class UploadLocks:
    """Locks by upload id; an id that nobody wants takes no memory."""

    def __init__(self) -> None:
        self._turns: dict[str, list[_Turn]] = {}

    def held(self, upload: str) -> bool:
        """Whether anyone holds the upload."""
        return upload in self._turns

    @asynccontextmanager
    async def hold(self, upload: str, stop: Callable[[], None] | None = None) -> AsyncIterator[None]:
        """Ends everyone who holds or waits, waits until they are gone, and holds.

        `stop` is called at most once, when a newer request wants the upload; the holder then finishes what it must and
        leaves. Raises Preempted when a newer request came while this one was waiting.
        """
        turns = self._turns.setdefault(upload, [])
        turn = _Turn()
        before = tuple(turns)
        turns.append(turn)
        try:
            for older in before:
                if not older.ended:
                    older.end()
            for older in before:
                await older.over.wait()
            if turn.ended:
                raise Preempted
            turn.stop = stop
            yield
        finally:
            turn.over.set()
            turns.remove(turn)
            if not turns:
                self._turns.pop(upload, None)
