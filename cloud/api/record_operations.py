"""The operations of records, for the API document."""

from __future__ import annotations

from cloud.api.openapi import Operation, Param, Reply
from cloud.api.params import LIMIT_MAX
from cloud.api.records import PAGE_DEFAULT, PLACE, RecordSynced
from pisyncd.core.recordwire import FieldsIn, RecordOut

_TYPE = Param(
    name="type", place="path", about="`profile`, `enrollment`, `progress`, `assessment`, or a configured type"
)
_ID = Param(name="id", place="path", about="1-128 of A-Z a-z 0-9 . _ : ~ @ -")
_DELETED = Param(name="deleted", schema={"type": "boolean", "default": False}, about="tombstones as well")
_IF_MATCH = Param(name="If-Match", place="header", about='`"ETAG"` of the version that was read: else 412')
_ETAG = {"ETag": "stands for this version"}
_WRITES = (400, 404, 408, 410, 412, 413, 415, 422, 429, 503)

RECORDS = (
    Operation(
        method="GET",
        path="/api/records/{type}",
        name="getRecords",
        tag="records",
        summary="The records of a type, by id",
        about="A device gets those that it is entitled to.",
        auth="DV",
        params=(
            _TYPE,
            Param(
                name="limit", schema={"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": PAGE_DEFAULT}
            ),
            Param(name="cursor", about="`next_cursor` of the page before"),
            _DELETED,
        ),
        replies=(Reply(about="a page", body=RecordOut, frame="list"),),
        refusals=(404, 422),
    ),
    Operation(
        method="GET",
        path=PLACE,
        name="getRecord",
        tag="records",
        summary="One record",
        auth="DV",
        params=(_TYPE, _ID, _DELETED),
        replies=(Reply(about="the record", body=RecordOut, headers=_ETAG),),
        refusals=(404, 422),
    ),
    Operation(
        method="PUT",
        path=PLACE,
        name="putRecord",
        tag="records",
        summary="All fields of a record anew",
        about="Counters and immutable fields stay. What is there already makes no new version.",
        auth="DO",
        params=(_TYPE, _ID, _IF_MATCH),
        body=FieldsIn,
        replies=(
            Reply(status=201, about="made", body=RecordOut, headers=_ETAG),
            Reply(about="as it is now", body=RecordOut, headers=_ETAG),
        ),
        refusals=_WRITES,
    ),
    Operation(
        method="PATCH",
        path=PLACE,
        name="patchRecord",
        tag="records",
        summary="Some fields of a record anew; null removes one",
        auth="DO",
        params=(_TYPE, _ID, _IF_MATCH),
        body=FieldsIn,
        replies=(Reply(about="as it is now", body=RecordOut, headers=_ETAG),),
        refusals=_WRITES,
    ),
    Operation(
        method="DELETE",
        path=PLACE,
        name="deleteRecord",
        tag="records",
        summary="Delete a record; devices hear of it",
        auth="DO",
        params=(_TYPE, _ID, _IF_MATCH),
        replies=(Reply(about="the tombstone", body=RecordOut, headers=_ETAG),),
        refusals=(400, 404, 410, 412, 422, 429, 503),
    ),
    Operation(
        method="POST",
        path=PLACE + "/sync",
        name="syncRecord",
        tag="records",
        summary="Deliver the record's pending webhooks now, and wait for that (at most 25 s)",
        auth="DO",
        params=(_TYPE, _ID),
        replies=(Reply(about="the record, and what became of each webhook", body=RecordSynced),),
        refusals=(404, 503),
    ),
)
