"""Cursors of the feed of changes: opaque to a device, '<epoch>.<seq>' to the cloud.

While a device fetches everything for the first time the cursor has a third number, the head at the beginning. What was
dropped before that is not missed: what does not come by the end, the device drops.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

_CURSOR = re.compile(r"([0-9a-f]{12})\.([0-9]{1,18})(?:\.([0-9]{1,18}))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Everything through `seq` is known to its holder. `began`: the head when a first run began, 0 when none is on."""

    seq: int
    began: int = 0


def epoch(identity: int, device_id: str, scopes: Iterable[tuple[str, str]], types: Iterable[str] | None) -> str:
    """What a cursor holds for: this database, this device, what it is subscribed to and which types it asks for."""
    parts = [str(identity), device_id, "*" if types is None else ",".join(sorted(types))]
    parts += [f"{kind}:{value}" for kind, value in sorted(scopes)]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def write(epoch: str, cursor: Cursor) -> str:
    """'3f00c1d2aa97.1742', or '3f00c1d2aa97.500.1742' in a first run that is not at its end."""
    return f"{epoch}.{cursor.seq}" + (f".{cursor.began}" if cursor.began > cursor.seq else "")


def read(text: str, epoch: str, *, head: int, forgotten: int) -> Cursor | None:
    """Where a device is; None when it has to begin anew.

    That is so for another epoch, for a number that this database has not reached (it was restored), and when a
    tombstone was dropped that the device has not seen.
    """
    if not text:
        return Cursor(seq=0, began=head)
    found = _CURSOR.fullmatch(text)
    if found is None or found[1] != epoch:
        return None
    cursor = Cursor(seq=int(found[2]), began=int(found[3] or 0))
    if max(cursor.seq, cursor.began) > head or forgotten > max(cursor.seq, cursor.began):
        return None
    return cursor
