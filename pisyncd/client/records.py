"""Records, read and written at the device or in the cloud: the core of RecordsClient, without a queue of its own.

The daemon answers a write when it is durable, and owes it to the cloud from then on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from pisyncd.client import rules, settings
from pisyncd.client.errors import ClientError
from pisyncd.client.settings import Connection
from pisyncd.client.transport import Answer, Link, Unreachable

SYNC_NOW_S = 25.0
TRIES = 5
PAGE = 100
#: A page of the largest records, each with its conflicts.
ANSWER_BYTES_MAX = 32 * 1024 * 1024
UNCERTAIN = "a write that was not answered may be written or not; the same again is safe"

Fields = Mapping[str, Any]
#: New fields from those that were read; None: it has changed the ones that it got.
Change = Callable[[dict[str, Any]], Fields | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """A decision between writes that had not seen each other. `field` is '' for the whole record.

    `open`: a person has to decide. `explanation` is a sentence.
    """

    id: str
    field: str
    open: bool
    explanation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record as it was read.

    version         how far it has seen each writer; `etag` stands for it and makes a write conditional
    last_updated_at RFC 3339
    last_synced_at  when both ends had the same last; None: never
    sync_status     `synced`, `pending` until the cloud has it, `refused` when it does not want it
    deleted         there is only its tombstone
    """

    type: str
    id: str
    fields: Fields
    version: Mapping[str, int]
    etag: str
    last_updated_at: str | None
    last_synced_at: str | None
    sync_status: str
    deleted: bool
    conflicts: tuple[Conflict, ...]


#: The record as it was read, or its etag.
IfMatch = Record | str | None


