"""Every operation of the service, for the API document. A test compares this table with the routes."""

from __future__ import annotations

import msgspec

from cloud.api import common, shapes
from cloud.api.alerts import AlertsOut
from cloud.api.audit import AuditOut
from cloud.api.commands_operations import COMMANDS
from cloud.api.enrolment_operations import ENROLMENT
from cloud.api.exports import ExportsOut
from cloud.api.feed_operations import CONFLICTS, FEED
from cloud.api.files import FileOut
from cloud.api.fleet_operations import FILTERS, FLEET
from cloud.api.inbound_operations import INBOUND
from cloud.api.notifying_operations import NOTIFYING
from cloud.api.openapi import Operation, Param, Reply
from cloud.api.people_operations import PEOPLE
from cloud.api.probe import Probe, Received
from cloud.api.record_operations import RECORDS
from cloud.api.standing_operations import STANDING
from cloud.api.webhook_operations import WEBHOOKS
from cloud.rules import intake, tus
from pisyncd.core import envelope, session, track, wire

_TIME = {"type": "string", "format": "date-time"}
_UPLOAD = Param(name="upload", place="path", about="the last part of the upload's Location")
_PATH = Param(name="path", place="path", about="the file's path, its raw bytes percent-encoded; may hold slashes")
_RESUMABLE = Param(name="Tus-Resumable", place="header", schema={"const": "1.0.0"}, required=True)
_CHALLENGE = Param(name="challenge", schema={"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"}, required=True)
_STATUS = Param(name="status", schema={"enum": ["success", "partial", "failed"]})
_OFFSET_OUT = {
    "Upload-Offset": "bytes held durably",
    wire.UPLOAD_STATE: "receiving, verifying, published, partial, refused",
}


SYNC = (
    Operation(
        method="POST",
        path="/api/sync-event",
        name="postSyncEvent",
        tag="sync events",
        summary="Record a sync event",
        about="A repeat is answered as the first time, with 200. The same `event_id` with other content is 409. "
        "Without an `event_id` the content itself is the id.",
        auth="DO",
        body=intake.SyncEventIn,
        replies=(
            Reply(status=201, about="kept", body=shapes.SyncEventOut, paced=True),
            Reply(status=200, about="was kept before", body=shapes.SyncEventOut, paced=True),
        ),
        refusals=(400, 404, 408, 409, 413, 415, 422, 503),
    ),
    Operation(
        method="GET",
        path="/api/device/{device_id}/sync-history",
        name="getSyncHistory",
        tag="sync events",
        summary="Sync history of a device, newest first",
        auth="DV",
        params=(
            common.DEVICE,
            *common.paging(10),
            _STATUS,
            Param(name="from", schema=_TIME),
            Param(name="to", schema=_TIME),
        ),
        replies=(Reply(about="a page", body=shapes.SyncEventOut, frame="list"),),
        refusals=(404, 422),
    ),
)

DEVICES = (
    Operation(
        method="GET",
        path="/api/devices",
        name="getDevices",
        tag="devices",
        summary="All devices",
        auth="V",
        params=(
            *common.paging(50, cursor=False),
            *FILTERS,
        ),
        replies=(Reply(about="a page", body=shapes.DeviceOut, frame="list"),),
        refusals=(422,),
    ),
    Operation(
        method="GET",
        path="/api/devices/{device_id}",
        name="getDevice",
        tag="devices",
        summary="One device",
        auth="DV",
        params=(common.DEVICE,),
        replies=(Reply(about="the device", body=shapes.DeviceDetail),),
        refusals=(404,),
    ),
    Operation(
        method="GET",
        path="/api/devices/repeated-failures",
        name="getRepeatedFailures",
        tag="devices",
        summary="Devices with more than 3 failed syncs, worst first",
        auth="V",
        params=(
            *common.paging(100, cursor=False),
            Param(name="threshold", schema={"type": "integer", "minimum": 0, "default": 3}, about="more than so many"),
            Param(name="mode", schema={"enum": ["total", "consecutive"], "default": "total"}),
            Param(name="window", schema={"type": "integer", "minimum": 60}, about="only those of the last so many s"),
            Param(name="group", about="of this group, site or region"),
            Param(name="acknowledged", schema={"type": "boolean"}, about="whether somebody has taken them on"),
        ),
        replies=(Reply(about="a page", body=shapes.FailureOut, frame="list"),),
        refusals=(422,),
    ),
    Operation(
        method="GET",
        path="/api/notifications",
        name="getNotifications",
        tag="devices",
        summary="Runs of failed syncs, one notification each, newest first",
        auth="V",
        params=(*common.paging(50), Param(name="open", schema={"type": "boolean"}), common.DEVICE_QUERY),
        replies=(Reply(about="a page", body=shapes.NotificationOut, frame="list"),),
        refusals=(404, 422),
    ),
)

