"""The states of an upload, and how much of it to send at once. No I/O anywhere near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["pending", "uploading", "complete", "failed", "superseded"]

TRANSITIONS: dict[tuple[State, str], State] = {
    ("pending", "claimed"): "uploading",
    ("pending", "unchanged"): "complete",
    ("pending", "source changed"): "superseded",
    ("pending", "source gone"): "failed",
    ("pending", "rejected"): "failed",
    ("uploading", "chunk accepted"): "uploading",
    ("uploading", "finished"): "complete",
    ("uploading", "postponed"): "pending",
    ("uploading", "rejected"): "failed",
    ("uploading", "source changed"): "superseded",
    ("failed", "retry asked"): "pending",
    ("failed", "source changed"): "superseded",
}


def follow(state: State, event: str) -> State:
    """The state after `event`. Raises ValueError where the table has no such move."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"an upload that is {state} cannot be {event}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkRule:
    """Bounds of a chunk: bytes, and the seconds that one should take (Nextcloud's idea, smaller figures)."""

    target_s: float = 15.0
    bytes_min: int = 32 * 1024
    bytes_max: int = 8 * 1024 * 1024
    bytes_start: int = 256 * 1024


def chunk_after(rule: ChunkRule, chunk_bytes: int, sent_bytes: int, elapsed_s: float) -> int:
    """The next chunk's size after `sent_bytes` took `elapsed_s`: towards target_s, by at most x4 or /2 at a time."""
    if sent_bytes < chunk_bytes // 2:
        return chunk_bytes
    ideal = sent_bytes / max(elapsed_s, 0.001) * rule.target_s
    bounded = min(max(ideal, chunk_bytes / 2), chunk_bytes * 4)
    return int(min(max(bounded, rule.bytes_min), rule.bytes_max))


def chunk_after_timeout(rule: ChunkRule, chunk_bytes: int) -> int:
    """Half of it, down to bytes_min."""
    return max(chunk_bytes // 2, rule.bytes_min)


def wants_checksum(length: int, goodput_bps: float | None, mismatches: int) -> bool:
    """Whether a chunk of `length` bytes carries its own checksum.

    The cloud keeps what arrived of a cut body only when nothing is left to verify, so on a slow link the progress is
    worth more than the early warning, and the whole upload's SHA-256 is verified in any case. After such a
    verification failed once, every chunk is checked, to send only the broken one again.
    """
    if mismatches:
        return True
    return goodput_bps is not None and length <= goodput_bps * 2
