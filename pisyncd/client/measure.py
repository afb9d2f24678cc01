"""What capturing costs, for scripts/bench. Only the standard library."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from pisyncd.client.blocking import TelemetryClient

_SESSION = "22222222-2222-4222-8222-222222222222"


def capture_ms(events: int = 2000, *, pause_s: float = 0.0, folder: Path | None = None) -> dict[str, Any]:
    """Milliseconds that a blocking `capture_event` takes, on the disk of `folder`, with no daemon to send to.

    {"events", "p50_ms", "p95_ms", "p99_ms", "max_ms", "durable"}; with `pause_s` between two events caches are cold,
    as they are for an application that records what a person does.
    """
    with tempfile.TemporaryDirectory(prefix="pisync-measure-", dir=folder) as made:
        options = {"path": Path(made) / "queue.db", "socket": Path(made) / "none.sock", "session_id": _SESSION}
        with TelemetryClient(**options, events_max=events + 1, exit_s=0.1) as client:  # type: ignore[arg-type]
            took = []
            for position in range(events):
                began = time.perf_counter()
                client.capture_event("QUESTION_VIEWED", {"position": position})
                took.append((time.perf_counter() - began) * 1000)
                if pause_s:
                    time.sleep(pause_s)
            durable = client.get_status()["durable"]
    took.sort()
    at = {name: round(took[min(len(took) - 1, int(len(took) * part))], 3) for name, part in _PARTS.items()}
    return {"events": events, **at, "max_ms": round(took[-1], 3), "durable": durable}


_PARTS = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
