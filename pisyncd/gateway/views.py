"""What the gateway answers. Ages and waits in seconds, sizes in bytes, wall times RFC 3339 with `Z`.

A path is text for people (`\\xNN` for what is not UTF-8); `path_b64` holds its raw bytes wherever the text cannot.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from pisyncd.gateway.ports import LinkView, RootView, SpoolView

Verdict = Literal["ok", "sending", "waiting", "offline", "paused", "attention"]


class Backlog(Struct, frozen=True, kw_only=True):
    """How much waits, and for how long the oldest has."""

    count: int
    bytes: int
    oldest_s: float | None = None


class ClassBacklog(Struct, frozen=True, kw_only=True):
    """What waits of one class: `files` by priority, `messages` by stream."""

    name: str
    count: int
    bytes: int
    oldest_s: float | None = None


class QueueTotals(Struct, frozen=True, kw_only=True):
    """Everything owed."""

    files: Backlog
    messages: Backlog
    by_class: list[ClassBacklog]


class Moving(Struct, frozen=True, kw_only=True):
    """A transfer under way. `path` is the file's, or the first file's of a bundle; `left_s` at the present rate."""

    id: int
    kind: str
    path: str
    files: int
    offset: int
    length: int
    rate_bps: float | None
    left_s: float | None


class CycleView(Struct, frozen=True, kw_only=True):
    """One sync cycle. `reported`: the cloud was, or will be, told."""

    id: int
    ended_at: str
    clock_trusted: bool
    outcome: str
    attempted: int
    files_synced: int
    errors: int
    bytes_sent: int
    speed_mbps: float | None
    duration_s: float
    error_code: str | None
    reported: bool


class FailureView(Struct, frozen=True, kw_only=True):
    """A file that could not be sent. `final`: only a person or a change of the file starts it again."""

    id: int
    path: str
    path_b64: str | None
    size: int
    final: bool
    code: str
    detail: str
    hint: str
    attempts: int
    next_try_s: float | None


class LossView(Struct, frozen=True, kw_only=True):
    """An entry of the loss ledger."""

    id: int
    at: str
    what: str
    reason: str
    count: int
    bytes: int
    detail: str


class ClockView(Struct, frozen=True, kw_only=True):
    """`ahead_of_cloud_s` is what a trusted answer of the cloud showed last, None before the first."""

    now: str
    trusted: bool
    ahead_of_cloud_s: float | None
    boot_id: str
    up_s: float


class DiskView(Struct, frozen=True, kw_only=True):
    """Room on the disk of state_dir. `fault` says why it cannot be told."""

    path: str
    free_bytes: int | None
    total_bytes: int | None
    floor_bytes: int | None
    enough: bool
    fault: str = ""


class BoardView(Struct, frozen=True, kw_only=True):
    """What the board says of itself, where it does. `troubles` are for people: 'under-voltage'."""

    model: str | None
    temperature_c: float | None
    card_wear_percent: float | None
    troubles: list[str]


class IntakeView(Struct, frozen=True, kw_only=True):
    """Learning events: `taken` since the start, `shedding` why behaviour is not taken now, sessions that go on."""

    taken: int
    shedding: str
    sessions_active: int
    spool: SpoolView


class RecordsView(Struct, frozen=True, kw_only=True):
    """Records kept here, how many wait for the cloud, for a person's decision; when changes were fetched last."""

    count: int
    waiting: int
    open_conflicts: int
    pulled_at: str | None


class Versions(Struct, frozen=True, kw_only=True):
    """What runs here."""

    pisyncd: str
    python: str
    sqlite: str
    system: str
    kernel: str
    machine: str


class Status(Struct, frozen=True, kw_only=True):
    """Everything a technician needs at one glance. `advice` is what to do, most urgent first."""

    device_id: str
    verdict: Verdict
    summary: str
    advice: list[str]
    link: LinkView
    clock: ClockView
    paused: bool
    queue: QueueTotals
    transfers: list[Moving]
    cycles: list[CycleView]
    failures_total: int
    failures: list[FailureView]
    losses_total: int
    losses: list[LossView]
    roots: list[RootView]
    intake: IntakeView
    records: RecordsView
    disk: DiskView
    board: BoardView
    stuck: list[str]
    config_fault: str
    versions: Versions


class QueuedFile(Struct, frozen=True, kw_only=True):
    """A file that waits or is under way. `position` counts from 1 in the order of sending."""

    id: int
    position: int
    path: str
    path_b64: str | None
    size: int
    priority: int
    state: str
    waited_s: float
    due_in_s: float
    attempts: int
    error_code: str | None


class QueuePage(Struct, frozen=True, kw_only=True):
    """A page of the queue; `next_skip` is None on the last one."""

    totals: QueueTotals
    files: list[QueuedFile]
    next_skip: int | None


class HistoryPage(Struct, frozen=True, kw_only=True):
    """Newest first; `next_before` is None on the last page."""

    cycles: list[CycleView]
    next_before: int | None


class FailurePage(Struct, frozen=True, kw_only=True):
    """What could not be sent, and the ledger of what is lost."""

    total: int
    failures: list[FailureView]
    losses_total: int
    losses: list[LossView]


class VersionView(Struct, frozen=True, kw_only=True):
    """One recorded version of a path."""

    id: int
    state: str
    size: int
    modified_at: str
    queued_at: str
    completed_at: str | None
    sha256: str | None
    attempts: int
    error_code: str | None
    error_detail: str | None


class Why(Struct, frozen=True, kw_only=True):
    """Why a path is where it is: `code` for scripts, `sentence` and `hint` for people, `versions` newest first."""

    path: str
    path_b64: str | None
    root: str | None
    code: str
    sentence: str
    hint: str
    versions: list[VersionView]


class Done(Struct, frozen=True, kw_only=True):
    """What a request set in motion."""

    done: str
    files: int | None = None


class Health(Struct, frozen=True, kw_only=True):
    """200 when every activity makes progress, 503 when one is stuck. Being offline is healthy."""

    healthy: bool
    stuck: list[str]
