"""Log lines for the journal: one line, one event, with fields; JSON or key=value on stderr.

A line that repeats is written once per 30 s with the number of times it was held back (Litestream), so that a week of
the same trouble does not fill the card.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, TextIO

# structlog imports rich wherever it is installed: 3.6 MB that the daemon never uses.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _rich is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _rich

REPEAT_S = 30.0
KINDS_MAX = 256
TEXT_MAX = 2000

Level = Literal["debug", "info", "warning", "error"]
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
# sd-daemon(3): lets `journalctl -p warning` find them.
_JOURNAL_PREFIX = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
_SECRET = re.compile(r"token|secret|password|authorization|credential", re.IGNORECASE)
_BARE = re.compile(r"[!#-<>-~]+")

Event = MutableMapping[str, Any]


def configure(level: Level, form: Literal["json", "keyvalue"], stream: TextIO | None = None) -> None:
    """Write lines of at least `level` to `stream` (stderr). May be called again after a reload."""
    to_journal = stream is None and "JOURNAL_STREAM" in os.environ
    lines = Lines(as_json if form == "json" else as_keyvalue, time.monotonic, prefixed=to_journal)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            *([] if to_journal else [structlog.processors.TimeStamper(fmt="iso", utc=True, key="at")]),
            lines,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_Writer(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=max(_LEVELS[level], logging.WARNING), force=True)


@dataclass(kw_only=True, slots=True)
class Repeat:
    """A line that was written at `since`, and what was held back after it."""

    since: float
    held: int = 0
    event: dict[str, Any] | None = None


class Repeats:
    """Which lines are news. Remembers at most KINDS_MAX different lines."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Repeat] = OrderedDict()

    def admit(self, key: str, event: Mapping[str, Any], now: float) -> list[dict[str, Any]]:
        """The lines to write now: those whose repeats were held back long enough, and this one unless it repeats."""
        due = self._flush(now)
        known = self._seen.get(key)
        if known is not None:
            known.held += 1
            known.event = dict(event)
            return due
        self._seen[key] = Repeat(since=now)
        if len(self._seen) > KINDS_MAX:
            due += _told(self._seen.popitem(last=False)[1])
        return [*due, dict(event)]

    def _flush(self, now: float) -> list[dict[str, Any]]:
        due: list[dict[str, Any]] = []
        while self._seen:
            key, oldest = next(iter(self._seen.items()))
            if now - oldest.since < REPEAT_S:
                break
            del self._seen[key]
            if oldest.held:
                due += _told(oldest)
                # Counts as written: the next one of its kind is held back again.
                self._seen[key] = Repeat(since=now)
        return due


def _told(repeat: Repeat) -> list[dict[str, Any]]:
    return [{**repeat.event, "repeated": repeat.held}] if repeat.event else []


class Lines:
    """The last processor: drops secrets, limits repeats, renders."""

    def __init__(self, render: Callable[[Mapping[str, Any]], str], now: Callable[[], float], *, prefixed: bool) -> None:
        self._render = render
        self._now = now
        self._prefixed = prefixed
        self._repeats = Repeats()

    def __call__(self, _logger: object, _method: str, event: Event) -> str:
        shown = {key: _shown(key, value) for key, value in event.items()}
        kind = as_json({key: value for key, value in shown.items() if key != "at"})
        told = self._repeats.admit(kind, shown, self._now())
        if not told:
            raise structlog.DropEvent
        return "\n".join(self._line(each) for each in told)

    def _line(self, event: dict[str, Any]) -> str:
        first: dict[str, Any] = {key: event.pop(key) for key in ("at", "level", "event") if key in event}
        prefix = _JOURNAL_PREFIX.get(str(first.get("level")), "<6>") if self._prefixed else ""
        return prefix + self._render({**first, **event})


def as_json(event: Mapping[str, Any]) -> str:
    """One line of ASCII JSON, whatever the event holds."""
    return json.dumps(event, default=str, separators=(",", ":"))


def as_keyvalue(event: Mapping[str, Any]) -> str:
    """`level=info event=upload.completed bytes=5`; values with spaces or control characters are quoted as in JSON."""
    return " ".join(f"{key}={_value(value)}" for key, value in event.items())


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ":"))
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _shown(key: str, value: object) -> object:
    if _SECRET.search(key) and isinstance(value, str | bytes):
        return "[hidden]"
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str) and len(value) > TEXT_MAX:
        # both ends: a traceback says at its end what went wrong
        half = TEXT_MAX // 2
        return f"{value[:half]}... ({len(value)} characters) ...{value[-half:]}"
    return value


class _Writer:
    """Writes whole lines, so that two threads cannot mix theirs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *_args: object) -> _Writer:
        return self

    def msg(self, message: str) -> None:
        try:
            self._stream.write(message + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # The journal is gone or the pipe is closed: losing a line must not end the daemon.
            return

    debug = info = warning = warn = error = critical = exception = fatal = failure = log = msg


class _FromLibraries(logging.Handler):
    """Carries what libraries log through the standard logging module to the same lines."""

    def emit(self, record: logging.LogRecord) -> None:
        method = "error" if record.levelno >= logging.ERROR else "warning"
        getattr(structlog.get_logger(), method)(
            "library.reported", logger=record.name, detail=record.getMessage(), exc_info=record.exc_info or None
        )
