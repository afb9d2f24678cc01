"""GET and POST /api/exports: how far the export to the warehouse is, and run it now."""

from __future__ import annotations

import msgspec
from aiohttp import web

from cloud.api import access, answers
from cloud.flows import audit, export_status
from cloud.flows.export_status import DatasetStatus, Standing
from cloud.rules.exporting import Range
from cloud.services import SERVICES, Services, wall_ms
from cloud.workers.exporter import State


class RangeOut(msgspec.Struct, frozen=True, kw_only=True):
    """The rows after `from_ord` up to and with `to_ord`."""

    from_ord: int
    to_ord: int
    rows: int
    published_at: str | None
    attempts: int
    error: str | None


class DatasetOut(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset. `lag_rows`: rows that are not in the files yet, counted up to 1 000 000 beyond what is planned.
    `stale_ranges` still hold rows of a purged user; `failed_ranges` did not pass at their last attempt."""

    dataset: str
    state: Standing
    watermark: int
    rows: int
    lag_rows: int
    ranges: int
    stale_ranges: int
    failed_ranges: int
    last_published: RangeOut | None
    trouble: RangeOut | None
    last_updated_at: str | None


class UnderWay(msgspec.Struct, frozen=True, kw_only=True):
    """What is being written."""

    dataset: str
    from_ord: int
    to_ord: int
    rows_done: int
    rows_expected: int


class ErrorOut(msgspec.Struct, frozen=True, kw_only=True):
    """Why the last run ended early, or why there is none."""

    code: str
    detail: str
    hint: str


class ExportsOut(msgspec.Struct, frozen=True, kw_only=True):
    """The export. `failures`: failed runs since the last good one."""

    state: State
    begun_at: str | None
    ended_at: str | None
    next_run_at: str | None
    failures: int
    error: ErrorOut | None
    under_way: UnderWay | None
    datasets: list[DatasetOut]
    last_updated_at: str


async def get_exports(request: web.Request) -> web.Response:
    """200 with the state of the export. Raises Refusal 401, 403."""
    await access.require(request, role="viewer")
    return answers.ok(request, await _exports(request.app[SERVICES]))


async def post_exports(request: web.Request) -> web.Response:
    """202: it runs now, or once more after the run that is under way. Raises Refusal 401, 403, 409."""
    principal = await access.require(request, role="admin")
    services = request.app[SERVICES]
    services.exporter.ask()
    async with services.db.transaction() as tx:
        await audit.record(
            tx, now_ms=wall_ms(), actor=principal.actor, action=audit.EXPORT_STARTED, target="", detail={}
        )
    return answers.ok(request, await _exports(services), status=202)


async def _exports(services: Services) -> ExportsOut:
    exporter, at = services.exporter, answers.time_or_none
    error, under = exporter.error, exporter.under
    statuses = await export_status.statuses(services.db)
    return ExportsOut(
        state=exporter.state,
        begun_at=at(exporter.begun_at_ms),
        ended_at=at(exporter.ended_at_ms),
        next_run_at=at(exporter.next_run_ms),
        failures=exporter.failures,
        error=ErrorOut(code=error.code, detail=error.detail, hint=error.hint) if error else None,
        under_way=UnderWay(
            dataset=under.part.dataset,
            from_ord=under.part.from_ord,
            to_ord=under.part.to_ord,
            rows_done=under.rows_done,
            rows_expected=under.part.rows_count,
        )
        if under
        else None,
        datasets=[dataset_out(status) for status in statuses],
        last_updated_at=answers.time_or_none(wall_ms()) or "",
    )


def dataset_out(status: DatasetStatus) -> DatasetOut:
    """One dataset as it is shown."""
    return DatasetOut(
        dataset=status.dataset,
        state=status.state,
        watermark=status.watermark,
        rows=status.rows,
        lag_rows=status.lag_rows,
        ranges=status.ranges,
        stale_ranges=status.stale,
        failed_ranges=status.failed,
        last_published=_range(status.latest),
        trouble=_range(status.trouble),
        last_updated_at=answers.time_or_none(status.latest.published_at_ms if status.latest else None),
    )


def _range(part: Range | None) -> RangeOut | None:
    if part is None:
        return None
    return RangeOut(
        from_ord=part.from_ord,
        to_ord=part.to_ord,
        rows=part.rows_count,
        published_at=answers.time_or_none(part.published_at_ms),
        attempts=part.attempts,
        error=part.error,
    )


def setup(app: web.Application) -> None:
    """Adds the routes."""
    app.router.add_get("/api/exports", get_exports)
    app.router.add_post("/api/exports", post_exports)
