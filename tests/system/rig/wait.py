"""Waiting for a condition with a deadline, so that no test sleeps and none hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.05
# Deadlines only keep a test from hanging. A machine whose disk stalls for a minute must not fail one.
PATIENCE = 4


class DeadlinePassedError(AssertionError):
    """The condition did not come true in time; the message says which and what was seen last."""


def until(what: str, look: Callable[[], T | None], *, within_s: float = 30.0, poll_s: float = POLL_S) -> T:
    """Return the first true value of `look()`; raise DeadlinePassedError after `within_s` seconds
    times PATIENCE.

    An OSError in `look` counts as "not yet": the process that is asked may be starting or dead.
    """
    deadline = time.monotonic() + within_s * PATIENCE
    last: object = None
    while True:
        try:
            seen = look()
        except OSError as error:
            last = error
        else:
            if seen:
                return seen
            last = seen
        if time.monotonic() >= deadline:
            raise DeadlinePassedError(f"{what}: not within {within_s:g} s; last seen: {last!r}")
        time.sleep(poll_s)
