"""Include and exclude globs of a watched root.

Written as in .gitignore, on names below the root:

    *.tmp       no slash: the name of a file or directory anywhere
    cache/**    a slash: from the root; everything below cache, at any depth
    /notes.txt  only in the root itself
    **/raw/*.d  any number of directories, also none
    build/      a slash at the end: directories only

`*` and `?` do not cross a slash; `[abc]`, `[a-z]`, `[!a]` work within one part; `[*]` is a star. Case matters.
What an exclude matches is left out with everything below it; an exclude wins over an include. With includes, a file is
taken when one of them matches it or a directory above it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable


class Filter:
    """Decides by path. Paths are relative to the root, raw bytes, `/` separated."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        """Raises ValueError for a glob that cannot match anything."""
        self._include = _compile(include)
        self._exclude = _compile(exclude)

    def enters(self, directory: bytes) -> bool:
        """Whether to look into this directory, given that its parents are entered."""
        if self._exclude is None or not directory:
            return True
        return not self._exclude.fullmatch(_text(directory) + "/")

    def takes(self, path: bytes) -> bool:
        """Whether this file is to be sent, given that its directory is entered."""
        if self._exclude is None and self._include is None:
            return True
        text = _text(path)
        if self._exclude is not None and self._exclude.fullmatch(text):
            return False
        return self._include is None or any(self._include.fullmatch(part) for part in _upwards(text))

    def reaches(self, path: bytes) -> bool:
        """Whether this file is to be sent, nothing being known of its parents."""
        position = path.find(b"/")
        while position != -1:
            if not self.enters(path[:position]):
                return False
            position = path.find(b"/", position + 1)
        return self.takes(path)


def _text(path: bytes) -> str:
    # As text, `?` is one letter and not one byte of it.
    return os.fsdecode(path)


def _upwards(path: str) -> Iterable[str]:
    yield path
    position = path.rfind("/")
    while position != -1:
        yield path[: position + 1]
        position = path.rfind("/", 0, position)


def _compile(globs: Iterable[str]) -> re.Pattern[str] | None:
    parts = [to_regex(glob) for glob in globs]
    return re.compile("|".join(parts), re.DOTALL) if parts else None


def to_regex(glob: str) -> str:
    """The regular expression of one glob. It is matched against `a/b` for a file and `a/b/` for a directory."""
    body = glob.strip("/")
    parts = body.split("/")
    if not body or "\0" in glob or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"`{glob}` is not a glob below the root")
    anchored = "/" in glob.rstrip("/")
    regex = "" if anchored else "(?:.*/)?"
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            regex += ".*" if last and not glob.endswith("/") else "(?:.*/)?"
        else:
            regex += _part(part) + ("" if last else "/")
    if parts[-1] == "**":
        return regex + ("[^/]+/" if glob.endswith("/") else "")
    return regex + ("/" if glob.endswith("/") else "/?")


def _part(glob: str) -> str:
    if not glob.strip("*"):
        return "[^/]+"  # at least a letter: `a/*` is not `a/`
    regex = ""
    position = 0
    while position < len(glob):
        letter = glob[position]
        position += 1
        if letter == "*":
            regex += "[^/]*"
        elif letter == "?":
            regex += "[^/]"
        elif letter == "[" and (end := glob.find("]", position + 1 + (glob[position : position + 1] == "!"))) != -1:
            choice = glob[position:end]
            negated = choice.startswith("!")
            safe = re.sub(r"([\\\[\]^&~|])", r"\\\1", choice[1:] if negated else choice)
            regex += f"(?!/)[{'^' if negated else ''}{safe}]"
            position = end + 1
        else:
            regex += re.escape(letter)
    try:
        re.compile(regex)
    except re.error as error:
        raise ValueError(f"`{glob}` is not a glob: {error}") from error
    return regex
