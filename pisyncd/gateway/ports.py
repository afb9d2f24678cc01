"""What the gateway asks of the running daemon: what only memory knows, and what can be asked for.

All else it reads from the outbox. Seconds and bytes; ages and waits are never negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from pisyncd.config import Config
from pisyncd.runtime.clock import Clock


class LinkView(Struct, frozen=True, kw_only=True):
    """The way to the cloud. `backoff_s` > 0: nothing is tried for so long, because of `backoff_reason`.

    `fault_code` and `fault_hint` are those of the last attempt, until one succeeds.

    `probed_ago_s` is since the last look of any kind, `proven_ago_s` since our cloud last proved itself.
    """

    state: Literal["none", "link", "portal", "limited", "full"]
    reason: str
    hint: str = ""
    portal_url: str | None = None
    since_s: float | None = None
    probed_ago_s: float | None = None
    proven_ago_s: float | None = None
    goodput_bps: float | None = None
    backoff_s: float = 0.0
    backoff_reason: str = ""
    fault_code: str = ""
    fault_hint: str = ""


class TransferView(Struct, frozen=True, kw_only=True):
    """A transfer under way. `rate_bps` are bytes per second, None before the first chunk."""

    id: int
    offset: int
    length: int
    rate_bps: float | None = None


class RootView(Struct, frozen=True, kw_only=True):
    """How a watched root is watched: `polling` when the kernel cannot watch it, `waiting` when it is not there."""

    name: str
    path: str
    state: Literal["starting", "watching", "polling", "waiting"]
    detail: str = ""
    hint: str = ""
    settling: int = 0
    scanned_ago_s: float | None = None


class SpoolView(Struct, frozen=True, kw_only=True):
    """The directory for JSON lines files: `files` wait, `paused` says why; `refused` lines since the start."""

    path: str
    files: int = 0
    paused: str = ""
    refused: int = 0


class Device(Protocol):
    """The running daemon."""

    @property
    def config(self) -> Config:
        """What is in force now; a reload replaces it."""

    @property
    def clock(self) -> Clock: ...

    #: Why the port for browsers is not open though it should be, empty when all is well.
    intake_fault: str
    #: What keeps the cloud from letting this device in, empty when it is in.
    enrolment_fault: str

    @property
    def config_fault(self) -> str:
        """Why the last reload was refused, empty when it was not."""

    def link(self) -> LinkView: ...

    def transfers(self) -> Sequence[TransferView]:
        """Those that move now."""

    def roots(self) -> Sequence[RootView]: ...

    def spool(self) -> SpoolView: ...

    def settling_s(self, root: str, path: bytes) -> float | None:
        """Seconds until a changed file is offered; None when it is not waiting to settle."""

    def late(self) -> Sequence[str]:
        """Activities without progress for longer than their deadline."""

    def paused(self) -> bool: ...

    async def pause(self) -> None:
        """Stop sending at the next chunk boundary, until resumed; a restart does not resume."""

    async def resume(self) -> None: ...

    async def retry(self, file_id: int | None) -> int:
        """Offer one failed or postponed file again, or all; forget the backoff, wake the uploader. How many files."""

    def sync(self) -> None:
        """Start a sync cycle now, fetch changes of records, and forget the backoff: a technician asked."""

    async def sync_record(self, record_type: str, record_id: str) -> str:
        """Deliver what waits of a record and fetch what the cloud has; '' when both are done, within 20 s.

        Else why not: 'offline', 'paused', 'stopping', 'timeout', or the code of the cloud's trouble.
        """

    def probe(self) -> None:
        """Look at the link now."""
