"""A decision between writes as a sentence that a person can read."""

from __future__ import annotations

from collections.abc import Mapping

from pisyncd.core import timeline, wire
from pisyncd.core.deciding import Decision, Side
from pisyncd.core.picking import CLOUD
from pisyncd.core.record import canonical

VALUE_CHARS_MAX = 60
LOSERS_MAX = 3

_WHY = {
    "later": "it was written later",
    "trusted-clock": "its time is known, the other's is not",
    "tie": "both were written at the same moment, and the same one has to win everywhere",
    "client": "a device's word stands above the cloud's for records of this type",
    "greatest": "the greatest value counts",
    "first": "it was there first, and is set only once",
    "deleted": "a deletion stands above a change that had not seen it",
    "added": "what was added stands beside a removal that had not seen it",
    "undecided": "it is shown until a person decides",
}


def sentence(decision: Decision, names: Mapping[str, str]) -> str:
    """'percent: 85 of pibox-1 (2026-03-02T10:30:00Z) was kept over 80 of the cloud (...): it was written later.'

    `names`: writer -> what a person calls it.
    """
    what = decision.field or "the record"
    losers = " and ".join(_told(side, names) for side in decision.losers[:LOSERS_MAX])
    more = f" and {len(decision.losers) - LOSERS_MAX} more" if len(decision.losers) > LOSERS_MAX else ""
    kept = "stands beside" if decision.open else "was kept over"
    return f"{what}: {_told(decision.winner, names)} {kept} {losers}{more}: {_WHY[decision.reason]}."


def _told(side: Side, names: Mapping[str, str]) -> str:
    who = names.get(side.writer) or ("the cloud" if side.writer.startswith(CLOUD) else f"writer {side.writer}")
    when = wire.rfc3339(min(max(side.at_ms, 0), timeline.WALL_MAX_MS)) + (
        "" if side.trusted else ", by an unsure clock"
    )
    return f"{_value(side)} of {who} ({when})"


def _value(side: Side) -> str:
    if side.value is None:
        return "the deletion"
    text = canonical(side.value).decode()
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 1] + "…"
