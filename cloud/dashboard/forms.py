"""What forms and lists of the pages share: fields in one way, refusals beside the form with what was typed, cursors.

    @form(role="operator")
    @beside(show, "resolve")
    async def post_resolve(request, fields): ...

`show(request, tried)` renders the page again; a refusal that no form can put right (401, 403, 404) stays a page of its
own. Times in forms are UTC, as they are on the pages.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from aiohttp import web

from cloud.api import boundary, keys, params
from cloud.api.params import Page
from cloud.dashboard import words
from cloud.dashboard.frame import Fields, FormHandler, first
from cloud.rules.access import Principal
from cloud.store.db import Tx
from pisyncd.core import problems, wire
from pisyncd.core.errors import PermanentError
from pisyncd.core.problems import Refusal

Text = TypeVar("Text", bound=str)

_WHOLE = re.compile(r"-?[0-9]{1,15}")
_LOCAL = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_APART = re.compile(r"[,\n\r]+")
_OF_ITS_OWN = frozenset({401, 403, 404})
LIST_MAX = 200


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A form that was refused, with what was typed into it. NOTHING: none was."""

    form: str = ""
    fields: Fields = field(default_factory=dict)
    refusal: Refusal | None = None

    @property
    def status(self) -> int:
        """Of the page that shows it."""
        return self.refusal.status if self.refusal else 200

    def about(self, form: str) -> Refusal | None:
        """Why this form was refused; None: it was not."""
        return self.refusal if form == self.form else None

    def wrong(self, form: str, name: str) -> bool:
        """Whether it was this field."""
        refusal = self.about(form)
        return refusal is not None and any(each.pointer.split("/")[1:2] == [name] for each in refusal.errors)

    def value(self, form: str, name: str, otherwise: Any = "") -> str:
        """What was typed into a field of a form that was refused, else what stands there at first."""
        if form == self.form and name in self.fields:
            return first(self.fields, name)
        return "" if otherwise is None else str(otherwise)

    def chosen(self, form: str, name: str, otherwise: Collection[str] = ()) -> Collection[str]:
        """The same of a field with several values; of boxes that are all empty nothing is sent."""
        return self.fields.get(name, []) if form == self.form else otherwise


NOTHING = Tried()
Show = Callable[[web.Request, Tried], Awaitable[web.StreamResponse]]


def beside(show: Show, form: str) -> Callable[[FormHandler], FormHandler]:
    """Shows the page again, with the refusal beside the form."""

    def wrap(handler: FormHandler) -> FormHandler:
        @functools.wraps(handler)
        async def taken(request: web.Request, fields: Fields) -> str | web.StreamResponse:
            try:
                return await handler(request, fields)
            except (Refusal, PermanentError) as error:
                refusal = error if isinstance(error, Refusal) else boundary.as_refusal(error)
                if refusal.status in _OF_ITS_OWN:
                    raise refusal from None
                return await show(request, Tried(form=form, fields=fields, refusal=refusal))

        return taken

    return wrap


def who(request: web.Request) -> Principal:
    """Who sent a form or asks for a page that let them in."""
    principal: Principal = request[keys.PRINCIPAL]
    return principal


async def group_names(tx: Tx) -> list[str]:
    """Of all groups, sites and regions, for suggestions."""
    return sorted(row["name"] for row in await tx.all("known_groups"))


def whole(fields: Fields, name: str, *, least: int, most: int, default: int | None = None) -> int | None:
    """A whole number; the default for an empty field. Raises Refusal 422."""
    text = first(fields, name)
    if not text:
        return default
    value = int(text) if _WHOLE.fullmatch(text) else least - 1
    if not least <= value <= most:
        raise problems.invalid(f"/{name}", "range", f"{name.replace('_', ' ')}: a whole number from {least} to {most}")
    return value


def choice(fields: Fields, name: str, allowed: Sequence[Text]) -> Text:
    """One of `allowed`. Raises Refusal 422."""
    text = first(fields, name)
    for each in allowed:
        if each == text:
            return each
    raise problems.invalid(f"/{name}", "enum", f"{name.replace('_', ' ')}: one of {', '.join(filter(None, allowed))}")


def moment(fields: Fields, name: str) -> int | None:
    """Wall milliseconds of '2026-01-31T12:30' (UTC), a date, or RFC 3339; None: empty. Raises Refusal 422."""
    text = first(fields, name)
    if not text:
        return None
    if _DATE.fullmatch(text):
        text += "T00:00"
    if _LOCAL.fullmatch(text):
        text += "Z" if text.count(":") > 1 else ":00Z"
    found = wire.from_rfc3339(text)
    if found is None:
        raise problems.invalid(f"/{name}", "date-time", f"{name.replace('_', ' ')}: a time as 2026-01-31T12:30, in UTC")
    return found


def names(fields: Fields, name: str) -> list[str]:
    """Everything of a field, apart by commas or lines, each once: 'a, b' -> ['a', 'b']. Raises Refusal 422."""
    found = [part.strip() for value in fields.get(name, []) for part in _APART.split(value.replace("\0", ""))]
    kept = list(dict.fromkeys(part for part in found if part))
    if len(kept) > LIST_MAX:
        raise problems.invalid(f"/{name}", "size", f"{name.replace('_', ' ')}: at most {LIST_MAX}")
    return kept


def ticked(fields: Fields, name: str) -> bool:
    """Whether a box is ticked."""
    return bool(first(fields, name))


def text_of(request: web.Request, name: str, most: int = 300) -> str | None:
    """A text of the query to search for, without what is not printable; None when it is empty."""
    return words.visible(request.query.get(name, "").replace("\0", ""))[:most].strip() or None


def lasting(seconds: int) -> str:
    """5400 -> '1 h 30 min', 90 -> '90 s'."""
    if seconds % 60:
        return f"{seconds} s"
    days, minutes = divmod(seconds // 60, 1440)
    parts = ((days, "d"), (minutes // 60, "h"), (minutes % 60, "min"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"


def shown_json(value: Any) -> str:
    """A value as JSON that a person can read and edit: still the same JSON."""
    return words.visible(json.dumps(value, ensure_ascii=False, indent=2))


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Where a list is: links to its beginning ('' when it is there) and to what is older ('' when that is all)."""

    total: int
    newest: str
    older: str


def listed(request: web.Request, path: str, page: Page, total: int, last: int | None) -> Listed:
    """The list at `path`. `last`: the id of the last row that is shown, when there are more."""
    asked = {name: value for name, value in request.query.items() if name not in ("cursor", "page", "done")}

    def link(**more: str) -> str:
        query = urlencode({**asked, **more}, errors="replace")
        return path + (f"?{query}" if query else "")

    return Listed(
        total=total,
        newest=link() if page.before else "",
        older="" if last is None else link(cursor=params.cursor_after(0, last)),
    )
