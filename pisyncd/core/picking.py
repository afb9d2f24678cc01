"""Which of several writes that have not seen each other is shown, by the rule of their type or field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pisyncd.core.record import NUMBER_MAX, FieldRule, Strategy, Write

#: Writers of the cloud begin so.
CLOUD = "c-"


def age(write: Write) -> tuple[bool, int, str, int]:
    """How late a write is: by a trusted time before any other, ties by writer."""
    return write.trusted, write.at_ms, write.writer, write.count


def latest(writes: Iterable[Write]) -> Write:
    """The write that is last."""
    return max(writes, key=age)


def first(writes: Iterable[Write]) -> Write:
    """The write that was first; a trusted time before any other."""
    return min(writes, key=lambda write: (not write.trusted, write.at_ms, write.writer, write.count))


def client_first(writes: Iterable[Write]) -> Write:
    """A device's before the cloud's, then the last."""
    return max(writes, key=lambda write: (not write.writer.startswith(CLOUD), *age(write)))


def greatest(writes: Iterable[Write]) -> Write:
    """The greatest number, then the last."""
    return max(writes, key=lambda write: (number(write.value), *age(write)))


def number(value: Any) -> tuple[int, float]:
    """An order in which what is no number comes before all numbers."""
    return (1, value) if isinstance(value, int | float) else (0, 0.0)


def is_list(value: Any) -> bool:
    """Whether it can go into a union."""
    return isinstance(value, list)


def is_number(value: Any) -> bool:
    """Whether it can go into a sum."""
    return isinstance(value, int | float)


def clamped(value: float) -> Any:
    """A sum stays a number that can be kept."""
    return min(max(value, -NUMBER_MAX), NUMBER_MAX)


def deletion_first(writes: Iterable[Write]) -> Write:
    """A deletion before all else, then the last."""
    return max(writes, key=lambda write: (write.value is None, *age(write)))


WHOLE: dict[Strategy, Callable[[Iterable[Write]], Write]] = {
    "last-write-wins": latest,
    "client-priority": client_first,
    "manual": latest,
}
PICK: dict[FieldRule, Callable[[Iterable[Write]], Write]] = {
    "last-write-wins": latest,
    "max": greatest,
    "immutable": first,
}
#: Rules by which all writes are shown together, and which values go into that.
SUMMED: dict[FieldRule, Callable[[Any], bool]] = {"union": is_list, "counter": is_number}
