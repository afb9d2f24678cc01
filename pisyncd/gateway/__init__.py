"""The status socket: HTTP over a Unix socket, for technicians and their tools. Works offline."""

from __future__ import annotations

from pisyncd.gateway.serving import serving

__all__ = ["serving"]
