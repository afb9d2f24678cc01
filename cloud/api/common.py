"""Parameters that several operations of the API document have."""

from __future__ import annotations

from cloud.api.openapi import Param
from cloud.api.params import LIMIT_MAX

WHOLE = {"type": "integer", "minimum": 1}
DEVICE = Param(name="device_id", place="path", about="the device's public id")
DEVICE_QUERY = Param(name="device_id", about="which device; a device's own token says it already")
CURSOR = Param(name="cursor", about="`next_cursor` of the page before")


def paging(limit: int, *, cursor: bool = True, most: int = LIMIT_MAX) -> tuple[Param, ...]:
    """`page`, `limit` and, unless the list goes by page number only, `cursor`."""
    pages = (
        Param(name="page", schema={**WHOLE, "default": 1}),
        Param(name="limit", schema={**WHOLE, "maximum": most, "default": limit}),
    )
    return (*pages, CURSOR) if cursor else pages
