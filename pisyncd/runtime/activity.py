"""Loops that can be stepped by hand, watched and stopped.

An activity looks, decides, acts, records, and returns the seconds until it wants to be called again. A wake is a hint;
the interval is the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Protocol

import structlog

from pisyncd.core.errors import TransientError

log = structlog.get_logger()

TROUBLE_PAUSE_S = 5.0

_beat: ContextVar[Callable[[], None]] = ContextVar("beat")


def beat() -> None:
    """Progress inside a long step: the deadline of the activity that runs here begins anew.

    Threads of asyncio.to_thread and tasks that a step makes count as the step; outside an activity nothing happens.
    """
    told = _beat.get(None)
    if told is not None:
        told()


class Wake:
    """Ends a wait early. Setting it twice wakes once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Returns when set, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
        self._event.clear()


class Bell(Wake):
    """Wakes all that wait for its next ring."""

    def next(self) -> asyncio.Event:
        """Is set by the first ring from now on."""
        return self._event

    def set(self) -> None:
        rung, self._event = self._event, asyncio.Event()
        rung.set()


class Soon:
    """Sets a wake a little later, once for all that asked for it meanwhile."""

    def __init__(self, wake: Wake, after_s: float) -> None:
        self._wake = wake
        self._after_s = after_s
        self._asked = False

    def set(self) -> None:
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_later(self._after_s, self._go)

    def _go(self) -> None:
        self._asked = False
        self._wake.set()


class Activity(Protocol):
    """One loop of the daemon."""

    name: str
    deadline_s: float
    wake: Wake

    async def step(self) -> float: ...


class Pulse:
    """When each activity is expected to show progress next, in milliseconds of the given monotonic clock.

    Waiting as planned is progress; a step that neither ends nor beats within its deadline is not.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._expected: dict[str, int] = {}

    def expect(self, name: str, within_s: float) -> None:
        """`name` shows progress within this many seconds from now."""
        self._expected[name] = self._now_ms() + int(within_s * 1000)

    def forget(self, name: str) -> None:
        """`name` has ended."""
        self._expected.pop(name, None)

    def late(self) -> list[str]:
        """The names that are past their time, none when all is well."""
        now = self._now_ms()
        return sorted(name for name, expected in self._expected.items() if expected < now)


class Stop:
    """Asks the loops to end at their next good place."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._wakes: list[Wake] = []

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()
        for wake in self._wakes:
            wake.set()

    def rouses(self, wake: Wake) -> None:
        """`wake` is set when the stop comes."""
        self._wakes.append(wake)

    async def wait(self) -> None:
        await self._event.wait()


async def keep_running(activity: Activity, pulse: Pulse, stop: Stop) -> None:
    """Steps `activity` until `stop`. Transient trouble is logged and tried again; anything else ends the process."""
    stop.rouses(activity.wake)
    _beat.set(functools.partial(pulse.expect, activity.name, activity.deadline_s))
    while not stop:
        pulse.expect(activity.name, activity.deadline_s)
        try:
            pause_s = await activity.step()
        except TransientError as error:
            log.warning("activity.troubled", activity=activity.name, code=error.code, detail=error.detail)
            pause_s = error.retry_after_s or TROUBLE_PAUSE_S
        pulse.expect(activity.name, pause_s + activity.deadline_s)
        if not stop:
            await activity.wake.wait(pause_s)
    pulse.forget(activity.name)


async def supervise(activities: Iterable[Activity], pulse: Pulse, stop: Stop, drain_s: float) -> None:
    """Runs all activities; returns when `stop` is set and every step has ended, or was cancelled after `drain_s`.

    Raises the first unexpected error of any activity, after the others were cancelled.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep_running(each, pulse, stop), name=each.name) for each in activities]
        await stop.wait()
        _, unfinished = await asyncio.wait(tasks, timeout=drain_s)
        for task in unfinished:
            log.warning("activity.cancelled", activity=task.get_name(), after_s=drain_s)
            task.cancel()
