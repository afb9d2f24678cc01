"""From a file to a Config, or to the list of everything that is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pisyncd.config import environment, fields, identity, roots, schema, strict_yaml
from pisyncd.config.problems import InvalidConfig, Problem, Problems, did_you_mean
from pisyncd.config.strict_yaml import Node

# As browsers write it: lower case, no path.
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
_RECORD_TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_BYTES_MAX = 1024 * 1024
_SECRETS = ("token", "secret", "password", "key", "api_key", "auth")
# Larger than the first must not be smaller: a section's rules between two settings.
_ORDERED = (
    ("settle", "debounce_s", "force_s"),
    ("transfer", "chunk_bytes_min", "chunk_bytes_start"),
    ("transfer", "chunk_bytes_start", "chunk_bytes_max"),
    ("backoff", "base_s", "cap_s"),
    ("backoff", "item_base_s", "item_cap_s"),
)


def load(path: Path, environ: Mapping[str, str], *, root: Path = Path("/")) -> schema.Config:
    """Read and check the configuration. The environment wins over the file.

    `root` is where /proc and /etc are looked up for the default device_id. Raises InvalidConfig (a ConfigError)
    with every problem.
    """
    document, faults = strict_yaml.read(_text(path))
    problems = Problems(path)
    for fault in faults:
        problems.in_file(fault.line, "", fault.detail)
    if document is None:
        raise InvalidConfig(problems.found)
    reader = _Reader(problems)
    given = reader.section(document, schema.Config, "")
    for section, setting, value in environment.overrides(environ, problems):
        if isinstance(given.setdefault(section, {}), dict):
            given[section][setting] = value
    _device_id(given, reader, root)
    _cloud(given, reader)
    _ordered(given, reader)
    _intake(given, reader)
    _records(given, reader)
    if isinstance(given.get("watch"), tuple):
        given["watch"] = roots.check(given["watch"], reader.lines, problems)
    problems.raise_if_any()
    return roots.spare_own_state(_build(given))


def _text(path: Path) -> str:
    def refuse(detail: str) -> InvalidConfig:
        return InvalidConfig([Problem(source=str(path), line=None, key="", detail=detail)])

    try:
        with path.open("rb") as file:
            raw = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise refuse(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(raw) > _BYTES_MAX:
        raise refuse(f"is larger than {_BYTES_MAX} bytes; this cannot be a configuration")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidConfig(
            [Problem(source=str(path), line=line, key="", detail="is not UTF-8; save the file as UTF-8")]
        ) from None


class _Reader:
    """Turns nodes into values, field by field; remembers the line of each key for what is checked later."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.lines: dict[str, int] = {}

    def section(self, node: Node, kind: type[msgspec.Struct], prefix: str) -> dict[str, Any]:
        """The values of a section that are right; the rest is reported."""
        if not isinstance(node.value, dict):
            # A section whose settings are all commented out is empty, which is no mistake.
            if node.value is not None:
                self.problems.in_file(node.line, prefix.rstrip("."), "must be a section: indented lines")
            return self._required({}, kind, prefix, node.line)
        known = {field.name: field for field in fields.of(kind)}
        given: dict[str, Any] = {}
        for name, child in node.value.items():
            self.lines[prefix + name] = child.line
            if name not in known:
                self._unknown(name, child.line, prefix, known)
            else:
                self._setting(given, known[name], child, prefix + name)
        return self._required(given, kind, prefix, node.line, seen=node.value)

    def _setting(self, given: dict[str, Any], field: fields.Field, node: Node, key: str) -> None:
        if (kind := fields.section_of(field)) is not None:
            given[field.name] = self.section(node, kind, key + ".")
        elif field.name == "watch":
            given[field.name] = self._watch(node)
        else:
            try:
                given[field.name] = fields.convert(_plain(node, as_text=fields.is_text(field)), field)
            except ValueError as error:
                self.problems.in_file(node.line, key, str(error))

    def _watch(self, node: Node) -> tuple[dict[str, Any], ...] | None:
        if not isinstance(node.value, list) or not node.value:
            self.problems.in_file(node.line, "watch", "must be a list of directories: `- path: /srv/learning`")
            return None
        found = []
        for index, item in enumerate(node.value):
            self.lines[f"watch[{index}]"] = item.line
            found.append(self.section(item, schema.WatchRoot, f"watch[{index}]."))
        return tuple(found)

    def _required(
        self,
        given: dict[str, Any],
        kind: type[msgspec.Struct],
        prefix: str,
        line: int,
        seen: Mapping[str, Node] | None = None,
    ) -> dict[str, Any]:
        for field in fields.of(kind):
            if field.required and field.name not in (seen or {}) and field.name != "device_id":
                self.problems.in_file(line, prefix + field.name, f"is missing; {_example(field)}")
        return given

    def _unknown(self, name: str, line: int, prefix: str, known: Mapping[str, fields.Field]) -> None:
        if name.lower() in _SECRETS:
            detail = "a secret must not stand here; put it into a file of its own and name that in cloud.token_file"
        else:
            detail = f"is not a setting; {did_you_mean(name, known)}"
        self.problems.in_file(line, prefix + name, detail)


