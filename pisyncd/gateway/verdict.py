"""From the facts to one word, one sentence, and what to do next. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pisyncd.core.units import size
from pisyncd.gateway.ports import LinkView, RootView, SpoolView
from pisyncd.gateway.views import BoardView, DiskView, FailureView, QueueTotals, Verdict

_LINK_WORDS = {
    "none": "no network",
    "link": "network is up, cloud not checked yet",
    "portal": "a login page is in the way",
    "limited": "network is up, the cloud does not answer",
    "full": "online",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the verdict rests on."""

    link: LinkView
    paused: bool
    totals: QueueTotals
    moving: int
    failures_total: int
    failures: Sequence[FailureView]
    roots: Sequence[RootView]
    spool: SpoolView
    disk: DiskView
    board: BoardView
    stuck: Sequence[str]
    config_fault: str
    intake_fault: str
    enrolment_fault: str
    clock_trusted: bool


def judge(facts: Facts) -> tuple[Verdict, str, list[str]]:
    """(verdict, one sentence, advice). `attention` means that a person has to do something; being offline does not."""
    wrong = list(_wrong(facts))
    advice = [*wrong, *_remarks(facts)]
    summary = f"{_LINK_WORDS[facts.link.state]}; {owed(facts.totals)}"
    if facts.paused:
        summary += "; sending is paused"
    if wrong:
        summary += f"; {len(wrong)} {'thing needs' if len(wrong) == 1 else 'things need'} attention"
    return _word(facts, bool(wrong)), summary, advice


def owed(totals: QueueTotals) -> str:
    """`3 files (1.2 MB) and 4 messages to send`, or `nothing to send`."""
    parts = []
    if totals.files.count:
        parts.append(f"{totals.files.count} file{_s(totals.files.count)} ({size(totals.files.bytes)})")
    if totals.messages.count:
        parts.append(f"{totals.messages.count} message{_s(totals.messages.count)}")
    return f"{' and '.join(parts)} to send" if parts else "nothing to send"


def _word(facts: Facts, wrong: bool) -> Verdict:
    if wrong:
        return "attention"
    if facts.paused:
        return "paused"
    if facts.link.state not in ("full", "link"):
        return "offline"
    if not (facts.moving or facts.totals.files.count or facts.totals.messages.count):
        return "ok"
    return "waiting" if facts.link.backoff_s > 0 or facts.link.fault_code else "sending"


def _wrong(facts: Facts) -> Iterator[str]:
    if facts.stuck:
        yield f"{', '.join(facts.stuck)} made no progress for too long; `systemctl restart pisyncd`, then report it"
    if facts.disk.fault:
        yield f"the disk of {facts.disk.path}: {facts.disk.fault}"
    elif not facts.disk.enough:
        free, floor = size(facts.disk.free_bytes or 0), size(facts.disk.floor_bytes or 0)
        yield f"the disk is nearly full ({free} free, {floor} must stay free): delete or move something"
    if facts.config_fault:
        yield f"the changed configuration was refused, the old one is in force: {facts.config_fault}"
    if facts.intake_fault:
        yield f"{facts.intake_fault}; give intake.port a free one and `systemctl reload pisyncd`"
    if facts.enrolment_fault:
        # What the link shows until then is that nobody proves to be the cloud.
        yield facts.enrolment_fault
    elif facts.link.state == "portal":
        where = f" at {facts.link.portal_url}" if facts.link.portal_url else ""
        yield f"a login page answers instead of the cloud: open a browser{where} and log in to this network"
    if facts.link.fault_code in _FOR_A_PERSON:
        yield f"{facts.link.backoff_reason}: {facts.link.fault_hint}"
    for root in facts.roots:
        if root.state == "polling":
            yield f"{root.path} cannot be watched ({root.detail or 'limit reached'}): {root.hint or _INOTIFY_HINT}"
    if facts.failures_total:
        count = facts.failures_total
        yield f"{count} file{_s(count)} could not be sent: `pisyncctl failures` says why"


CARD_WORN_PERCENT = 90.0
# Trouble of the way that does not pass by itself.
_FOR_A_PERSON = ("token-refused", "storage-full", "storage-error")
_INOTIFY_HINT = "raise fs.inotify.max_user_watches with sysctl; until then changes are found by looking again and again"


def _remarks(facts: Facts) -> Iterator[str]:
    if facts.link.state in ("none", "limited") and facts.link.hint:
        yield facts.link.hint
    if facts.paused:
        yield "sending is paused: `pisyncctl resume` goes on"
    for root in facts.roots:
        if root.state == "waiting":
            yield f"{root.path} is not there; it is waited for ({root.detail or 'is the disk plugged in?'})"
    if facts.spool.paused:
        yield f"learning events in {facts.spool.path} wait ({facts.spool.files} files): {facts.spool.paused}"
    if facts.link.fault_code and facts.link.fault_code not in _FOR_A_PERSON:
        yield f"the last attempt failed ({facts.link.backoff_reason}); {facts.link.fault_hint or 'it is tried again'}"
    if any(trouble.startswith("under-voltage") for trouble in facts.board.troubles):
        yield "the power supply is too weak (under-voltage): use the board's own supply and a short, thick cable"
    if (facts.board.card_wear_percent or 0) >= CARD_WORN_PERCENT:
        yield f"the card is worn ({facts.board.card_wear_percent:.0f} % of its life): take a new one along"
    postponed = sum(1 for failure in facts.failures if not failure.final)
    if postponed:
        yield f"{postponed} file{_s(postponed)} will be tried again by themselves; `pisyncctl retry all` does it now"
    if not facts.clock_trusted:
        yield "the clock is not confirmed yet; times shown may be wrong, nothing else is"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