_LEARNER = Param(
    name="PiSync-User",
    place="header",
    about="whom a device speaks of; a user's token says it already",
    schema={"type": "string", "format": "uuid"},
)

TELEMETRY = (
    Operation(
        method="POST",
        path="/api/telemetry/track",
        name="postTrack",
        tag="learning events",
        summary="Record one event of any type",
        about="The same `eventId` is answered as the first time; with other content it is 409. Nothing personal.",
        auth="DU",
        body=track.TrackIn,
        params=(_LEARNER,),
        replies=(Reply(about="kept", body=track.Tracked),),
        refusals=(400, 408, 409, 413, 415, 422, 429, 503),
    ),
    Operation(
        method="POST",
        path="/v1/telemetry/events",
        name="postEvents",
        tag="learning events",
        summary="Record up to 50 events of envelope v1",
        about="A bad event is skipped and counted. An event without `id` gets one from its content.",
        auth="DU",
        body=envelope.EventsIn,
        params=(_LEARNER,),
        replies=(Reply(about="how many were taken", body=envelope.EventsAnswer, frame="bare"),),
        refusals=(400, 408, 413, 415, 422, 429, 503),
    ),
    Operation(
        method="POST",
        path="/api/telemetry/batch",
        name="postBatch",
        tag="messages",
        summary="Send up to 500 messages, each taken exactly once",
        about="Every item is judged alone. `receivedThrough`: the highest seq of each stream with all before it kept.",
        auth="DU",
        body=intake.BatchIn,
        params=(Param(name="Prefer", place="header", about="`return=minimal` lists only items that need attention"),),
        replies=(Reply(about="what became of each item", body=wire.BatchAnswer, frame="beside"),),
        refusals=(400, 408, 413, 415, 422, 429, 503),
    ),
    Operation(
        method="GET",
        path="/api/telemetry/status",
        name="getTelemetryStatus",
        tag="messages",
        summary="How the messages of a device or user fare",
        auth="DUV",
        params=(common.DEVICE_QUERY,),
        replies=(Reply(about="the status", body=wire.TelemetryStatus, frame="beside"),),
        refusals=(404, 422),
    ),
    Operation(
        method="GET",
        path="/api/telemetry/batches",
        name="getBatches",
        tag="messages",
        summary="The batch log of a device or user, newest first",
        auth="DUV",
        params=(common.DEVICE_QUERY, *common.paging(50)),
        replies=(Reply(about="a page", body=shapes.BatchLogOut, frame="list"),),
        refusals=(404, 422),
    ),
)

