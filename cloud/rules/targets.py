"""Where webhooks may go: public addresses by https, and what the setting `webhook_allow` names, also by http.

A name says nothing: it is judged by the addresses that it has at the moment of the connection. What is written in a URL
is refused beforehand only to tell its owner at once.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

URL_MAX = 2048

#: IPv4 that is not public: IANA's special purposes, multicast and what is reserved.
_REFUSED_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
#: Public IPv6 is 2000::/3. Everything else is not: loopback, IPv4 in IPv6, NAT64, local, multicast.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
#: Within it: protocol assignments with Teredo and ORCHID, documentation, 6to4, AS112, SRv6 and documentation again.
_REFUSED_6 = tuple(
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}))*")
_NUMBER = re.compile(r"(?i)[0-9]+|0x[0-9a-f]*")
_PLAIN = re.compile(r"[!-~]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """An address that may be used, as far as its spelling tells. `address` when it names no host but a number."""

    scheme: str
    host: str
    address: Address | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why not, and what to do."""

    code: str
    detail: str
    hint: str = ""


_HINT = "webhooks go to public https addresses; the setting webhook_allow permits others"


def networks(text: str) -> tuple[Network, ...]:
    """'127.0.0.0/8, 10.1.2.3' -> the networks. Raises ValueError."""
    return tuple(ipaddress.ip_network(each.strip()) for each in text.split(",") if each.strip())


def parse_address(text: str) -> Address | None:
    """An address in its usual spelling, a zone ('%eth0') left out; None when it is none."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def permitted(address: Address, allow: Sequence[Network], *, plain: bool = False) -> bool:
    """Whether a connection may go there; `plain` (http) only where `allow` names it."""
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if any(each in network for each in (address, inner) if each is not None for network in allow):
        return True
    return not plain and is_public(address)


def is_public(address: Address) -> bool:
    """Whether the address is one of the public Internet, spelled directly."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_4)
    return address in _PUBLIC_6 and not any(address in network for network in _REFUSED_6)


def judge(url: str, allow: Sequence[Network]) -> Target | Fault:
    """What the spelling of a URL tells about it."""
    if len(url) > URL_MAX or _PLAIN.fullmatch(url) is None or "\\" in url:
        return Fault(
            code="url", detail=f"an address is 1-{URL_MAX} printable ASCII characters without blanks", hint=_HINT
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        return Fault(code="url", detail=f"the address cannot be read: {error}")
    if parts.scheme not in ("https", "http") or not host or port == 0:
        return Fault(code="url", detail="an address is https://HOST[:PORT]/PATH", hint=_HINT)
    if "@" in parts.netloc:
        return Fault(
            code="url", detail="an address holds no user name or password", hint="the signature tells who sends"
        )
    if parts.fragment:
        return Fault(code="url", detail="an address has no part after #: it is never sent")
    if parts.scheme == "http" and not allow:
        return Fault(code="target-refused", detail="only https is allowed", hint=_HINT)
    return _judge_host(parts.scheme, host, allow)


def _judge_host(scheme: str, host: str, allow: Sequence[Network]) -> Target | Fault:
    address = parse_address(host)
    if address is not None:
        if "%" in host or not permitted(address, allow, plain=scheme == "http"):
            return Fault(code="target-refused", detail=f"{host} is no address that webhooks may go to", hint=_HINT)
        return Target(scheme=scheme, host=host, address=address)
    if _NAME.fullmatch(host) is None:
        return Fault(code="url", detail="the host is letters, digits, - and ., without a dot at the end")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # 127.1, 0x7f.1 and 2130706433 are loopback to a resolver.
        return Fault(code="target-refused", detail=f"{host} is an unusual spelling of an address", hint=_HINT)
    local = host == "localhost" or host.endswith(".localhost")
    if local and not any(network.is_loopback for network in allow):
        return Fault(code="target-refused", detail=f"{host} is this machine", hint=_HINT)
    return Target(scheme=scheme, host=host, address=None)
