from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .rig import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """Not started: a device whose daemon is away."""
    with tempfile.TemporaryDirectory(prefix="pisync-client-") as folder:
        made = Server(Path(folder) / "pisyncd.sock")
        yield made
        made.stop()
