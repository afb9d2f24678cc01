"""What is done to many devices at once, from their list."""

from __future__ import annotations

from typing import cast, get_args
from urllib.parse import urlencode

from aiohttp import web

from cloud.api import access
from cloud.api.devices import ages, wanted
from cloud.dashboard import forms
from cloud.dashboard.forms import beside
from cloud.dashboard.frame import Fields, FormHandler, first, form
from cloud.flows import commands, fleet, groups, standing
from cloud.flows.groups import Described
from cloud.rules import access as rules
from cloud.services import SERVICES, wall_ms
from cloud.store.db import Tx
from pisyncd.core import problems
from pisyncd.core.problems import Refusal
from pisyncd.core.vitals import CommandKind

#: In one transaction; more are told to be narrowed down.
DEVICES_MAX = 5000
DAY_MS = 86_400_000
#: What can be done, and the code of what is said afterwards.
ACTIONS = {
    "mute": "muted",
    "unmute": "unmuted",
    "tag": "tagged",
    "untag": "untagged",
    "group": "grouped",
    "ungroup": "ungrouped",
    "sync": "sync-asked",
    "support-bundle": "support-bundle-asked",
}
MUTES = ("1", "7", "30", "")

#: A device: its key and its id.
Chosen = list[tuple[int, str]]


async def _chosen(request: web.Request, tx: Tx, fields: Fields) -> Chosen:
    """The devices that are ticked, or all of the list. Raises Refusal 404, 422."""
    principal = forms.who(request)
    if forms.ticked(fields, "all"):
        reach = rules.reach(principal, "operator")
        limits = ages(request.app[SERVICES].settings)
        rows, total = await fleet.devices(
            tx, wanted(request), reach, ages=limits, now_ms=wall_ms(), limit=DEVICES_MAX, offset=0
        )
        if total > DEVICES_MAX:
            raise problems.invalid("/all", "size", f"At most {DEVICES_MAX} devices at once.", hint="Narrow the list.")
        return [(row["dk"], row["device_id"]) for row in rows]
    ids = dict.fromkeys(fields.get("device", []))
    found = [(await access.device_key(tx, principal, device_id, "operator"), device_id) for device_id in ids]
    if not found:
        raise problems.invalid("/device", "none", "No device is chosen.", hint="Tick some, or all of the list.")
    return found


async def _mute(request: web.Request, tx: Tx, chosen: Chosen, action: str, fields: Fields) -> None:
    actor, now_ms, dks = forms.who(request).actor, wall_ms(), [dk for dk, _ in chosen]
    if action == "unmute":
        await standing.unmute(tx, dks, actor=actor, now_ms=now_ms)
        return
    days = forms.choice(fields, "for", MUTES)
    until_ms = now_ms + int(days) * DAY_MS if days else None
    note = first(fields, "note")[:500]
    await standing.mute(tx, dks, until_ms=until_ms, note=note, actor=actor, now_ms=now_ms)


async def _name(request: web.Request, tx: Tx, chosen: Chosen, action: str, fields: Fields) -> None:
    """Adds or takes away a tag or a group. Raises Refusal 403, 422."""
    principal, name = forms.who(request), first(fields, "name")
    if not rules.is_name(name):
        raise problems.invalid("/name", "name", "A tag or a group has a name of letters, digits, . _ @ - and blanks.")
    if action.endswith("group") and rules.reach(principal, "operator") is not None:
        raise Refusal(403, "role-missing", "Groups are changed by operators of everything.", hint="Ask one of them.")
    for dk, device_id in chosen:
        _, named, tagged = await groups.of_device(tx, dk)
        held = named if action.endswith("group") else tagged
        kept = sorted({*held, name} if action in ("tag", "group") else {*held} - {name})
        said = Described(groups=kept) if action.endswith("group") else Described(tags=kept)
        await groups.describe(tx, dk, device_id, said, actor=principal.actor, now_ms=wall_ms())


async def _ask(request: web.Request, tx: Tx, chosen: Chosen, action: str, fields: Fields) -> None:
    kind = cast(CommandKind, action)
    await commands.ask(tx, dict(chosen), kind, actor=forms.who(request).actor, now_ms=wall_ms())


async def _act(request: web.Request, fields: Fields) -> str:
    """Does it, all of it or nothing. Raises Refusal 403, 404, 422."""
    action = forms.choice(fields, "action", tuple(ACTIONS))
    async with request.app[SERVICES].db.transaction() as tx:
        chosen = await _chosen(request, tx, fields)
        work = _mute if action.endswith("mute") else _ask if action in get_args(CommandKind) else _name
        await work(request, tx, chosen, action, fields)
    asked = {name: value for name, value in request.query.items() if name != "done"}
    return f"/devices?{urlencode({**asked, 'done': ACTIONS[action]}, errors='replace')}"


def setup(app: web.Application, show: forms.Show) -> None:
    """Adds the form; `show` renders the list."""
    handler: FormHandler = beside(show, "bulk")(_act)
    app.router.add_post("/devices/bulk", form(role="operator", grouped=True)(handler))
