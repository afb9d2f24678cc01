"""Signatures of webhooks, out and in: Standard Webhooks 1.0.0 and the plain HMAC of the body.

header                by the key                                        over
webhook-signature     what follows `whsec_`, decoded from base64;       `webhook-id.webhook-timestamp.body`
                      the text itself when it is no such secret
x-webhook-signature   the secret as it is written                       the body
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PREFIX = "whsec_"
SECRET_BYTES = 32

ID_HEADER = "webhook-id"
TIME_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
LEGACY_HEADER = "x-webhook-signature"
ATTEMPT_HEADER = "x-webhook-attempt"

SIGNATURES_MAX = 10
_SECONDS = re.compile(r"[0-9]{1,12}")
_ID = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A signature that holds. `legacy` signs neither an id nor a time, so both are None."""

    scheme: Literal["standard", "legacy"]
    id: str | None = None
    timestamp_s: int | None = None


def secret_of(random: bytes) -> str:
    """A secret as an endpoint's owner gets it: 'whsec_' and base64."""
    return PREFIX + base64.b64encode(random).decode("ascii")


def _key(secret: str) -> bytes:
    if secret.startswith(PREFIX):
        try:
            return base64.b64decode(secret[len(PREFIX) :], validate=True)
        except (binascii.Error, ValueError):
            pass
    return secret.encode("utf-8", "surrogateescape")


def _standard(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    content = f"{event_id}.{timestamp}.".encode("ascii") + body
    return "v1," + base64.b64encode(hmac.digest(_key(secret), content, hashlib.sha256)).decode("ascii")


def _legacy(secret: str, body: bytes) -> str:
    return hmac.digest(secret.encode("utf-8", "surrogateescape"), body, hashlib.sha256).hex()


def headers(secrets: Sequence[str], *, event_id: str, timestamp_s: int, attempt: int, body: bytes) -> dict[str, str]:
    """What a webhook carries: one signature for each secret, the newest first."""
    return {
        ID_HEADER: event_id,
        TIME_HEADER: str(timestamp_s),
        SIGNATURE_HEADER: " ".join(_standard(secret, event_id, str(timestamp_s), body) for secret in secrets),
        LEGACY_HEADER: ",".join(_legacy(secret, body) for secret in secrets),
        ATTEMPT_HEADER: str(attempt),
    }


def verified(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> Verified | None:
    """Which signature of a received webhook holds by any of `secrets`; None when none does.

    When the headers of Standard Webhooks are there, they alone count: else a replay could leave them out. The caller
    judges the time.
    """
    secrets = [secret for secret in secrets if secret]
    given = {name.lower(): value.strip() for name, value in headers.items()}
    if SIGNATURE_HEADER in given:
        return _verified_standard(secrets, given, body)
    claims = [each.strip().lower().removeprefix("sha256=") for each in given.get(LEGACY_HEADER, "").split(",")]
    if _holds(claims, [_legacy(secret, body) for secret in secrets]):
        return Verified(scheme="legacy")
    return None


def _verified_standard(secrets: Sequence[str], given: Mapping[str, str], body: bytes) -> Verified | None:
    event_id, timestamp = given.get(ID_HEADER, ""), given.get(TIME_HEADER, "")
    if _ID.fullmatch(event_id) is None or _SECONDS.fullmatch(timestamp) is None:
        return None
    expected = [_standard(secret, event_id, timestamp, body) for secret in secrets]
    if _holds(given[SIGNATURE_HEADER].split(), expected):
        return Verified(scheme="standard", id=event_id, timestamp_s=int(timestamp))
    return None


def _holds(claims: Sequence[str], expected: Sequence[str]) -> bool:
    """Compares all with all in constant time: how long it takes tells nothing about which came close."""
    found = False
    for claim in claims[:SIGNATURES_MAX]:
        for each in expected:
            found |= hmac.compare_digest(claim.encode("utf-8", "surrogateescape"), each.encode("ascii"))
    return found
