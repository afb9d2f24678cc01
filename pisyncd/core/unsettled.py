"""The changed files that are not quiet yet, bounded in number.

Many changes in one directory, or many in all, collapse: then the directory (or the root) is remembered as a whole and
read anew when it is quiet, instead of each file in it. Paths are relative to the root; b"" is the root itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

IN_DIRECTORY_MAX = 128
IN_ALL_MAX = 512


@dataclass(kw_only=True, slots=True)
class Entry:
    """When a path was noticed first and last, and when to look at it next (monotonic seconds).

    `whole`: a directory, to be read with all below it. `kept_open`: written to, but not closed since.
    """

    first_s: float
    last_s: float
    due_s: float
    whole: bool = False
    kept_open: bool = False


class Unsettled:
    """note, due, again, drop. One for each root."""

    def __init__(self, *, debounce_s: float, force_s: float) -> None:
        self._debounce_s = debounce_s
        self._force_s = force_s
        self._files: dict[bytes, Entry] = {}
        self._whole: dict[bytes, Entry] = {}
        self._in_directory: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._files) + len(self._whole)

    def __bool__(self) -> bool:
        return bool(self._files or self._whole)

    def note(self, path: bytes, now_s: float, *, kept_open: bool = False) -> None:
        """A file was written to just now."""
        entry = self._covering(path) or self._files.get(path)
        if entry is None:
            entry = self._enter(path, Entry(first_s=now_s, last_s=now_s, due_s=now_s + self._debounce_s))
        else:
            entry.last_s = now_s
            entry.due_s = self._due_s(entry)
        entry.kept_open = kept_open

    def note_whole(self, directory: bytes, now_s: float) -> None:
        """Anything below this directory may have changed: it is read anew when it is quiet."""
        self._collapse(directory, Entry(first_s=now_s, last_s=now_s, due_s=now_s + self._debounce_s))

    def wait(self, path: bytes, first_s: float, now_s: float, wait_s: float) -> None:
        """A scan came across a file that is not quiet: look again in `wait_s`, counting from `first_s`."""
        entry = self._covering(path) or self._files.get(path)
        if entry is None:
            self._enter(path, Entry(first_s=first_s, last_s=now_s, due_s=now_s + wait_s))
        elif entry.whole:
            entry.due_s = min(max(entry.due_s, now_s + wait_s), entry.first_s + self._force_s)

    def due(self, now_s: float) -> list[tuple[bytes, Entry]]:
        """What to look at now: directories as a whole first."""
        entries = [*self._whole.items(), *self._files.items()]
        return [(path, entry) for path, entry in entries if entry.due_s <= now_s]

    def next_s(self, now_s: float) -> float | None:
        """Seconds until something is due, None when nothing is unsettled."""
        soonest = min((entry.due_s for entry in self._all()), default=None)
        return None if soonest is None else max(0.0, soonest - now_s)

    def get(self, path: bytes) -> Entry | None:
        """What is known of a file, by itself or as part of a directory."""
        return self._files.get(path) or self._covering(path)

    def drop(self, path: bytes, entry: Entry) -> None:
        """It was dealt with."""
        if entry.whole:
            if self._whole.get(path) is entry:
                del self._whole[path]
        elif self._files.get(path) is entry:
            self._remove(path)

    def _all(self) -> Iterator[Entry]:
        yield from self._whole.values()
        yield from self._files.values()

    def _due_s(self, entry: Entry) -> float:
        return min(entry.last_s + self._debounce_s, entry.first_s + self._force_s)

    def _covering(self, path: bytes) -> Entry | None:
        """The entry of a directory above that is to be read as a whole."""
        if not self._whole:
            return None
        if (entry := self._whole.get(b"")) is not None:
            return entry
        end = path.find(b"/")
        while end != -1:
            if (entry := self._whole.get(path[:end])) is not None:
                return entry
            end = path.find(b"/", end + 1)
        return None

    def _enter(self, path: bytes, entry: Entry) -> Entry:
        directory = path.rpartition(b"/")[0]
        count = self._in_directory.get(directory, 0) + 1
        if len(self._files) >= IN_ALL_MAX:
            return self._collapse(b"", entry)
        if count > IN_DIRECTORY_MAX:
            return self._collapse(directory, entry)
        self._files[path] = entry
        self._in_directory[directory] = count
        return entry

    def _collapse(self, directory: bytes, entry: Entry) -> Entry:
        """Everything below the directory becomes one entry, as old as the oldest and as fresh as the freshest."""
        prefix = directory + b"/" if directory else b""
        below = [path for path in self._files if path.startswith(prefix)]
        merged = [self._files[path] for path in below]
        for path in below:
            self._remove(path)
        for path in [path for path in self._whole if path == directory or path.startswith(prefix)]:
            merged.append(self._whole.pop(path))
        whole = Entry(
            first_s=min([entry.first_s, *(each.first_s for each in merged)]),
            last_s=max([entry.last_s, *(each.last_s for each in merged)]),
            due_s=entry.due_s,
            whole=True,
        )
        whole.due_s = min(entry.due_s, whole.first_s + self._force_s)
        self._whole[directory] = whole
        return whole

    def _remove(self, path: bytes) -> None:
        del self._files[path]
        directory = path.rpartition(b"/")[0]
        left = self._in_directory[directory] - 1
        if left:
            self._in_directory[directory] = left
        else:
            del self._in_directory[directory]
