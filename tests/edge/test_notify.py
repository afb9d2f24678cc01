"""What systemd hears, on a real datagram socket, and when the watchdog is fed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pisyncd.activities.watchdog import Watchdog
from pisyncd.runtime.activity import Pulse
from pisyncd.runtime.notify import Notifier, watchdog_interval_s


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def heard(listener: socket.socket) -> list[str]:
    said = []
    while True:
        try:
            said.append(listener.recv(4096).decode())
        except BlockingIOError:
            return said


def test_every_station_is_told(systemd: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("watching 2 directories")
    notifier.reloading()
    notifier.status("sending")
    notifier.watchdog()
    notifier.stopping()
    ready, reloading, status, watchdog, stopping = heard(systemd)
    assert ready == "READY=1\nSTATUS=watching 2 directories"
    first, _, usec = reloading.partition("\nMONOTONIC_USEC=")
    assert (first, usec.isdigit()) == ("RELOADING=1", True)
    assert (status, watchdog, stopping) == ("STATUS=sending", "WATCHDOG=1", "STOPPING=1\nSTATUS=stopping")
    notifier.close()
    notifier.watchdog()
    assert heard(systemd) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("übung\nREADY=1", "STATUS=?bung READY=1"),
        ("日本", "STATUS=??"),
        ("x" * 500, "STATUS=" + "x" * 200),
        ("", "STATUS="),
    ],
)
def test_a_status_is_one_line_of_ascii(systemd: socket.socket, text: str, line: str) -> None:
    Notifier().status(text)
    assert heard(systemd) == [line]


def test_outside_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier({})
    notifier.ready("x")
    notifier.watchdog()
    notifier.close()
    assert notifier.watchdog_interval_s is None


def test_a_systemd_that_is_gone_is_no_obstacle(systemd: socket.socket) -> None:
    notifier = Notifier()
    systemd.close()
    notifier.ready("x")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
    ],
)
def test_the_watchdogs_pace_is_half_of_what_systemd_says(environ: dict[str, str], expected: float | None) -> None:
    assert watchdog_interval_s(environ) == expected


class Hours:
    """Monotonic milliseconds that move only when told."""

    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> int:
        return self.ms


async def test_weeks_of_waiting_feed_the_watchdog_a_stuck_step_starves_it(systemd: socket.socket) -> None:
    now = Hours()
    pulse, status = Pulse(now), "offline"
    watchdog = Watchdog(pulse, Notifier(), lambda: status)
    pulse.expect("prober", 14 * 86400.0)
    now.ms = 13 * 86_400_000
    await watchdog.step()
    assert heard(systemd) == ["WATCHDOG=1", "STATUS=offline"]
    await watchdog.step()
    assert heard(systemd) == ["WATCHDOG=1"]
    pulse.expect("uploader", 60.0)
    now.ms += 61_000
    await watchdog.step()
    assert heard(systemd) == ["STATUS=stuck: uploader"]
    await watchdog.step()
    assert heard(systemd) == []
    pulse.expect("uploader", 60.0)
    await watchdog.step()
    assert heard(systemd) == ["WATCHDOG=1", "STATUS=offline"]


async def test_its_own_lateness_does_not_starve_it(systemd: socket.socket) -> None:
    now = Hours()
    pulse = Pulse(now)
    watchdog = Watchdog(pulse, Notifier(), lambda: "ok")
    pulse.expect(watchdog.name, 1.0)
    now.ms = 3_600_000
    await watchdog.step()
    assert "WATCHDOG=1" in heard(systemd)


async def test_it_looks_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Hours()
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    assert await Watchdog(Pulse(now), Notifier(), lambda: "ok").step() == 10.0
    monkeypatch.delenv("WATCHDOG_USEC")
    assert await Watchdog(Pulse(now), Notifier(), lambda: "ok").step() == 15.0
