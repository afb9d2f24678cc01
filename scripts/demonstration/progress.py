"""What the demonstration shows: a bar that redraws itself at a terminal, plain lines everywhere else."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from typing import TextIO

from pisyncd.core.units import size

PLAIN_EVERY_S = 2.0
BAR = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a delivery is: files and bytes found, those still owed, bytes per second, what is going on."""

    files: int
    bytes: int
    owed_files: int
    owed_bytes: int
    rate_bps: float | None
    now: str

    @property
    def done(self) -> float:
        """The delivered part, 0 to 1; by bytes, and by files where there are no bytes."""
        if self.bytes:
            return min(max(1 - self.owed_bytes / self.bytes, 0.0), 1.0)
        return min(max(1 - self.owed_files / self.files, 0.0), 1.0) if self.files else 1.0


def line(progress: Progress, width: int) -> str:
    """The state in one line of at most `width` characters; what matters least is left out first."""
    delivered = max(progress.files - progress.owed_files, 0)
    sent = max(progress.bytes - progress.owed_bytes, 0)
    # Rounded down: 100% means that nothing is left.
    percent = 100 if not progress.owed_files else min(int(progress.done * 100), 99)
    core = f"{percent:3}% {delivered:,}/{progress.files:,} files {size(sent)}/{size(progress.bytes)}"
    rate = f" {size(progress.rate_bps)}/s" if progress.rate_bps else ""
    now = f" {progress.now}" if progress.now else ""
    filled = round(percent / 100 * BAR)
    bar = f"[{'#' * filled}{'.' * (BAR - filled)}] "
    for text in (bar + core + rate + now, bar + core + rate, bar + core, core):
        if len(text) <= width:
            return text
    return core[:width]


class Screen:
    """Writes to `out`: at a terminal the progress stays in the last line."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._live = out.isatty()
        self._drawn = ""
        self._last_plain = ("", 0.0)

    def say(self, text: str) -> None:
        """A line that stays."""
        drawn, self._drawn = self._drawn, ""
        if drawn:
            self._out.write("\r\x1b[K")
        self._write(text + "\n")
        if drawn:
            self._draw(drawn)

    def show(self, progress: Progress) -> None:
        """The newest progress; not at a terminal: a line every few seconds, and none that repeats the last."""
        if self._live:
            self._draw(line(progress, shutil.get_terminal_size().columns - 1))
            return
        text, now = line(progress, 120), time.monotonic()
        if text != self._last_plain[0] and now - self._last_plain[1] >= PLAIN_EVERY_S:
            self._last_plain = (text, now)
            self._write(text + "\n")

    def close(self) -> None:
        """Ends the line of the bar."""
        if self._drawn:
            self._drawn = ""
            self._write("\n")

    def _draw(self, text: str) -> None:
        if text != self._drawn:
            self._drawn = text
            self._write(f"\r\x1b[K{text}")

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
        except UnicodeEncodeError:
            self._out.write(text.encode("ascii", "backslashreplace").decode())
        self._out.flush()
