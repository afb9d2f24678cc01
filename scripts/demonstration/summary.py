"""The last words of a delivery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import stage
from survey import LocalFile

from pisyncd.core.units import size

if TYPE_CHECKING:
    from course import Result

LISTED_MAX = 10


def lines(result: Result, *, told: list[str], kept: Path | None) -> Iterator[str]:
    """What was delivered, what was not and why, and where to look. `kept`: where the data stays, if it does."""
    comparison = result.comparison
    there = comparison.same + comparison.snapshots
    yield ""
    yield "DELIVERED" if result.complete else f"NOT DELIVERED: {result.why_not}"
    there_bytes = sum(file.size for file in there)
    yield f"  files         {len(there):,} in the cloud, {size(there_bytes)}, in {result.took_s:.1f} s"
    yield f"  same SHA-256  {len(comparison.same):,}"
    if comparison.snapshots:
        yield f"  snapshots     {len(comparison.snapshots):,} of databases, sound and with the same rows"
    yield f"  read back     {result.read_files:,} files, {size(result.read_bytes)}, {len(result.wrong)} wrong"
    paths = len(result.stored)
    versions = sum(stored.versions for stored in result.stored.values())
    yield f"  versions      {versions:,} of {paths:,} paths"
    yield from _events(result)
    for what in told:
        yield f"  survived      {what}"
    yield from _open(result)
    if kept:
        yield f"  kept          {kept}"
        yield f"  look again    {stage.BIN}/pisync-cloud serve --data {kept / 'cloud'} --open-dashboard"
        yield f"  logs          {kept / 'pisyncd.log'}, {kept / 'cloud.log'}"
    else:
        yield "  look around   run it without --once and open the page it prints, or with --keep to keep the data"


def _events(result: Result) -> Iterator[str]:
    if not result.events:
        yield "  sync events   none"
        return
    newest = result.events[0]
    yield (
        f"  sync events   {len(result.events)}; the newest: {newest['sync_status']},"
        f" {newest['total_files_synced']} files, {newest['total_errors']} errors"
    )


def _open(result: Result) -> Iterator[str]:
    comparison = result.comparison
    groups: list[tuple[str, list[LocalFile]]] = [
        ("still changing", comparison.fresh),
        ("cannot be read", comparison.unreadable),
        ("missing", comparison.missing),
        ("different", comparison.different),
    ]
    for folder in comparison.closed[:LISTED_MAX]:
        yield f"  {'cannot open':13} {_shown(folder)}"
    for word, files in groups:
        for file in files[:LISTED_MAX]:
            yield f"  {word:13} {_shown(file.path)}"
        if len(files) > LISTED_MAX:
            yield f"  {'':13} and {len(files) - LISTED_MAX:,} more"
    for failure in result.failures[:LISTED_MAX] if not result.complete else ():
        yield f"  why           {failure['path']}: {failure['code']}: {failure['detail']} ({failure['hint']})"


def _shown(path: bytes) -> str:
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
