"""The operations about how devices stand, for the API document."""

from __future__ import annotations

from cloud.api import common, standing
from cloud.api.openapi import Operation, Reply

STANDING = (
    Operation(
        method="POST",
        path="/api/devices/{device_id}/mute",
        name="postMute",
        tag="devices",
        summary="Hear nothing of a device for a while",
        about="It is judged all the same, and shown as it is when the time is over.",
        auth="O",
        params=(common.DEVICE,),
        body=standing.MuteIn,
        replies=(Reply(about="how it stands", body=standing.StandingOut),),
        refusals=(400, 404, 408, 413, 415, 422, 503),
    ),
    Operation(
        method="POST",
        path="/api/devices/{device_id}/unmute",
        name="postUnmute",
        tag="devices",
        summary="Hear of a device again",
        auth="O",
        params=(common.DEVICE,),
        replies=(Reply(about="how it stands", body=standing.StandingOut),),
        refusals=(404, 503),
    ),
    Operation(
        method="GET",
        path="/api/devices/{device_id}/transitions",
        name="getTransitions",
        tag="devices",
        summary="How a device came to stand as it does, newest first",
        about="States: new, healthy, expected-quiet, overdue, failing, recovering, muted, retired.",
        auth="DV",
        params=(common.DEVICE, *common.paging(50)),
        replies=(Reply(about="a page", body=standing.TransitionOut, frame="list"),),
        refusals=(404, 422),
    ),
    Operation(
        method="GET",
        path="/api/devices/{device_id}/timeline",
        name="getTimeline",
        tag="devices",
        summary="All that happened to a device, newest first",
        about="Syncs, states, faults when they were first met, commands, incidents, and what people did.",
        auth="DV",
        params=(common.DEVICE, *common.paging(50)),
        replies=(Reply(about="a page", body=standing.HappenedOut, frame="list"),),
        refusals=(404, 422),
    ),
)
