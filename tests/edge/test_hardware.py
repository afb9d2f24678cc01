"""What a board says of itself, from a tree of files as a Raspberry Pi has them, and from this machine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pisyncd import hardware
from pisyncd.core.vitals import Throttled, Vitals


def put(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_a_raspberry_pi(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/device-tree/model": b"Raspberry Pi 4 Model B Rev 1.4\0",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "61828\n",
            "sys/class/thermal/thermal_zone1/type": "battery\n",
            "sys/class/thermal/thermal_zone1/temp": "99000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
            "sys/block/mmcblk0/device/life_time": "0x02 0x0b\n",
        },
    )
    told = hardware.read(tmp_path, root)
    assert (told.model, told.os) == ("Raspberry Pi 4 Model B Rev 1.4", "Debian GNU/Linux 12 (bookworm)")
    assert told.temperature_c == pytest.approx(61.828)
    assert told.throttled == Throttled(
        under_voltage=True, throttled=True, under_voltage_since_boot=True, throttled_since_boot=True
    )
    assert told.card_wear_percent == 100.0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {
            "proc/device-tree/model": b"\xff\xfe\0\x1b[2J",
            "etc/os-release": "PRETTY_NAME=\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "hot",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "zz",
            "sys/block/mmcblk0/device/life_time": "0x00 zz 0xff",
        },
    ],
)
def test_a_board_that_tells_nothing_or_nonsense(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    told = hardware.read(tmp_path, put(tmp_path, files))
    assert (told.os, told.temperature_c, told.throttled, told.card_wear_percent) == (None, None, None, None)
    assert "\x1b" not in (told.model or "")
    assert hardware.read(tmp_path / "gone", tmp_path).disk_free_bytes is None


def test_this_machine_says_what_the_cloud_takes(tmp_path: Path) -> None:
    told = hardware.read(tmp_path)
    assert msgspec.json.decode(msgspec.json.encode(told), type=Vitals) == told
    assert told.memory_total_bytes is not None
    assert told.disk_total_bytes is not None
    assert 0 < (told.disk_free_bytes or 0) <= told.disk_total_bytes
    assert told.uptime_s is not None
    assert len(msgspec.json.encode(told)) < 1024
