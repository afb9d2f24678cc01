"""OpenAPI 3.1 from the types that validate and answer, so that the document cannot say anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pisyncd.core import wire
from pisyncd.core.frames import Metadata, Pagination

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_ANY_STREAM: Schema = {"schema": {"type": "string", "format": "binary"}}


@dataclass(frozen=True, kw_only=True)
class Param:
    """A parameter of the path, query or header."""

    name: str
    place: str = "query"
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    about: str = ""
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A successful answer. `body` is its type. `frame` 'data' and 'list' put it into the common frame, 'beside' puts
    `metadata` beside its fields, 'bare' leaves it as it is (/v1)."""

    status: int = 200
    about: str
    body: Any = None
    frame: str = "data"
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    paced: bool = False


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path. `auth` names who may: D device, V viewer, O operator, A admin, U user, P everyone."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    auth: str
    replies: Sequence[Reply]
    params: Sequence[Param] = ()
    body: Any = None
    body_media: str = "application/json"
    refusals: Sequence[int] = ()
    about: str = ""


def document(
    operations: Sequence[Operation], *, version: str, inner: Mapping[str, Any], payloads: Sequence[Any]
) -> Schema:
    """The whole document. `inner` is the type of list items that are decoded one by one: {"BatchIn.items": ItemIn};
    `payloads` are those that an event of envelope v1 may have."""
    kinds = [*_kinds(operations), *inner.values(), *dict.fromkeys(payloads)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    refs = dict(zip(map(id, kinds), schemas, strict=True))
    for place, kind in inner.items():
        owner, _, name = place.partition(".")
        components[owner]["properties"][name]["items"] = refs[id(kind)]
    components["EventIn"]["properties"]["payload"] = {"anyOf": [refs[id(kind)] for kind in dict.fromkeys(payloads)]}
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PiSync cloud",
            "version": version,
            "description": "Takes learning data from school computers that are usually offline. "
            "Errors are problem details (RFC 9457) with a stable `code` and a `hint` that says what to do next.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a device's token (`pisync-cloud enroll`) or a key (`pisync-cloud key create`)",
                }
            },
        },
    }


def _kinds(operations: Sequence[Operation]) -> list[Any]:
    kinds: list[Any] = [Metadata, Pagination, wire.Problem, wire.Pacing]
    for operation in operations:
        kinds += [kind for kind in (operation.body, *(reply.body for reply in operation.replies)) if kind is not None]
    unique: dict[int, Any] = {id(kind): kind for kind in kinds}
    return list(unique.values())


def _operation(operation: Operation, refs: Mapping[int, Schema]) -> Schema:
    found: Schema = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {str(reply.status): _reply(reply, refs) for reply in operation.replies},
    }
    who = {"D": "device", "V": "viewer", "O": "operator", "A": "admin", "U": "user", "P": "everyone"}
    found["description"] = (
        (operation.about + "\n\n" if operation.about else "")
        + "For: "
        + ", ".join(who[letter] for letter in operation.auth)
    )
    if operation.auth != "P":
        found["security"] = [{"token": []}]
    if operation.params:
        found["parameters"] = [_param(param) for param in operation.params]
    if operation.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {operation.body_media: {"schema": refs[id(operation.body)]}},
        }
    elif operation.body_media != "application/json":
        found["requestBody"] = {"content": {operation.body_media: _ANY_STREAM}}
    refused = {*operation.refusals, *(() if operation.auth == "P" else (401, 403))}
    for status in sorted(refused):
        found["responses"][str(status)] = _refusal(refs)
    return found


def _param(param: Param) -> Schema:
    found: Schema = {"name": param.name, "in": param.place, "schema": dict(param.schema)}
    found["required"] = param.required or param.place == "path"
    if param.about:
        found["description"] = param.about
    return found


def _refusal(refs: Mapping[int, Schema]) -> Schema:
    return {"description": "refused", "content": {wire.PROBLEM_JSON: {"schema": refs[id(wire.Problem)]}}}


def _reply(reply: Reply, refs: Mapping[int, Schema]) -> Schema:
    found: Schema = {"description": reply.about}
    if reply.headers:
        found["headers"] = {
            name: {"description": about, "schema": {"type": "string"}} for name, about in reply.headers.items()
        }
    if reply.body is not None:
        found["content"] = {reply.media: {"schema": _framed(reply, refs)}}
    elif reply.media != "application/json":
        found["content"] = {reply.media: _ANY_STREAM}
    return found


def _framed(reply: Reply, refs: Mapping[int, Schema]) -> Schema:
    schema = refs[id(reply.body)]
    if reply.frame == "bare":
        return schema
    if reply.frame == "beside":
        also = {"type": "object", "required": ["metadata"], "properties": {"metadata": refs[id(Metadata)]}}
        return {"allOf": [schema, also]}
    required = ["success", "data", "metadata", *(["pagination"] if reply.frame == "list" else [])]
    properties: Schema = {
        "success": {"const": True},
        "data": {"type": "array", "items": schema} if reply.frame == "list" else schema,
        "metadata": refs[id(Metadata)],
    }
    if reply.frame == "list":
        properties["pagination"] = refs[id(Pagination)]
    if reply.paced:
        properties["next"] = refs[id(wire.Pacing)]
    return {"type": "object", "required": required, "properties": properties}
