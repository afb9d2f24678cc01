"""What can be measured here: interfaces, the network's name, the speed of real transfers, disk space, memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

WINDOW_S = 10
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE = 1, 0x10, 0x40, 0x100, 0x400


class Totals(NamedTuple):
    """Bytes on the wire, and the seconds in which anything was being sent."""

    sent_bytes: int
    active_s: float


class Goodput:
    """The speed of real transfers, all of them together, in bytes per second."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._buckets: deque[tuple[int, int]] = deque(maxlen=WINDOW_S)
        self._sending = 0
        self._began_s = 0.0
        self._active_s = 0.0
        self._sent = 0
        self.known_bps: float | None = None

    def add(self, count: int) -> None:
        """`count` bytes went out."""
        self._sent += count
        second = int(self._now_s())
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1] = (second, self._buckets[-1][1] + count)
        else:
            self._buckets.append((second, count))

    @property
    def is_sending(self) -> bool:
        """Whether a body is on its way."""
        return self._sending > 0

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Time inside counts as active; side by side it counts once."""
        if self._sending == 0:
            self._began_s = self._now_s()
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1
            if self._sending == 0:
                self._active_s += self._now_s() - self._began_s

    def learn(self, count: int, elapsed_s: float) -> None:
        """A transfer of `count` bytes took so long; short ones say nothing about the speed."""
        if count >= 16 * 1024 and elapsed_s > 0:
            seen = max(count / elapsed_s, self.rate_bps() or 0.0)
            self.known_bps = seen if self.known_bps is None else 0.6 * self.known_bps + 0.4 * seen

    def rate_bps(self) -> float | None:
        """Over the last ten seconds, None when nothing was sent in them."""
        now = self._now_s()
        recent = [(second, count) for second, count in self._buckets if second > now - WINDOW_S]
        if not recent:
            return None
        return sum(count for _, count in recent) / max(1.0, now - recent[0][0])

    def totals(self) -> Totals:
        """Since the start of the process."""
        running = self._now_s() - self._began_s if self._sending else 0.0
        return Totals(self._sent, self._active_s + running)


def interface_is_up() -> bool:
    """Whether any interface but the loopback is up."""
    return any(stats.isup for name, stats in psutil.net_if_stats().items() if name != "lo")


def network_name() -> str:
    """A name for the network in use: the interface and the gateway of the default route, `lo` without one."""
    for line in Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 2 and fields[1] == "00000000":
            return f"{fields[0]}/{socket.inet_ntoa(struct.pack('<L', int(fields[2], 16)))}"
    return "lo"


def free_disk(path: Path) -> tuple[int, int]:
    """(free, total) bytes of the file system that holds `path`."""
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize, stats.f_blocks * stats.f_frsize


def above_floor(path: Path, floor_bytes: int, floor_percent: float) -> bool:
    """Whether the file system that holds `path` has more room than must stay free."""
    free, total = free_disk(path)
    return free > max(floor_bytes, total * floor_percent / 100)


@contextlib.contextmanager
def link_changes(changed: Callable[[], None]) -> Iterator[None]:
    """Calls `changed` in the running loop when an interface, an address or a route changes (rtnetlink(7)).

    Where the kernel does not allow the socket, nothing is called and the prober's interval finds out.
    """
    loop = asyncio.get_running_loop()
    groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
    try:
        listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        listener.bind((0, groups))
    except OSError:
        yield
        return

    def drain() -> None:
        # an overrun loses messages, not the fact that something changed
        with contextlib.suppress(OSError):
            while listener.recv(65536):
                pass
        changed()

    loop.add_reader(listener, drain)
    try:
        yield
    finally:
        loop.remove_reader(listener)
        listener.close()
