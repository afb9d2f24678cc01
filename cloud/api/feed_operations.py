"""The operations of the feed of changes, of subscriptions and of conflicts, for the API document."""

from __future__ import annotations

from cloud.api import common
from cloud.api.conflicts import STATES, ConflictDetail, ConflictOut, ResolveIn
from cloud.api.openapi import Operation, Param, Reply
from cloud.api.subscriptions import SubscriptionsIn, SubscriptionsOut
from pisyncd.core import recordwire

FEED = (
    Operation(
        method="GET",
        path="/api/changes",
        name="getChanges",
        tag="records",
        summary="What changed for a device since its cursor; held until there is something",
        about="410 `cursor-expired` has a `snapshot`, the address at which to begin anew. `rules` come when `rules=` "
        "names others than those that hold.",
        auth="D",
        params=(
            Param(name="since", about="`cursor` of the page before; nothing to begin"),
            Param(name="types", about="record types with commas between; nothing for all"),
            Param(name="wait", schema={"type": "integer", "minimum": 0, "maximum": recordwire.WAIT_MAX_S}),
            Param(
                name="limit",
                schema={**common.WHOLE, "maximum": recordwire.PAGE_MAX, "default": recordwire.PAGE_MAX},
            ),
            Param(name="rules", about="`rules_etag` of the rules that are known"),
            Param(name="writer", about="which instance asks: of what it told last itself it gets the version alone"),
        ),
        replies=(Reply(about="a page, empty when the time is over", body=recordwire.Changes),),
        refusals=(410, 422, 429, 503),
    ),
    Operation(
        method="GET",
        path="/api/devices/{device_id}/subscriptions",
        name="getSubscriptions",
        tag="records",
        summary="What a device is subscribed to",
        auth="DV",
        params=(common.DEVICE,),
        replies=(Reply(about="sites, groups and users", body=SubscriptionsOut),),
        refusals=(404,),
    ),
    Operation(
        method="PUT",
        path="/api/devices/{device_id}/subscriptions",
        name="putSubscriptions",
        tag="records",
        summary="Subscribe a device to exactly these",
        about="A change makes the device fetch everything anew.",
        auth="O",
        params=(common.DEVICE,),
        body=SubscriptionsIn,
        replies=(Reply(about="what it is subscribed to now", body=SubscriptionsOut),),
        refusals=(400, 404, 408, 413, 415, 422, 503),
    ),
)

_CONFLICT = Param(name="conflict_id", place="path", about="`conflictId` of a batch's item, or `id` of the list")

CONFLICTS = (
    Operation(
        method="GET",
        path="/api/conflicts",
        name="getConflicts",
        tag="records",
        summary="What was decided between writes, newest first",
        auth="V",
        params=(
            *common.paging(50),
            Param(name="state", schema={"enum": list(STATES)}),
            Param(name="type", about="a record type"),
            Param(name="record_id"),
            common.DEVICE_QUERY,
        ),
        replies=(Reply(about="a page", body=ConflictOut, frame="list"),),
        refusals=(404, 422),
    ),
    Operation(
        method="GET",
        path="/api/conflicts/{conflict_id}",
        name="getConflict",
        tag="records",
        summary="One decision, with its sides and how it ended",
        auth="V",
        params=(_CONFLICT,),
        replies=(Reply(about="the conflict", body=ConflictDetail),),
        refusals=(404,),
    ),
    Operation(
        method="POST",
        path="/api/conflicts/{conflict_id}/resolve",
        name="postResolve",
        tag="records",
        summary="Pick a side, or give the fields",
        about="It becomes an ordinary new version over all sides. 409 `conflict-resolved` when somebody was first.",
        auth="O",
        params=(_CONFLICT,),
        body=ResolveIn,
        replies=(Reply(about="the conflict as it ended", body=ConflictDetail),),
        refusals=(400, 404, 408, 409, 413, 415, 422, 503),
    ),
)
