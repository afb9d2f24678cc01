"""A bad network on one machine: two namespaces, a TUN device in each, and a seeded emulator between them.

The emulator moves IP packets in user space with a rate, a delay, a loss, a queue limit and a schedule of
outages, so it needs no kernel module, only root and /dev/net/tun. It also follows TCP sequence numbers, and so
knows how many bytes the applications put on the wire, apart from what TCP itself had to repeat.

    with Network(Shape(rate_bps=1_000_000, delay_s=0.15, loss=0.01)) as net:
        net.popen("far", ["rsync", "--daemon", ...])
        net.popen("near", ["rsync", ..., f"rsync://{FAR_ADDRESS}/..."]).wait()
        print(net.count().up_stream_bytes)
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

NEAR_ADDRESS = "10.77.0.1"
FAR_ADDRESS = "10.77.0.2"
MTU = 1500

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000
_CLONE_NEWNET = 0x40000000
_PROTOCOL_TCP = 6
_FLAG_SYN = 0x02

Side = Literal["near", "far"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What the link is like, the same in both directions; loss is a share of packets, delay is one way."""

    rate_bps: int
    delay_s: float
    loss: float = 0.0
    queue_bytes: int = 64 * 1024
    period_s: float = 0.0
    down_s: float = 0.0
    seed: int = 1
    congestion: str = "cubic"

    def is_down(self, since_start_s: float) -> bool:
        """Tell whether the link is out: the last `down_s` of each `period_s`."""
        return self.period_s > 0 and since_start_s % self.period_s >= self.period_s - self.down_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count:
    """What has crossed the link so far, near to far being `up`. Stream bytes leave out what TCP repeated."""

    up_packets: int
    up_bytes: int
    up_stream_bytes: int
    up_lost: int
    down_packets: int
    down_bytes: int
    down_stream_bytes: int
    down_lost: int


@dataclasses.dataclass(kw_only=True)
class _Flow:
    """One way of a TCP connection: its first sequence number, how far it came, and what earlier ones carried."""

    first: int
    before: int
    reached: int = 0


class Direction:
    """One way of the link: a queue served at the rate, then a fixed delay."""

    def __init__(self, shape: Shape, seed: int) -> None:
        """Start empty; `seed` decides which packets are lost."""
        self._shape = shape
        self._chance = random.Random(seed)
        self._free_at = 0.0
        self._flows: dict[bytes, _Flow] = {}
        self.packets = 0
        self.bytes = 0
        self.lost = 0

    def due_at(self, packet: bytes, now: float, down: bool) -> float | None:
        """Return when this packet comes out at the other end, or None when it is lost."""
        start = max(now, self._free_at)
        full = (start - now) * self._shape.rate_bps / 8 > self._shape.queue_bytes
        if down or full or self._chance.random() < self._shape.loss:
            self.lost += 1
            return None
        self._free_at = start + len(packet) * 8 / self._shape.rate_bps
        return self._free_at + self._shape.delay_s

    def delivered(self, packet: bytes) -> None:
        """Count a packet that came out."""
        self.packets += 1
        self.bytes += len(packet)
        header_length = (packet[0] & 0x0F) * 4
        if packet[0] >> 4 != 4 or packet[9] != _PROTOCOL_TCP or len(packet) < header_length + 20:
            return
        flow_key = packet[12:20] + packet[header_length : header_length + 4]
        (sequence,) = struct.unpack_from("!I", packet, header_length + 4)
        data_at = header_length + (packet[header_length + 12] >> 4) * 4
        flow = self._flows.get(flow_key)
        if packet[header_length + 13] & _FLAG_SYN:
            if flow is None or flow.first != sequence + 1:
                before = flow.before + flow.reached if flow else 0
                self._flows[flow_key] = _Flow(first=sequence + 1, before=before)
        elif flow is not None:
            reached = (sequence + len(packet) - data_at - flow.first) & 0xFFFFFFFF
            if reached < 1 << 31:
                flow.reached = max(flow.reached, reached)

    @property
    def stream_bytes(self) -> int:
        """Return how far the TCP streams of this direction have come, all together."""
        return sum(flow.before + flow.reached for flow in self._flows.values())


def _enter(namespace: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace.open() as ns:
        if libc.setns(ns.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def _open_tun(namespace: str, name: bytes) -> int:
    _enter(Path("/run/netns") / namespace)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name, _IFF_TUN_NO_PI))
    return tun


