"""The types of records that are known: four built in, and what the file of the setting `record_types_file` adds.

attendance: {strategy: manual}
portfolio: {strategy: merge, fields: {points: max, tags: union}}
guardian: {strategy: last-write-wins, personal: true}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec

from cloud import config
from pisyncd.core import record, recordwire
from pisyncd.core.errors import ConfigError
from pisyncd.core.record import FieldName, FieldRule, RecordType, Strategy, TypeRule

_KEYS = ("strategy", "fields", "personal")


def load(path: str) -> dict[str, TypeRule]:
    """The built-in types and those of a file ('': none). Raises ConfigError naming every fault."""
    if not path:
        return dict(record.BUILT_IN)
    faults: list[str] = []
    found: dict[str, TypeRule] = {}
    for name, given in config.read_file(Path(path)).items():
        here = [f"{path}: {name}: {fault}" for fault in (*_name_faults(name), *_faults(given))]
        faults += here
        if not here:
            found[name] = msgspec.convert(given, TypeRule, strict=False)
    if faults:
        raise ConfigError("; ".join(faults), hint="docs/records.md shows what a type looks like")
    return {**record.BUILT_IN, **found}


def _name_faults(name: str) -> Iterator[str]:
    if not _is(name, RecordType):
        yield "the name of a type has 1-32 of a-z 0-9 _, beginning with a letter"
    if name == recordwire.ITEM_TYPE:
        yield "this name stands for all configured types"


def _faults(given: Any) -> Iterator[str]:
    if not isinstance(given, dict):
        yield "a type is {strategy: ...}"
        return
    for key in given.keys() - set(_KEYS):
        yield f"unknown key {key!r}; known: {', '.join(_KEYS)}"
    strategy = given.get("strategy")
    if not _is(strategy, Strategy):
        yield f"strategy = {strategy!r}: one of {', '.join(get_args(Strategy))}"
    if "personal" in given and not _is(given["personal"], bool):
        yield f"personal = {given['personal']!r}: true or false"
    fields = given.get("fields", {})
    if not isinstance(fields, dict):
        yield "fields are {name: rule}"
        return
    if fields and strategy != "merge":
        yield "only a type of strategy merge has rules for its fields"
    for name, rule in fields.items():
        if not _is(name, FieldName):
            yield f"{name!r} cannot be the name of a field"
        if not _is(rule, FieldRule):
            yield f"{name} = {rule!r}: one of {', '.join(get_args(FieldRule))}"


def _is(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True
