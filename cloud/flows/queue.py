"""The sync queue and its health, and who may push it."""

from __future__ import annotations

import hmac
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cloud.rules import delivery
from cloud.rules.delivery import Health
from cloud.store.db import Database, Row, Tx
from pisyncd.core.errors import ConfigError
from pisyncd.core.problems import Refusal

RECENT = 10


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Deliveries by state; `total` also holds those that were delivered and are still remembered."""

    total: int
    processing: int
    pending: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """How the last 24 hours were. `average_retries`: attempts after the first, of deliveries that ended."""

    health: Health
    counts: Counts
    total_failures: int
    recent: list[Row]
    by_type: dict[str, int]
    by_resource: dict[str, int]
    average_retries: float


def read_cron_secret(secret: str, file: str) -> str:
    """The settings `cron_secret` and `cron_secret_file`; '' when neither is set. Raises ConfigError."""
    if not file:
        return secret.strip()
    try:
        found = Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cron_secret_file: {error}", hint="it holds the secret as one line of text") from error
    if not found:
        raise ConfigError(f"cron_secret_file: {file} is empty", hint="it holds the secret as one line of text")
    return found


def require_cron(secret: str, given: str) -> None:
    """Raises Refusal 503 without a secret, 401 for another one."""
    if not secret:
        raise Refusal(
            503,
            "cron-off",
            "no cron_secret is set",
            hint="set cron_secret_file (or PISYNC_CLOUD_CRON_SECRET); without it the queue is worked off all the same",
        )
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode()):
        raise Refusal(
            401, "cron-secret", "x-cron-secret is not the one that is set", hint="it is the setting cron_secret"
        )


async def counts(tx: Tx) -> Counts:
    """How many deliveries there are."""
    found = {row["state"]: row["number"] for row in await tx.all("webhook_queue_states")}
    return Counts(
        total=sum(found.values()),
        processing=found.get("processing", 0),
        pending=found.get("pending", 0),
        failed=found.get("failed", 0),
    )


async def report(db: Database, now_ms: int) -> Report:
    """The queue's health over 24 hours."""
    since_ms = now_ms - delivery.DAY_MS
    async with db.reading() as tx:
        totals = await tx.one("webhook_attempts_since", since_ms=since_ms)
        assert totals is not None
        oldest_ms = await tx.value("webhook_oldest_open")
        by_type: Counter[str] = Counter()
        by_resource: Counter[str] = Counter()
        for row in await tx.all("webhook_failures_by_type", since_ms=since_ms):
            by_type[row["type"]] += row["number"]
            by_resource[row["resource_type"]] += row["number"]
        return Report(
            health=delivery.health(
                attempts=totals["attempts"],
                failures=totals["failures"],
                oldest_wait_ms=0 if oldest_ms is None else now_ms - oldest_ms,
                disabled=await tx.value("webhook_endpoints_disabled"),
            ),
            counts=await counts(tx),
            total_failures=totals["failures"],
            recent=await tx.all("webhook_recent_failures", since_ms=since_ms, row_limit=RECENT),
            by_type=dict(by_type),
            by_resource=dict(by_resource),
            average_retries=round(float(await tx.value("webhook_retries_since", since_ms=since_ms)), 3),
        )