class Desk:
    """See RecordsClient. Each call is one request and waits for its answer; any thread may call. All may raise
    ClientError."""

    def __init__(self, options: Connection) -> None:
        self.config = settings.read_connection(options)
        self._token = self.config.token

    def set_token(self, token: str | None) -> None:
        """Another token from now on. Raises ValueError."""
        settings.check_token(token)
        self._token = token

    def get(self, record_type: str, record_id: str, *, deleted: bool = False) -> Record | None:
        """None when there is none, or a deleted one without `deleted`."""
        path = _path(record_type, record_id) + ("?deleted=true" if deleted else "")
        try:
            return _record(self._data("GET", path))
        except ClientError as error:
            if error.code != "record-unknown":
                raise
            return None

    def pages(self, record_type: str, *, limit: int | None, deleted: bool) -> Generator[list[Record], None, None]:
        """All records of a type by id, at most `limit`, page by page over one connection."""
        left = limit
        cursor = ""
        link = self._link()
        try:
            while left is None or left > 0:
                query = {"limit": str(min(PAGE, left or PAGE)), **({"cursor": cursor} if cursor else {})}
                if deleted:
                    query["deleted"] = "true"
                answer = self._ask(link, "GET", f"{_path(record_type)}?{urlencode(query)}")
                found = [_record(each) for each in _listed(answer)][:left]
                left = None if left is None else left - len(found)
                yield found
                before, cursor = cursor, _next_cursor(answer)
                # A service that gives the same page for ever would be read for ever.
                if not found or not cursor or cursor == before:
                    return
        finally:
            link.close()

    def put(self, record_type: str, record_id: str, fields: Fields, if_match: IfMatch = None) -> Record:
        """All fields anew."""
        body = {"fields": _plain(fields)}
        return _record(self._data("PUT", _path(record_type, record_id), body, if_match=_etag(if_match)))

    def patch(self, record_type: str, record_id: str, fields: Fields, if_match: IfMatch = None) -> Record:
        """Some fields; None removes one."""
        body = {"fields": _plain(fields)}
        return _record(self._data("PATCH", _path(record_type, record_id), body, if_match=_etag(if_match)))

    def delete(self, record_type: str, record_id: str, if_match: IfMatch = None) -> Record:
        """The tombstone."""
        return _record(self._data("DELETE", _path(record_type, record_id), if_match=_etag(if_match)))

    def sync_now(self, record_type: str, record_id: str, timeout_s: float) -> Record:
        """Waits until what waits of the record is delivered, and what the other side has is here."""
        data = self._data("POST", f"{_path(record_type, record_id)}/sync", timeout_s=timeout_s)
        if "fields" in data:
            return _record(data)
        # The cloud answers with what became of its deliveries.
        found = self.get(record_type, record_id, deleted=True)
        if found is None:
            raise ClientError("record-unknown", f"there is no {record_type} {record_id}", status=404)
        return found

    def _link(self) -> Link:
        return Link(self.config, self._token, patience=UNCERTAIN)

    def _data(self, method: str, path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        link = self._link()
        try:
            data = self._ask(link, method, path, body, **more).get("data")
        finally:
            link.close()
        if not isinstance(data, dict):
            raise self._strange()
        return data

    def _ask(self, link: Link, method: str, path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        try:
            answer = link.ask(method, path, body, bytes_max=ANSWER_BYTES_MAX, **more)
        except Unreachable as silent:
            raise ClientError(silent.code, silent.detail, silent.hint, retryable=True) from silent
        except (TypeError, ValueError, RecursionError) as error:
            raise ClientError("request-invalid", f"cannot be sent: {error}"[:500]) from error
        if not 200 <= answer.status < 300:
            raise _refused(answer)
        if not isinstance(answer.body, dict):
            raise self._strange()
        return answer.body

    def _strange(self) -> ClientError:
        hint = "look who answers there: a proxy, or a login page of a network"
        return ClientError("answer-strange", f"{self.config.where} does not answer with records", hint, retryable=True)


def lost_race(error: ClientError, tries_left: int) -> bool:
    """Whether a read-change-write is to begin anew: somebody else has written in between."""
    return error.status == 412 and tries_left > 0


def to_change(record: Record | None, record_type: str, record_id: str) -> tuple[Record, dict[str, Any]]:
    """The record and fields that a change may work on. Raises ClientError when there is none."""
    if record is None:
        raise ClientError("record-unknown", f"there is no {record_type} {record_id}", "put makes one", status=404)
    return record, copy.deepcopy(dict(record.fields))


def _path(*names: str) -> str:
    return "/".join(("/api/records", *(quote(str(name), safe="") for name in names)))


def _etag(if_match: IfMatch) -> str | None:
    return if_match.etag if isinstance(if_match, Record) else if_match


def _plain(fields: Fields) -> dict[str, Any]:
    if not isinstance(fields, Mapping):
        raise ClientError("request-invalid", f"fields are a mapping of names to values, not {type(fields).__name__}")
    return dict(fields)


def _refused(answer: Answer) -> ClientError:
    trouble = rules.trouble_of(answer.status, answer.body)
    retryable = answer.status in rules.RETRIED
    return ClientError(trouble.code, trouble.detail, trouble.hint, status=answer.status, retryable=retryable)


def _listed(answer: Mapping[str, Any]) -> list[Any]:
    data = answer.get("data")
    return data if isinstance(data, list) else []


def _next_cursor(answer: Mapping[str, Any]) -> str:
    pagination = answer.get("pagination")
    cursor = pagination.get("next_cursor") if isinstance(pagination, dict) else None
    return cursor if isinstance(cursor, str) else ""


def _record(data: Any) -> Record:
    try:
        return Record(
            type=data["type"],
            id=data["id"],
            fields=data["fields"],
            version=data["version"],
            etag=data["etag"],
            last_updated_at=data.get("last_updated_at"),
            last_synced_at=data.get("last_synced_at"),
            sync_status=data.get("sync_status", ""),
            deleted=data["deleted"],
            conflicts=tuple(_conflict(each) for each in data.get("conflicts") or ()),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ClientError("answer-strange", f"the answer is no record: {error!r}"[:300], retryable=True) from error


def _conflict(data: Mapping[str, Any]) -> Conflict:
    return Conflict(id=data["id"], field=data["field"], open=data["open"], explanation=data["explanation"])
