"""The operations about what devices are asked to do, for the API document."""

from __future__ import annotations

from cloud.api import commands, common
from cloud.api.openapi import Operation, Param, Reply

COMMANDS = (
    Operation(
        method="POST",
        path="/api/devices/{device_id}/commands",
        name="postCommand",
        tag="devices",
        summary="Ask a device for something in the answer to its next batch",
        about="`sync`: a sync cycle at once. `support-bundle`: what support needs, as an upload. The device is asked "
        "again with every batch until it has told how that ended.",
        auth="O",
        params=(common.DEVICE,),
        body=commands.CommandIn,
        replies=(Reply(status=202, about="the command", body=commands.CommandOut),),
        refusals=(400, 404, 408, 413, 415, 422, 503),
    ),
    Operation(
        method="GET",
        path="/api/devices/{device_id}/commands",
        name="getCommands",
        tag="devices",
        summary="What a device was asked to do, newest first",
        auth="DV",
        params=(common.DEVICE, *common.paging(50, cursor=False)),
        replies=(Reply(about="a page", body=commands.CommandOut, frame="list"),),
        refusals=(404, 422),
    ),
    Operation(
        method="POST",
        path="/api/devices/{device_id}/token",
        name="postDeviceToken",
        tag="devices",
        summary="Give a device a new token",
        about="By itself with the answer to its next batch; the old token holds until a minute after the new one was "
        "first used. `now` tells the token here, for a device that has lost its own.",
        auth="A",
        params=(common.DEVICE,),
        body=commands.TokenIn,
        replies=(
            Reply(status=202, about="it is given with the next batch", body=commands.TokenOut),
            Reply(about="the token, told this once", body=commands.TokenOut),
        ),
        refusals=(400, 404, 408, 409, 413, 415, 422, 503),
    ),
    Operation(
        method="GET",
        path="/api/device/config",
        name="getDeviceConfig",
        tag="devices",
        summary="What the cloud wants this device to do",
        auth="D",
        params=(Param(name="If-None-Match", place="header", about="an ETag of an earlier answer"),),
        replies=(
            Reply(about="all of it", body=commands.DeviceConfig, headers={"ETag": "changes with the content"}),
            Reply(status=304, about="nothing has changed"),
        ),
    ),
)
