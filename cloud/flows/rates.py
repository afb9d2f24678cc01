"""How much a device, a user or an address may send, per minute; counted in this process, or in Redis for several.

kind       counts                     per          setting
items      items of batches, events   device       rate_device_items
items      items                      user         rate_user_items
requests   requests of a device       device       rate_device_requests
address    all requests               address      rate_address_requests
login      attempts to sign in        address and name, each   rate_login
enroll     attempts to be let in      address      rate_login

The headers are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy: "items";q=300000;w=60` and
`RateLimit: "items";r=299990;t=42`, t in seconds from now, so that a wrong clock does not matter.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string

from cloud.rules import proxies
from cloud.rules.access import Principal
from pisyncd.core.errors import ConfigError
from pisyncd.core.problems import Refusal

log = structlog.get_logger()

WINDOW_S = 60
#: While the shared storage is out of reach this process counts by itself, and tries the storage again after this.
RETRY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is allowed per minute; 0: as much as they like."""

    device_items: int = 0
    user_items: int = 0
    device_requests: int = 0
    address_requests: int = 0
    login: int = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What is left of a limit: `remaining` of `most`, until `reset_s` seconds from now."""

    policy: str
    most: int
    remaining: int
    reset_s: int

    @property
    def headers(self) -> dict[str, str]:
        """RateLimit-Policy and RateLimit."""
        return {
            "RateLimit-Policy": f'"{self.policy}";q={self.most};w={WINDOW_S}',
            "RateLimit": f'"{self.policy}";r={max(self.remaining, 0)};t={self.reset_s}',
        }


class Rates:
    """`storage` is '' for this process alone, or redis://... for all that name the same. Raises ConfigError."""

    def __init__(self, limits: Limits, storage: str = "") -> None:
        self._limits = limits
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = _shared(storage) if storage else None
        self._shared_again_s = 0.0
        self._items: dict[int, RateLimitItemPerMinute] = {}
        self.refused = 0

    async def items(self, principal: Principal, count: int) -> Left | None:
        """Counts items of a device or user. Raises Refusal 429 with the seconds to wait, spread by chance."""
        most = {"device": self._limits.device_items, "user": self._limits.user_items}.get(principal.kind, 0)
        who = str(principal.dk) if principal.dk else principal.user_id
        return await self._admit(
            "items", principal.kind, who, most, count, f"items are taken from one {principal.kind}"
        )

    async def request(self, principal: Principal) -> Left | None:
        """Counts a request of a device. Raises Refusal 429."""
        if principal.kind != "device":
            return None
        most = self._limits.device_requests
        return await self._admit("requests", "device", str(principal.dk), most, 1, "requests are taken from one device")

    async def address(self, address: str) -> None:
        """Counts a request of whoever it may be. Raises Refusal 429."""
        most = self._limits.address_requests
        what = "requests are taken from one address"
        await self._admit("address", "", proxies.bucket(address), most, 1, what, told=False)

    async def login(self, address: str, name: str) -> None:
        """Counts an attempt to sign in, for the address and for the name. Raises Refusal 429."""
        most = self._limits.login
        for kind, who in (("address", proxies.bucket(address)), ("name", name[:64])):
            await self._admit("login", kind, who, most, 1, f"attempts to sign in are taken for one {kind}")

    async def enroll(self, address: str) -> None:
        """Counts an attempt to be let in. Raises Refusal 429."""
        most = self._limits.login
        await self._admit(
            "enroll", "", proxies.bucket(address), most, 1, "attempts to enrol are taken from one address"
        )

    async def _admit(
        self, policy: str, kind: str, who: str, most: int, count: int, what: str, *, told: bool = True
    ) -> Left | None:
        """`told`: what is left is shown to who passes; finding it costs as much as counting."""
        if not most:
            return None
        item = self._items.get(most) or self._items.setdefault(most, RateLimitItemPerMinute(most))
        # A request that is larger than the limit itself would otherwise never pass.
        cost = min(max(count, 1), most)
        passed, left = await self._hit(item, (policy, kind, who), cost, told)
        if passed:
            return left
        self.refused += 1
        # Those who were refused together must not come back together.
        wait_s = left.reset_s + random.randint(0, 5)  # noqa: S311
        raise Refusal(
            429,
            "rate-limited",
            f"at most {most} {what} in a minute",
            hint="wait as long as Retry-After says, then send the same again",
            headers={"Retry-After": str(wait_s), **left.headers},
        )

    async def _hit(
        self, item: RateLimitItemPerMinute, key: tuple[str, str, str], cost: int, told: bool
    ) -> tuple[bool, Left]:
        if self._shared is not None and time.monotonic() >= self._shared_again_s:
            try:
                return await _counted(self._shared, item, key, cost, told)
            except Exception as error:
                # Redis may be away; devices must not be shut out for that, nor let in without any limit.
                self._shared_again_s = time.monotonic() + RETRY_S
                log.warning("rates.storage_lost", error=repr(error)[:200], again_s=RETRY_S)
        return await _counted(self._own, item, key, cost, told)


async def _counted(
    limiter: SlidingWindowCounterRateLimiter,
    item: RateLimitItemPerMinute,
    key: tuple[str, str, str],
    cost: int,
    told: bool,
) -> tuple[bool, Left]:
    passed = await limiter.hit(item, *key, cost=cost)
    if passed and not told:
        return True, Left(policy=key[0], most=item.amount, remaining=item.amount, reset_s=WINDOW_S)
    stats = await limiter.get_window_stats(item, *key)
    reset_s = min(WINDOW_S, max(1, round(stats.reset_time - time.time())))
    return passed, Left(policy=key[0], most=item.amount, remaining=stats.remaining, reset_s=reset_s)


def _shared(storage: str) -> SlidingWindowCounterRateLimiter:
    options: Mapping[str, Any] = {"implementation": "redispy", "socket_timeout": 2, "socket_connect_timeout": 2}
    try:
        made = storage_from_string(f"async+{storage}", **options)
    except Exception as error:
        raise ConfigError(
            f"rate_storage: {error}",
            hint="redis://HOST:6379/0; it needs pip install -c requirements.lock '.[cloud,redis]'",
        ) from error
    return SlidingWindowCounterRateLimiter(made)
