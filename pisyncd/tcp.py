"""Sockets for a bad link: how they are set up, and which of them have gone silent (tcp(7), linux/tcp.h)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pisyncd.core.errors import ConfigError

UNSENT_BYTES_MAX = 128 * 1024
TCP_RTO_MAX_MS, RETRANSMIT_MAX_MS = 44, 1500
SOON_S = 1.5


def authorities(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the certificate authorities of `ca_file` (PEM), of the system when it is None. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:
        hint = "it has to be a readable file with certificates in PEM"
        raise ConfigError(f"cloud.ca_file: {ca_file}: {error}", code="ca-file-invalid", hint=hint) from error


class Connections:
    """Makes sockets and keeps an eye on them. One that nothing answers for silence_s is ended by the kernel."""

    def __init__(self, *, silence_s: float) -> None:
        self._silence_s = silence_s
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def make(self, info: tuple[Any, ...]) -> socket.socket:
        """A socket for one entry of getaddrinfo()."""
        family, kind, protocol, _, _ = info
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        # plain loss recovery halves the rate at every lost packet: a Wi-Fi link with 1 % loss and 300 ms gives half
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._silence_s * 1000))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
            # from Linux 6.15 on: after an outage, the next try comes within this time instead of doubling to minutes
            made.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, RETRANSMIT_MAX_MS)
        self._sockets.add(made)
        return made

    def stalled_s(self) -> float:
        """For how long the far end has acknowledged nothing although bytes are on their way, at the worst."""
        return max((Flight.of(each).silent_s for each in self._sockets), default=0.0)

    def cut_stalled(self, longer_than_s: float) -> int:
        """Ends the connections that have stalled for so long and will not try again soon; gives how many.

        Their requests fail with LinkDown. What is on its way is sent twice then, so one that tries soon is left alone.
        """
        cut = 0
        for each in self._sockets:
            flight = Flight.of(each)
            if flight.silent_s <= longer_than_s or flight.next_try_s < SOON_S:
                continue
            with contextlib.suppress(OSError):
                # without it the kernel would go on sending what is buffered, beside the new connection
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)
                cut += 1
        return cut


@dataclass(frozen=True, slots=True)
class Flight:
    """What TCP_INFO says of the bytes on their way. Seconds; both are 0 when there are none."""

    silent_s: float
    next_try_s: float

    @classmethod
    def of(cls, connection: socket.socket) -> Flight:
        """Reads it off a socket; one that is closed has nothing on its way."""
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        except OSError:
            return cls(0.0, 0.0)
        rto_us, _, _, _, in_flight, _, _, _, _, sent_ago_ms, _, _, acked_ago_ms = struct.unpack_from("=13I", info, 8)
        if not in_flight:
            return cls(0.0, 0.0)
        return cls(acked_ago_ms / 1000, max(0.0, rto_us / 1e6 - sent_ago_ms / 1000))
