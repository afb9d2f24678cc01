"""GET /api/changes: what changed for a device; the request is held until there is something."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
from aiohttp import hdrs, web

from cloud.api import access, answers, keys, params
from cloud.flows.feed import Ask, ChangeOut, CursorExpired, Page
from cloud.services import SERVICES
from pisyncd.core import problems, record, recordwire, wire
from pisyncd.core.record import Rules, TypeRule

COMPRESS_BYTES_MIN = 1024
_IN_THREAD_BYTES = 64 * 1024


class ChangesOut(msgspec.Struct, frozen=True, kw_only=True):
    """`recordwire.Changes`, written."""

    changes: list[ChangeOut]
    cursor: str
    more: bool
    rules_etag: str
    rules: dict[str, TypeRule] | None


async def get_changes(request: web.Request) -> web.Response:
    """200 with a page of changes. Raises Refusal 401, 403, 410, 422, 429, 503."""
    services = request.app[SERVICES]
    principal = await access.require(request, device=True)
    request[keys.RATES] = await services.rates.items(principal, 1)
    rules = services.feed.rules
    ask = Ask(
        dk=principal.dk,
        device_id=principal.device_id,
        since=request.query.get("since", ""),
        types=_types(request, rules),
        limit=params.whole(request, "limit", recordwire.PAGE_MAX, least=1, most=recordwire.PAGE_MAX),
        writer=request.query.get("writer", ""),
    )
    wait_s = params.whole(request, "wait", 0, most=recordwire.WAIT_MAX_S)
    etag = record.rules_etag(rules)
    other_rules = request.query.get("rules", etag) != etag
    try:
        page = await _page(request, ask, 0 if other_rules else wait_s)
    except CursorExpired as error:
        return _expired(request, error)
    data = ChangesOut(
        changes=page.changes,
        cursor=page.cursor,
        more=page.more,
        rules_etag=etag,
        rules=dict(rules) if other_rules else None,
    )
    return _packed(answers.ok(request, data))


def _types(request: web.Request, rules: Rules) -> tuple[str, ...] | None:
    text = request.query.get("types", "")
    if not text:
        return None
    wanted = set(text.split(","))
    if wanted - rules.keys():
        raise problems.invalid(
            "query:types",
            "enum",
            "types are names with commas between, of those that this cloud knows",
            hint=f"known: {', '.join(sorted(rules))}",
        )
    return tuple(sorted(wanted))


async def _page(request: web.Request, ask: Ask, wait_s: int) -> Page:
    feed = request.app[SERVICES].feed
    now_s = asyncio.get_running_loop().time
    until_s = now_s() + wait_s
    page = await feed.page(ask)
    while not page.changes:
        woken = await feed.hold(page, ask, timeout_s=until_s - now_s(), is_gone=lambda: request.transport is None)
        if not woken:
            break
        # The token may have been ended while it waited.
        await access.require(request, device=True)
        ask = replace(ask, since=page.cursor)
        page = await feed.page_in_turn(ask)
    return page


def _expired(request: web.Request, error: CursorExpired) -> web.Response:
    request[keys.PROBLEM] = error.code
    body = problems.problem_body(
        error.status, error.code, error.detail, hint=error.hint, request_id=request[keys.REQUEST_ID]
    )
    problem = {**msgspec.json.decode(body), "snapshot": error.snapshot}
    headers = {hdrs.CONTENT_TYPE: wire.PROBLEM_JSON, hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(status=error.status, body=msgspec.json.encode(problem), headers=headers)


def _packed(response: web.Response) -> web.Response:
    """Compressed when the client takes that: the link may be metered."""
    assert isinstance(response.body, bytes)
    if len(response.body) >= COMPRESS_BYTES_MIN:
        response.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
        response.enable_compression()
    return response


async def _release(app: web.Application) -> None:
    app[SERVICES].feed.release()


def setup(app: web.Application) -> None:
    """Adds the route; who waits is answered when the service stops."""
    app.router.add_get("/api/changes", get_changes)
    app.on_shutdown.append(_release)
