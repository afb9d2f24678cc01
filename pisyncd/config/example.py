"""`config/pisyncd.example.yaml`, written from the schema so that it cannot go out of date."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pisyncd.config import environment, fields, schema

_HEAD = """\
# The configuration of pisyncd: every setting, with its default and what is allowed.
#
# This file is generated (`python -m pisyncd.config`). Lines that start with `#` are defaults: remove the `#` to change one.
# Check with `pisyncd check-config --config FILE`, load without a restart with `systemctl reload pisyncd`.
# Only true and false are booleans and only decimal numbers are numbers; everything else is text. Times are in seconds.
"""

_WATCH = """\
# The directories whose files are sent. Required: at least one.
watch:
  - path: /srv/learning
    exclude: ["*.tmp", "cache/**"]
    priority: 5
"""


def text() -> str:
    """The whole file."""
    parts = [_HEAD, *_top(), _cloud(), _watch()]
    parts += [_section(field) for field in fields.of(schema.Config) if _is_plain_section(field)]
    return "\n".join([*parts, _environment()])


def _is_plain_section(field: fields.Field) -> bool:
    return fields.section_of(field) is not None and not field.required


def _top() -> Iterator[str]:
    for field in fields.of(schema.Config):
        if fields.section_of(field) is None and field.name != "watch":
            shown = "pibox-0042" if field.required else _yaml(field.default)
            yield "\n".join([*_comment(field, ""), f"# {field.name}: {shown}", ""])


def _cloud() -> str:
    values = {"url": "https://cloud.example.org", "token_file": "/etc/pisyncd/token"}
    lines = [f"# {schema.Cloud.__doc__}", "cloud:"]
    for field in fields.of(schema.Cloud):
        lines += _comment(field, "  ")
        if field.name in values:
            lines.append(f"  {field.name}: {values[field.name]}")
        else:
            lines.append(f"  # {field.name}: {_yaml(field.default, '/etc/pisyncd/ca.pem')}")
    return "\n".join([*lines, ""])


def _watch() -> str:
    lines = [_WATCH.rstrip("\n"), "    # Every setting of a root:"]
    for field in fields.of(schema.WatchRoot):
        lines += _comment(field, "    ")
        if not field.required and field.name != "name":
            lines.append(f"    #   {field.name}: {_yaml(field.default)}")
    return "\n".join([*lines, ""])


def _section(field: fields.Field) -> str:
    section = fields.section_of(field)
    assert section is not None
    lines = [f"# {section.__doc__}", f"# {field.name}:"]
    for setting in fields.of(section):
        lines += _comment(setting, "#   ")
        lines.append(f"#   {setting.name}: {_yaml(setting.default)}")
    return "\n".join([*lines, ""])


def _comment(field: fields.Field, indent: str) -> list[str]:
    lead = f"{indent}## " if indent.startswith("#") else f"{indent}# "
    named = f"{field.name}: " if indent == "    " else ""
    words = f"{named}{field.help} Allowed: {fields.allowed(field)}."
    return textwrap.wrap(words, 110, initial_indent=lead, subsequent_indent=lead, break_long_words=False)


def _yaml(value: Any, absent: str = "null") -> str:
    if value is None:
        return absent
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(msgspec.to_builtins(value))


def _environment() -> str:
    lines = ["# These environment variables win over this file:"]
    for variable in environment.VARIABLES:
        lines.append(f"#   {variable.name}: {variable.section}.{variable.setting}, {variable.allowed}")
    return "\n".join([*lines, ""])
