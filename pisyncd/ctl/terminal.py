"""What this terminal can show."""

from __future__ import annotations

import shutil
import sys


def columns() -> int:
    """The terminal's width, at most 100; 80 where there is no terminal."""
    return max(40, min(100, shutil.get_terminal_size((80, 24)).columns))


def printable(lines: list[str]) -> list[str]:
    """The same lines in what this terminal can show."""
    encoding = sys.stdout.encoding or "ascii"
    return [line.encode(encoding, "backslashreplace").decode(encoding) for line in lines]
