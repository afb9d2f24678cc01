"""A lean HTTP load generator for one kind of request, run as a process of its own.

It keeps a fixed number of keep-alive connections busy with one request each, over raw sockets and epoll, so
that it takes little of a small machine from the server that is measured (about 30 us per request). Reads a plan
as JSON from standard input, writes the result as JSON to standard output.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import select
import socket
import sys
import time

_RECEIVE_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send. In `body`, `@@SEQ@@` becomes a number of 12 digits that no other request of the run has.

    One connection per entry of `tokens`; `devices[i]`, when given, replaces `@@DEVICE@@` in the body and path.
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
        self.sock = socket.create_connection((plan.host, plan.port), timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        device = plan.devices[index] if plan.devices else ""
        body = plan.body.replace("@@DEVICE@@", device)
        length = len(body.replace("@@SEQ@@", "0" * 12).encode())
        head = (
            f"{plan.method} {plan.path.replace('@@DEVICE@@', device)} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\n"
            f"Authorization: Bearer {plan.tokens[index]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {length}\r\n\r\n"
        )
        self._parts = (head + body).encode().split(b"@@SEQ@@")
        self._received = b""
        self.sent_at = 0.0

    def send(self, seq: int) -> None:
        """Send the next request."""
        self.sock.sendall((b"%012d" % seq).join(self._parts))
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


def run(plan: Plan) -> Outcome:
    """Keep all connections busy for the planned time, then collect what is under way."""
    connections = [Connection(plan, index) for index in range(len(plan.tokens))]
    by_descriptor = {connection.sock.fileno(): connection for connection in connections}
    poller = select.epoll()
    seq = plan.first_seq
    answers: collections.Counter[str] = collections.Counter()
    latencies: list[float] = []
    failures = 0
    cpu_at_start, started = time.process_time(), time.perf_counter()
    for descriptor, connection in by_descriptor.items():
        poller.register(descriptor, select.EPOLLIN)
        connection.send(seq)
        seq += 1
    busy = len(connections)
    while busy:
        for descriptor, _ in poller.poll():
            connection = by_descriptor[descriptor]
            try:
                status = connection.receive()
                if status is None:
                    continue
                now = time.perf_counter()
                latencies.append(now - connection.sent_at)
                answers[status.decode()] += 1
                if now - started < plan.seconds:
                    connection.send(seq)
                    seq += 1
                    continue
            except OSError:
                failures += 1
            poller.unregister(descriptor)
            busy -= 1
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
