"""The program itself: settings, start, stop, and the command line beside a running service."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from cloud import config
from cloud.config import Settings
from pisyncd.core.errors import ConfigError

EVENT = {"timestamp": "2026-01-01T00:00:00Z", "total_files_synced": 0, "total_errors": 1, "internet_speed": 2.5}


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PISYNC_CLOUD_")}
    return subprocess.run(
        [sys.executable, "-m", "cloud", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**clean, **(env or {})},
    )


@asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cloud", "serve", "--port", "0", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            url = (await process.stdout.readline()).decode().strip()
        assert url.startswith("http://127.0.0.1:"), url
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_serve_enroll_send_list_and_stop(database_url: str, tmp_path: Path) -> None:
    where = ("--data", str(tmp_path / "data"), "--database", database_url)
    async with serving(*where) as (process, url), aiohttp.ClientSession() as http:
        enrolled = await asyncio.to_thread(run, "enroll", "pi-1", *where)
        assert enrolled.returncode == 0, enrolled.stderr
        token = enrolled.stdout.splitlines()[-1]
        assert re.fullmatch(r"pisync_device_[\w-]{43}", token)
        headers = {"Authorization": f"Bearer {token}"}
        for number in range(5):
            body = {**EVENT, "device_id": "pi-1", "event_id": f"e{number}", "error_code": "link-down"}
            async with http.post(f"{url}/api/sync-event", json=body, headers=headers) as answer:
                assert answer.status == 201
        made = await asyncio.to_thread(run, "key", "create", "ops", "--role", "viewer", *where)
        key = {"Authorization": f"Bearer {made.stdout.splitlines()[-1]}"}
        async with http.get(f"{url}/api/devices/repeated-failures", headers=key) as answer:
            assert (await answer.json())["data"][0]["failed_count"] == 5
        for command in (("devices",), ("failures",), ("history", "pi-1")):
            shown = await asyncio.to_thread(run, *command, *where)
            assert shown.returncode == 0
            assert "pi-1" in shown.stdout or "failed" in shown.stdout
            assert max(map(len, shown.stdout.splitlines())) <= 80
            listed = await asyncio.to_thread(run, *command, "--json", *where)
            assert json.loads(listed.stdout.splitlines()[0])["device_id"] == "pi-1"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0


async def test_a_request_under_way_is_answered_before_the_stop(tmp_path: Path) -> None:
    token = run("enroll", "pi-1", "--data", str(tmp_path)).stdout.strip()
    async with serving("--data", str(tmp_path)) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({**EVENT, "device_id": "pi-1"}).encode()
        head = f"POST /api/sync-event HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode())
        async with asyncio.timeout(60):
            assert b"100" in await reader.readuntil(b"\r\n\r\n")
            process.send_signal(signal.SIGTERM)
            # A socket that closes while the connection waits in its queue answers with a reset.
            with pytest.raises((ConnectionRefusedError, ConnectionResetError)):
                while True:
                    _, other = await asyncio.open_connection(host, int(port))
                    other.close()
            writer.write(body)
            answer = await reader.read(4096)
            assert b" 201 " in answer
            assert await process.wait() == 0
        writer.close()


async def test_kill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    token = run("enroll", "pi-1", "--data", str(tmp_path)).stdout.strip()
    answered: list[str] = []
    async with serving("--data", str(tmp_path)) as (process, url), aiohttp.ClientSession() as http:

        async def send(start: int) -> None:
            for number in range(start, start + 1000):
                body = {**EVENT, "device_id": "pi-1", "event_id": f"e{number}"}
                headers = {"Authorization": f"Bearer {token}"}
                try:
                    async with http.post(f"{url}/api/sync-event", json=body, headers=headers) as answer:
                        assert answer.status == 201
                except aiohttp.ClientError:
                    return
                answered.append(f"e{number}")
                if len(answered) == 300:
                    process.kill()

        await asyncio.gather(*(send(start) for start in range(0, 8000, 1000)))
    with sqlite3.connect(tmp_path / "pisync.db") as lite:
        kept = {row[0] for row in lite.execute("SELECT event_id FROM sync_event")}
        total, failed = lite.execute("SELECT events_total, failed_total FROM device_state").fetchone()
    lite.close()
    assert set(answered) <= kept
    assert total == failed == len(kept)


def test_a_secret_stands_alone_on_the_last_line(tmp_path: Path) -> None:
    for command in (("enroll", "pi-1"), ("rotate", "pi-1"), ("key", "create", "a", "--role", "admin")):
        result = run(*command, "--data", str(tmp_path))
        assert result.returncode == 0
        assert re.fullmatch(r"pisync_[a-z]+_[\w-]{43}", result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (("enroll", "pi-1"), 1, "rotate pi-1"),
        (("enroll", "a b"), 1, "A-Z a-z 0-9"),
        (("rotate", "pi-2"), 1, "enroll pi-2"),
        (("revoke", "pi-2"), 1, "enroll pi-2"),
        (("history", "pi-2"), 1, "enroll"),
        (("key", "revoke", "x"), 1, "key list"),
        (("key", "create", "x", "--role", "king"), 2, "viewer"),
        (("devices", "--limit", "-1"), 2, "whole number"),
        (("serve", "--port", "x"), 78, "port"),
        (("serve", "--port", "70000"), 78, "at most 65535"),
        (("serve", "--open-dashboard", "--host", "0.0.0.0"), 78, "127.0.0.1"),
        (("serve", "--database", "postgresql://nobody@127.0.0.1:1/x"), 75, "reach"),
    ],
)
def test_a_wrong_command_says_what_to_do(tmp_path: Path, command: tuple[str, ...], code: int, says: str) -> None:
    assert run("enroll", "pi-1", "--data", str(tmp_path)).returncode == 0
    result = run(*command, "--data", str(tmp_path))
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_restored_database_is_told_so(tmp_path: Path) -> None:
    assert run("enroll", "pi-1", "--site", "A", "--data", str(tmp_path)).returncode == 0
    told = run("restored", "--data", str(tmp_path))
    assert (told.returncode, told.stdout) == (0, "")
    assert "send again" in told.stderr
    assert "cloud.restored" in run("audit", "--data", str(tmp_path)).stdout


def test_a_mistyped_data_directory_is_not_made(tmp_path: Path) -> None:
    result = run("devices", "--data", str(tmp_path / "typo"))
    assert result.returncode == 78
    assert "--data" in result.stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to someone else")
def test_a_database_that_root_makes_belongs_to_the_owner_of_its_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    assert run("enroll", "pi-1", "--data", str(tmp_path)).returncode == 0
    assert {entry.stat().st_uid for entry in tmp_path.iterdir() if entry.is_file()} == {65534}


def test_a_newer_schema_ends_with_78(tmp_path: Path) -> None:
    run("enroll", "pi-1", "--data", str(tmp_path))
    with sqlite3.connect(tmp_path / "pisync.db") as lite:
        lite.execute("INSERT INTO schema_migration VALUES (999, 'later', 0)")
    lite.close()
    result = run("serve", "--data", str(tmp_path))
    assert result.returncode == 78
    assert "newer PiSync" in result.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("serve", "--data", str(tmp_path), "--port", str(taken.getsockname()[1]))
    assert result.returncode == 75
    assert "address already in use" in result.stderr


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "cloud.yaml"
    file.write_text("port: 1001\nhost: 127.0.0.2\ndrain_s: 1.5\nopen_dashboard: true\n")
    environment = {"PISYNC_CLOUD_PORT": "1002", "PISYNC_CLOUD_HOST": "127.0.0.3", "PISYNC_CLOUD_CONFIG": str(file)}
    found = config.load(flags={"port": "1003", "data": None}, environment=environment, file=None)
    assert (found.port, found.host, found.drain_s, found.open_dashboard) == (1003, "127.0.0.3", 1.5, True)
    assert found.data == Settings().data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prt: 1", "unknown setting 'prt'"),
        ("port: 1\nport: 2", "line 2: the key 'port'"),
        ("port: many", "integer"),
        ("open_dashboard: maybe", "boolean"),
        ("- a", "name: value"),
        ("a: [", "YAML"),
        ("port: -1\ndrain_s: -1", "drain_s"),
        ("log_level: loud", "one of"),
    ],
)
def test_a_wrong_file_is_refused_with_a_reason(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "cloud.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(flags={}, environment={}, file=file)
    assert says in f"{caught.value.detail} {caught.value.hint}"
    assert str(file) in caught.value.detail
