"""Learning events as a batch's items and as requests of their own become facts."""

from __future__ import annotations

from cloud.rules.facts import UNSTAMPED, AttemptFact, Place, Stamp, TrackFact
from pisyncd.core import envelope, session, track
from pisyncd.core.envelope import Envelope, Rejection
from pisyncd.core.problems import Refusal
from pisyncd.core.session import SessionChange

#: Why an event of envelope v1 is refused by itself.
CODES = ("event-invalid", "event-type-unknown", "payload-invalid", "payload-too-large", "personal-data")


def stamp(boot_id: str | None, boottime_ms: int | None, wall_ms: int | None, trusted: bool | None) -> Stamp:
    """The device's clocks at an item; most items of users have none."""
    if boot_id is None and wall_ms is None and trusted is None and boottime_ms is None:
        return UNSTAMPED
    return Stamp(boot_id=boot_id, boottime_ms=boottime_ms, wall_ms=wall_ms, trusted=trusted)


def event_fact(
    data: bytes,
    body: str,
    *,
    item_id: str | None,
    fallback_id: str,
    place: Place | None,
    stamp: Stamp,
    user_id: str | None,
) -> TrackFact | AttemptFact:
    """The event in a batch's item: envelope v1 where it says `event_version`, else a generic one. Raises Refusal."""
    # Without the name in it, nothing has to be decoded to say no.
    if b"event_version" in data:
        judged = envelope.judge(data, user_id=user_id)
        if isinstance(judged, Envelope):
            return AttemptFact(item_id=item_id or judged.id, event=judged, body=body, place=place, stamp=stamp)
        if envelope.is_envelope(data):
            raise Refusal(422, judged.code, judged.detail)
    event = track.decode_item(data)
    event_id = event.id or item_id or fallback_id
    return track_fact(event, event_id, body, user_id, item_id=item_id, place=place, stamp=stamp)


def track_fact(
    event: track.Event,
    event_id: str,
    body: str,
    user_id: str | None,
    *,
    item_id: str | None = None,
    place: Place | None = None,
    stamp: Stamp = UNSTAMPED,
) -> TrackFact:
    """A generic event under the id that it has or got."""
    return TrackFact(
        item_id=item_id or event_id,
        event_id=event_id,
        digest=event.digest,
        event_type=event.event_type,
        data=event.data,
        client_ts_ms=event.client_ts_ms,
        user_id=user_id or event.user_id,
        body=body,
        place=place,
        stamp=stamp,
    )


def session_change(body: str) -> tuple[SessionChange, tuple[Envelope, ...]]:
    """A change of a device's session, and the events that it emitted. Raises Refusal 422."""
    change = session.decode_change(body.encode())
    events = []
    for raw in change.events:
        judged = envelope.judge(bytes(raw), user_id=change.user_id)
        if isinstance(judged, Rejection):
            raise Refusal(422, judged.code, judged.detail)
        events.append(judged)
    return change, tuple(events)