def _example(field: fields.Field) -> str:
    return {
        "cloud": "write `cloud:` with `url:` and `token_file:` below it",
        "watch": "write `watch:` with `- path: /srv/learning` below it",
        "url": "write the address of the cloud, such as https://cloud.example.org",
    }.get(field.name, f"allowed: {fields.allowed(field)}")


def _plain(node: Node, *, as_text: bool) -> object:
    if isinstance(node.value, list):
        return [_plain(item, as_text=as_text) for item in node.value]
    if isinstance(node.value, dict):
        return {name: _plain(child, as_text=as_text) for name, child in node.value.items()}
    # A serial number or a folder named 2024 needs no quotes.
    numeric = isinstance(node.value, int | float) and not isinstance(node.value, bool)
    return node.text if as_text and numeric else node.value


def _device_id(given: dict[str, Any], reader: _Reader, root: Path) -> None:
    if "device_id" in given or "device_id" in reader.lines:
        return
    found = identity.default_device_id(root)
    if found is None:
        reader.problems.in_file(
            None,
            "device_id",
            "is missing, and this machine has no serial number and no machine-id; name it",
        )
    else:
        given["device_id"] = found


def _cloud(given: dict[str, Any], reader: _Reader) -> None:
    cloud = given.get("cloud")
    if not isinstance(cloud, dict) or "url" not in cloud:
        return
    try:
        cloud["url"] = _url(cloud["url"])
    except ValueError as error:
        reader.problems.in_file(
            reader.lines.get("cloud.url"), "cloud.url", f"{error}; allowed: https://host[:port][/path], or http://"
        )


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not a web address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password; the token stands in cloud.token_file")
    if parts.query or parts.fragment or any(not "!" <= letter <= "~" for letter in text):
        raise ValueError("must not hold a query, a fragment, spaces or other than ASCII characters")
    _ = parts.port  # Raises ValueError for a port that is none.
    return text.rstrip("/")


def _intake(given: dict[str, Any], reader: _Reader) -> None:
    intake = given.get("intake")
    if not isinstance(intake, dict):
        return
    lines = reader.lines
    for origin in intake.get("origins", ()):
        if not _ORIGIN.fullmatch(origin):
            detail = f'"{origin[:80]}" is not an origin; allowed: http://host[:port] or https://host[:port], no path'
            reader.problems.in_file(lines.get("intake.origins"), "intake.origins", detail)
    if intake.get("port") and not intake.get("origins") and not intake.get("tokens_file"):
        detail = "nobody may use the port; give origins, tokens_file or both"
        reader.problems.in_file(lines.get("intake.port"), "intake.port", detail)


def _records(given: dict[str, Any], reader: _Reader) -> None:
    records = given.get("records")
    for name in records.get("types", ()) if isinstance(records, dict) else ():
        if not _RECORD_TYPE.fullmatch(name):
            detail = f'"{name[:80]}" is not the type of a record; allowed: 1-32 of a-z 0-9 _, a letter first'
            reader.problems.in_file(reader.lines.get("records.types"), "records.types", detail)


def _ordered(given: dict[str, Any], reader: _Reader) -> None:
    defaults = {field.name: field.default for field in fields.of(schema.Config)}
    for section, low, high in _ORDERED:
        values = given.get(section)
        if not isinstance(values, dict):
            continue
        small, large = (values.get(name, getattr(defaults[section], name)) for name in (low, high))
        if small > large:
            key = f"{section}.{low}" if f"{section}.{low}" in reader.lines else f"{section}.{high}"
            reader.problems.in_file(
                reader.lines.get(key),
                key,
                f"{low} ({fields.number(small)}) must not be larger than {high} ({fields.number(large)})",
            )


def _build(given: dict[str, Any]) -> schema.Config:
    values: dict[str, Any] = {}
    for field in fields.of(schema.Config):
        if field.name not in given:
            continue
        kind = fields.section_of(field)
        values[field.name] = kind(**given[field.name]) if kind else given[field.name]
    values["watch"] = tuple(schema.WatchRoot(**entry) for entry in given["watch"])
    for name in ("state_dir", "runtime_dir"):
        if name in values:
            values[name] = Path(os.path.normpath(values[name]))
    if "intake" in values and values["intake"].spool_dir is not None:
        spool_dir = Path(os.path.normpath(values["intake"].spool_dir))
        values["intake"] = msgspec.structs.replace(values["intake"], spool_dir=spool_dir)
    return schema.Config(**values)
