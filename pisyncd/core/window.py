"""How many batches are under way at once: enough that the link is never idle, few enough that no queue fills.

3 4 6 9 13 16 while no answer takes a third longer than the quickest ever did: then nothing waits in a queue yet. One
less when they take three times as long, for then batches wait for each other, and lost packets for their repetition.
"""

from __future__ import annotations

START = 3
LEAST, MOST = 3, 16
ROOM, FULL = 1.3, 3.0
FULL_S, SLOW_S = 1.0, 8.0


def adjust(window: int, *, slowest_s: float, quickest_s: float) -> int:
    """The window after as many answers as it is large, the slowest of them after `slowest_s`; `quickest_s` ever."""
    if slowest_s > SLOW_S:
        return max(1, window // 2)
    if slowest_s < ROOM * quickest_s and 2 * slowest_s < SLOW_S:
        return min(MOST, window + max(1, window // 2))
    if slowest_s > FULL_S and slowest_s > FULL * quickest_s:
        return min(window, max(LEAST, window - 1))
    return window
