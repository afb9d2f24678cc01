"""What a technician sees at the socket, as the parts of a bundle for support."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from pisyncd.config import Config
from pisyncd.gateway import answers
from pisyncd.gateway.ports import Device
from pisyncd.outbox import Outbox

LINES_MAX = 200


async def parts(device: Device, outbox: Outbox) -> dict[str, object]:
    """File name -> content. The configuration names files with secrets, and holds none itself."""
    return {
        "status.json": await answers.status(device, outbox),
        "queue.json": await answers.queue(outbox, LINES_MAX, 0),
        "history.json": await answers.history(outbox, LINES_MAX, 2**62),
        "failures.json": await answers.failures(outbox, LINES_MAX),
        "config.json": told(device.config),
    }


def told(config: Config) -> dict[str, Any]:
    """The configuration in force, without a password that somebody wrote into the address."""
    found: dict[str, Any] = msgspec.to_builtins(config, enc_hook=str)
    parsed = urlsplit(config.cloud.url)
    found["cloud"]["url"] = urlunsplit(parsed._replace(netloc=parsed.netloc.rpartition("@")[2]))
    return found
