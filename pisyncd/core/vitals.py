"""What a device says of itself (item type `vitals`), and what the cloud may ask of it in the answer to a batch.

A report is sent when something that matters has changed, at most once an hour, and at least once a day. What a board
cannot tell is null. The newest report of a device counts.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

STREAM = "vitals"
ITEM_TYPE = "vitals"

#: What the cloud may ask for: a sync cycle at once, or a bundle for support as an upload.
CommandKind = Literal["sync", "support-bundle"]
#: The root of what a device sends on its own account.
OWN_ROOT = ".pisync"
#: Where a support bundle stands among the files of its device; `{id}` is the command's.
BUNDLE_PATH = OWN_ROOT + "/support/{id}.tar.gz"

#: A database takes no NUL, a page no control characters.
_PRINTED = r"^[^\x00-\x1f\x7f]*$"
Text = Annotated[str, Meta(max_length=200, pattern=_PRINTED)]
Share = Annotated[float, Meta(ge=0, le=100)]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Throttled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the firmware of a Raspberry Pi reports (`vcgencmd get_throttled`): now, and since the boot."""

    under_voltage: bool = False
    throttled: bool = False
    frequency_capped: bool = False
    temperature_limit: bool = False
    under_voltage_since_boot: bool = False
    throttled_since_boot: bool = False


class CommandResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a command ended; `detail` is the bundle's path, or why it failed."""

    id: Annotated[str, Meta(max_length=64, pattern=_PRINTED)]
    state: Literal["done", "failed"]
    detail: Text = ""


class Vitals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One report. Percents are 0-100, bytes are whole, `uptime_s` counts since the boot.

    `card_wear_percent`: of an eMMC or SD card that tells it (JEDEC life time estimate, the worse of both), 100 is worn.
    """

    at: Text | None = None
    version: Text | None = None
    python: Text | None = None
    os: Text | None = None
    kernel: Text | None = None
    model: Text | None = None
    uptime_s: Count | None = None
    temperature_c: Annotated[float, Meta(ge=-100, le=200)] | None = None
    throttled: Throttled | None = None
    cpu_percent: Share | None = None
    memory_total_bytes: Count | None = None
    memory_available_bytes: Count | None = None
    disk_total_bytes: Count | None = None
    disk_free_bytes: Count | None = None
    card_wear_percent: Share | None = None
    clock_trusted: bool | None = None
    owed_messages: Count | None = None
    owed_files: Count | None = None
    owed_bytes: Count | None = None
    failed_files: Count | None = None
    commands: Annotated[list[CommandResult], Meta(max_length=100)] = []


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is asked to do; asked again with every batch until a report tells how it ended."""

    id: str
    kind: CommandKind
