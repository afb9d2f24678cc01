"""The command line's verbs for what devices get, and for the way out of the cloud: export, purge-user, audit."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pwd
import re
import sys
import time
from pathlib import Path

import msgspec
import structlog

from cloud.api import audit as audit_shapes
from cloud.api import exports as shapes
from cloud.config import Settings
from cloud.dashboard import terminal, words
from cloud.flows import audit, export_status, feed, identity, purge, subscriptions
from cloud.flows.exports import Export, Report
from cloud.flows.publish import Threads
from cloud.rules.exporting import Range
from cloud.services import wall_ms
from cloud.store import parquet
from cloud.store.db import Database
from cloud.store.exportdir import ExportDir
from pisyncd.core import wire
from pisyncd.core.errors import ConfigError, PermanentError
from pisyncd.core.problems import Refusal

PROGRESS_S = 2.0


class _Progress:
    """Lines on stderr while a range takes long, and one for each range that is published."""

    def __init__(self) -> None:
        self._begun = self._told = time.monotonic()
        self._part: Range | None = None

    def __call__(self, part: Range, done: int, /, *, published: bool = False) -> None:
        now = time.monotonic()
        if part is not self._part:
            self._part, self._begun, self._told = part, now, now
        if not published and now - self._told < PROGRESS_S:
            return
        self._told = now
        rate = done / max(now - self._begun, 0.001)
        name = f"{part.dataset} {part.from_ord}-{part.to_ord}" if part.to_ord else part.dataset
        what = f"{done} rows" if published or not part.rows_count else f"{done} of {part.rows_count} rows"
        print(f"{name}: {what}{', published' if published else ''}, {rate:.0f} rows/s", file=sys.stderr)


def _directory(settings: Settings) -> ExportDir:
    if not settings.export_dir:
        raise ConfigError(
            "no export_dir is set", code="export-off", hint="set it in the YAML file or as PISYNC_CLOUD_EXPORT_DIR"
        )
    return ExportDir(Path(settings.export_dir), free_floor_bytes=settings.free_floor_bytes)


async def export(db: Database, settings: Settings, args: argparse.Namespace) -> None:
    """One run of the export, or what there is to say about it. Raises PiSyncError."""
    if args.status or args.dry_run:
        await _show_export(db, json=args.json, dry_run=args.dry_run)
        return
    directory = _directory(settings)
    parquet.require()
    # What goes wrong is told at the end; the lines of a log would stand between those of the result.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if args.anew:
        count = await export_status.forget(db, directory, actor=actor(), now_ms=wall_ms)
        print(f"{count} ranges are forgotten; everything is exported again", file=sys.stderr)
    threads = Threads(1)
    try:
        run = Export(db, directory, threads, wall_ms, rows_max=settings.export_rows_max)
        report = await run.run(_Progress())
    finally:
        threads.close()
    _tell(report, json=args.json)
    if report.trouble is not None:
        raise report.trouble


def _tell(report: Report, *, json: bool) -> None:
    for path in report.files_missing:
        print(f"{path} is not there any more; if it was moved, take the purged user out of it there", file=sys.stderr)
    if json:
        fields = {"ranges": report.ranges, "rows": report.rows, "rewritten": report.rewritten}
        print(msgspec.json.encode({**fields, "files_missing": report.files_missing}).decode())
    else:
        print(f"{report.rows} rows in {report.ranges} ranges, {report.rewritten} of them rewritten")


async def _show_export(db: Database, *, json: bool, dry_run: bool) -> None:
    found = [shapes.dataset_out(status) for status in await export_status.statuses(db)]
    if json:
        print(terminal.as_json(found))
        return
    if dry_run:
        for one in found:
            parts = (f"{one.lag_rows} rows to write", f"{one.stale_ranges} ranges to rewrite")
            print(f"{one.dataset}: {parts[0]}, {parts[1]}")
        return
    heads = ("DATASET", "STATE", "WATERMARK", "ROWS", "WAITING", "LAST PUBLISHED")
    cells = (
        (
            one.dataset,
            one.state,
            str(one.watermark),
            str(one.rows),
            str(one.lag_rows),
            one.last_published.published_at or "never" if one.last_published else "never",
        )
        for one in found
    )
    print(terminal.table(heads, cells, right=frozenset({2, 3, 4})))
    for one in found:
        if one.trouble is not None:
            print(f"{one.dataset} {one.trouble.from_ord}-{one.trouble.to_ord}: {one.trouble.error}", file=sys.stderr)


async def purge_user(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Removes a user for good, after a question. Raises Refusal."""
    user_id = purge.check(args.user_id, args.reason)
    found = await purge.preview(db, user_id)
    for table, count in found.items():
        print(f"{table}: {count} rows", file=sys.stderr)
    if not args.yes:
        _confirm()
    done = await purge.purge(db, user_id, reason=args.reason, actor=actor(), now_ms=wall_ms)
    print(f"{sum(done.removed.values())} rows are removed; `pisync-cloud audit` shows the entry")
    if done.stale_ranges:
        print(
            f"{done.stale_ranges} ranges of the export are rewritten without them at its next run; "
            "`pisync-cloud export` does it now",
            file=sys.stderr,
        )


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise Refusal(409, "not-confirmed", "nobody is there to ask", hint="--yes removes the rows without a question")
    print("They are removed for good. Type yes to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        raise Refusal(409, "not-confirmed", "nothing was removed")


async def enroll(db: Database, args: argparse.Namespace) -> str:
    """The token of a device that is let in, and subscribed when that is asked for. Raises PiSyncError."""
    wanted = _scopes(args)
    token = await identity.enroll(db, args.device_id, wall_ms(), actor=actor())
    if wanted:
        await subscriptions.change(db, args.device_id, add=wanted, actor=actor(), now_ms=wall_ms())
    return token


def _scopes(args: argparse.Namespace) -> frozenset[tuple[str, str]]:
    return subscriptions.checked({kind: getattr(args, kind) for kind in subscriptions.KINDS})


def _named(args: argparse.Namespace) -> frozenset[tuple[str, str]]:
    wanted = _scopes(args)
    if not wanted:
        raise Refusal(422, "nothing-named", "no site, group or user is named", hint="--site S --group G --user U")
    return wanted


async def subscribe(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """More subscriptions for a device. Raises Refusal."""
    now = await subscriptions.change(db, args.device_id, add=_named(args), actor=actor(), now_ms=wall_ms())
    _tell_subscriptions(args.device_id, now)


async def unsubscribe(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """Less of them. Raises Refusal."""
    if args.all:
        now = await subscriptions.replace(db, args.device_id, frozenset(), actor=actor(), now_ms=wall_ms())
    else:
        now = await subscriptions.change(db, args.device_id, drop=_named(args), actor=actor(), now_ms=wall_ms())
    _tell_subscriptions(args.device_id, now)


async def restored(db: Database, _settings: Settings, _args: argparse.Namespace) -> None:
    """A backup was restored: devices and cloud find together again. Raises StorageBusy."""
    await feed.restored(db, actor=actor(), now_ms=wall_ms())
    print("devices fetch their records anew and send again what this database has lost", file=sys.stderr)
    print("start the service now; one that runs has to be started again", file=sys.stderr)


def _tell_subscriptions(device_id: str, now: frozenset[tuple[str, str]]) -> None:
    count = f"{len(now)} subscription{'' if len(now) == 1 else 's'}"
    print(f"{device_id} has {count}; it fetches anew what it may have", file=sys.stderr)


async def show_subscriptions(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """What a device is subscribed to. Raises Refusal when it is not enrolled."""
    found = await subscriptions.of_device(db, args.device_id)
    if args.json:
        print(msgspec.json.encode({"device_id": args.device_id, **subscriptions.by_kind(found)}).decode())
        return
    empty = f"{args.device_id} is subscribed to nothing; `pisync-cloud subscribe {args.device_id} --site NAME`"
    cells = [(kind, value) for kind, values in subscriptions.by_kind(found).items() for value in values]
    terminal.show(terminal.table(("KIND", "NAME"), cells) if cells else "", empty=empty)


def actor() -> str:
    """Who sits at the terminal: 'cli:amina', or 'cli:root for amina' through sudo."""
    name = f"uid {os.getuid()}"
    with contextlib.suppress(KeyError):
        name = pwd.getpwuid(os.getuid()).pw_name
    behind = os.environ.get("SUDO_USER", "")
    return f"cli:{name} for {behind[:64]}" if behind and behind.isprintable() and behind != name else f"cli:{name}"


async def show_audit(db: Database, _settings: Settings, args: argparse.Namespace) -> None:
    """The newest entries of the audit that were asked for. Raises PermanentError for a time that is none."""
    wanted = audit.Wanted(
        actor=args.actor,
        action=args.action,
        target=args.target,
        from_ms=_moment("--from", args.from_time, audit.ALL.from_ms),
        to_ms=_moment("--to", args.to_time, audit.ALL.to_ms),
    )
    async with db.reading() as tx:
        rows = await audit.entries(tx, wanted, limit=args.limit)
    empty = "nothing has been done that the audit keeps" if wanted == audit.ALL else "no entry is as asked for"
    if args.json:
        terminal.show(terminal.as_json(audit_shapes.out(row) for row in rows), empty=empty)
        return
    cells = (
        (
            words.clock(row["at_ms"]),
            row["actor"],
            row["action"],
            _HASH.sub(r"\1", row["target"])[:60],
            (row["before_hash"] or "-")[:8],
            (row["after_hash"] or "-")[:8],
        )
        for row in rows
    )
    terminal.show(
        terminal.table(("WHEN", "WHO", "WHAT", "WHOM", "BEFORE", "AFTER"), cells) if rows else "", empty=empty
    )


#: Of users the beginning of the hash is enough to tell them apart.
_HASH = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}\b")


def _moment(flag: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    found = wire.from_rfc3339(f"{text}T00:00:00Z" if len(text) == len("2026-01-31") else text)
    if found is None:
        raise PermanentError(
            f"{flag} {text!r} is no time", code="time-invalid", hint="2026-01-31 or 2026-01-31T12:00:00Z"
        )
    return found
