"""The operations of webhooks in, for the API document."""

from __future__ import annotations

from cloud.api.openapi import Operation, Param, Reply
from cloud.flows.inbound import Received
from cloud.rules import inbound, signing

_SIGNED = (
    Param(name=signing.LEGACY_HEADER, place="header", about="the hex HMAC-SHA256 of the body, also after `sha256=`"),
    Param(name=signing.ID_HEADER, place="header", about="Standard Webhooks"),
    Param(name=signing.TIME_HEADER, place="header", about="Standard Webhooks: seconds"),
    Param(name=signing.SIGNATURE_HEADER, place="header", about="Standard Webhooks: `v1,` and base64"),
)
_ABOUT = (
    "`created` puts all fields, `updated` some, `deleted` makes a tombstone. Signed by the setting `webhook_secret`. "
    "The same `id` again is answered as the first time and changes nothing; with other content it is 409."
)

INBOUND = tuple(
    Operation(
        method="POST",
        path=f"/api/webhooks/{hook}",
        name=name,
        tag="webhooks in",
        summary=summary,
        about=_ABOUT,
        auth="P",
        params=_SIGNED,
        body=body,
        replies=(Reply(about="what became of it", body=Received),),
        refusals=(400, 401, 408, 409, 410, 413, 415, 422, 503),
    )
    for hook, name, summary, body in (
        (inbound.ENROLLMENT, "postEnrollmentChanged", "An enrollment has changed elsewhere", inbound.EnrollmentChanged),
        (inbound.PROFILE, "postProfileUpdated", "A profile or user has changed elsewhere", inbound.ProfileUpdated),
    )
)
