from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pisyncd.client.blocking import TelemetryClient

from .rig import USER, Client, Server


@pytest.fixture
def server() -> Iterator[Server]:
    """Not started: a device whose daemon is away."""
    with tempfile.TemporaryDirectory(prefix="pisync-client-") as folder:
        made = Server(Path(folder) / "pisyncd.sock")
        yield made
        made.stop()


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[Client]:
    """Makes clients that do not send by themselves unless told so."""
    made: list[TelemetryClient] = []

    def make(**options: Any) -> TelemetryClient:
        settled = {"flush_count": 10_000, "flush_s": 10_000, "exit_s": 0.2, "user_id": USER}
        made.append(TelemetryClient(**{"path": tmp_path / "queue.db", "socket": server.path, **settled, **options}))
        # What it does on its own at the start is over; there is nothing to send yet.
        made[-1].sync()
        return made[-1]

    yield make
    for each in made:
        each.close(0.5)
