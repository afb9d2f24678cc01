"""What is known about the way to the cloud, and what an observation makes of it.

none     no interface is up, or nothing answers at all
link     an interface is up, nothing else is known yet
portal   somebody else answers in our cloud's place (a captive portal, a proxy's login page)
limited  the network answers, our cloud does not
full     our cloud has proven itself
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Literal

State = Literal["none", "link", "portal", "limited", "full"]
Observation = Literal["no-interface", "interface", "proven", "portal", "no-answer", "cloud-busy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Hysteresis and pace. Seconds."""

    doubts_until_down: int = 2
    interval_s: float = 60.0
    idle_interval_s: float = 3600.0
    quick_s: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """The link as last judged. `doubts` counts failures since our cloud last proved itself."""

    state: State = "link"
    reason: str = "not probed yet"
    portal_url: str | None = None
    doubts: int = 0
    probes_since_change: int = 0


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine itself, so that no network is needed to reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def observe(link: Link, seen: Observation, reason: str, rule: Rule, portal_url: str | None = None) -> Link:
    """The link after one observation.

    Proof makes it full at once; a single failure does not take full away (a lost packet is not an outage), a second
    does. A portal or a missing interface is believed at once: sending on would only cost.
    """
    if seen == "proven":
        return Link(state="full", reason=reason)
    tried = link.probes_since_change + 1
    if seen == "no-interface":
        return Link(state="none", reason=reason, doubts=link.doubts + 1, probes_since_change=tried)
    if seen == "interface":
        return Link(state="link", reason=reason)
    if seen == "portal":
        return Link(state="portal", reason=reason, portal_url=portal_url, probes_since_change=tried)
    doubts = link.doubts + 1
    if link.state == "full" and doubts < rule.doubts_until_down:
        return replace(link, doubts=doubts, reason=reason)
    return Link(state="limited", reason=reason, doubts=doubts, probes_since_change=tried)


def next_probe_s(link: Link, owed: bool, rule: Rule, chance: float) -> float:
    """Seconds until the next probe.

    While full and in use, transfers are the proof, so probes are rare; with nothing owed they are rarer still, to
    stay inside the idle traffic. After the link went down: 1 s 2 s 4 s ... interval_s with half jitter, because a
    link that comes back for twenty minutes must not be missed for five; ten times as seldom when nothing is owed.
    """
    if link.state == "full" and link.doubts:
        return rule.quick_s
    if link.state == "full":
        return (rule.interval_s if owed else rule.idle_interval_s) * (0.75 + chance / 2)
    wait_s = min(rule.interval_s, rule.quick_s * 2.0 ** min(max(link.probes_since_change - 1, 0), 16))
    return wait_s * (0.5 + chance / 2) * (1 if owed else 10)
