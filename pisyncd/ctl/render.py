"""The daemon's answers as text of at most 80 columns. Pure: JSON in, lines out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from pisyncd.core.units import size, span

Json = dict[str, Any]

LABEL = 10
_WORDS = {
    "ok": "OK",
    "sending": "SENDING",
    "waiting": "WAITING",
    "offline": "OFFLINE",
    "paused": "PAUSED",
    "attention": "NEEDS ATTENTION",
}


def status(answer: Json, width: int) -> list[str]:
    """One glance: is it online, what is owed, what is wrong, what to do."""
    head = f"{plain(answer['device_id'])}  {_WORDS.get(answer['verdict'], answer['verdict'].upper())}"
    lines = [fit(head, width), *wrap("", answer["summary"], width)]
    if answer["advice"]:
        lines += ["", *(line for advice in answer["advice"] for line in wrap("! ", advice, width))]
    lines += ["", *link(answer["link"], width), *_clock(answer["clock"], width), *_owed(answer["queue"], width)]
    lines += [line for moving in answer["transfers"] for line in _moving(moving, _held_up(answer), width)]
    lines += _cycles(answer["cycles"][:3], width)
    lines += [line for root in answer["roots"] for line in _root(root, width)]
    lines += _intake(answer["intake"], width)
    lines += _records(answer["records"], width)
    lines += _disk(answer["disk"], width)
    lines += _board(answer["board"], width)
    if answer["losses_total"]:
        count = answer["losses_total"]
        lines += labelled("Lost", f"{count} entr{'y' if count == 1 else 'ies'} in the ledger, see failures", width)
    versions = answer["versions"]
    lines += labelled(
        "Version", f"pisyncd {versions['pisyncd']}, Python {versions['python']}, {versions['system']}", width
    )
    return lines


def queue(answer: Json, width: int) -> list[str]:
    """What waits, first in line first."""
    lines = _owed(answer["totals"], width)
    if answer["files"]:
        lines += ["", fit(f"{'#':>5}  {'size':>8}  {'prio':>4}  {'state':<12}  file", width)]
    for file in answer["files"]:
        lead = f"{file['position']:>5}  {size(file['size']):>8}  {file['priority']:>4}  {_queue_state(file):<12}  "
        lines.append(lead + shorten(plain(file["path"]), width - len(lead)))
    if answer["next_skip"] is not None:
        lines.append(f"... more: --skip {answer['next_skip']}")
    return lines


def why(answer: Json, width: int) -> list[str]:
    """The sentence, what to do, what is recorded."""
    lines = wrap("", answer["sentence"], width)
    if answer["hint"]:
        lines += wrap("! ", answer["hint"], width)
    for version in answer["versions"]:
        end = f", complete {version['completed_at']}" if version["completed_at"] else ""
        error = f", {version['error_code']} after {version['attempts']} tries" if version["error_code"] else ""
        text = f"{version['state']}, {size(version['size'])}, queued {version['queued_at']}{end}{error}"
        lines += labelled(f"#{version['id']}", text, width)
    return lines


def history(answer: Json, width: int) -> list[str]:
    """One line a cycle, newest first."""
    if not answer["cycles"]:
        return ["no sync cycle yet"]
    lines = [fit(f"{'ended (UTC)':<20}  {'outcome':<8} {'files':>6} {'errors':>6} {'sent':>9} {'Mbit/s':>7}", width)]
    lines += [_cycle_row(cycle, width) for cycle in answer["cycles"]]
    if any(not cycle["clock_trusted"] for cycle in answer["cycles"]):
        lines.append("? the clock was not confirmed at that time")
    if answer["next_before"] is not None:
        lines.append(f"... more: --before {answer['next_before']}")
    return lines


def failures(answer: Json, width: int) -> list[str]:
    """What could not be sent and what to do; then the newest losses."""
    lines: list[str] = []
    for failure in answer["failures"]:
        when = "stays until you act" if failure["final"] else _again(failure)
        lines += wrap(f"#{failure['id']} ", plain(failure["path"]), width)
        detail = f"{failure['code']}: {plain(failure['detail'])} ({when}; {failure['attempts']} tries)"
        lines += wrap("    ", detail, width)
        if failure["hint"]:
            lines += wrap("    ! ", failure["hint"], width)
    if not lines:
        lines = ["everything that was tried was sent"]
    shown_final = sum(1 for failure in answer["failures"] if failure["final"])
    if answer["total"] > shown_final:
        lines.append(f"... and {answer['total'] - shown_final} more: --limit {min(500, answer['total'])}")
    if answer["losses_total"]:
        lines += ["", f"Loss ledger, {answer['losses_total']} in all:"]
        for loss in answer["losses"]:
            amount = f"{loss['count']} ({size(loss['bytes'])})"
            text = f"{loss['at']} {loss['what']}, {loss['reason']}, {amount} {plain(loss['detail'])}"
            lines += wrap(f"#{loss['id']} ", text, width)
    return lines


def _again(failure: Json) -> str:
    return f"again in {span(failure['next_try_s'])}" if failure["next_try_s"] else "its turn comes again"


def done(answer: Json, width: int) -> list[str]:
    """What was set in motion."""
    if answer.get("files") is None:
        return wrap("", answer["done"], width)
    count = answer["files"]
    return [f"{_counted(count)} {answer['done']}"]


def _counted(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def bar(share: float, width: int) -> str:
    """`[#####.....]`"""
    filled = int(max(0.0, min(1.0, share)) * (width - 2))
    return f"[{'#' * filled}{'.' * (width - 2 - filled)}]"


def mbit(rate: float) -> str:
    """`0.25`, `3.1`, `258`: two digits say enough."""
    return f"{rate:.2f}" if rate < 1 else f"{rate:.1f}" if rate < 10 else f"{rate:.0f}"


def plain(text: str) -> str:
    """The text without what would move a terminal's cursor: control characters as \\xNN."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)


