"""The life of the daemon: opens what is needed, runs the activities, reloads, closes in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import structlog

from pisyncd import config as settings
from pisyncd import log as logging
from pisyncd import meters, parts
from pisyncd.config import Config
from pisyncd.core.errors import AlreadyRunning, ConfigError, FatalError, StateUnusable, StorageBusy
from pisyncd.device import RunningDevice
from pisyncd.gateway.serving import serving
from pisyncd.outbox import Outbox, open_outbox
from pisyncd.outbox.instance import read_board
from pisyncd.runtime import memory
from pisyncd.runtime.activity import Stop, supervise
from pisyncd.runtime.clock import Clock
from pisyncd.runtime.notify import Notifier

log = structlog.get_logger()

EXIT_OK = 0
EXIT_NOT_DELIVERED = 75
REFUSED = "new configuration refused, the old one stays"


async def run(config: Config, *, config_path: Path) -> int:
    """Runs until SIGTERM or SIGINT; SIGHUP reads the configuration again and begins anew with it.

    A new configuration that reads well but cannot be opened (its state directory, its authorities) is refused, too.
    """
    memory.keep_small()
    notifier = Notifier()
    asked = Requests(notifier)
    worked: Config | None = None
    fault = ""
    with asked.listening():
        while not asked.ended or worked is None:
            stop = asked.begin()
            async with contextlib.AsyncExitStack() as stack:
                try:
                    made = await stack.enter_async_context(_opened(config, notifier, stop, once=False))
                except FatalError as error:
                    if worked is None:
                        raise
                    log.error("config.refused", code=error.code, detail=error.detail, hint=error.hint)
                    config, worked, fault = worked, None, error.detail
                    continue
                made.device.config_fault = fault
                worked, fault = config, ""
                notifier.ready(REFUSED if made.device.config_fault else f"watching {len(config.watch)} directories")
                log.info("daemon.started", device=config.device_id, cloud=config.cloud.url, roots=len(config.watch))
                config = await _run_until_asked(made, asked, notifier, config, config_path)
    notifier.close()
    log.info("daemon.stopped")
    return EXIT_OK


async def once(config: Config) -> int:
    """Delivers everything owed, then ends: 0 when all is delivered, 75 when it is not."""
    memory.keep_small()
    notifier = Notifier()
    asked = Requests(notifier)
    with asked.listening():
        stop = asked.begin()
        async with _opened(config, notifier, stop, once=True) as made:
            await supervise(made.activities, made.device.pulse, stop, config.stop.drain_s)
            delivered = made.finisher.delivered
    return EXIT_OK if delivered else EXIT_NOT_DELIVERED


class Requests:
    """What signals ask for."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self.ended = False
        self.reload = asyncio.Event()
        self.stop = Stop()

    def begin(self) -> Stop:
        """A new run begins; its stop."""
        self.stop = Stop()
        if self.ended:
            self.stop.set()
        return self.stop

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        self.ended = True
        self._notifier.stopping()
        self.stop.set()


async def _run_until_asked(
    made: parts.Parts, asked: Requests, notifier: Notifier, config: Config, config_path: Path
) -> Config:
    """Supervises until the end or a good new configuration; gives the configuration to go on with."""
    stop = asked.stop
    device = made.device
    reloader = asyncio.create_task(_reload_when_asked(device, asked, notifier, config_path, stop))
    try:
        await supervise(made.activities, device.pulse, stop, config.stop.drain_s)
    finally:
        if not reloader.done():
            reloader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            config = await reloader or config
    return config


async def _reload_when_asked(
    device: RunningDevice, asked: Requests, notifier: Notifier, config_path: Path, stop: Stop
) -> Config | None:
    """Waits for a good new configuration, then stops this run; a bad one is refused and the old one stays."""
    while True:
        await asked.reload.wait()
        asked.reload.clear()
        notifier.reloading()
        try:
            fresh = await asyncio.to_thread(settings.load, config_path, os.environ)
            settings.read_token(fresh, os.environ)
        except ConfigError as error:
            log.error("config.refused", code=error.code, detail=error.detail, hint=error.hint)
            device.config_fault = error.detail
            notifier.ready(REFUSED)
            continue
        logging.configure(fresh.log.level, fresh.log.format)
        log.info("config.reloaded")
        stop.set()
        return fresh


@contextlib.asynccontextmanager
async def _opened(config: Config, notifier: Notifier, stop: Stop, *, once: bool) -> AsyncIterator[parts.Parts]:
    """Everything one run needs, closed in reverse. Raises AlreadyRunning, ConfigError, SchemaTooNew."""
    async with contextlib.AsyncExitStack() as stack:
        # each thread keeps its stack for good; more of them than lanes would only wait for the same two or four cores
        pool = ThreadPoolExecutor(config.transfer.parallel_max + 1, thread_name_prefix="work")
        asyncio.get_running_loop().set_default_executor(pool)
        stack.callback(pool.shutdown, wait=False)
        token = settings.read_token(config, os.environ)
        for line in settings.advice(config, os.environ):
            log.warning("config.advised", advice=line)
        clock = Clock()
        outbox = await _open_state(stack, config, clock)
        outbox.messages.queue_max = config.messages.queue_max
        made = parts.compose(config, token, outbox, stop, notifier, once=once)
        stack.push_async_callback(made.uplink.close)
        await made.load()
        stack.callback(made.device.close)
        stack.enter_context(meters.link_changes(made.device.prober.link_changed))
        stack.push_async_callback(made.device.close_cycle)
        await stack.enter_async_context(serving(made.device, outbox))
        yield made


async def _open_state(stack: contextlib.AsyncExitStack, config: Config, clock: Clock) -> Outbox:
    """The outbox and its directory. Raises StateUnusable, AlreadyRunning, SchemaTooNew."""
    state_dir = config.state_dir
    try:
        (state_dir / parts.SPOOL).mkdir(parents=True, exist_ok=True)
        stack.enter_context(_alone(state_dir))
        board = msgspec.structs.replace(read_board(), device=config.device_id)
        return await stack.enter_async_context(open_outbox(state_dir / "outbox.db", clock, board))
    except StorageBusy as error:
        raise StateUnusable(f"{state_dir}: {error.detail}") from error
    except OSError as error:
        raise StateUnusable(f"{state_dir}: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Holds the state directory. Raises AlreadyRunning: two daemons on one outbox would both send it."""
    with (state_dir / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyRunning(f"another pisyncd holds {state_dir}") from error
        yield
