"""What an error code means to people: failures with the same code are one fault, whichever device has it.

Codes that devices and cloud share have their hint in pisyncd/core/errors.py; here stand shorter names, and what other
codes mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from pisyncd.core import errors

#: Of a failed sync that says nothing more.
UNSPECIFIED = "unspecified"
CODE_MAX = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A code, what people call it, and what a person does next."""

    code: str
    title: str
    hint: str


_NAMED: dict[str, tuple[str, str]] = {
    UNSPECIFIED: ("failed without a reason", "look at the device: `pisyncctl failures`; a newer PiSync says why"),
    "card-full": ("card full", "free some space on the card, or exclude a folder from the watched ones"),
    "storage-full": ("card full", "free some space on the card, or exclude a folder from the watched ones"),
    "storage-busy": ("storage busy or full", ""),
    "storage-locked": ("database locked", "another program holds the outbox; restart pisyncd if it lasts"),
    "storage-error": ("card cannot be read or written", "the card may be worn: take a copy and replace it"),
    "storage-unusable": (
        "outbox unusable",
        "look at the device's log; it starts a new outbox and keeps the old one aside",
    ),
    "source-io-error": ("files cannot be read", "the card may be worn: take a copy and replace it"),
    "source-gone": ("files were deleted before they were sent", ""),
    "source-changed": ("files change while they are read", ""),
    "link-down": ("cloud out of reach", ""),
    "link-stalled": ("link too slow", "the link carries nothing for a minute at a time; try another network or hour"),
    "portal": ("behind a sign-in page", "somebody has to sign in to the network once, from a browser"),
    "tls-untrusted": ("certificate not trusted", "check the device's clock and date, then its ca_file"),
    "dns": ("name of the cloud not found", "check the network's name server and `cloud.url`"),
    "token-refused": ("token refused", ""),
    "cloud-busy": ("cloud busy", "nothing to do at the device; see the figures of the cloud"),
    "checksum-mismatch": ("contents damaged on the way", "if it lasts, memory or card are at fault: replace them"),
    "too-large": ("file too large", "raise upload_bytes_max in the cloud, or exclude the folder"),
    "too-many-open-files": ("too many open files", "restart the device; tell us when it comes back"),
    "nothing-acknowledged": ("cloud acknowledges nothing", "look at the cloud's log at the time of the last try"),
}


def _classes(of: type[errors.PiSyncError]) -> Iterator[type[errors.PiSyncError]]:
    yield of
    for each in of.__subclasses__():
        yield from _classes(each)


@cache
def _shared() -> dict[str, tuple[str, str]]:
    """Code -> (title, hint) of the errors that both sides know."""
    found: dict[str, tuple[str, str]] = {}
    for each in _classes(errors.PiSyncError):
        title = (each.__doc__ or "").split("\n")[0].rstrip(".")
        found.setdefault(each.code, (title[:1].lower() + title[1:], each.hint or ""))
    return found


def about(code: str) -> Fault:
    """What a code means; of one that nobody knows, its own words."""
    title, hint = _NAMED.get(code, ("", ""))
    known_title, known_hint = _shared().get(code, ("", ""))
    return Fault(
        code=code,
        title=title or known_title or code.replace("-", " "),
        hint=hint or known_hint or "look at the device: `pisyncctl failures` and `journalctl -u pisyncd`",
    )


def code_of(error_code: str | None) -> str:
    """The fault of a sync event that failed."""
    return error_code[:CODE_MAX] if error_code else UNSPECIFIED
