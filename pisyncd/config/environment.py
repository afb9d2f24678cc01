"""The environment variables of the systems PiSync grew out of. They win over the file; a bad value is refused.

Variable              | setting              | allowed
----------------------|----------------------|---------------------------------------------
SYNC_INTERVAL_MINUTES | sync.interval_s      | 1-60 minutes
SYNC_BATCH_SIZE       | messages.batch_items | 10-500 messages
MAX_RETRIES           | sync.retries_max     | 1-10
RETRY_DELAY_MS        | sync.retry_delay_s   | 1000-30000 milliseconds
MAX_QUEUE_SIZE        | messages.queue_max   | 100-1000000 messages
BATCH_TIMEOUT         | messages.timeout_s   | 1-600 seconds, also written 30s
ENABLE_SCHEDULED_SYNC | sync.scheduled       | true, false
VERBOSITY             | log.level            | debug, info, warning, error
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pisyncd.config.problems import Problems

Section = str
Name = str


@dataclass(frozen=True, kw_only=True)
class Variable:
    """`read` turns the text into the setting's value and raises ValueError when it is not one of `allowed`."""

    name: str
    section: Section
    setting: Name
    allowed: str
    read: Callable[[str], object]


def overrides(environ: Mapping[str, str], problems: Problems) -> Iterator[tuple[Section, Name, object]]:
    """The settings that the environment gives. An empty variable counts as not set."""
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        if not text:
            continue
        try:
            yield variable.section, variable.setting, variable.read(text)
        except ValueError:
            problems.in_environment(
                variable.name,
                f'"{text[:80]}" is not allowed; allowed: {variable.allowed} '
                f"(it sets {variable.section}.{variable.setting})",
            )


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return read


def _choice(**choices: object) -> Callable[[str], object]:
    def read(text: str) -> object:
        if text.lower() not in choices:
            raise ValueError(text)
        return choices[text.lower()]

    return read


def _minutes(text: str) -> float:
    return _whole(1, 60)(text) * 60.0


def _milliseconds(text: str) -> float:
    return _whole(1000, 30000)(text) / 1000


def _seconds(text: str) -> float:
    return float(_whole(1, 600)(text.removesuffix("s")))


VARIABLES = (
    Variable(
        name="SYNC_INTERVAL_MINUTES",
        section="sync",
        setting="interval_s",
        allowed="a whole number from 1 to 60, in minutes",
        read=_minutes,
    ),
    Variable(
        name="SYNC_BATCH_SIZE",
        section="messages",
        setting="batch_items",
        allowed="a whole number from 10 to 500",
        read=_whole(10, 500),
    ),
    Variable(
        name="MAX_RETRIES",
        section="sync",
        setting="retries_max",
        allowed="a whole number from 1 to 10",
        read=_whole(1, 10),
    ),
    Variable(
        name="RETRY_DELAY_MS",
        section="sync",
        setting="retry_delay_s",
        allowed="a whole number from 1000 to 30000, in milliseconds",
        read=_milliseconds,
    ),
    Variable(
        name="MAX_QUEUE_SIZE",
        section="messages",
        setting="queue_max",
        allowed="a whole number from 100 to 1000000",
        read=_whole(100, 1_000_000),
    ),
    Variable(
        name="BATCH_TIMEOUT",
        section="messages",
        setting="timeout_s",
        allowed="a whole number from 1 to 600, in seconds",
        read=_seconds,
    ),
    Variable(
        name="ENABLE_SCHEDULED_SYNC",
        section="sync",
        setting="scheduled",
        allowed="true or false",
        read=_choice(true=True, false=False),
    ),
    Variable(
        name="VERBOSITY",
        section="log",
        setting="level",
        allowed="debug, info, warning or error",
        read=_choice(debug="debug", info="info", warning="warning", error="error"),
    ),
)
