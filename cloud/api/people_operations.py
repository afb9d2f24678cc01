"""The operations about people and keys, for the API document."""

from __future__ import annotations

from cloud.api import people
from cloud.api.openapi import Operation, Param, Reply

_NAME = Param(name="name", place="path", required=True)
_BODY = (400, 408, 413, 415, 422, 503)

PEOPLE = (
    Operation(
        method="GET",
        path="/api/me",
        name="getMe",
        tag="people",
        summary="Who asks, and what they may do",
        auth="DUV",
        replies=(Reply(about="the holder of the token", body=people.Me),),
    ),
    Operation(
        method="PUT",
        path="/api/operators/{name}",
        name="putOperator",
        tag="people",
        summary="Let a person sign in, or change what they may do",
        about="Whatever ends what a person may do ends their sessions; the last administrator stays one.",
        auth="A",
        params=(_NAME,),
        body=people.OperatorIn,
        replies=(
            Reply(about="the person", body=people.OperatorOut),
            Reply(status=201, about="a new person", body=people.OperatorOut),
        ),
        refusals=(409, *_BODY),
    ),
    Operation(
        method="GET",
        path="/api/operators",
        name="getOperators",
        tag="people",
        summary="Everybody who may sign in",
        auth="A",
        replies=(Reply(about="all", body=people.OperatorOut, frame="list"),),
    ),
    Operation(
        method="DELETE",
        path="/api/operators/{name}",
        name="deleteOperator",
        tag="people",
        summary="Let a person sign in no more; what they did stays in the audit",
        auth="A",
        params=(_NAME,),
        replies=(Reply(about="removed", body=people.Gone),),
        refusals=(404, 409, 503),
    ),
    Operation(
        method="POST",
        path="/api/keys",
        name="postKey",
        tag="people",
        summary="Make a key; its secret is told once",
        auth="A",
        body=people.KeyIn,
        replies=(Reply(status=201, about="the secret", body=people.KeyMade),),
        refusals=(409, *_BODY),
    ),
    Operation(
        method="GET",
        path="/api/keys",
        name="getKeys",
        tag="people",
        summary="All keys, without their secrets",
        auth="A",
        replies=(Reply(about="all", body=people.KeyOut, frame="list"),),
    ),
    Operation(
        method="DELETE",
        path="/api/keys/{name}",
        name="deleteKey",
        tag="people",
        summary="End a key",
        auth="A",
        params=(_NAME,),
        replies=(Reply(about="ended", body=people.Gone),),
        refusals=(404, 503),
    ),
)
