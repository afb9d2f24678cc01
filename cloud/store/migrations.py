"""Numbered, forward-only schema steps: `schema/<dialect>/NNNN_name.sql`, each applied once in a transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cloud.store.db import Dialect
from pisyncd.core.errors import SchemaTooNew

_SCHEMA = Path(__file__).parent / "schema"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One schema step."""

    version: int
    name: str
    script: str


@cache
def steps(dialect: Dialect) -> tuple[Step, ...]:
    """All steps of a dialect in order. Raises ValueError when two carry the same number."""
    found = [
        Step(version=int(path.name[:4]), name=path.stem, script=path.read_text("utf-8"))
        for path in sorted((_SCHEMA / dialect).glob("[0-9][0-9][0-9][0-9]_*.sql"))
    ]
    if len({step.version for step in found}) != len(found):
        raise ValueError(f"two schema steps of {dialect} carry the same number")
    return tuple(found)


def pending(dialect: Dialect, current: int) -> tuple[Step, ...]:
    """What is still to be applied to a schema of version `current`. Raises SchemaTooNew."""
    known = steps(dialect)
    newest = known[-1].version if known else 0
    if current > newest:
        raise SchemaTooNew(f"the database has schema {current}, this PiSync knows schemas up to {newest}")
    return tuple(step for step in known if step.version > current)


def statements(script: str) -> list[str]:
    """The single statements of a script (SQLite runs one at a time; triggers stay whole)."""
    found: list[str] = []
    buffer = ""
    for line in script.splitlines(keepends=True):
        if not buffer and (not line.strip() or line.lstrip().startswith("--")):
            continue
        buffer += line
        if sqlite3.complete_statement(buffer):
            found.append(buffer.strip())
            buffer = ""
    if buffer.strip():
        raise ValueError(f"the last statement does not end: {buffer.strip()[:60]}")
    return found
