"""The folder that is delivered, and how the device is told about it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import stage
import survey


@dataclass(frozen=True, kw_only=True)
class Watched:
    """`path`: raw; `name`: first part of its wire paths; `exclude`: globs left out; `files`, `size`: at the start."""

    path: bytes
    name: str
    exclude: list[str]
    skip: bytes | None
    files: int
    size: int

    @classmethod
    def of(cls, folder: Path) -> Watched:
        """Looks through `folder`; leaves out the demonstration's own data when it lies within."""
        path, runs = os.fsencode(folder), os.fsencode(stage.RUNS)
        skip = runs if runs.startswith(path.rstrip(b"/") + b"/") else None
        found = list(survey.walk(path, skip))
        return cls(
            path=path,
            name=_root_name(folder.name),
            exclude=_anchored(os.path.relpath(stage.RUNS, folder)) if skip else [],
            skip=skip,
            files=len(found),
            size=sum(file.size for file in found),
        )

    def now(self) -> tuple[list[survey.LocalFile], list[bytes]]:
        """What it holds at this moment, and the folders in it that cannot be read."""
        closed: list[bytes] = []
        return list(survey.walk(self.path, self.skip, closed)), closed


def _root_name(name: str) -> str:
    """The folder's own name where the configuration can hold it, else `folder`."""
    plain = name.isprintable() and name not in ("", ".", "..")
    try:
        name.encode()
    except UnicodeEncodeError:
        plain = False
    return name if plain else "folder"


def _anchored(relative: str) -> list[str]:
    """Globs that mean this one folder and all in it: `a*b` -> `/a[*]b`, `/a[*]b/**`."""
    escaped = "/" + re.sub(r"([*?\[\]])", r"[\1]", relative)
    return [escaped, escaped + "/**"]
