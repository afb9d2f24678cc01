"""The operations of incidents and of who is told of them, for the API document."""

from __future__ import annotations

from cloud.api import common, incidents, notifying
from cloud.api.openapi import Operation, Param, Reply

_NAME = Param(name="name", place="path", about="the channel's or rule's name")
_INCIDENT = Param(name="incident_id", place="path", schema={"type": "integer"}, about="the incident's number")
_SILENCE = Param(name="silence_id", place="path", about="the silence's id: sil_...")
_BODY = (400, 408, 413, 415, 422, 503)


def _operation(method: str, path: str, name: str, summary: str, auth: str, reply: Reply, **more: object) -> Operation:
    return Operation(
        method=method, path=path, name=name, tag="notifications", summary=summary, auth=auth, replies=(reply,), **more,  # type: ignore[arg-type]
    )  # fmt: skip


NOTIFYING = (
    _operation(
        "GET", "/api/incidents", "getIncidents", "What people were told of, newest first", "V",
        Reply(about="a page", body=incidents.IncidentOut, frame="list"),
        params=(*common.paging(50), Param(name="state", schema={"enum": list(incidents.STATES)}), common.DEVICE_QUERY),
        refusals=(404, 422),
        about="With `device_id` the open ones that this device is in.",
    ),
    _operation(
        "GET", "/api/incidents/{incident_id}", "getIncident", "One incident with its devices", "V",
        Reply(about="the incident", body=incidents.IncidentDetail), params=(_INCIDENT,), refusals=(404,),
    ),
    _operation(
        "POST", "/api/incidents/{incident_id}/ack", "postAcknowledge", "Take an incident on", "O",
        Reply(about="the incident", body=incidents.IncidentOut), params=(_INCIDENT,), body=incidents.AcknowledgeIn,
        refusals=(404, 409, *_BODY), about="It is not escalated any more.",
    ),
    _operation(
        "PUT", "/api/channels/{name}", "putChannel", "Make or change a channel", "A",
        Reply(about="the channel", body=notifying.ChannelOut), params=(_NAME,), body=notifying.ChannelIn,
        refusals=_BODY,
    ),
    _operation(
        "GET", "/api/channels", "getChannels", "All channels, without their secrets", "A",
        Reply(about="all", body=notifying.ChannelOut, frame="list"),
    ),
    _operation(
        "POST", "/api/channels/{name}/test", "postChannelTest", "Send a test", "A",
        Reply(status=202, about="on its way", body=notifying.NoticeOut), params=(_NAME,), refusals=(404, 503),
    ),
    _operation(
        "GET", "/api/notices", "getNotices", "What was told to whom, newest first", "V",
        Reply(about="a page", body=notifying.NoticeOut, frame="list"),
        params=(*common.paging(50), Param(name="channel")), refusals=(422,),
    ),
    _operation(
        "DELETE", "/api/channels/{name}", "deleteChannel", "Remove a channel", "A",
        Reply(about="removed", body=notifying.RemovedOut), params=(_NAME,), refusals=(404, 409, 503),
    ),
    _operation(
        "PUT", "/api/rules/{name}", "putRule", "Make or change a rule", "A",
        Reply(about="the rule", body=notifying.RuleOut), params=(_NAME,), body=notifying.RuleIn, refusals=_BODY,
    ),
    _operation(
        "GET", "/api/rules", "getRules", "All rules", "V", Reply(about="all", body=notifying.RuleOut, frame="list"),
    ),
    _operation(
        "DELETE", "/api/rules/{name}", "deleteRule", "Remove a rule; its incidents end", "A",
        Reply(about="removed", body=notifying.RemovedOut), params=(_NAME,), refusals=(404, 503),
    ),
    _operation(
        "POST", "/api/silences", "postSilence", "Tell nobody for a while", "O",
        Reply(status=201, about="the silence", body=notifying.SilenceOut), body=notifying.SilenceIn, refusals=_BODY,
        about="Incidents are opened all the same; what is still open at the end of the silence is told then.",
    ),
    _operation(
        "GET", "/api/silences", "getSilences", "The silences that have not ended", "V",
        Reply(about="all", body=notifying.SilenceOut, frame="list"),
    ),
    _operation(
        "DELETE", "/api/silences/{silence_id}", "deleteSilence", "End a silence", "O",
        Reply(about="removed", body=notifying.RemovedOut), params=(_SILENCE,), refusals=(404, 503),
    ),
)  # fmt: skip