FILES = (
    Operation(
        method="OPTIONS",
        path="/api/files",
        name="tusOptions",
        tag="uploads",
        summary="What this tus server can do",
        auth="P",
        replies=(Reply(status=204, about="in the headers", headers={"Tus-Extension": ", ".join(tus.EXTENSIONS)}),),
    ),
    Operation(
        method="POST",
        path="/api/files",
        name="createUpload",
        tag="uploads",
        summary="Begin an upload (tus 1.0.0)",
        about="`Upload-Metadata`: `kind` (file, bundle), `path` (raw bytes), `sha256`, `mtime_ms`, `reuse`.",
        auth="D",
        params=(
            _RESUMABLE,
            Param(name="Upload-Length", place="header", schema={"type": "integer", "minimum": 0}),
            Param(name="Upload-Metadata", place="header"),
            Param(name="Upload-Checksum", place="header"),
        ),
        body_media=wire.OFFSET_STREAM,
        replies=(Reply(status=201, about="begun", headers={"Location": "its address", **_OFFSET_OUT}),),
        refusals=(400, 404, 408, 409, 412, 413, 415, 460, 503, 507),
    ),
    Operation(
        method="PATCH",
        path="/api/files/{upload}",
        name="appendUpload",
        tag="uploads",
        summary="Append bytes at an offset",
        auth="D",
        params=(
            _UPLOAD,
            _RESUMABLE,
            Param(name="Upload-Offset", place="header", schema={"type": "integer", "minimum": 0}, required=True),
            Param(name="Upload-Checksum", place="header"),
        ),
        body_media=wire.OFFSET_STREAM,
        replies=(Reply(status=204, about="kept", headers=_OFFSET_OUT),),
        refusals=(400, 403, 404, 408, 409, 410, 412, 413, 415, 460, 503, 507),
    ),
    Operation(
        method="HEAD",
        path="/api/files/{upload}",
        name="uploadOffset",
        tag="uploads",
        summary="Where an upload stands",
        auth="D",
        params=(_UPLOAD, _RESUMABLE),
        replies=(Reply(about="in the headers", headers=_OFFSET_OUT),),
        refusals=(404, 410, 412),
    ),
    Operation(
        method="DELETE",
        path="/api/files/{upload}",
        name="endUpload",
        tag="uploads",
        summary="End an upload",
        auth="D",
        params=(_UPLOAD, _RESUMABLE),
        replies=(Reply(status=204, about="ended"),),
        refusals=(404, 410, 412),
    ),
    Operation(
        method="GET",
        path="/api/files/{upload}",
        name="getUpload",
        tag="uploads",
        summary="What became of an upload",
        auth="DV",
        params=(_UPLOAD,),
        replies=(Reply(about="its state, and the refused entries of a bundle", body=wire.UploadStatus),),
        refusals=(404, 410),
    ),
    Operation(
        method="GET",
        path="/api/devices/{device_id}/files",
        name="getFiles",
        tag="files",
        summary="The files of a device",
        auth="DV",
        params=(
            common.DEVICE,
            *common.paging(100, most=1000),
            Param(name="prefix", about="only paths that begin so"),
        ),
        replies=(Reply(about="a page", body=FileOut, frame="list"),),
        refusals=(404, 422),
    ),
    Operation(
        method="GET",
        path="/api/devices/{device_id}/files/{path}",
        name="getFile",
        tag="files",
        summary="Download a file, or list its versions with ?versions",
        auth="DV",
        params=(
            common.DEVICE,
            _PATH,
            Param(name="version", schema=common.WHOLE, about="an older version"),
            Param(name="Range", place="header"),
            Param(name="If-None-Match", place="header", about="the ETag is the SHA-256"),
        ),
        replies=(
            Reply(about="the bytes", media="application/octet-stream"),
            Reply(status=206, about="a part of them", media="application/octet-stream"),
            Reply(status=304, about="not changed"),
        ),
        refusals=(404, 416, 422),
    ),
    Operation(
        method="GET",
        path="/api/devices/{device_id}/contents",
        name="getContents",
        tag="files",
        summary="SHA-256 of what the device has delivered already",
        auth="DV",
        params=(
            common.DEVICE,
            Param(name="limit", schema={**common.WHOLE, "maximum": wire.CONTENTS_PAGE_MAX}),
            common.CURSOR,
        ),
        replies=(Reply(about="a page", body=str, frame="list"),),
        refusals=(404, 422),
    ),
)

_SESSION = Param(
    name="session_id", place="path", about="the session's UUID", schema={"type": "string", "format": "uuid"}
)
_LEARNER = Param(
    name=session.USER_HEADER,
    place="header",
    about="a device says by it who the learner is; a user's token says it already",
    schema={"type": "string", "format": "uuid"},
)

SESSIONS = (
    Operation(
        method="POST",
        path="/v1/sessions",
        name="postSession",
        tag="learner sessions",
        summary="Begin a session",
        about="With an `id` it can be sent again: 200 with the same session, 409 when the content is another.",
        auth="UD",
        body=session.SessionIn,
        params=(_LEARNER,),
        replies=(
            Reply(status=201, about="begun", body=session.SessionOut, frame="bare"),
            Reply(status=200, about="was begun before", body=session.SessionOut, frame="bare"),
        ),
        refusals=(400, 408, 409, 413, 415, 422, 429, 503),
    ),
    Operation(
        method="POST",
        path="/v1/sessions/{session_id}/answer",
        name="postAnswer",
        tag="learner sessions",
        summary="Choose an answer, mark a question, or both",
        about="409 `session-closed` after the end. A session that was made on a device is answered there.",
        auth="UD",
        body=session.AnswerIn,
        params=(_SESSION, _LEARNER),
        replies=(Reply(about="the answer as it is now", body=session.AnswerOut, frame="bare"),),
        refusals=(400, 404, 408, 409, 413, 415, 422, 429, 503),
    ),
    Operation(
        method="POST",
        path="/v1/sessions/{session_id}/submit",
        name="postSubmit",
        tag="learner sessions",
        summary="End a session; again: the same answer",
        auth="UD",
        params=(_SESSION, _LEARNER),
        replies=(Reply(about="the session, which has ended", body=session.SessionOut, frame="bare"),),
        refusals=(400, 404, 408, 409, 413, 415, 422, 429, 503),
    ),
    Operation(
        method="GET",
        path="/v1/sessions/{session_id}/review",
        name="getReview",
        tag="learner sessions",
        summary="Look at a session that has ended",
        about="409 `session-active` before the end.",
        auth="UD",
        params=(_SESSION, _LEARNER),
        replies=(Reply(about="the session and its answers", body=session.ReviewOut, frame="bare"),),
        refusals=(400, 404, 409, 429, 503),
    ),
)

