"""Every setting: its type, its default, its bounds and its help text.

Units come last in a name: `_s` seconds, `_bytes` bytes, `_percent` percent. `config/pisyncd.example.yaml` is
generated from this file, and so is what an error message says is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

DEVICE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"


class Log(Struct, frozen=True, kw_only=True):
    """What the daemon writes to the journal."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least severe line to write.")] = (
        "info"
    )
    format: Annotated[
        Literal["json", "keyvalue"],
        Meta(description="json for machines, keyvalue for people who read the journal."),
    ] = "json"


class Cloud(Struct, frozen=True, kw_only=True):
    """Where everything goes."""

    url: Annotated[
        str,
        Meta(max_length=2000, description="Address of the cloud, https://host[:port][/path]. Required."),
    ]
    token_file: Annotated[
        Path | None,
        Meta(
            description="File with this device's token, and nothing else. Without it the systemd credential "
            "`pisync-token` is used. The token itself never stands in this file."
        ),
    ] = None
    fleet_key_file: Annotated[
        Path | None,
        Meta(
            description="File with the key of a fleet, for prepared cards: without a token of its own the device makes "
            "one and asks with this key to be let in, until somebody at the cloud has accepted it."
        ),
    ] = None
    ca_file: Annotated[
        Path | None,
        Meta(description="Certificate authorities to trust (PEM), instead of the system's own."),
    ] = None
    connect_timeout_s: Annotated[
        float, Meta(ge=1, le=300, description="Give up on a connection that is not open after this time.")
    ] = 30.0


class WatchRoot(Struct, frozen=True, kw_only=True):
    """A directory whose files are sent."""

    path: Annotated[
        Path,
        Meta(description="Absolute path of a directory. A missing one (an unplugged disk) is waited for. Required."),
    ]
    name: Annotated[
        str,
        Meta(
            max_length=255,
            description="First part of every path in the cloud; unique. Default: the last part of `path`.",
        ),
    ] = ""
    include: Annotated[
        tuple[str, ...],
        Meta(description="Globs below `path`; only what matches one of them is sent. Default: everything."),
    ] = ()
    exclude: Annotated[
        tuple[str, ...], Meta(description="Globs below `path`; what matches one of them is never sent.")
    ] = ()
    priority: Annotated[int, Meta(ge=1, le=10, description="1 is sent last, 10 is sent first.")] = 5


class Settle(Struct, frozen=True, kw_only=True):
    """When a changed file counts as finished."""

    debounce_s: Annotated[
        float, Meta(ge=0, le=3600, description="A file is offered when nothing wrote to it for this time.")
    ] = 10.0
    force_s: Annotated[
        float,
        Meta(ge=0, le=86400, description="A file that is written to all the time is offered after this time anyway."),
    ] = 60.0
    rescan_s: Annotated[
        float,
        Meta(
            ge=1,
            le=604800,
            description="Every root is read anew after this time, times 0.75 to 1.25 by chance.",
        ),
    ] = 3600.0


class Sync(Struct, frozen=True, kw_only=True):
    """The sync cycle, whose result the cloud shows as the device's history."""

    scheduled: Annotated[
        bool,
        Meta(description="Run a cycle every `interval_s`. With false, only `pisyncctl sync` starts one."),
    ] = True
    interval_s: Annotated[float, Meta(ge=60, le=3600, description="Time between two cycles.")] = 300.0
    retries_max: Annotated[int, Meta(ge=1, le=10, description="Quick retries inside one cycle.")] = 3
    retry_delay_s: Annotated[float, Meta(ge=1, le=30, description="Time between two quick retries.")] = 5.0
    heartbeat_s: Annotated[
        float,
        Meta(ge=60, le=604800, description="With nothing to send, the device still reports itself after this time."),
    ] = 86400.0


