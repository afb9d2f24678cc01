"""What is reported, checked and in one form, whichever way it came. `rules.admit` judges these.

What comes by the thousand is a Struct, see `pisyncd.core.envelope.Envelope`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from pisyncd.core.envelope import Envelope
from pisyncd.core.record import State
from pisyncd.core.recordwire import Plain
from pisyncd.core.session import SessionChange
from pisyncd.core.vitals import Vitals


class Place(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a message stands in its device's stream."""

    stream: str
    seq: int


class Stamp(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """When something happened by the device's clocks. Times in milliseconds."""

    boot_id: str | None = None
    boottime_ms: int | None = None
    wall_ms: int | None = None
    trusted: bool | None = None


UNSTAMPED = Stamp()


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncFact:
    """One sync event, checked. `timestamp` is as sent, `raw` the JSON as sent; `_ms` are wall milliseconds."""

    event_id: str
    digest: bytes
    timestamp: str
    timestamp_ms: int
    sent_ms: int | None
    files: int
    errors: int
    speed_mbps: float | None
    error_code: str | None
    bytes_sent: int | None
    duration_ms: int | None
    queue_depth: int | None
    seq: int | None
    boot_id: str | None
    boottime_ms: int | None
    trusted: bool | None
    raw: str
    place: Place | None = None


class RecordPush(msgspec.Struct, frozen=True, kw_only=True):
    """A record as a device passes it on, checked: all of it, as it stood after one write."""

    type: str
    id: str
    state: State


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageFact:
    """One message of any other type; `body` is its JSON text as sent.

    A `session` message holds a change of a session and the events that the change emitted; `sent_ms` as in a batch.
    One of a record's type that names a record holds it in `record`; `shown_id` is how the answer names it, if not by
    `item_id`.
    """

    item_id: str
    digest: bytes
    item_type: str
    body: str
    user_id: str = ""
    stamp: Stamp = UNSTAMPED
    place: Place | None = None
    change: SessionChange | None = None
    events: tuple[Envelope, ...] = ()
    sent_ms: int | None = None
    record: RecordPush | Plain | None = None
    shown_id: str = ""
    vitals: Vitals | None = None


class TrackFact(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One generic event; `user_id` '' when it is of no user in particular. `item_id` is how the answer names it."""

    item_id: str
    event_id: str
    digest: bytes
    event_type: str
    data: str
    client_ts_ms: int | None
    user_id: str
    body: str
    stamp: Stamp = UNSTAMPED
    place: Place | None = None
    item_type: str = "event"


class AttemptFact(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event of envelope v1. Without a user of its own it gets the session's."""

    item_id: str
    event: Envelope
    body: str
    stamp: Stamp = UNSTAMPED
    place: Place | None = None
    item_type: str = "event"

    @property
    def digest(self) -> bytes:
        """Of the content."""
        return self.event.digest


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionFact:
    """A change of a device's session; `at_ms` is the best known wall time of it."""

    dk: int
    change: SessionChange
    at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """An item that is refused for good, kept whole."""

    item_id: str
    digest: bytes
    item_type: str
    body: str
    code: str
    detail: str
    place: Place | None = None


Fact = SyncFact | MessageFact | TrackFact | AttemptFact | Fault


def digest_of(*parts: object) -> bytes:
    """16 bytes that stand for a content."""
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
