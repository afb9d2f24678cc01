"""Who is at the other end, when proxies stand in between: their word counts only where they are trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HOPS_MAX = 16


def networks(text: str) -> tuple[Network, ...]:
    """'127.0.0.1, 10.0.0.0/8' -> networks. Raises ValueError."""
    return tuple(ipaddress.ip_network(each.strip()) for each in text.split(",") if each.strip())


def parse(text: str) -> Address | None:
    """An address as it stands in X-Forwarded-For ('[::1]:80' and '192.0.2.1:80' too); None when it is none."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        found = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def is_trusted(address: Address | None, trusted: Sequence[Network]) -> bool:
    """Whether what `address` says of others counts."""
    return address is not None and any(address in network for network in trusted)


def client(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """The client's address: the last hop of X-Forwarded-For that no trusted proxy is; else the peer's.

    >>> client("10.0.0.1", "6.6.6.6, 192.0.2.7, 10.0.0.9", networks("10.0.0.0/8"))
    '192.0.2.7'
    """
    found = parse(peer)
    if not trusted or not is_trusted(found, trusted):
        return str(found or peer)
    for hop in reversed(forwarded.split(",")[-HOPS_MAX:]):
        address = parse(hop)
        if address is None:
            break
        found = address
        if not is_trusted(address, trusted):
            break
    return str(found)


def bucket(address: str) -> str:
    """What one limit counts together: an IPv4 address, or the /64 that a single IPv6 subscriber has."""
    found = parse(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found or address)
