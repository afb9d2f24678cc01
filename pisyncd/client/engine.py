"""Threads and files of one process, and what becomes of them at fork and at exit."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from pisyncd.client.sender import Sender
from pisyncd.client.settings import Settings
from pisyncd.client.store import Store
from pisyncd.client.views import SyncResult
from pisyncd.client.writer import BUSY_S, Writer

#: At exit what is captured gets so long to reach the disk, even where nothing is waited for otherwise.
WRITE_S = 0.5


class Engine:
    """A writer, a sender and the queue between them. `on_disk` False keeps the queue in memory."""

    def __init__(
        self, config: Settings, token: str | None, emit: Callable[[str, object], None], *, on_disk: bool = True
    ) -> None:
        path = config.path if on_disk else None
        incoming = Store(path, events_max=config.events_max, bytes_max=config.bytes_max, busy_s=BUSY_S)
        # Two connections: the sender writes back to the disk, and capturing must not wait for that.
        self.queue = Store(path, events_max=config.events_max, bytes_max=config.bytes_max) if on_disk else incoming
        self.spare = Store(None, events_max=config.events_max, bytes_max=config.bytes_max)
        self.sender = Sender(config, token, (self.spare, self.queue), emit)
        self.writer = Writer(incoming, self.spare, self.sender.grown)
        self.pid = os.getpid()
        self.on_disk = on_disk
        self._config = config
        self._files = [store.file for store in (incoming, self.queue, self.spare)]
        self._held = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the threads, which open the queue; without them every call does their work itself."""
        try:
            for name, run in (("pisync-writer", self.writer.run), ("pisync-sender", self.sender.run)):
                thread = threading.Thread(target=run, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError:
            # Python starts no thread any more when a program is ending.
            self._threads.clear()
        with _registry:
            _running.add(self)

    def opened(self, timeout_s: float) -> bool:
        """Waits until the queue is open, or cannot be opened."""
        return self.writer.opened.wait(timeout_s)

    def inside(self) -> bool:
        """Whether the caller is one of our threads, which must not wait for itself."""
        return threading.current_thread() in self._threads

    def work(self) -> None:
        """What the threads would do, if there are none."""
        if not self._threads:
            while self.writer.step(block=False):
                pass
            self.sender.step(0.0)

    def keep(self) -> None:
        """What the writer's thread would do, if there is none."""
        if not self._threads:
            self.writer.step(block=False)

    def flush(self) -> Future[SyncResult]:
        """Sends what is captured by now; the result comes when it is sent or cannot be."""
        result: Future[SyncResult] = Future()
        self.writer.mark(lambda: self.sender.ask(result))
        self.work()
        return result

    def written(self) -> Future[None]:
        """When everything captured by now is kept."""
        done: Future[None] = Future()
        self.writer.mark(lambda: done.set_result(None))
        self.keep()
        return done

    @property
    def exit_s(self) -> float:
        """How long the exit of the program may wait for it."""
        return self._config.exit_s

    def stop(self, until: float) -> None:
        """Ends the threads, at the latest at the monotonic time `until`, and closes the files if they have ended."""
        with _registry:
            _running.discard(self)
        self.writer.stop()
        self.sender.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            for file in self._files[:2]:
                file.close()

    # Fork

    def hold(self) -> None:
        """Before a fork: no transaction may be under way, no file open."""
        self._held = 0
        for file in dict.fromkeys(self._files):
            if not file.hold_for_fork():
                break
            self._held += 1

    def release(self) -> None:
        """After a fork, in the parent."""
        for file in list(dict.fromkeys(self._files))[: self._held]:
            file.release()
        self._held = 0

    def left_behind(self) -> bool:
        """After a fork, in the child, which starts anew: whether it may open the queue."""
        clean = self._held == len(dict.fromkeys(self._files))
        if not clean:
            # Closing it here would be as bad as using it.
            _kept_open.append(self)
        return clean


# Held over a fork, so that none is being started then. A signal handler may capture, and start one, too.
_registry = threading.RLock()
_running: set[Engine] = set()
_kept_open: list[Engine] = []
_forking: list[Engine] = []


def starting() -> threading.RLock:
    """The lock under which an engine is made."""
    return _registry


def _before_fork() -> None:
    _registry.acquire()
    _forking[:] = sorted(_running, key=id)
    for engine in _forking:
        engine.hold()


def _after_fork_in_parent() -> None:
    for engine in _forking:
        engine.release()
    _forking.clear()
    _registry.release()


def _after_fork_in_child() -> None:
    global _registry
    _registry = threading.RLock()
    for engine in _forking:
        engine.sender.turn.let_go()
    _forking.clear()
    # Each core finds by the process id that its engine is not its own any more.
    _running.clear()


def _at_exit() -> None:
    with _registry:
        engines = [engine for engine in _running if engine.pid == os.getpid()]
    began = time.monotonic()
    waited_for = [(engine.written(), engine.flush(), engine.exit_s) for engine in engines]
    for written, sent, exit_s in waited_for:
        with contextlib.suppress(FutureTimeout):
            written.result(max(0.0, began + max(exit_s, WRITE_S) - time.monotonic()))
            sent.result(max(0.0, began + exit_s - time.monotonic()))


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