def shorten(text: str, width: int) -> str:
    """The end of a path says most: `...ns/math/log.jsonl`."""
    return text if len(text) <= width else "..." + text[len(text) - max(0, width - 3) :]


def fit(text: str, width: int) -> str:
    """Cut at the width."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."


def wrap(lead: str, text: str, width: int) -> list[str]:
    """Lines that begin with `lead`; the following ones are indented as far."""
    indent = " " * len(lead)
    return textwrap.wrap(plain(text), width, initial_indent=lead, subsequent_indent=indent) or [lead.rstrip()]


def labelled(label: str, text: str, width: int) -> list[str]:
    """`Link      online ...`"""
    return wrap(f"{label:<{LABEL}}", text, width)


def link(link: Json, width: int) -> list[str]:
    """The way to the cloud."""
    parts = [f"{link['state']}: {link['reason']}" if link["reason"] else link["state"]]
    if link["proven_ago_s"] is not None:
        parts.append(f"the cloud answered {span(link['proven_ago_s'])} ago")
    if link["goodput_bps"]:
        parts.append(f"{mbit(link['goodput_bps'] * 8 / 1e6)} Mbit/s")
    lines = labelled("Link", "; ".join(parts), width)
    if link["backoff_s"] > 0:
        reason = link["backoff_reason"] or "waiting after an error"
        lines += labelled("", f"{reason}; next try in {span(link['backoff_s'])}", width)
    if link["portal_url"]:
        lines += labelled("", f"login page: {link['portal_url']}", width)
    return lines


def _clock(clock: Json, width: int) -> list[str]:
    text = f"{clock['now'][:19].replace('T', ' ')} UTC, "
    text += "confirmed" if clock["trusted"] else "not confirmed"
    ahead = clock["ahead_of_cloud_s"]
    if ahead is not None and abs(ahead) >= 2:
        text += f", {span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the cloud"
    return labelled("Clock", f"{text}; on for {span(clock['up_s'])}", width)


def _owed(totals: Json, width: int) -> list[str]:
    if not totals["by_class"]:
        return labelled("To send", "nothing", width)
    lines = []
    for index, one in enumerate(totals["by_class"]):
        oldest = f"oldest {span(one['oldest_s'])}" if one["oldest_s"] is not None else ""
        row = f"{one['name']:<20} {one['count']:>7}  {size(one['bytes']):>8}  {oldest}"
        lines.append(fit(f"{'To send' if index == 0 else '':<{LABEL}}{row}", width).rstrip())
    return lines


def _held_up(answer: Json) -> bool:
    return bool(answer["paused"]) or answer["link"]["state"] != "full"


def _moving(moving: Json, held_up: bool, width: int) -> list[str]:
    share = moving["offset"] / moving["length"] if moving["length"] else 1.0
    pace = "waiting" if held_up else f"{size(moving['rate_bps'])}/s" if moving["rate_bps"] else "starting"
    left = f", {span(moving['left_s'])} left" if moving["left_s"] is not None and not held_up else ""
    name = plain(moving["path"])
    if moving["files"] > 1:
        name = f"{_counted(moving['files'])} from {name}"
    tail = (
        f"{bar(share, 22)} {int(share * 100):>3} %  {size(moving['offset'])} of {size(moving['length'])}, {pace}{left}"
    )
    return [f"{'Now':<{LABEL}}{shorten(name, width - LABEL)}", fit(f"{'':<{LABEL}}{tail}", width)]


def _cycles(cycles: list[Json], width: int) -> list[str]:
    lines = []
    for index, cycle in enumerate(cycles):
        text = f"{_time(cycle)} {cycle['outcome']}, {_counted(cycle['files_synced'])}, {size(cycle['bytes_sent'])}"
        if cycle["errors"]:
            text += f", {cycle['errors']} errors ({cycle['error_code'] or 'see failures'})"
        lines += labelled("Cycles" if index == 0 else "", text, width)
    return lines


def _time(cycle: Json) -> str:
    return f"{cycle['ended_at'][:19].replace('T', ' ')}{'' if cycle['clock_trusted'] else '?'}"


def _cycle_row(cycle: Json, width: int) -> str:
    speed = "-" if cycle["speed_mbps"] is None else mbit(cycle["speed_mbps"])
    row = f"{_time(cycle):<20}  {cycle['outcome']:<8} {cycle['files_synced']:>6} {cycle['errors']:>6}"
    return fit(f"{row} {size(cycle['bytes_sent']):>9} {speed:>7}  {cycle['error_code'] or ''}".rstrip(), width)


def _root(root: Json, width: int) -> Iterator[str]:
    text = f"{plain(root['path'])}: {root['state']}"
    if root["settling"]:
        text += f", {root['settling']} settling"
    if root["scanned_ago_s"] is not None:
        text += f", scanned {span(root['scanned_ago_s'])} ago"
    if root["detail"]:
        text += f" ({root['detail']})"
    yield from labelled("Watching", text, width)


def _intake(intake: Json, width: int) -> list[str]:
    spool = intake["spool"]
    if not (intake["taken"] or intake["sessions_active"] or intake["shedding"] or spool["files"] or spool["refused"]):
        return []
    parts = [f"{intake['taken']} taken since the start", f"{intake['sessions_active']} sessions going on"]
    if intake["shedding"]:
        parts.append(f"behaviour is not taken ({intake['shedding']})")
    if spool["files"]:
        parts.append(f"{spool['files']} files wait in {plain(spool['path'])}")
    if spool["refused"]:
        parts.append(f"{spool['refused']} lines refused, see {plain(spool['path'])}/rejected")
    return labelled("Learning", ", ".join(parts), width)


def _records(records: Json, width: int) -> list[str]:
    if not records["count"] and not records["waiting"] and records["pulled_at"] is None:
        return []
    text = f"{records['count']}, {records['waiting']} waiting"
    if records["open_conflicts"]:
        text += f", {records['open_conflicts']} to be decided in the cloud"
    pulled = records["pulled_at"]
    text += f", fetched {pulled[:19].replace('T', ' ')}" if pulled else ", never fetched"
    return labelled("Records", text, width)


def _disk(disk: Json, width: int) -> list[str]:
    if disk["fault"]:
        return labelled("Disk", f"{disk['path']}: {disk['fault']}", width)
    text = f"{size(disk['free_bytes'])} of {size(disk['total_bytes'])} free"
    return labelled("Disk", text if disk["enough"] else f"{text}, too little", width)


def _board(board: Json, width: int) -> list[str]:
    told = [plain(board["model"])] if board["model"] else []
    if board["temperature_c"] is not None:
        told.append(f"{board['temperature_c']:.0f} C")
    if board["card_wear_percent"] is not None:
        told.append(f"card worn {board['card_wear_percent']:.0f} %")
    told += board["troubles"]
    return labelled("Board", ", ".join(told), width) if told else []


def _queue_state(file: Json) -> str:
    if file["state"] == "pending" and file["due_in_s"] > 0:
        return f"in {span(file['due_in_s'])}"
    return str(file["state"])
