"""Query parameters: whole numbers, times, choices and pages, checked the same way everywhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from pisyncd.core import problems, wire

INT64_MAX = 2**63 - 1
PAGE_MAX = 1_000_000_000
LIMIT_MAX = 500

_WHOLE = re.compile(r"[0-9]{1,18}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_CURSOR = re.compile(r"(-?[0-9]{1,18})\.([0-9]{1,18})")


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which part of a list is asked for. `before` is the (time or 0, id) that the cursor names."""

    number: int
    limit: int
    before: tuple[int, int] | None = None

    @property
    def offset(self) -> int:
        """Rows to leave out; none when a cursor says where to begin."""
        return 0 if self.before is not None else (self.number - 1) * self.limit


def whole(request: web.Request, name: str, default: int, *, least: int = 0, most: int = INT64_MAX) -> int:
    """A whole number of the query. Raises Refusal 422."""
    text = request.query.get(name)
    if text is None or text == "":
        return default
    value = int(text) if _WHOLE.fullmatch(text) else -1
    if not least <= value <= most:
        raise problems.invalid(f"query:{name}", "range", f"{name} is a whole number from {least} to {most}")
    return value


def choice(request: web.Request, name: str, allowed: Sequence[str], default: str | None = None) -> str | None:
    """One of `allowed`, or the default. Raises Refusal 422."""
    text = request.query.get(name)
    if text is None or text == "":
        return default
    if text not in allowed:
        raise problems.invalid(f"query:{name}", "enum", f"{name} is one of {', '.join(allowed)}")
    return text


def moment(request: web.Request, name: str, default: int) -> int:
    """A time of the query in wall milliseconds; a plain date is its midnight in UTC. Raises Refusal 422."""
    text = request.query.get(name)
    if text is None or text == "":
        return default
    if _DATE.fullmatch(text):
        text += "T00:00:00Z"
    # The + of a zone that was not percent-encoded arrives as a blank.
    found = wire.from_rfc3339(text[:19] + text[19:].replace(" ", "+"))
    if found is None:
        raise problems.invalid(f"query:{name}", "date-time", f"{name} is RFC 3339 (2026-01-31T00:00:00Z) or a date")
    return found


def page(request: web.Request, *, limit: int = 10, by_number: bool = False) -> Page:
    """`page`, `limit` and, unless the list goes by page number only, `cursor` of the query. Raises Refusal 422."""
    cursor = None if by_number else request.query.get("cursor") or None
    return Page(
        number=whole(request, "page", 1, least=1, most=PAGE_MAX),
        limit=whole(request, "limit", limit, least=1, most=LIMIT_MAX),
        before=_before(cursor) if cursor else None,
    )


def _before(cursor: str) -> tuple[int, int]:
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"==").decode("ascii")
    except ValueError:
        text = ""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise problems.invalid("query:cursor", "cursor", "the cursor is not one that a list has given")
    return int(found[1]), int(found[2])


def cursor_after(at: int, number: int) -> str:
    """An opaque cursor for the rows after (older than) this one."""
    return base64.urlsafe_b64encode(f"{at}.{number}".encode()).decode("ascii").rstrip("=")
