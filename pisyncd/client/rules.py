"""Decisions of the client. Time and chance are arguments; nothing here waits, sends or stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

LEARNING_PATH = "/v1/telemetry/events"
BATCH_PATH = "/api/telemetry/batch"
PAYLOAD_BYTES_MAX = 4096

BASE_S = 1.0
CAP_S = 60.0
HOLD_S = 300.0
RETRY_AFTER_MAX_S = 3600.0
RETRIED = frozenset({408, 429, 502, 503, 504})
#: Said of the sender and not of an event: who it is, or whether there is such a service.
HELD = frozenset({401, 404, 405})

#: What goes first when the queue is full, and what goes last.
BEHAVIOUR, OTHER, ANSWER = 0, 1, 2
LEARNING_RANKS = {
    "SESSION_CREATED": OTHER,
    "SESSION_SUBMITTED": OTHER,
    "SESSION_EXPIRED": OTHER,
    "REVIEW_OPENED": OTHER,
    "QUESTION_VIEWED": BEHAVIOUR,
    "NAVIGATE_NEXT": BEHAVIOUR,
    "NAVIGATE_PREV": BEHAVIOUR,
    "NAVIGATE_JUMP": BEHAVIOUR,
    "ANSWER_SELECTED": ANSWER,
    "ANSWER_CHANGED": ANSWER,
    "MARK_FOR_REVIEW_TOGGLED": ANSWER,
    "PAUSE_BLUR": BEHAVIOUR,
}
GROUP_MAX = {"learning": 50, "track": 100}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """Why something did not work: a stable code, what happened, what to do."""

    code: str
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """The group is answered. `failed` by index; `unnamed` more were refused, nobody said which."""

    failed: Mapping[int, Trouble] = field(default_factory=dict)
    unnamed: int = 0


@dataclass(frozen=True, slots=True)
class Smaller:
    """Send fewer at a time: too large as a whole, or one of them spoils it for all."""

    trouble: Trouble


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing is lost: try again after `seconds`. `asked`: the other side said when."""

    seconds: float
    trouble: Trouble
    asked: bool = False


Decision = Settled | Smaller | Later


class Strange(Exception):
    """An answer with the right status and the wrong content: not from whom we mean."""


def rank(event_type: str) -> int:
    """What may go first when there is no room: BEHAVIOUR, OTHER, ANSWER."""
    return LEARNING_RANKS.get(event_type, OTHER)


def delay(failures: int, chance: float, retry_after_s: float | None = None) -> float:
    """Seconds until the next attempt after `failures` in a row (1, 2, ...): up to 1 2 4 ... 60, full jitter.

    Retry-After wins (1 s to 1 h), with up to a tenth on top, so that a herd that was sent away together does not come
    back together.
    """
    if retry_after_s is not None:
        return min(max(retry_after_s, BASE_S), RETRY_AFTER_MAX_S) * (1 + chance / 10)
    ceiling: float = min(CAP_S, BASE_S * 2 ** min(max(failures, 1) - 1, 30))
    return max(0.05, chance * ceiling)


def after_silence(trouble: Trouble, failures: int, chance: float) -> Later:
    """What follows when there was no answer."""
    return Later(delay(failures, chance), trouble)


def after_answer(
    status: int, trouble: Trouble, *, events: int, failures: int, chance: float, retry_after_s: float | None = None
) -> Decision:
    """What follows from an answer that is not 2xx. `failures` counts this one.

    A group that is refused for good is halved until the one that spoils it is alone; that one fails, the others go.
    """
    if status in RETRIED:
        return Later(delay(failures, chance, retry_after_s), trouble, asked=retry_after_s is not None)
    if 300 <= status < 400:
        # A login page of a network, not our service.
        return Later(delay(failures, chance), trouble)
    if status in HELD:
        return Later(HOLD_S, trouble)
    if events > 1:
        return Smaller(trouble)
    return Settled(failed={0: trouble})


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds from a Retry-After header, as a number or as a date; None when it says nothing useful."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _places(errors: Any) -> list[str]:
    """What is wrong where: `/question_ids/0: not a UUID`."""
    listed = [each for each in errors[:5] if isinstance(each, dict)] if isinstance(errors, list) else []
    return [f"{_text(each.get('pointer'), 100)}: {_text(each.get('detail'), 200)}" for each in listed]


def trouble_of(status: int, body: Any) -> Trouble:
    """The problem (RFC 9457) in an answer, or what the status says."""
    if isinstance(body, dict) and isinstance(body.get("code"), str):
        said = _text(body.get("detail"), 500)
        detail = "; ".join(filter(None, (said, *(place for place in _places(body.get("errors")) if place not in said))))
        return Trouble(code=body["code"][:100], detail=detail[:500], hint=_text(body.get("hint"), 500))
    return Trouble(code=f"http-{status}", detail=f"answered with status {status}")


def judge_learning(count: int, answer: Any) -> Settled:
    """The answer to POST /v1/telemetry/events for `count` events. Raises Strange."""
    if not isinstance(answer, dict):
        raise Strange("the answer is not an object")
    accepted, rejected = answer.get("accepted"), answer.get("rejected")
    if not _count(accepted) or not _count(rejected):
        raise Strange("the answer does not say how many are accepted and rejected")
    assert isinstance(rejected, int)
    failed: dict[int, Trouble] = {}
    reasons = answer.get("rejected_reasons_sample")
    for reason in reasons if isinstance(reasons, list) else []:
        index = reason.get("index") if isinstance(reason, dict) else None
        if isinstance(index, int) and 0 <= index < count and len(failed) < rejected:
            failed[index] = _refused(reason, "rejected")
    return Settled(failed=failed, unnamed=min(rejected, count) - len(failed))


def judge_batch(ids: Sequence[str], answer: Any) -> Settled:
    """The answer to POST /api/telemetry/batch for events with `ids`. Raises Strange."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise Strange("the answer holds no data")
    found = data.get("results")
    results = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    by_id = {each["itemId"]: each for each in results if isinstance(each.get("itemId"), str)}
    failed: dict[int, Trouble] = {}
    unsaid = 0
    for index, each_id in enumerate(ids):
        if (result := by_id.get(each_id)) is None:
            unsaid += 1
        elif result.get("status") not in ("synced", "duplicate"):
            failed[index] = _refused(result, _text(result.get("status"), 100) or "failed")
    if unsaid and not _all_counted(len(ids), len(failed), data):
        raise Strange("the answer does not speak of each event")
    return Settled(failed=failed)


def _all_counted(count: int, failed: int, data: dict[str, Any]) -> bool:
    """Whether the events that an answer does not name are taken: it names what it refused, and counts the others."""
    counts = [data.get(name, 0) for name in ("failed", "conflicts")]
    return data.get("processed") == count and all(map(_count, counts)) and sum(counts) == failed


def _refused(said: dict[str, Any], otherwise: str) -> Trouble:
    return Trouble(code=_text(said.get("code"), 100) or otherwise, detail=_text(said.get("detail"), 500))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(value: Any, length: int) -> str:
    return value[:length] if isinstance(value, str) else ""
