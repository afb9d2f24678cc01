"""A lean HTTP load generator for one kind of request, run as a process of its own.

It keeps a fixed number of keep-alive connections busy with one request each, over raw sockets and epoll, so
that it takes little of a small machine from the server that is measured (about 30 us per request). Reads a plan
as JSON from standard input, writes the result as JSON to standard output.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
import select
import socket
import sys
import time

_RECEIVE_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send. In `body`, `@@SEQ@@` becomes a number of 12 digits that no other request of the run has, and
    `@@COUNT@@` the last 8 digits of it, and each `@@RANDOM@@` 8 random hex digits of its own.

    One connection per entry of `tokens`; `devices[i]`, when given, replaces `@@DEVICE@@` in the body and path. With
    `rate` so many requests a second are sent over all connections together, else each answer is followed by the next.
    `unix` names a Unix socket instead of host and port; `headers` are more header lines, each with its CRLF.
    With `count` it ends after so many requests.
    """

    host: str
    port: int
    method: str
    path: str
    body: str
    tokens: list[str]
    devices: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 10.0
    first_seq: int = 0
    rate: float = 0.0
    unix: str = ""
    headers: str = ""
    count: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came back: answers by status, per second, and their latency in milliseconds."""

    answers: dict[str, int]
    failures: int
    seconds: float
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    client_cpu_us: float


class Connection:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, plan: Plan, index: int) -> None:
        """Connect and prepare everything that stays the same."""
        if plan.unix:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(plan.unix)
        else:
            self.sock = socket.create_connection((plan.host, plan.port), timeout=30)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        device = plan.devices[index] if plan.devices else ""
        body = plan.body.replace("@@DEVICE@@", device)
        length = len(b"".join(_filled(_pieces(body.encode()), 0)))
        head = (
            f"{plan.method} {plan.path.replace('@@DEVICE@@', device)} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\n"
            f"Authorization: Bearer {plan.tokens[index]}\r\nContent-Type: application/json\r\n{plan.headers}"
            f"Content-Length: {length}\r\n\r\n"
        )
        self._pieces = _pieces((head + body).encode())
        self._received = b""
        self.sent_at = 0.0

    def send(self, seq: int) -> None:
        """Send the next request."""
        self.sock.sendall(b"".join(_filled(self._pieces, seq)))
        self.sent_at = time.perf_counter()

    def receive(self) -> bytes | None:
        """Return the status of the answer when it is whole, else None; ConnectionError at its end."""
        piece = self.sock.recv(_RECEIVE_BYTES)
        if not piece:
            raise ConnectionError("closed")
        data = self._received + piece if self._received else piece
        head_end = data.find(b"\r\n\r\n")
        if head_end > 0:
            length = data.lower().find(b"content-length:", 0, head_end)
            size = int(data[length + 15 : data.find(b"\r\n", length)]) if length > 0 else 0
            if len(data) >= head_end + 4 + size:
                self._received = b""
                return data[9:12]
        self._received = data
        return None


def _pieces(text: bytes) -> list[bytes]:
    """Split at the placeholders, which stay at the odd places."""
    return re.split(b"(@@SEQ@@|@@COUNT@@|@@RANDOM@@)", text)


def _filled(pieces: list[bytes], seq: int) -> list[bytes]:
    """Fill the odd places in."""
    filled = pieces.copy()
    digits = os.urandom(2 * len(pieces)).hex().encode()
    for index in range(1, len(pieces), 2):
        match pieces[index]:
            case b"@@SEQ@@":
                filled[index] = b"%012d" % seq
            case b"@@COUNT@@":
                filled[index] = b"%08d" % (seq % 100_000_000)
            case _:
                filled[index] = digits[4 * index - 4 : 4 * index + 4]
    return filled


def run(plan: Plan) -> Outcome:
    """Keep all connections busy for the planned time, then collect what is under way."""
    connections = [Connection(plan, index) for index in range(len(plan.tokens))]
    by_descriptor = {connection.sock.fileno(): connection for connection in connections}
    poller = select.epoll()
    for descriptor in by_descriptor:
        poller.register(descriptor, select.EPOLLIN)
    idle = collections.deque(connections)
    seq, busy, failures = plan.first_seq, 0, 0
    last = plan.first_seq + (plan.count or 10**12)
    answers: collections.Counter[str] = collections.Counter()
    latencies: list[float] = []
    cpu_at_start, started = time.process_time(), time.perf_counter()
    while True:
        now = time.perf_counter() - started
        open_ended = now < plan.seconds and seq < last
        due = plan.first_seq + int(now * plan.rate) + 1 if plan.rate else seq + len(idle)
        while open_ended and idle and seq < min(due, last):
            idle.popleft().send(seq)
            seq, busy = seq + 1, busy + 1
        if not busy and not open_ended:
            break
        for descriptor, _ in poller.poll(0.0005 if plan.rate and idle else 1.0):
            connection = by_descriptor[descriptor]
            try:
                status = connection.receive()
            except OSError:
                poller.unregister(descriptor)
                failures, busy = failures + 1, busy - 1
                continue
            if status is not None:
                latencies.append(time.perf_counter() - connection.sent_at)
                answers[status.decode()] += 1
                busy -= 1
                idle.append(connection)
    elapsed = time.perf_counter() - started
    return _outcome(answers, failures, elapsed, latencies, time.process_time() - cpu_at_start)


def _outcome(
    answers: collections.Counter[str], failures: int, elapsed: float, latencies: list[float], cpu_s: float
) -> Outcome:
    latencies.sort()

    def percentile(share: float) -> float:
        return round(latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000, 3) if latencies else 0.0

    return Outcome(
        answers=dict(answers),
        failures=failures,
        seconds=round(elapsed, 3),
        per_second=round(len(latencies) / elapsed, 1),
        p50_ms=percentile(0.50),
        p95_ms=percentile(0.95),
        p99_ms=percentile(0.99),
        client_cpu_us=round(cpu_s / max(1, len(latencies)) * 1e6, 1),
    )


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(run(Plan(**json.load(sys.stdin))))))
