"""What to send next: finish what is begun, then priority, then age; small files travel together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Begun(Protocol):
    """A transfer under way."""

    @property
    def id(self) -> int: ...


class Waiting(Protocol):
    """A version in the queue. Size in bytes."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def size(self) -> int: ...


B = TypeVar("B", bound=Begun)
W = TypeVar("W", bound=Waiting)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What may share a bundle, and how large one may grow. Bytes, entries, seconds."""

    file_bytes_max: int = 1024 * 1024
    bundle_bytes_max: int = 16 * 1024 * 1024
    entries_max: int = 400
    target_s: float = 15.0
    parallel: int = 4
    bytes_start: int = 512 * 1024
    spool: bool = True


@dataclass(frozen=True, slots=True)
class Resume(Generic[B]):
    """Go on with a transfer."""

    transfer: B


@dataclass(frozen=True, slots=True)
class Single(Generic[W]):
    """Send one version by itself."""

    version: W


@dataclass(frozen=True, slots=True)
class Bundle(Generic[W]):
    """Send these together, at most `bytes_max` of them on the wire."""

    versions: tuple[W, ...]
    bytes_max: int


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing is due."""


def bundle_bytes(rules: Rules, goodput_bps: float | None) -> int:
    """How many bytes one bundle may have: its share of what the link carries in target_s, twice over.

    A bundle that takes long makes its files wait for its end; one that is short pays a round trip for little.
    """
    if goodput_bps is None:
        return rules.bytes_start
    share = goodput_bps * rules.target_s * 2 / rules.parallel
    return int(min(max(share, rules.bytes_start / 2), rules.bundle_bytes_max))


def next_upload(
    begun: Sequence[B],
    waiting: Sequence[W],
    *,
    busy: Collection[int],
    rules: Rules,
    goodput_bps: float | None,
) -> Resume[B] | Single[W] | Bundle[W] | Nothing:
    """The next thing for an idle lane.

    `begun` and `waiting` come in order, `waiting` without what other lanes prepare; `busy` are transfers that other
    lanes hold. The head of the queue decides: a large file or a database goes alone, a small one takes the small ones
    behind it along.
    """
    for transfer in begun:
        if transfer.id not in busy:
            return Resume(transfer)
    if not waiting:
        return Nothing()
    head = waiting[0]
    if not rules.spool or not _is_small(head, rules):
        return Single(head)
    limit = bundle_bytes(rules, goodput_bps)
    small: list[W] = []
    total = 0
    for version in waiting:
        if not _is_small(version, rules):
            continue
        # content compresses, at the very best, to a fraction: offering four times the limit fills the bundle
        if small and (total + version.size > limit * 4 or len(small) >= rules.entries_max):
            break
        small.append(version)
        total += version.size
    return Bundle(tuple(small), limit) if len(small) > 1 else Single(head)


def _is_small(version: Waiting, rules: Rules) -> bool:
    return version.kind == "file" and version.size <= rules.file_bytes_max
