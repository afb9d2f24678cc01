"""Rows for the export, written past the service; the export itself; and what DuckDB reads in its files."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import duckdb

from cloud.flows.exports import Export, Report
from cloud.flows.publish import Threads
from cloud.services import wall_ms
from cloud.store.db import Database
from cloud.store.exportdir import ExportDir

DAY_MS = 86_400_000
START_MS = 1_767_225_600_000  # 2026-01-01
SHA = b"\0" * 32

_EVENT = (
    "id", "event_version", "event_type", "event_ts", "client_ts", "seq", "session_id", "user_id", "question_id",
    "source", "payload_json", "digest", "dk", "stream", "device_seq", "boot_id", "boottime_ms", "wall_ms",
    "clock_trusted",
)  # fmt: skip
_TELEMETRY = (
    "dk", "user_id", "event_id", "digest", "event_type", "event_data", "client_ts_ms", "batch_id", "received_at_ms",
)  # fmt: skip


def uuid(number: int, kind: int = 0) -> str:
    """A UUID that a number stands for."""
    return str(UUID(int=(kind << 96) | number | (4 << 76) | (8 << 60)))


USERS = [uuid(number, 7) for number in range(5)]


class Store:
    """Plain SQL on either kind of database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_postgres = url.startswith("postgres")

    async def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Executes for each row; `?` are the parameters."""
        if self.is_postgres:
            connection = await asyncpg.connect(self.url)
            try:
                await connection.executemany(_numbered(sql), rows)
            finally:
                await connection.close()
            return

        def write() -> None:
            lite = sqlite3.connect(self.url, timeout=60)
            try:
                with lite:
                    lite.executemany(sql, rows)
            finally:
                lite.close()

        # In a thread: a service in this process may hold the writer and needs the loop to let it go.
        await asyncio.to_thread(write)

    async def run(self, sql: str, *params: Any) -> None:
        await self.many(sql, [params])

    async def all(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        if self.is_postgres:
            connection = await asyncpg.connect(self.url)
            try:
                return [tuple(row) for row in await connection.fetch(_numbered(sql), *params)]
            finally:
                await connection.close()

        def read() -> list[tuple[Any, ...]]:
            lite = sqlite3.connect(self.url, timeout=60)
            try:
                return lite.execute(sql, params).fetchall()
            finally:
                lite.close()

        return await asyncio.to_thread(read)

    async def value(self, sql: str, *params: Any) -> Any:
        return (await self.all(sql, *params))[0][0]

    async def insert(self, table: str, columns: Iterable[str], rows: Sequence[Sequence[Any]]) -> None:
        names = list(columns)
        marks = ", ".join("?" for _ in names)
        await self.many(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)

    async def add_events(self, first: int, count: int, *, at_ms: int = START_MS, step_ms: int = 60_000) -> None:
        """Attempt events number `first` and on, one per `step_ms`, of USERS in turn."""
        rows = [
            (
                uuid(n, 1), 1, "QUESTION_VIEWED", at_ms + (n - first) * step_ms, at_ms, n, uuid(n % 50, 2),
                USERS[n % len(USERS)], None, "web", json.dumps({"position": n % 40}), SHA, 1 + n % 2, "event", n,
                f"boot-{n % 2}", 1000 * n, at_ms, n % 2,
            )
            for n in range(first, first + count)
        ]  # fmt: skip
        await self.insert("attempt_events", _EVENT, rows)

    async def add_telemetry(self, first: int, count: int, *, at_ms: int = START_MS, step_ms: int = 60_000) -> None:
        """Generic events; one in six is of no user."""
        users = [*USERS, ""]
        rows = [
            (0, users[n % 6], f"evt-{n}", SHA, "lesson_opened", json.dumps({"n": n}), None, "b", at_ms + i * step_ms)
            for i, n in enumerate(range(first, first + count))
        ]
        await self.insert("telemetry", _TELEMETRY, rows)

    async def add_world(self) -> None:
        """Two devices with a boot each, and a session of every user."""
        for dk in (1, 2):
            await self.run("INSERT INTO device (device_id, enrolled_at_ms) VALUES (?, 0)", f"pi-{dk}")
        boots = [
            (1, "boot-0", 1, 10, START_MS - 50, START_MS + 50, "exact", 0),
            (2, "boot-1", 1, 10, None, None, "open", 0),
        ]
        names = ("dk", "boot_id", "number", "last_boottime_ms", "low_ms", "high_ms", "kind", "updated_at_ms")
        await self.insert("boot", names, boots)
        await self.insert(
            "learner_session",
            (
                "session_id",
                "user_id",
                "dk",
                "mode",
                "filters",
                "question_ids",
                "state",
                "rev",
                "created_at_ms",
                "updated_at_ms",
            ),
            [
                (uuid(n, 2), user, 0, "practice", "{}", "[]", "active", 1, START_MS, START_MS)
                for n, user in enumerate(USERS)
            ],
        )
        await self.insert(
            "session_answer",
            ("session_id", "question_id", "position", "selected_index", "marked", "rev", "answered_at_ms"),
            [(uuid(n, 2), uuid(n, 3), 0, 1, 0, 1, START_MS) for n in range(len(USERS))],
        )


def _numbered(sql: str) -> str:
    parts = sql.split("?")
    return "".join(part + (f"${index}" if index < len(parts) else "") for index, part in enumerate(parts, 1))


class Warehouse:
    """DuckDB over the files of an export."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        """`{attempt_events}` is all that a glob finds; `{attempt_events!}` what the manifest lists."""
        with duckdb.connect() as duck:
            return duck.execute(self._filled(sql)).fetchall()

    def value(self, sql: str) -> Any:
        return self.all(sql)[0][0]

    def _filled(self, sql: str) -> str:
        for dataset in ("attempt_events", "telemetry", "boots", "sessions"):
            glob = f"read_parquet('{self.root}/{dataset}/**/*.parquet')"
            listed = [f"'{self.root / dataset / entry['path']}'" for entry in self.manifest(dataset)["files"]]
            sql = sql.replace("{" + dataset + "}", glob)
            sql = sql.replace("{" + dataset + "!}", f"read_parquet([{', '.join(listed)}])")
        return sql

    def manifest(self, dataset: str) -> Any:
        return json.loads((self.root / dataset / "_manifest.json").read_text())

    def files(self, dataset: str) -> list[Path]:
        return sorted((self.root / dataset).rglob("*.parquet"))

    def ids(self, dataset: str = "attempt_events") -> list[str]:
        """All ids, as often as they are there."""
        if not self.files(dataset):
            return []
        column = "id" if dataset == "attempt_events" else "event_id"
        return [row[0] for row in self.all(f"SELECT {column} FROM {{{dataset}}} ORDER BY 1")]


async def export(db: Database, directory: Path | ExportDir, *, rows_max: int = 500_000) -> Report:
    """One run; raises what ended it."""
    where = directory if isinstance(directory, ExportDir) else ExportDir(directory)
    threads = Threads(1)
    try:
        return await Export(db, where, threads, wall_ms, rows_max=rows_max).run(_quiet)
    finally:
        threads.close()


def _quiet(*_about: object, published: bool = False) -> None:
    pass


def command(*arguments: str, url: str, root: Path | None) -> list[str]:
    """The command line of `pisync-cloud`, as a process of its own sees it."""
    return [sys.executable, "-m", "cloud", *arguments, "--database", url, "--data", str((root or Path()).parent)]


def environment(root: Path | None, **settings: Any) -> dict[str, str]:
    """Settings for a process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PISYNC_CLOUD_")}
    named = {"export_dir": root, "free_floor_bytes": 0, **settings}
    return {
        **clean,
        **{f"PISYNC_CLOUD_{name.upper()}": str(value) for name, value in named.items() if value is not None},
    }


def run(*arguments: str, url: str, root: Path | None, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Runs `pisync-cloud` to its end."""
    return subprocess.run(
        command(*arguments, url=url, root=root),
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env=environment(root, **settings),
    )
