"""What this terminal can show."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def open_closed() -> None:
    """Gives output that was closed by the caller (`>&-`) a place to go: the exit code still tells."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - stays open to the end


def discard_output() -> None:
    """What is still to be written goes nowhere, so that Python does not complain once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def columns() -> int:
    """The terminal's width, at most 100; 80 where there is no terminal."""
    return max(40, min(100, shutil.get_terminal_size((80, 24)).columns))


def printable(lines: list[str]) -> list[str]:
    """The same lines in what this terminal can show."""
    encoding = sys.stdout.encoding or "ascii"
    return [line.encode(encoding, "backslashreplace").decode(encoding) for line in lines]
