"""What the outbox tests share: a clock that only moves when told, and sightings made up from a number."""

from __future__ import annotations

from dataclasses import dataclass, field

from pisyncd.core.settle import Sighting
from pisyncd.runtime.clock import Stamp


@dataclass
class FakeClock:
    """Implements runtime.clock.Clock; a reboot changes the boot id and begins the boottime anew."""

    boot_id: str = "boot-1"
    now_ms: int = 1_000
    wall: int = 1_700_000_000_000
    sure: bool = False
    told: list[int] = field(default_factory=list)

    @property
    def offset_ms(self) -> int | None:
        return self.told[-1] - self.wall if self.told else None

    def boottime_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return self.wall

    def trusted(self) -> bool:
        return self.sure

    def confirm(self, cloud_wall_ms: int) -> None:
        self.told.append(cloud_wall_ms)

    def stamp(self) -> Stamp:
        return Stamp(boot_id=self.boot_id, boottime_ms=self.now_ms, wall_ms=self.wall, clock_trusted=self.sure)

    def pass_s(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)
        self.wall += int(seconds * 1000)

    def reboot(self) -> None:
        self.boot_id += "+"
        self.now_ms = 10
        self.wall = 0


def sighting(path: bytes, version: int, *, size: int = 10, kind: str = "file", priority: int = 5) -> Sighting:
    return Sighting(root="r", path=path, size=size, mtime_ns=version, inode=version, kind=kind, priority=priority)


def digest(version: int) -> bytes:
    return version.to_bytes(32, "big")
