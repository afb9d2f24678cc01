"""The emulated network of the benchmarks: what comes out, when, and what is counted."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from benchmarks import netem

RATE_BPS = 1_000_000


def packet(size: int, *, sequence: int = 0, flags: int = 0x10, port: int = 40_000) -> bytes:
    """Return an IPv4 TCP segment of `size` bytes in all."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, 6, 0, b"\x0a\x4d\x00\x01", b"\x0a\x4d\x00\x02")
    tcp = struct.pack("!HHIIBBHHH", port, 80, sequence & 0xFFFFFFFF, 0, 0x50, flags, 0, 0, 0)
    return (ip + tcp).ljust(size, b"x")


def direction(**shape: float) -> netem.Direction:
    return netem.Direction(netem.Shape(rate_bps=RATE_BPS, delay_s=0.15, **shape), seed=1)  # type: ignore[arg-type]


def test_a_queue_is_served_at_the_rate_and_then_delayed() -> None:
    way = direction()
    dues = [way.due_at(packet(1250), 10.0, False) for _ in range(3)]
    assert dues == pytest.approx([10.16, 10.17, 10.18])


def test_a_full_queue_and_an_outage_lose_packets() -> None:
    way = direction(queue_bytes=2_500)
    dues = [way.due_at(packet(1250), 10.0, False) for _ in range(5)]
    assert [due is not None for due in dues] == [True, True, True, False, False]
    assert way.due_at(packet(1250), 20.0, True) is None
    assert way.lost == 3


def test_loss_is_the_same_for_the_same_seed() -> None:
    one, other = direction(loss=0.1), direction(loss=0.1)
    losses = [[way.due_at(packet(100), float(at), False) is None for at in range(1000)] for way in (one, other)]
    assert losses[0] == losses[1]
    assert 60 < one.lost < 140


def test_the_schedule_is_down_at_the_end_of_each_period() -> None:
    shape = netem.Shape(rate_bps=RATE_BPS, delay_s=0.1, period_s=30, down_s=10)
    assert [shape.is_down(at) for at in (0, 19.9, 20, 29.9, 30, 50)] == [False, False, True, True, False, True]
    assert not netem.Shape(rate_bps=RATE_BPS, delay_s=0.1).is_down(25)


def test_stream_bytes_leave_out_what_tcp_repeats() -> None:
    way = direction()
    start = 0xFFFFFF00
    for each in (
        packet(40, sequence=start, flags=0x02),
        packet(1040, sequence=start + 1),
        packet(1040, sequence=start + 1),
        packet(540, sequence=start + 1001),
    ):
        way.delivered(each)
    assert way.stream_bytes == 1500
    # The same ports again, for another connection.
    way.delivered(packet(40, sequence=77, flags=0x02))
    way.delivered(packet(140, sequence=78))
    assert (way.packets, way.stream_bytes) == (6, 1600)
