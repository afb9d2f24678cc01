"""The composition root of the device: opens what is needed, runs the activities, closes in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from pisyncd import config as settings
from pisyncd import log as logging
from pisyncd import meters
from pisyncd.activities.cycle import SyncCycle
from pisyncd.activities.finisher import Finisher
from pisyncd.activities.janitor import Janitor
from pisyncd.activities.preparing import Preparer, PrepareRules
from pisyncd.activities.prober import Prober
from pisyncd.activities.rescuer import Rescuer
from pisyncd.activities.sender import Sender
from pisyncd.activities.uploader import Lane, Lanes
from pisyncd.activities.watchdog import Watchdog
from pisyncd.activities.watcher import Watcher
from pisyncd.activities.way import Way, WayRules
from pisyncd.config import Config
from pisyncd.core import backoff, link, plan, transfer
from pisyncd.core.errors import AlreadyRunning, ConfigError, StateUnusable, StorageBusy
from pisyncd.device import RunningDevice
from pisyncd.gateway.serving import serving
from pisyncd.meters import Goodput
from pisyncd.outbox import Outbox, open_outbox
from pisyncd.runtime import memory
from pisyncd.runtime.activity import Activity, Pulse, Stop, supervise
from pisyncd.runtime.clock import Clock
from pisyncd.runtime.notify import Notifier
from pisyncd.uplink import Uplink

log = structlog.get_logger()

SPOOL = "spool"
EXIT_OK = 0
EXIT_NOT_DELIVERED = 75


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What one run is made of."""

    device: RunningDevice
    activities: Sequence[Activity]
    finisher: Finisher
    lanes: Lanes


async def run(config: Config, *, config_path: Path) -> int:
    """Runs until SIGTERM or SIGINT; SIGHUP reads the configuration again and begins anew with it."""
    memory.keep_small()
    notifier = Notifier()
    asked = Requests()
    with asked.listening():
        while True:
            stop = asked.begin()
            async with _opened(config, notifier, stop, once=False) as parts:
                notifier.ready(f"watching {len(config.watch)} directories")
                log.info("daemon.started", device=config.device_id, cloud=config.cloud.url, roots=len(config.watch))
                config = await _run_until_asked(parts, asked, notifier, config, config_path)
            if asked.ended:
                break
    notifier.close()
    log.info("daemon.stopped")
    return EXIT_OK


async def once(config: Config) -> int:
    """Delivers everything owed, then ends: 0 when all is delivered, 75 when it is not."""
    memory.keep_small()
    notifier, asked = Notifier(), Requests()
    with asked.listening():
        stop = asked.begin()
        async with _opened(config, notifier, stop, once=True) as parts:
            await supervise(parts.activities, parts.device.pulse, stop, config.stop.drain_s)
            delivered = parts.finisher.delivered
    return EXIT_OK if delivered else EXIT_NOT_DELIVERED


class Requests:
    """What signals ask for."""

    def __init__(self) -> None:
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
        self.stop.set()


async def _run_until_asked(
    parts: Parts, asked: Requests, notifier: Notifier, config: Config, config_path: Path
) -> Config:
    """Supervises until the end or a good new configuration; gives the configuration to go on with."""
    stop = asked.stop
    device = parts.device
    reloader = asyncio.create_task(_reload_when_asked(device, asked, notifier, config_path, stop))
    try:
        await supervise(parts.activities, device.pulse, stop, config.stop.drain_s)
    finally:
        if asked.ended:
            notifier.stopping()
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
            notifier.ready("new configuration refused, the old one stays")
            continue
        logging.configure(fresh.log.level, fresh.log.format)
        log.info("config.reloaded")
        stop.set()
        return fresh


@contextlib.asynccontextmanager
async def _opened(config: Config, notifier: Notifier, stop: Stop, *, once: bool) -> AsyncIterator[Parts]:
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
        outbox = await _open_state(stack, config.state_dir, clock)
        outbox.messages.queue_max = config.messages.queue_max
        way = Way(outbox, _way_rules(config))
        await way.load()
        uplink = _uplink(config, token, clock, way)
        stack.push_async_callback(uplink.close)
        janitor = Janitor(outbox, config.state_dir / SPOOL)
        await janitor.sweep_spool()
        parts = _compose(config, notifier, stop, clock, outbox, way, uplink, janitor, once=once)
        await parts.lanes.load()
        stack.callback(parts.device.close)
        stack.enter_context(meters.link_changes(parts.device.prober.link_changed))
        stack.push_async_callback(parts.device.close_cycle)
        await stack.enter_async_context(serving(parts.device, outbox))
        yield parts


async def _open_state(stack: contextlib.AsyncExitStack, state_dir: Path, clock: Clock) -> Outbox:
    """The outbox and its directory. Raises StateUnusable, AlreadyRunning, SchemaTooNew."""
    try:
        (state_dir / SPOOL).mkdir(parents=True, exist_ok=True)
        stack.enter_context(_alone(state_dir))
        return await stack.enter_async_context(open_outbox(state_dir / "outbox.db", clock))
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


