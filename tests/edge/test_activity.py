"""Loops under supervision: what counts as progress, what starves systemd's watchdog, and how they end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pisyncd.activities.watchdog import Watchdog
from pisyncd.core.errors import StorageBusy
from pisyncd.runtime.activity import Pulse, Stop, Wake, beat, supervise
from pisyncd.runtime.notify import Notifier

DEADLINE_S = 60.0


class Loop:
    """An activity with the step of a test."""

    deadline_s = DEADLINE_S

    def __init__(self, name: str, step: Callable[[], Awaitable[float]]) -> None:
        self.name = name
        self.wake = Wake()
        self.step = step  # type: ignore[method-assign, assignment]

    async def step(self) -> float:
        raise NotImplementedError


class Bench:
    """A watchdog over activities, on a real datagram socket and a clock that moves only when told."""

    def __init__(self, systemd: socket.socket) -> None:
        self.now_ms = 0
        self.pulse = Pulse(lambda: self.now_ms)
        self.stop = Stop()
        self._systemd = systemd
        self._watchdog = Watchdog(self.pulse, Notifier(), lambda: "status")

    def pass_s(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)

    async def feeds(self) -> bool:
        """Whether one look of the watchdog feeds systemd."""
        await self._watchdog.step()
        fed = False
        while True:
            try:
                fed = self._systemd.recv(4096) == b"WATCHDOG=1" or fed
            except BlockingIOError:
                return fed


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield Bench(listener)


async def test_a_deadlock_starves_the_watchdog_though_the_others_go_on(bench: Bench) -> None:
    forever = asyncio.Event()

    async def stuck() -> float:
        await forever.wait()
        return 0.0

    async def weeks_offline() -> float:
        return 30 * 86400.0

    run = asyncio.create_task(
        supervise([Loop("stuck", stuck), Loop("idle", weeks_offline)], bench.pulse, bench.stop, 5.0)
    )
    await asyncio.sleep(0.01)
    assert await bench.feeds()
    bench.pass_s(DEADLINE_S + 1)
    assert bench.pulse.late() == ["stuck"]
    assert not await bench.feeds()
    bench.stop.set()
    forever.set()
    await run
    assert bench.pulse.late() == []


async def test_weeks_offline_feed_it(bench: Bench) -> None:
    async def offline() -> float:
        return 3600.0

    run = asyncio.create_task(supervise([Loop("sender", offline)], bench.pulse, bench.stop, 5.0))
    await asyncio.sleep(0.01)
    bench.pass_s(3600)
    assert await bench.feeds()
    bench.stop.set()
    await run


async def test_a_long_step_that_beats_in_its_thread_and_its_tasks_is_not_stuck(bench: Bench) -> None:
    proceed, hashed = asyncio.Event(), asyncio.Event()

    async def sends() -> None:
        beat()

    async def long() -> float:
        await proceed.wait()
        await asyncio.to_thread(beat)
        hashed.set()
        proceed.clear()
        await proceed.wait()
        await asyncio.create_task(sends())
        hashed.set()
        await asyncio.Event().wait()
        return 0.0

    run = asyncio.create_task(supervise([Loop("uploader", long)], bench.pulse, bench.stop, 0.0))
    await asyncio.sleep(0.01)
    for _ in range(2):
        bench.pass_s(DEADLINE_S - 1)
        hashed.clear()
        proceed.set()
        await hashed.wait()
        bench.pass_s(DEADLINE_S - 1)
        assert await bench.feeds()
    bench.pass_s(2)
    assert not await bench.feeds()
    bench.stop.set()
    await run


async def test_trouble_that_passes_is_tried_again_and_anything_else_ends_all(bench: Bench) -> None:
    steps = 0

    async def troubled() -> float:
        nonlocal steps
        steps += 1
        if steps < 3:
            raise StorageBusy(retry_after_s=0.001)
        raise ValueError("a bug")

    async def other() -> float:
        return 3600.0

    with pytest.raises(ExceptionGroup) as caught:
        await supervise([Loop("troubled", troubled), Loop("other", other)], bench.pulse, bench.stop, 5.0)
    assert isinstance(caught.value.exceptions[0], ValueError)
    assert steps == 3


async def test_a_step_that_does_not_end_is_cancelled_after_the_drain(bench: Bench) -> None:
    began, cancelled = asyncio.Event(), False

    async def endless() -> float:
        nonlocal cancelled
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise
        return 0.0

    run = asyncio.create_task(supervise([Loop("endless", endless)], bench.pulse, bench.stop, 0.05))
    await began.wait()
    bench.stop.set()
    await asyncio.wait_for(run, 5)
    assert cancelled


def test_a_beat_outside_an_activity_is_nothing() -> None:
    beat()
