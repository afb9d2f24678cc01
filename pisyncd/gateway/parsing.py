"""Reads a request, or says precisely what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from pisyncd.core import wire
from pisyncd.core.problems import Refusal

BODY_BYTES_MAX = 64 * 1024


class RetryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to try again: exactly one of them. `path_b64` is for a path that is not UTF-8."""

    all: bool = False
    id: int | None = None
    path: str | None = None
    path_b64: bytes | None = None


def query(request: web.Request, *known: str) -> dict[str, str]:
    """The query's parameters with raw bytes kept (surrogateescape). Raises Refusal for a stranger or a repetition."""
    _, _, text = request.raw_path.partition("?")
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=20)
    except ValueError:
        raise Refusal(400, "query-invalid", "the query has too many parameters") from None
    for name, value in pairs:
        if name not in known or name in found:
            allowed = f"allowed once each: {', '.join(known)}" if known else "none is allowed"
            raise Refusal(400, "query-invalid", f"the parameter {printable(name)} is not allowed", hint=allowed)
        found[name] = value
    return found


def number(asked: Mapping[str, str], name: str, low: int, high: int, default: int) -> int:
    """A whole number of the query. Raises Refusal outside of low to high."""
    text = asked.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise Refusal(422, "query-invalid", f"{name} must be a whole number from {low} to {high}")
    return int(text)


def path_bytes(text: str | None) -> bytes:
    """The raw bytes of a path. Raises Refusal when there is none, or none that a file can have."""
    if not text:
        raise Refusal(422, "path-missing", "path is missing", hint="give ?path=/srv/learning/file")
    raw = text.encode("utf-8", "surrogateescape")
    return possible(raw)


def asked_path(asked: RetryRequest) -> bytes:
    """The raw bytes of the path in a body. Raises Refusal like path_bytes."""
    return possible(asked.path_b64) if asked.path_b64 else path_bytes(asked.path)


def possible(raw: bytes) -> bytes:
    """The path, if a file can have it. Raises Refusal."""
    if b"\0" in raw or len(raw) > wire.PATH_BYTES_MAX:
        raise Refusal(422, "path-invalid", "the path holds a NUL or is longer than 4096 bytes")
    return raw


async def body(request: web.Request) -> RetryRequest:
    """What to try again. Raises Refusal."""
    hint = 'send {"all": true}, {"id": 7} or {"path": "/srv/learning/file"}'
    raw = await request.read()
    if len(raw) > BODY_BYTES_MAX:
        raise Refusal(413, "body-too-large", f"the body is larger than {BODY_BYTES_MAX} bytes")
    try:
        asked = msgspec.json.decode(raw or b"{}", type=RetryRequest)
    except msgspec.ValidationError as error:
        raise Refusal(422, "body-invalid", str(error), hint=hint) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "body-invalid", f"the body is not JSON: {error}", hint=hint) from None
    if sum((asked.all, asked.id is not None, asked.path is not None, asked.path_b64 is not None)) != 1:
        raise Refusal(422, "body-invalid", "say exactly one of all, id and path", hint=hint)
    if asked.id is not None and not 0 < asked.id < 2**63:
        raise Refusal(422, "body-invalid", "id must be a positive whole number", hint=hint)
    return asked


async def nothing_in(request: web.Request) -> None:
    """These requests say all by their name. Raises Refusal for parameters; a body is read and let go."""
    query(request)
    await request.read()


def printable(text: str) -> str:
    """A stranger's text, safe to show: at most 100 characters, control characters escaped."""
    safe = os.fsencode(text[:100].encode("utf-8", "surrogateescape")).decode("utf-8", "backslashreplace")
    return safe.encode("unicode_escape").decode("ascii")