class Transfer(Struct, frozen=True, kw_only=True):
    """How bytes travel."""

    parallel_max: Annotated[int, Meta(ge=1, le=16, description="Transfers at the same time.")] = 4
    chunk_target_s: Annotated[
        float, Meta(ge=1, le=300, description="A chunk is sized so that it takes about this time.")
    ] = 15.0
    chunk_bytes_min: Annotated[int, Meta(ge=KIB, le=64 * MIB, description="Smallest chunk.")] = 32 * KIB
    chunk_bytes_max: Annotated[int, Meta(ge=KIB, le=1 * GIB, description="Largest chunk.")] = 8 * MIB
    chunk_bytes_start: Annotated[
        int, Meta(ge=KIB, le=1 * GIB, description="First chunk on a network that is not known yet.")
    ] = 256 * KIB
    stall_s: Annotated[float, Meta(ge=1, le=3600, description="A chunk without a byte for this time is ended.")] = 60.0
    bundle_file_bytes_max: Annotated[
        int, Meta(ge=0, le=64 * MIB, description="Files up to this size travel together in bundles. 0: never.")
    ] = 1 * MIB
    bundle_bytes_max: Annotated[
        int, Meta(ge=64 * KIB, le=4 * GIB, description="A bundle is closed when its files reach this size.")
    ] = 16 * MIB
    bundle_entries_max: Annotated[
        int, Meta(ge=1, le=10000, description="A bundle is closed when it holds this many files.")
    ] = 400
    upload_bytes_max: Annotated[
        int, Meta(ge=MIB, le=16 * TIB, description="A larger file is not sent but listed as failed.")
    ] = 64 * GIB
    compress: Annotated[bool, Meta(description="Send compressible content compressed (zstd).")] = True


class Backoff(Struct, frozen=True, kw_only=True):
    """How long to wait after trouble. Waits double and carry full jitter; they survive a restart."""

    base_s: Annotated[float, Meta(ge=0.1, le=3600, description="First wait after a failed attempt.")] = 5.0
    cap_s: Annotated[float, Meta(ge=1, le=86400, description="Longest wait for the cloud.")] = 1800.0
    item_base_s: Annotated[float, Meta(ge=0.1, le=3600, description="First wait of a refused file; then x5.")] = 25.0
    item_cap_s: Annotated[float, Meta(ge=1, le=604800, description="Longest wait of one file.")] = 86400.0


class Messages(Struct, frozen=True, kw_only=True):
    """What the device reports beside files."""

    batch_items: Annotated[int, Meta(ge=10, le=500, description="Messages in one batch.")] = 100
    queue_max: Annotated[
        int,
        Meta(
            ge=100,
            le=1_000_000,
            description="Above this many waiting messages the least important ones are shed, and the loss is reported. "
            "Learning data is never shed.",
        ),
    ] = 10_000
    timeout_s: Annotated[float, Meta(ge=1, le=600, description="Give up on an unanswered batch after this time.")] = (
        30.0
    )


class Records(Struct, frozen=True, kw_only=True):
    """Records that this device shares with the cloud (enrollments, profiles, progress, assessments)."""

    wait_s: Annotated[
        float,
        Meta(
            ge=0,
            le=900,
            description="While there are records here, and in the first hour on a network, the device has a request "
            "open that the cloud answers as soon as a record changes, and after this time at the latest. Each costs "
            "about 1 KB: 8 MB a month at 300, 3 MB at 900. 0: no open request; changes are fetched together with each "
            "sync event that is sent, when the link comes up, every probe.idle_interval_s, and when asked for.",
        ),
    ] = 300.0
    types: Annotated[
        tuple[str, ...],
        Meta(
            examples=["profile", "progress"],
            description="Types of records to fetch. Default: all that this device is entitled to.",
        ),
    ] = ()


class Probe(Struct, frozen=True, kw_only=True):
    """Finding out whether the cloud can be reached."""

    interval_s: Annotated[float, Meta(ge=1, le=3600, description="Time between probes while something is owed.")] = 60.0
    idle_interval_s: Annotated[
        float,
        Meta(
            ge=1,
            le=86400,
            description="Time between probes while nothing is owed. One probe costs about 6 KB with TLS.",
        ),
    ] = 21600.0
    timeout_s: Annotated[float, Meta(ge=1, le=120, description="An unanswered probe has failed after this time.")] = (
        10.0
    )