EXPORTS = (
    Operation(
        method="GET",
        path="/api/exports",
        name="getExports",
        tag="export",
        summary="How far the export to the warehouse is",
        auth="V",
        replies=(Reply(about="the state of each dataset", body=ExportsOut),),
    ),
    Operation(
        method="POST",
        path="/api/exports",
        name="postExports",
        tag="export",
        summary="Export now",
        auth="A",
        replies=(Reply(status=202, about="it runs, or once more after the run under way", body=ExportsOut),),
        refusals=(409, 503),
    ),
)

SERVICE = (
    Operation(
        method="GET",
        path="/api/probe",
        name="getProbe",
        tag="service",
        summary="Proof that this is the device's own cloud, and the time",
        auth="DV",
        params=(_CHALLENGE,),
        replies=(Reply(about="HMAC-SHA256 of the challenge, keyed with the token", body=Probe, frame="beside"),),
        refusals=(422,),
    ),
    Operation(
        method="POST",
        path="/api/probe",
        name="postProbe",
        tag="service",
        summary="Bytes for a small speed test; they are counted and not kept",
        auth="DO",
        body=msgspec.Raw,
        body_media="application/octet-stream",
        replies=(Reply(about="how many arrived", body=Received, frame="beside"),),
        refusals=(413,),
    ),
    Operation(
        method="GET",
        path="/api/health",
        name="getHealth",
        tag="service",
        summary="How the service does",
        auth="P",
        replies=(
            Reply(about="healthy", body=shapes.Health, frame="beside"),
            Reply(status=503, about="the database does not answer", body=shapes.Health, frame="beside"),
        ),
    ),
    Operation(
        method="GET",
        path="/metrics",
        name="getMetrics",
        tag="service",
        summary="The figures, for Prometheus",
        about="With the setting `metrics_open: false` it takes a key of role viewer.",
        auth="P",
        replies=(Reply(about="Prometheus' text format", media="text/plain"),),
        refusals=(401, 403),
    ),
    Operation(
        method="GET",
        path="/api/alerts",
        name="getAlerts",
        tag="service",
        summary="The alerts, judged by the service itself",
        auth="V",
        replies=(Reply(about="every alert with its state", body=AlertsOut),),
    ),
)

AUDIT = (
    Operation(
        method="GET",
        path="/api/audit",
        name="getAudit",
        tag="audit",
        summary="Who did what, newest first",
        about="Append-only. Users stand in it by the SHA-256 of their id; `target` finds them by the id all the same.",
        auth="A",
        params=(
            *common.paging(50),
            Param(name="actor", about="operator:NAME, key:NAME, cli:UNIX_USER, webhook:NAME, device:ID, system"),
            Param(name="action", about="`record.updated`, or `record.*`"),
            Param(name="target", about="a device, a key, TYPE/ID of a record, a user"),
            Param(name="from", schema=_TIME),
            Param(name="to", schema=_TIME),
        ),
        replies=(Reply(about="a page", body=AuditOut, frame="list"),),
        refusals=(422,),
    ),
)

OPERATIONS: tuple[Operation, ...] = (
    *SYNC,
    *DEVICES,
    *STANDING,
    *PEOPLE,
    *COMMANDS,
    *FLEET,
    *ENROLMENT,
    *TELEMETRY,
    *SESSIONS,
    *FILES,
    *EXPORTS,
    *RECORDS,
    *FEED,
    *CONFLICTS,
    *SERVICE,
    *AUDIT,
    *NOTIFYING,
    *WEBHOOKS,
    *INBOUND,
)
