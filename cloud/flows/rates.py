"""How much a device or a user may send: items per minute, counted in this process."""

from __future__ import annotations

import random
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from cloud.rules.access import Principal
from pisyncd.core.problems import Refusal


class Rates:
    """`device` and `user` are items per minute, 0 for as many as they like."""

    def __init__(self, *, device: int, user: int) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._items = {
            kind: RateLimitItemPerMinute(most) for kind, most in (("device", device), ("user", user)) if most
        }
        self.refused = 0

    def admit(self, principal: Principal, items: int) -> None:
        """Counts `items` of this sender. Raises Refusal 429 with the seconds to wait, spread by chance."""
        limit = self._items.get(principal.kind)
        if limit is None:
            return
        who = str(principal.dk) if principal.dk else principal.user_id
        # A request that is larger than the limit itself would otherwise never pass.
        if self._limiter.hit(limit, principal.kind, who, cost=min(max(items, 1), limit.amount)):
            return
        self.refused += 1
        stats = self._limiter.get_window_stats(limit, principal.kind, who)
        # Those who were refused together must not come back together.
        wait_s = max(1, round(stats.reset_time - time.time())) + random.randint(0, 5)  # noqa: S311
        raise Refusal(
            429,
            "rate-limited",
            f"at most {limit.amount} items a minute are taken from one {principal.kind}",
            hint="wait as long as Retry-After says, then send the same again",
            headers={
                "Retry-After": str(wait_s),
                "RateLimit-Policy": f'"items";q={limit.amount};w=60',
                "RateLimit": f'"items";r={max(stats.remaining, 0)};t={wait_s}',
            },
        )
