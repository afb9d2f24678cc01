"""Records as text of at most 80 columns. Pure: JSON in, lines out."""

from __future__ import annotations

import json
from typing import Any

from pisyncd.ctl.render import fit, labelled, plain, shorten, wrap

Json = dict[str, Any]

_FIELD = 20
_ID = 40


def overview(answer: Json, width: int) -> list[str]:
    """How many of each type, what waits for the cloud and for a person."""
    records = answer["records"]
    lines = [fit(f"{name:<{_FIELD}} {count:>9}", width) for name, count in answer["types"].items()]
    if others := records["count"] - sum(answer["types"].values()):
        lines.append(fit(f"{'other types':<{_FIELD}} {others:>9}", width))
    lines += labelled("To send", f"{records['waiting'] or 'nothing'}", width)
    if records["open_conflicts"]:
        text = f"{records['open_conflicts']} to be decided by a person, in the cloud (/api/conflicts?state=open)"
        lines += labelled("Conflicts", text, width)
    return [*lines, *labelled("Fetched", _moment(records["pulled_at"]) if records["pulled_at"] else "never", width)]


def page(answer: Json, width: int) -> list[str]:
    """One line a record, by id."""
    lines = [fit(f"{'id':<{_ID}}  {'updated (UTC)':<19}  state", width)]
    for each in answer["data"]:
        name = shorten(plain(each["id"]), _ID)
        lines.append(fit(f"{name:<{_ID}}  {_moment(each['last_updated_at']):<19}  {_state(each)}", width))
    pagination = answer["pagination"]
    if pagination["next_cursor"]:
        lines += wrap("", f"... {pagination['total']} in all, more: --after {pagination['next_cursor']}", width)
    return lines if answer["data"] else ["none"]


def one(answer: Json, width: int) -> list[str]:
    """What it says, and what was decided about it."""
    record = answer["data"]
    synced = _moment(record["last_synced_at"]) if record["last_synced_at"] else "never"
    lines = wrap("", f"{record['type']} {record['id']}  {_state(record).upper()}", width)
    lines += labelled("Updated", f"{_moment(record['last_updated_at'])}, synced {synced} (UTC)", width)
    for name, value in record["fields"].items():
        text = json.dumps(value, ensure_ascii=False)
        lines.append(fit(f"{shorten(plain(name), _FIELD):<{_FIELD}} {plain(text)}", width))
    for conflict in record["conflicts"]:
        lead = "! to be decided: " if conflict["open"] else "- "
        lines += wrap(lead, conflict["explanation"], width)
    return lines


def _state(record: Json) -> str:
    parts = [record["sync_status"]] + ["deleted"] * record["deleted"]
    undecided = sum(each["open"] for each in record["conflicts"])
    return ", ".join(parts + ["to be decided"] * bool(undecided))


def _moment(text: str) -> str:
    return text[:19].replace("T", " ")
