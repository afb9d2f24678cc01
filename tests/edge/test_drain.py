"""Several batches under way at once: what the cloud acknowledges is counted, however the answers come."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pisyncd.activities.drain import Drain, Pace, Size
from pisyncd.core import window, wire
from pisyncd.outbox import open_outbox

from .outbox_rig import FakeClock

SIZE = 2


async def test_answers_that_come_at_the_same_moment_count_as_acknowledged(tmp_path: Path) -> None:
    async with open_outbox(tmp_path / "outbox.db", FakeClock()) as outbox:
        async with outbox.db.transaction() as tx:
            for _ in range(SIZE * window.START):
                await outbox.messages.append(tx, "learn10", "event", {})
        together = asyncio.Barrier(window.START)

        async def post(items: list[wire.Item]) -> wire.BatchAnswer:
            await together.wait()
            assert items[-1].stream and items[-1].seq
            outcome = wire.BatchOutcome(
                processed=len(items), successful=len(items), failed=0, conflicts=0, duplicates=0, results=[],
                syncTime="2026-01-01T00:00:00Z", receivedThrough={items[-1].stream: SIZE * window.START},
            )  # fmt: skip
            return wire.BatchAnswer(success=True, data=outcome)

        drain = Drain(outbox, post, Size(items=SIZE, bytes_max=100_000), Pace())
        await drain.run(await outbox.messages.batch(SIZE), lambda: False)
        assert drain.accepted == SIZE * window.START and (await outbox.messages.owed())[0] == 0
