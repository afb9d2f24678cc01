"""What a page of another origin may do: the headers of Cross-Origin Resource Sharing (Fetch Standard, section 3.2)."""

from __future__ import annotations

from pisyncd.core.session import USER_HEADER

METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
HEADERS = f"Authorization, Content-Type, Content-Encoding, If-Match, Prefer, {USER_HEADER}"
MAX_AGE_S = 7200


def allowing(origin: str | None, origins: frozenset[str]) -> dict[str, str]:
    """What every answer to a page carries, also one that says no, so that the page may read it."""
    headers = {"Vary": "Origin"}
    if origin is not None and origin in origins:
        headers |= {
            "Access-Control-Allow-Origin": origin,
            # No cookie is looked at, but navigator.sendBeacon sends nothing where this is missing.
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": "Retry-After, Preference-Applied, ETag",
        }
    return headers


def preflight(*, private_network: bool = False) -> dict[str, str]:
    """The answer to a browser that asks before it sends; `private_network` when it asked for that too."""
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": HEADERS,
        "Access-Control-Max-Age": str(MAX_AGE_S),
    }
    if private_network:
        # Browsers ask before a page of the Internet may speak to this machine.
        headers["Access-Control-Allow-Private-Network"] = "true"
    return headers
