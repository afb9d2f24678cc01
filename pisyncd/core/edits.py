"""What an application, a person or another system wants of a record: all fields anew, some of them, or its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pisyncd.core import merge, record
from pisyncd.core.merge import Pen
from pisyncd.core.record import State, TypeRule


@dataclass(frozen=True, slots=True)
class Put:
    """All fields anew. `decided`: over all sides, by a person who has seen them."""

    fields: Mapping[str, Any]
    decided: bool = False


@dataclass(frozen=True, slots=True)
class Patch:
    """Some fields anew, None removes one. `create`: also a record that is not there yet."""

    fields: Mapping[str, Any]
    create: bool = False
    decided: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """The record as a tombstone."""


Edit = Put | Patch | Delete


def applied(state: State, rule: TypeRule, edit: Edit, pen: Pen) -> State:
    """The record after it; the same state when it changes nothing. Raises Refusal 413, 422."""
    if isinstance(edit, Delete):
        return merge.delete(state, rule, pen)
    record.check_fields(rule, edit.fields)
    write = merge.put if isinstance(edit, Put) else merge.patch
    return write(state, rule, edit.fields, pen, decided=edit.decided)