def _way_rules(config: Config) -> WayRules:
    return WayRules(
        link=link.Rule(interval_s=config.probe.interval_s, idle_interval_s=config.probe.idle_interval_s),
        backoff=backoff.Policy(
            base_s=config.backoff.base_s,
            cap_s=config.backoff.cap_s,
            quick_retries=config.sync.retries_max,
            quick_s=config.sync.retry_delay_s,
        ),
        chunk=transfer.ChunkRule(
            target_s=config.transfer.chunk_target_s,
            bytes_min=config.transfer.chunk_bytes_min,
            bytes_max=config.transfer.chunk_bytes_max,
            bytes_start=config.transfer.chunk_bytes_start,
        ),
    )


def _uplink(config: Config, token: str, clock: Clock, way: Way) -> Uplink:
    return Uplink(
        url=config.cloud.url,
        token=token,
        connect_timeout_s=config.cloud.connect_timeout_s,
        stall_s=config.transfer.stall_s,
        ca_file=config.cloud.ca_file,
        seen=way.observe,
        told_time=clock.confirm,
        goodput=Goodput(),
    )


def _lanes(config: Config, outbox: Outbox, way: Way, uplink: Uplink, stop: Stop) -> Lanes:
    preparer = Preparer(
        outbox,
        {root.name: root.path for root in config.watch},
        config.state_dir / SPOOL,
        PrepareRules(
            upload_bytes_max=config.transfer.upload_bytes_max,
            free_floor_bytes=config.disk.free_floor_bytes,
            free_floor_percent=config.disk.free_floor_percent,
            item_base_s=config.backoff.item_base_s,
            item_cap_s=config.backoff.item_cap_s,
            debounce_s=config.settle.debounce_s,
        ),
        random.random,
        lambda: bool(stop),
    )
    rules = plan.Rules(
        file_bytes_max=config.transfer.bundle_file_bytes_max,
        bundle_bytes_max=config.transfer.bundle_bytes_max,
        entries_max=config.transfer.bundle_entries_max,
        target_s=config.transfer.chunk_target_s,
        parallel=config.transfer.parallel_max,
    )
    return Lanes(
        outbox=outbox,
        uplink=uplink,
        way=way,
        preparer=preparer,
        rules=rules,
        device_id=config.device_id,
        compress=config.transfer.compress,
    )


def _compose(
    config: Config,
    notifier: Notifier,
    stop: Stop,
    clock: Clock,
    outbox: Outbox,
    way: Way,
    uplink: Uplink,
    janitor: Janitor,
    *,
    once: bool,
) -> Parts:
    pulse = Pulse(clock.boottime_ms)
    lanes = _lanes(config, outbox, way, uplink, stop)
    sender = Sender(
        outbox,
        uplink,
        way,
        batch_items=config.messages.batch_items,
        timeout_s=config.messages.timeout_s,
        patient=not once,
    )
    cycle = SyncCycle(
        outbox,
        way,
        uplink.goodput,
        lanes.counters,
        device_id=config.device_id,
        interval_s=config.sync.interval_s,
        heartbeat_s=config.sync.heartbeat_s,
        scheduled=config.sync.scheduled and not once,
        reported=sender.wake.set,
        owed=outbox.queue.anything_owed,
    )
    lanes.delivered = cycle.wake.set
    sender.paced = cycle.pace
    watcher = Watcher(
        config.watch,
        config.settle,
        outbox.files,
        clock,
        wake_uploader=way.rouse,
        avoid=[config.state_dir, config.runtime_dir],
        # A slow card takes minutes to scan; each batch of a scan is progress.
        beat=lambda: None if once else pulse.expect("watcher", config.watchdog.deadline_s),
        deadline_s=config.watchdog.deadline_s,
    )
    prober = Prober(uplink, way, timeout_s=config.probe.timeout_s, owed=outbox.queue.anything_owed)
    device = RunningDevice(
        config=config,
        clock=clock,
        outbox=outbox,
        way=way,
        lanes=lanes,
        watcher=watcher,
        cycle=cycle,
        pulse=pulse,
        prober=prober,
    )
    finisher = Finisher(
        outbox=outbox,
        watcher=watcher,
        lanes=lanes,
        way=way,
        cycle=cycle,
        sender=sender,
        stop=stop,
        tries_max=config.sync.retries_max,
        settle_s=config.settle.force_s,
    )
    activities: list[Activity] = [
        prober,
        *(Lane(number, lanes, stop) for number in range(1, config.transfer.parallel_max + 1)),
        Rescuer(uplink),
        sender,
        cycle,
        finisher if once else watcher,
        janitor,
        Watchdog(pulse, notifier, device.status_line, deadline_s=config.watchdog.deadline_s),
    ]
    return Parts(device=device, activities=activities, finisher=finisher, lanes=lanes)
