"""What the machine says of itself. Whatever a board does not tell, or this process may not read, is None.

Sources: psutil; /proc/device-tree/model; /sys/class/thermal (thousandths of a degree); the firmware's
soc:firmware/get_throttled, the same bits as `vcgencmd get_throttled` (0 under-voltage, 1 frequency capped, 2 throttled,
3 soft temperature limit; from 16 on the same since the boot); /sys/block/mmcblk*/device/life_time, JEDEC eMMC 5.0
DEVICE_LIFE_TIME_EST in tenths, 0x0b is beyond the end.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import psutil

from pisyncd import __version__, meters
from pisyncd.core.vitals import Throttled, Vitals

_THERMAL = ("cpu", "soc", "x86_pkg")


def read(state_dir: Path, root: Path = Path("/")) -> Vitals:
    """This machine now; `state_dir` is on the disk that counts. Blocks for some milliseconds, never raises OSError."""
    memory = psutil.virtual_memory()
    free, total = _disk(state_dir)
    return Vitals(
        version=__version__,
        python=platform.python_version(),
        os=_os_name(root),
        kernel=platform.release()[:200],
        model=model(root),
        uptime_s=max(0, int(time.clock_gettime(time.CLOCK_BOOTTIME))),
        temperature_c=temperature_c(root),
        throttled=throttled(root),
        cpu_percent=min(100.0, psutil.cpu_percent(interval=None)),
        memory_total_bytes=memory.total,
        memory_available_bytes=memory.available,
        disk_total_bytes=total,
        disk_free_bytes=free,
        card_wear_percent=card_wear_percent(root),
    )


def _disk(state_dir: Path) -> tuple[int | None, int | None]:
    try:
        return meters.free_disk(state_dir)
    except OSError:
        return None, None


def _text(path: Path) -> str:
    """The printable part of a small file; '' when it cannot be read."""
    try:
        with path.open("rb") as source:
            raw = source.read(4096)
    except OSError:
        return ""
    return "".join(char for char in raw.decode("utf-8", "replace") if char.isprintable() or char == "\n").strip()[:200]


def model(root: Path = Path("/")) -> str | None:
    """'Raspberry Pi 4 Model B Rev 1.4'."""
    return _text(root / "proc/device-tree/model") or None


def _os_name(root: Path) -> str | None:
    for line in _text(root / "etc/os-release").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip("\"'") or None
    return None


def temperature_c(root: Path = Path("/")) -> float | None:
    """The warmest of the processor's zones."""
    found = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        kind, told = _text(zone / "type"), _text(zone / "temp")
        if kind.startswith(_THERMAL) and told.lstrip("-").isdigit():
            found.append(int(told) / 1000)
    sane = [each for each in found if -100 < each < 200]
    return max(sane, default=None)


def throttled(root: Path = Path("/")) -> Throttled | None:
    """What the firmware of a Raspberry Pi has noticed."""
    for told in sorted((root / "sys/devices/platform").glob("soc*/*firmware/get_throttled")):
        try:
            bits = int(_text(told), 16)
        except ValueError:
            continue
        return Throttled(
            under_voltage=bool(bits & 1),
            frequency_capped=bool(bits & 1 << 1),
            throttled=bool(bits & 1 << 2),
            temperature_limit=bool(bits & 1 << 3),
            under_voltage_since_boot=bool(bits & 1 << 16),
            throttled_since_boot=bool(bits & 1 << 18),
        )
    return None


def card_wear_percent(root: Path = Path("/")) -> float | None:
    """Of a card that tells its age, the worse of both kinds of its memory."""
    found: list[int] = []
    for told in sorted((root / "sys/block").glob("mmcblk*/device/life_time")):
        for part in _text(told).split():
            try:
                found.append(int(part, 16))
            except ValueError:
                continue
    tenths = [each for each in found if 1 <= each <= 11]
    return min(100.0, 10.0 * max(tenths)) if tenths else None
