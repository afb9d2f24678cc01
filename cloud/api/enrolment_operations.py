"""The operations that let devices in, for the API document."""

from __future__ import annotations

from cloud.api import common, enrolment
from cloud.api.openapi import Operation, Param, Reply

_BODY = (400, 408, 413, 415, 422, 503)
_TAG = "enrolment"

ENROLMENT = (
    Operation(
        method="POST", path="/api/enroll", name="postEnroll", tag=_TAG, summary="Ask to be let in",
        about="By a code that works once, or by the key of a fleet. The same again is answered as the first time.",
        auth="P", body=enrolment.EnrollIn,
        replies=(
            Reply(status=201, about="in", body=enrolment.EnrolledOut),
            Reply(status=200, about="was in already", body=enrolment.EnrolledOut),
            Reply(status=202, about="a person has to accept it: ask again", body=enrolment.EnrolledOut),
        ),
        refusals=(403, 409, 429, *_BODY),
    ),
    Operation(
        method="POST", path="/api/enroll-codes", name="postEnrollCode", tag=_TAG, summary="Make a code for one device",
        auth="O", body=enrolment.CodeIn,
        replies=(Reply(status=201, about="told only here", body=enrolment.CodeMade),), refusals=_BODY,
    ),
    Operation(
        method="GET", path="/api/enroll-codes", name="getEnrollCodes", tag=_TAG, summary="The newest codes", auth="O",
        replies=(Reply(about="by their hashes", body=enrolment.CodeOut, frame="list"),),
    ),
    Operation(
        method="DELETE", path="/api/enroll-codes/{code_id}", name="deleteEnrollCode", tag=_TAG,
        summary="End a code that was not used", auth="O", params=(Param(name="code_id", place="path"),),
        replies=(Reply(about="ended", body=enrolment.GoneOut),), refusals=(404, 503),
    ),
    Operation(
        method="POST", path="/api/fleet-keys", name="postFleetKey", tag=_TAG, summary="Make a key for prepared cards",
        auth="A", body=enrolment.FleetKeyIn,
        replies=(Reply(status=201, about="told only here", body=enrolment.FleetKeyMade),), refusals=(409, *_BODY),
    ),
    Operation(
        method="GET", path="/api/fleet-keys", name="getFleetKeys", tag=_TAG, summary="All keys of fleets", auth="A",
        replies=(Reply(about="all", body=enrolment.FleetKeyOut, frame="list"),),
    ),
    Operation(
        method="GET", path="/api/enrolments", name="getEnrolments", tag=_TAG, summary="Devices that wait to be let in",
        auth="O", replies=(Reply(about="the longest waiting first", body=enrolment.EnrolmentOut, frame="list"),),
    ),
    Operation(
        method="POST", path="/api/devices/{device_id}/accept", name="postAccept", tag=_TAG, summary="Let a device in",
        auth="O", params=(common.DEVICE,), body=enrolment.AcceptIn,
        replies=(Reply(about="in", body=enrolment.GoneOut),), refusals=(404, 409, *_BODY),
    ),
    Operation(
        method="POST", path="/api/devices/{device_id}/reject", name="postReject", tag=_TAG, summary="Keep a device out",
        auth="O", params=(common.DEVICE,), body=enrolment.RejectIn,
        replies=(Reply(about="out", body=enrolment.GoneOut),), refusals=(404, 409, *_BODY),
    ),
    Operation(
        method="POST", path="/api/devices/{device_id}/retire", name="postRetire", tag=_TAG,
        summary="Shut a device out for good", about="Its files and history stay.", auth="O", params=(common.DEVICE,),
        replies=(Reply(about="out", body=enrolment.GoneOut),), refusals=(404, 409, 503),
    ),
    Operation(
        method="DELETE", path="/api/fleet-keys/{name}", name="deleteFleetKey", tag=_TAG, summary="End a key of a fleet",
        auth="A", params=(Param(name="name", place="path"),),
        replies=(Reply(about="ended", body=enrolment.GoneOut),), refusals=(404, 503),
    ),
)  # fmt: skip
