"""The watched directories among each other: unique names, none inside another, none that holds PiSync's own files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pisyncd.config.problems import Problems
from pisyncd.config.schema import Config, WatchRoot
from pisyncd.core import vitals


def check(
    entries: Sequence[dict[str, Any]], lines: Mapping[str, int], problems: Problems
) -> tuple[dict[str, Any], ...]:
    """Give every root its name, and report what does not fit together."""
    checked: list[dict[str, Any]] = []
    for index, entry in enumerate(entries):
        where = f"watch[{index}]"
        if "path" not in entry:
            continue
        path = Path(os.path.normpath(entry["path"]))
        name = entry.get("name") or path.name
        if detail := _name_fault(name):
            problems.in_file(lines.get(f"{where}.name", lines.get(where)), f"{where}.name", detail)
        for position, other in enumerate(checked):
            if detail := _clash(path, name, other, position):
                key = f"{where}.path" if other["name"] != name or other["path"] == path else f"{where}.name"
                problems.in_file(lines.get(key, lines.get(f"{where}.path")), key, detail)
        for setting in ("include", "exclude"):
            for glob in entry.get(setting, ()):
                if detail := _glob_fault(glob):
                    problems.in_file(lines.get(f"{where}.{setting}"), f"{where}.{setting}", detail)
        checked.append({**entry, "path": path, "name": name})
    return tuple(checked)


def spare_own_state(config: Config) -> Config:
    """The same with PiSync's own directories excluded; a root that holds them would send its own outbox for ever."""
    return msgspec.structs.replace(config, watch=tuple(_spare(root, config) for root in config.watch))


def _spare(root: WatchRoot, config: Config) -> WatchRoot:
    own = []
    intake = () if config.intake_dir.is_relative_to(config.state_dir) else (config.intake_dir,)
    for directory in (config.state_dir, config.runtime_dir, *intake):
        if directory.is_relative_to(root.path) and directory != root.path:
            relative = re.sub(r"([*?\[\]])", r"[\1]", str(directory.relative_to(root.path)))
            own += [f"/{relative}", f"/{relative}/**"]
    return msgspec.structs.replace(root, exclude=(*root.exclude, *own)) if own else root


def _name_fault(name: str) -> str | None:
    if not name:
        return "is missing; the path has no last part to take it from"
    if "/" in name or "\0" in name or name in (".", "..") or len(os.fsencode(name)) > 255:
        return "must be one part of a path: 1 to 255 bytes, no `/`, not `.` or `..`"
    if name == vitals.OWN_ROOT:
        return f"`{name}` is where the device's own files go; give this root another `name`"
    return None


def _clash(path: Path, name: str, other: dict[str, Any], position: int) -> str | None:
    if path == other["path"]:
        return f"{path} is watched already (watch[{position}])"
    if path.is_relative_to(other["path"]) or other["path"].is_relative_to(path):
        return (
            f"{path} and {other['path']} (watch[{position}]) overlap, so files would be sent twice; "
            "watch only the outer one, and use include or exclude"
        )
    if name == other["name"]:
        return f"`{name}` names watch[{position}] too; give this root another `name`"
    return None


def _glob_fault(glob: str) -> str | None:
    if not glob or "\0" in glob:
        return "an empty glob matches nothing; leave it out"
    if any(part in ("", ".", "..") for part in glob.strip("/").split("/")):
        return f"`{glob}` never matches; globs are written below the root, without `.`, `..` and `//`"
    for first, last in re.findall(r"\[[^\]]*?([^\]])-([^\]])[^\]]*\]", glob):
        if first > last:
            return f"`{glob}` never matches: nothing is from {first} to {last}"
    return None