class Emulator:
    """The loop that moves packets; runs in its own process."""

    def __init__(self, shape: Shape, near: int, far: int) -> None:
        """Take the two TUN descriptors."""
        self._shape = shape
        self._up = Direction(shape, shape.seed)
        self._down = Direction(shape, shape.seed + 1)
        self._routes = {near: (far, self._up), far: (near, self._down)}
        self._flight: list[tuple[float, int, int, bytes, Direction]] = []
        self._serial = 0
        self._started = time.monotonic()

    def run(self, control: int) -> None:
        """Move packets until `control` closes; a byte from it restarts the schedule or asks for counts."""
        poller = select.poll()
        for descriptor in (*self._routes, control):
            poller.register(descriptor, select.POLLIN)
        while True:
            wait_ms: float | None = None
            if self._flight:
                wait_ms = max(0.0, (self._flight[0][0] - time.monotonic()) * 1000)
            for descriptor, _ in poller.poll(wait_ms):
                if descriptor != control:
                    self._take(descriptor)
                elif not self._command(os.read(control, 1)):
                    return
            self._deliver()

    def _command(self, verb: bytes) -> bool:
        if verb == b"r":
            self._started = time.monotonic()
        if verb in (b"r", b"c"):
            print(json.dumps(dataclasses.asdict(self._count())), flush=True)
        return bool(verb)

    def _count(self) -> Count:
        up, down = self._up, self._down
        return Count(
            up_packets=up.packets,
            up_bytes=up.bytes,
            up_stream_bytes=up.stream_bytes,
            up_lost=up.lost,
            down_packets=down.packets,
            down_bytes=down.bytes,
            down_stream_bytes=down.stream_bytes,
            down_lost=down.lost,
        )

    def _take(self, descriptor: int) -> None:
        other, direction = self._routes[descriptor]
        now = time.monotonic()
        is_down = self._shape.is_down(now - self._started)
        with contextlib.suppress(BlockingIOError):
            while packet := os.read(descriptor, MTU + 64):
                due = direction.due_at(packet, now, is_down)
                if due is not None:
                    self._serial += 1
                    heapq.heappush(self._flight, (due, self._serial, other, packet, direction))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._flight and self._flight[0][0] <= now:
            _, _, descriptor, packet, direction = heapq.heappop(self._flight)
            # A full device queue loses the packet, as a full queue of a real interface does.
            with contextlib.suppress(OSError):
                os.write(descriptor, packet)
                direction.delivered(packet)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _set_congestion(algorithm: str, namespaces: Sequence[str]) -> None:
    # The default of a Raspberry Pi, whatever this machine's kernel was built with. A namespace takes only an
    # algorithm that is allowed to everyone, so it is allowed for this moment.
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    before = allowed.read_text()
    allowed.write_text(f"{before.strip()} {algorithm}")
    try:
        for name in namespaces:
            setting = f"net.ipv4.tcp_congestion_control={algorithm}"
            subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", setting], check=True)
    finally:
        allowed.write_text(before)


def _remove(namespace: str) -> None:
    inside = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in inside.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _sweep() -> None:
    """Remove what an emulator that was killed has left behind."""
    for path in Path("/run/netns").glob("ps-*-*-*"):
        owner = path.name.split("-")[2]
        if owner.isdigit() and not Path("/proc", owner).exists():
            _remove(path.name)


def available() -> str | None:
    """Return why the emulator cannot run here, or None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing"
    return None


class Network:
    """Two namespaces joined by an emulated link; everything started inside is stopped on exit."""

    def __init__(self, shape: Shape) -> None:
        """Prepare; nothing is made before entering."""
        self._shape = shape
        tag = f"{os.getpid()}-{random.randrange(100):02}"
        self._names: dict[Side, str] = {"near": f"ps-near-{tag}", "far": f"ps-far-{tag}"}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._emulator: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Make the namespaces and start the emulator."""
        _sweep()
        try:
            for name in self._names.values():
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            _set_congestion(self._shape.congestion, tuple(self._names.values()))
            self._emulator = subprocess.Popen(
                [sys.executable, __file__, json.dumps(dataclasses.asdict(self._shape)), *self._names.values()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self._ask(None)
            addresses = {"near": NEAR_ADDRESS, "far": FAR_ADDRESS}
            for side, name in self._names.items():
                _ip("-n", name, "address", "add", f"{addresses[side]}/24", "dev", "ps0")
                _ip("-n", name, "link", "set", "ps0", "mtu", str(MTU), "txqueuelen", "1000", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self.close()

    def _ask(self, verb: bytes | None) -> dict[str, int]:
        emulator = self._emulator
        if emulator is None or emulator.stdin is None or emulator.stdout is None:
            raise RuntimeError("the network is not up")
        if verb is not None:
            emulator.stdin.write(verb)
            emulator.stdin.flush()
        line = emulator.stdout.readline()
        if not line:
            raise RuntimeError("the emulator ended")
        answer: dict[str, int] = json.loads(line)
        return answer

    def restart_schedule(self) -> Count:
        """Begin the up/down schedule anew, now; returns what has been counted so far."""
        return Count(**self._ask(b"r"))

    def count(self) -> Count:
        """Return what has crossed the link so far."""
        return Count(**self._ask(b"c"))

    def command(self, side: Side, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs these arguments on one side."""
        return ["ip", "netns", "exec", self._names[side], *arguments]

    @contextlib.contextmanager
    def inside(self, side: Side) -> Iterator[None]:
        """Make sockets that this thread opens meanwhile belong to one side."""
        with Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").open() as home:
            _enter(Path("/run/netns") / self._names[side])
            try:
                yield
            finally:
                _enter(Path(f"/proc/self/fd/{home.fileno()}"))

    def popen(
        self, side: Side, arguments: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process on one side; it is stopped with the network."""
        process = subprocess.Popen(
            self.command(side, arguments), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Stop the processes inside, the emulator, and remove the namespaces."""
        for name in self._names.values():
            _remove(name)
        for process in self._processes:
            process.wait(timeout=10)
        if self._emulator is not None:
            self._emulator.terminate()
            self._emulator.wait(timeout=10)
            for pipe in (self._emulator.stdin, self._emulator.stdout):
                if pipe is not None:
                    pipe.close()


def main() -> None:
    """Run the emulator process: shape as JSON, the two namespaces."""
    parser = argparse.ArgumentParser(description="Move packets between two network namespaces")
    parser.add_argument("shape")
    parser.add_argument("near")
    parser.add_argument("far")
    arguments = parser.parse_args()
    shape = Shape(**json.loads(arguments.shape))
    emulator = Emulator(shape, _open_tun(arguments.near, b"ps0"), _open_tun(arguments.far, b"ps0"))
    print("{}", flush=True)
    emulator.run(sys.stdin.fileno())


if __name__ == "__main__":
    main()
