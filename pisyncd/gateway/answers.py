"""Reads the outbox and the running daemon into views. Nothing here changes anything."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
from functools import cache
from importlib import metadata

from pisyncd import hardware
from pisyncd.core import wire
from pisyncd.gateway import rows, verdict
from pisyncd.gateway.ports import Device, TransferView
from pisyncd.gateway.views import (
    Backlog,
    BoardView,
    ClassBacklog,
    ClockView,
    DiskView,
    FailurePage,
    HistoryPage,
    IntakeView,
    Moving,
    QueuePage,
    QueueTotals,
    RecordsView,
    Status,
    Versions,
)
from pisyncd.outbox import Outbox

STATUS_CYCLES = 5
STATUS_FAILURES = 10
STATUS_LOSSES = 5
STATUS_TRANSFERS = 20
DISK_ANSWER_S = 3.0


async def status(device: Device, outbox: Outbox) -> Status:
    """The whole picture; at most some 20 KB."""
    link, stuck = device.link(), list(device.late())
    totals, room = await totals_of(outbox), await disk(device)
    machine = await asyncio.to_thread(board)
    failures_total, paused = await outbox.queue.count_failures(), device.paused()
    failures = [rows.failure_of(row, outbox.db.now_ms()) for row in await outbox.queue.failures(STATUS_FAILURES)]
    moving, roots = await transfers(device, outbox), list(device.roots())
    learning = await intake(device, outbox)
    word, summary, advice = verdict.judge(
        verdict.Facts(
            link=link,
            paused=paused,
            totals=totals,
            moving=len(moving),
            failures_total=failures_total,
            failures=failures,
            roots=roots,
            spool=learning.spool,
            disk=room,
            board=machine,
            stuck=stuck,
            config_fault=device.config_fault,
            intake_fault=device.intake_fault,
            enrolment_fault=device.enrolment_fault,
            clock_trusted=device.clock.trusted(),
        )
    )
    return Status(
        device_id=device.config.device_id,
        verdict=word,
        summary=summary,
        advice=advice,
        link=link,
        clock=clock(device),
        paused=paused,
        queue=totals,
        transfers=moving,
        cycles=[rows.cycle_of(row) for row in await outbox.cycles.newest(STATUS_CYCLES)],
        failures_total=failures_total,
        failures=failures,
        losses_total=await outbox.ledger.count(),
        losses=[rows.loss_of(row) for row in await outbox.ledger.newest(STATUS_LOSSES)],
        roots=roots,
        intake=learning,
        records=await records(outbox),
        disk=room,
        board=machine,
        stuck=stuck,
        config_fault=device.config_fault,
        versions=versions(),
    )


async def intake(device: Device, outbox: Outbox) -> IntakeView:
    """What applications told."""
    return IntakeView(
        taken=outbox.intake.taken,
        shedding=outbox.intake.shedding,
        sessions_active=await outbox.sessions.count_active(),
        spool=device.spool(),
    )


async def records(outbox: Outbox) -> RecordsView:
    """The copy of records."""
    counts, pulled = await outbox.records.counts(), await outbox.records.pulled_wall_ms()
    return RecordsView(
        count=counts.records,
        waiting=counts.waiting,
        open_conflicts=counts.open,
        pulled_at=None if pulled is None else wire.rfc3339(pulled),
    )


async def totals_of(outbox: Outbox) -> QueueTotals:
    """Everything owed, whole and by class."""
    now = outbox.db.now_ms()
    files = [
        ClassBacklog(
            name=f"files, priority {row['priority']}",
            count=row["files"],
            bytes=row["bytes"],
            oldest_s=rows.age_s(now, row["oldest_at_ms"]),
        )
        for row in await outbox.queue.by_priority()
    ]
    messages = [
        ClassBacklog(
            name=_class_of(row["stream"].partition("-")[0]),
            count=row["messages"],
            bytes=row["bytes"],
            oldest_s=rows.age_s(now, row["oldest_at_ms"]),
        )
        for row in await outbox.messages.by_stream()
    ]
    return QueueTotals(files=_sum(files), messages=_sum(messages), by_class=[*files, *messages])


async def queue(outbox: Outbox, limit: int, skip: int) -> QueuePage:
    """A page of what waits, in the order of sending."""
    now = outbox.db.now_ms()
    page = await outbox.queue.page(limit + 1, skip)
    files = [rows.queued_of(row, now, skip + index) for index, row in enumerate(page[:limit], start=1)]
    return QueuePage(totals=await totals_of(outbox), files=files, next_skip=skip + limit if len(page) > limit else None)


async def history(outbox: Outbox, limit: int, before: int) -> HistoryPage:
    """A page of sync cycles, newest first."""
    page = await outbox.cycles.newest(limit + 1, before)
    cycles = [rows.cycle_of(row) for row in page[:limit]]
    return HistoryPage(cycles=cycles, next_before=cycles[-1].id if len(page) > limit else None)


async def failures(outbox: Outbox, limit: int) -> FailurePage:
    """What could not be sent, final failures first, and the newest losses."""
    return FailurePage(
        total=await outbox.queue.count_failures(),
        failures=[rows.failure_of(row, outbox.db.now_ms()) for row in await outbox.queue.failures(limit)],
        losses_total=await outbox.ledger.count(),
        losses=[rows.loss_of(row) for row in await outbox.ledger.newest(limit)],
    )


async def transfers(device: Device, outbox: Outbox) -> list[Moving]:
    """What moves now."""
    found = [await _moving(view, outbox) for view in list(device.transfers())[:STATUS_TRANSFERS]]
    return [each for each in found if each is not None]


async def _moving(view: TransferView, outbox: Outbox) -> Moving | None:
    transfer, members = await outbox.files.transfer(view.id), await outbox.files.members(view.id)
    if transfer is None or not members:
        return None
    left = max(0, view.length - view.offset)
    return Moving(
        id=view.id,
        kind=transfer.kind,
        path=wire.display_path(members[0].wire_path),
        files=len(members),
        offset=view.offset,
        length=view.length,
        rate_bps=view.rate_bps,
        left_s=round(left / view.rate_bps, 1) if view.rate_bps else None,
    )


def clock(device: Device) -> ClockView:
    """The clocks, and whether wall time can be believed."""
    offset = device.clock.offset_ms
    return ClockView(
        now=wire.rfc3339(device.clock.wall_ms()),
        trusted=device.clock.trusted(),
        ahead_of_cloud_s=None if offset is None else -offset / 1000,
        boot_id=device.clock.boot_id,
        up_s=device.clock.boottime_ms() / 1000,
    )


def board() -> BoardView:
    """What a Raspberry Pi knows of its power and its heat; reads a few files of the kernel."""
    told = hardware.throttled()
    troubles: list[str] = []
    if told is not None:
        now = {"under-voltage": told.under_voltage, "throttled": told.throttled, "too hot": told.temperature_limit}
        troubles = [name for name, is_so in now.items() if is_so]
        if told.under_voltage_since_boot and not told.under_voltage:
            troubles.append("under-voltage since the start")
    return BoardView(
        model=hardware.model(),
        temperature_c=hardware.temperature_c(),
        card_wear_percent=hardware.card_wear_percent(),
        troubles=troubles,
    )


async def disk(device: Device) -> DiskView:
    """Room below state_dir. A disk that does not answer is said so; it must not hold up the technician."""
    path = device.config.state_dir
    try:
        usage = await asyncio.wait_for(asyncio.to_thread(shutil.disk_usage, path), DISK_ANSWER_S)
    except (OSError, TimeoutError) as error:
        fault = (getattr(error, "strerror", None) or "the disk does not answer").lower()
        return DiskView(path=str(path), free_bytes=None, total_bytes=None, floor_bytes=None, enough=False, fault=fault)
    limits = device.config.disk
    floor = max(limits.free_floor_bytes, int(usage.total * limits.free_floor_percent / 100))
    return DiskView(
        path=str(path),
        free_bytes=usage.free,
        total_bytes=usage.total,
        floor_bytes=floor,
        enough=usage.free >= floor,
    )


@cache
def versions() -> Versions:
    """What runs here; it does not change while it runs."""
    try:
        own = metadata.version("pisync")
    except metadata.PackageNotFoundError:
        own = "unknown"
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        system = "unknown"
    kernel = os.uname()
    return Versions(
        pisyncd=own,
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        system=system,
        kernel=kernel.release,
        machine=kernel.machine,
    )


def _class_of(stream: str) -> str:
    """'event' -> 'messages, event', 'learn8' -> 'learning, priority 8'."""
    return f"learning, priority {stream[5:]}" if stream.startswith("learn") else f"messages, {stream}"


def _sum(classes: list[ClassBacklog]) -> Backlog:
    ages = [each.oldest_s for each in classes if each.oldest_s is not None]
    return Backlog(
        count=sum(each.count for each in classes),
        bytes=sum(each.bytes for each in classes),
        oldest_s=max(ages, default=None),
    )
