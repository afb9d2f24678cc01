"""What a setting accepts, in words and by test; both come from its type in `schema`."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec


@dataclass(frozen=True, kw_only=True)
class Field:
    """A setting of a section. `default` is NODEFAULT where the file must give a value."""

    name: str
    type: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether the file must give it."""
        return self.default is msgspec.NODEFAULT

    @property
    def meta(self) -> msgspec.Meta:
        """Bounds and help text."""
        return next((part for part in _args(self.type) if isinstance(part, msgspec.Meta)), msgspec.Meta())

    @property
    def bare(self) -> Any:
        """The type without its bounds."""
        return typing.get_args(self.type)[0] if typing.get_origin(self.type) is Annotated else self.type

    @property
    def help(self) -> str:
        """What it is for."""
        return self.meta.description or ""


def of(section: type[msgspec.Struct]) -> Iterator[Field]:
    """The settings of a section, in the order of the file."""
    hints = typing.get_type_hints(section, include_extras=True)
    for info in msgspec.structs.fields(section):
        yield Field(name=info.name, type=hints[info.name], default=info.default)


def section_of(field: Field) -> type[msgspec.Struct] | None:
    """The section a setting holds, if it holds one."""
    return field.bare if isinstance(field.bare, type) and issubclass(field.bare, msgspec.Struct) else None


def convert(value: object, field: Field) -> Any:
    """The value as the setting's type. Raises ValueError with what is allowed."""
    try:
        return msgspec.convert(value, field.type, dec_hook=_decode)
    except (msgspec.ValidationError, ValueError):
        raise ValueError(f"{_seen(value)} is not allowed; allowed: {allowed(field)}") from None


def is_text(field: Field) -> bool:
    """Whether it takes text, so that a number is taken as it is written."""
    return field.bare in (str, tuple[str, ...])


def allowed(field: Field) -> str:
    """What a person may write: `a number from 60 to 3600`."""
    bare, meta = field.bare, field.meta
    if typing.get_origin(bare) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(bare))
    if bare is bool:
        return "true or false"
    if bare in (int, float):
        words = "a whole number" if bare is int else "a number"
        return f"{words} from {number(meta.ge)} to {number(meta.le)}"
    if Path in (bare, *_args(bare)):
        return "an absolute path"
    if bare == tuple[str, ...] and meta.examples:
        return f"a list, such as {json.dumps(meta.examples)}"
    if bare == tuple[str, ...]:
        return 'a list of globs, such as ["*.tmp", "cache/**"]'
    if meta.pattern is not None:
        return f"text that matches {meta.pattern}"
    return f"text of at most {meta.max_length} characters"


def _args(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (Annotated, Union, types.UnionType) else ()


def number(bound: float | None) -> str:
    """`0.1`, `60`, `9000000`."""
    return f"{bound:g}" if isinstance(bound, float) and bound % 1 else f"{int(bound or 0)}"


def _seen(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    shown = re.sub(r"[^ -~]", "?", str(value))
    return f"`{shown[:80]}`" if not isinstance(value, str) else f'"{shown[:80]}"'


def _decode(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        if not value.startswith("/") or "\0" in value:
            raise ValueError("not an absolute path")
        return Path(value)
    raise ValueError("not allowed")