class Disk(Struct, frozen=True, kw_only=True):
    """Room that is left to the rest of the machine. The larger of the two counts."""

    free_floor_bytes: Annotated[
        int, Meta(ge=0, le=1 * TIB, description="Bytes kept free on the disk of `state_dir`.")
    ] = 250_000_000
    free_floor_percent: Annotated[float, Meta(ge=0, le=50, description="Percent of the disk kept free.")] = 1.0


class Watchdog(Struct, frozen=True, kw_only=True):
    """When the daemon counts as stuck. Being offline is not being stuck."""

    deadline_s: Annotated[
        float,
        Meta(
            ge=5,
            le=3600,
            description="The watcher without progress for longer is stuck; what waits for the cloud may take minutes.",
        ),
    ] = 60.0


class Gateway(Struct, frozen=True, kw_only=True):
    """The status socket (runtime_dir/pisyncd.sock), mode 0660."""

    group: Annotated[
        str,
        Meta(
            pattern=r"^[a-z_][a-z0-9_-]{0,31}$",
            description="Its members may use pisyncctl. If it does not exist: the daemon's own group.",
        ),
    ] = "pisync"


class Intake(Struct, frozen=True, kw_only=True):
    """Learning events of applications on this machine. The socket in runtime_dir takes them always."""

    port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="Port on 127.0.0.1 for browsers and whatever cannot use the socket. 0: none. It needs "
            "`origins`, `tokens_file` or both.",
        ),
    ] = 0
    origins: Annotated[
        tuple[str, ...],
        Meta(
            examples=["https://learn.example.org", "http://localhost:3000"],
            description="Pages that may use the port, as scheme://host[:port].",
        ),
    ] = ()
    tokens_file: Annotated[
        Path | None,
        Meta(
            description="File with a line `name: token` for each application, made by `pisyncd app-token NAME`. With "
            "it every request on the port needs a token, also of a page; without it an allowed page is enough."
        ),
    ] = None
    spool_dir: Annotated[
        Path | None,
        Meta(
            description="JSON lines files (*.jsonl) that are moved in here are taken in and removed. Default: `intake` "
            "below `state_dir`. Outside of `state_dir` the service needs ReadWritePaths= for it."
        ),
    ] = None


class Stop(Struct, frozen=True, kw_only=True):
    """Ending in good order."""

    drain_s: Annotated[
        float,
        Meta(ge=0, le=45, description="Chunks under way may finish for this time; less than WatchdogSec."),
    ] = 15.0


class Config(Struct, frozen=True, kw_only=True):
    """One device, whole and checked. Made by `config.load`."""

    device_id: Annotated[
        str,
        Meta(
            pattern=DEVICE_ID_PATTERN,
            description="Name of this device in the cloud. Default: the hardware's serial number, "
            "else a name made from /etc/machine-id.",
        ),
    ]
    state_dir: Annotated[Path, Meta(description="What must survive a restart: the outbox and its spool.")] = Path(
        "/var/lib/pisyncd"
    )
    runtime_dir: Annotated[Path, Meta(description="What need not: the status socket.")] = Path("/run/pisyncd")
    cloud: Cloud
    watch: tuple[WatchRoot, ...]
    log: Log = Log()
    settle: Settle = Settle()
    sync: Sync = Sync()
    transfer: Transfer = Transfer()
    backoff: Backoff = Backoff()
    messages: Messages = Messages()
    records: Records = Records()
    probe: Probe = Probe()
    disk: Disk = Disk()
    watchdog: Watchdog = Watchdog()
    gateway: Gateway = Gateway()
    intake: Intake = Intake()
    stop: Stop = Stop()

    @property
    def database(self) -> Path:
        """Where the outbox lives."""
        return self.state_dir / "outbox.db"

    @property
    def spool_dir(self) -> Path:
        """Where bundles and snapshots wait."""
        return self.state_dir / "spool"

    @property
    def intake_dir(self) -> Path:
        """Where JSON lines files are moved to."""
        return self.intake.spool_dir or self.state_dir / "intake"

    @property
    def socket(self) -> Path:
        """Where the gateway listens."""
        return self.runtime_dir / "pisyncd.sock"
