"""The operations about a fleet as a whole, for the API document."""

from __future__ import annotations

from cloud.api import common, devices, fleet, shapes
from cloud.api.openapi import Operation, Param, Reply
from cloud.rules import fleet as rules
from cloud.rules.standing import STATES

_NAME = Param(name="name", place="path", about="the group's name")
_TAG = Param(name="tag", place="path")
_BODY = (400, 408, 413, 415, 422, 503)
#: Of every list of devices.
FILTERS = (
    Param(name="search", about="a part of the id or label"),
    Param(name="state", schema={"enum": list(STATES)}),
    Param(name="group", about="a group, site or region"),
    Param(name="tag"),
    Param(name="fault", about="an error code that the device fails with now"),
    Param(name="freshness", schema={"enum": list(rules.FRESHNESS)}, about="by the age of the last success"),
    Param(name="sort", schema={"enum": list(rules.SORTS), "default": "device_id"}),
)

FLEET = (
    Operation(
        method="PATCH",
        path="/api/devices/{device_id}",
        name="patchDevice",
        tag="devices",
        summary="Say what a device is called and where it belongs",
        about="What is left out stays as it is. Sites, groups and regions have to be there already.",
        auth="O",
        params=(common.DEVICE,),
        body=devices.DevicePatch,
        replies=(Reply(about="the device", body=shapes.DeviceDetail),),
        refusals=(404, *_BODY),
    ),
    Operation(
        method="GET",
        path="/api/overview",
        name="getOverview",
        tag="fleet",
        summary="The fleet at a glance",
        auth="V",
        replies=(Reply(about="at most 2 s old", body=fleet.OverviewOut),),
    ),
    Operation(
        method="GET",
        path="/api/faults",
        name="getFaults",
        tag="fleet",
        summary="Failures by what they have in common, the most widespread first",
        auth="V",
        params=common.paging(50, cursor=False),
        replies=(Reply(about="a page", body=fleet.FaultOut, frame="list"),),
        refusals=(422,),
    ),
    Operation(
        method="PUT",
        path="/api/groups/{name}",
        name="putGroup",
        tag="fleet",
        summary="Make or change a group, site or region",
        auth="A",
        params=(_NAME,),
        body=fleet.GroupIn,
        replies=(Reply(about="the group", body=fleet.GroupOut),),
        refusals=(409, *_BODY),
    ),
    Operation(
        method="GET",
        path="/api/groups",
        name="getGroups",
        tag="fleet",
        summary="All groups, sites and regions",
        auth="V",
        replies=(Reply(about="all", body=fleet.GroupOut, frame="list"),),
    ),
    Operation(
        method="DELETE",
        path="/api/groups/{name}",
        name="deleteGroup",
        tag="fleet",
        summary="Remove a group",
        auth="A",
        params=(_NAME, Param(name="force", schema={"type": "boolean"}, about="although it has devices")),
        replies=(Reply(about="removed", body=fleet.GroupRemoved),),
        refusals=(404, 409, 422, 503),
    ),
    Operation(
        method="GET",
        path="/api/tags",
        name="getTags",
        tag="fleet",
        summary="All tags",
        auth="V",
        replies=(Reply(about="all", body=fleet.TagOut, frame="list"),),
    ),
    Operation(
        method="PUT",
        path="/api/tags/{tag}",
        name="putTag",
        tag="fleet",
        summary="Give a tag another name, on all its devices",
        auth="O",
        params=(_TAG,),
        body=fleet.TagIn,
        replies=(Reply(about="the tag", body=fleet.TagOut),),
        refusals=(404, *_BODY),
    ),
    Operation(
        method="DELETE",
        path="/api/tags/{tag}",
        name="deleteTag",
        tag="fleet",
        summary="Take a tag from all devices",
        auth="O",
        params=(_TAG,),
        replies=(Reply(about="taken away", body=fleet.TagOut),),
        refusals=(404, 503),
    ),
)
