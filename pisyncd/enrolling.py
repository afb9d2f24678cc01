"""Asking the cloud to be let in: POST /api/enroll with a code or a fleet's key, and the proof that it has worked.

The token is made here and only its SHA-256 is told, so an answer that is lost can be asked for again. Until the device
is in, nobody can prove to be its cloud; what answers is believed only by its certificate and by its shape, and the
first proven probe with the new token settles it.
"""

from __future__ import annotations

import platform
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec

from pisyncd import __version__, answers, hardware
from pisyncd.answers import Answer
from pisyncd.core import wire
from pisyncd.core.errors import CloudBusy, LinkDown, PiSyncError, Rejected
from pisyncd.meters import Goodput
from pisyncd.tcp import authorities
from pisyncd.uplink import Uplink

ANSWER_BYTES_MAX = 64 * 1024
TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Whom to ask."""

    url: str
    ca_file: Path | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`pending`: a person has to accept the device; asked again after `retry_after_s` it may be in."""

    device_id: str
    state: Literal["accepted", "pending"]
    retry_after_s: int | None = None


class _Framed(msgspec.Struct, frozen=True, kw_only=True):
    data: Outcome


def new_token() -> str:
    """A device's own secret of 256 random bits."""
    return f"pisync_device_{secrets.token_urlsafe(32)}"


async def ask(cloud: Cloud, device_id: str, token: str, *, code: str = "", fleet_key: str = "") -> Outcome:
    """Asks once. Raises LinkDown, CloudBusy, Rejected with the cloud's code and hint."""
    told = {"model": hardware.model() or platform.machine(), "os": platform.release(), "version": __version__}
    by = {"code": code} if code else {"fleet_key": fleet_key}
    body = {"device_id": device_id, "token_sha256": wire.token_hash(token), "hardware": told, **by}
    answer = await _post(cloud, msgspec.json.encode(body))
    if answer.status < 300:
        try:
            found = msgspec.json.decode(answer.body, type=_Framed).data
        except msgspec.DecodeError:
            raise _stranger(cloud) from None
        if found.device_id != device_id:
            raise _stranger(cloud)
        return found
    if answer.headers.get("Content-Type", "").partition(";")[0] != wire.PROBLEM_JSON:
        raise _stranger(cloud)
    refused = answers.refusal(answer)
    if isinstance(refused, Rejected | CloudBusy):
        raise refused
    raise Rejected(refused.detail, code=refused.code, hint=refused.hint)


async def prove(cloud: Cloud, token: str) -> None:
    """Whether the cloud knows the token, and is the one that does. Raises LinkDown, CloudBusy, PiSyncError."""
    uplink = Uplink(
        url=cloud.url, token=token, connect_timeout_s=30.0, stall_s=TIMEOUT_S, ca_file=cloud.ca_file,
        seen=lambda *_: None, told_time=lambda _: None, goodput=Goodput(),
    )  # fmt: skip
    try:
        await uplink.probe(TIMEOUT_S)
    finally:
        await uplink.close()


async def _post(cloud: Cloud, body: bytes) -> Answer:
    url = cloud.url.rstrip("/") + "/api/enroll"
    tls = authorities(cloud.ca_file) if url.startswith("https:") else None
    headers = {"Content-Type": "application/json", "User-Agent": f"pisyncd/{__version__}"}
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls or True), timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
            ) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            content = await response.content.read(ANSWER_BYTES_MAX)
            return Answer(status=response.status, headers=response.headers, body=content)
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
        hint = "check the clock of this device (`date`) and cloud.ca_file"
        raise LinkDown(f"the cloud's certificate is not trusted: {error}", code="tls-untrusted", hint=hint) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        hint = "bring a network, or check cloud.url; then ask again"
        raise LinkDown(f"no answer from {url}: {error or type(error).__name__}", hint=hint) from error


def _stranger(cloud: Cloud) -> PiSyncError:
    return LinkDown(
        "somebody else answers in our cloud's place (a captive portal?)",
        code="portal",
        hint=f"open {cloud.url} in a browser on this network and sign in; or check cloud.url",
    )
