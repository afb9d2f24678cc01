"""What the asynchronous face needs of the event loop: waiting without blocking it, and calling handlers in it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from pisyncd.client.core import Kept, still_sending
from pisyncd.client.handlers import Handler, Handlers
from pisyncd.client.views import SyncResult

T = TypeVar("T")


class Capture(Generic[T]):
    """Captured already; awaiting it waits until it is on disk, too. What it gives is the id or the ids."""

    def __init__(self, kept: Kept, value: T) -> None:
        self._kept = kept
        self._value = value

    def __await__(self) -> Generator[Any, None, T]:
        return self._waited().__await__()

    async def _waited(self) -> T:
        if self._kept.worth_waiting():
            # wait() and not wait_for(): who is cancelled here must not cancel the event.
            await asyncio.wait([asyncio.wrap_future(self._kept.done)], timeout=self._kept.wait_s())
            self._kept.too_late()
        return self._value


async def result_of(flushing: Future[SyncResult], timeout_s: float) -> SyncResult:
    """The result, or that it is not there within `timeout_s`; the sync goes on in either case."""
    waited = asyncio.wrap_future(flushing)
    done, _ = await asyncio.wait([waited], timeout=timeout_s)
    return waited.result() if done else still_sending(timeout_s)


class Loop:
    """Calls handlers, plain ones and coroutines, in the event loop that the client is used in."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def seen(self) -> None:
        """Remembers the loop that runs now, if one does."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return

    def on(self, name: str, handler: Handler) -> Callable[[], None]:
        """See Handlers.on."""
        self.seen()
        if not callable(handler):
            raise TypeError(f"a handler is called; {handler!r} cannot be")

        def tell(result: Any) -> None:
            if self._loop is None:
                raise RuntimeError("no event loop has used this client yet")
            self._loop.call_soon_threadsafe(self._call, handler, result)

        return self._handlers.on(name, tell)

    def _call(self, handler: Handler, result: Any) -> None:
        # A task of its own: a handler that waits must not hold up the loop or the sender.
        task = asyncio.get_running_loop().create_task(self._called(handler, result))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _called(self, handler: Handler, result: Any) -> None:
        try:
            returned = handler(result)
            if inspect.isawaitable(returned):
                await returned
        except Exception:
            self._handlers.failed()
