"""The bundle for support: what the device knows of itself, in a small archive, without secrets and learning data."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pisyncd.core.vitals import BUNDLE_PATH

PART_BYTES_MAX = 1024 * 1024
JOURNAL_LINES = 3000
_KNOWN = ("meminfo", "mounts", "uptime", "loadavg", "cmdline")


def file_name(command_id: str) -> str:
    """Where a bundle stands below the root of the device's own files: 'support/cmd_1.tar.gz'."""
    safe = "".join(char for char in command_id if char.isalnum() or char in "_-")[:64] or "bundle"
    return BUNDLE_PATH.partition("/")[2].format(id=safe)


def write(path: Path, parts: Mapping[str, object]) -> os.stat_result:
    """Writes an archive of `parts` (file name -> text, or anything that JSON can say), of the journal and of what the
    kernel says; complete before it has its name. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    texts = {name: _text(part) for name, part in parts.items()} | {"journal.txt": journal()}
    texts |= {f"proc/{name}": _read(Path("/proc") / name) for name in _KNOWN}
    with fresh.open("wb") as target:
        with tarfile.open(fileobj=target, mode="w:gz", compresslevel=6) as archive:
            for name, text in texts.items():
                # The end of a log is what counts.
                raw = text.encode("utf-8", "backslashreplace")[-PART_BYTES_MAX:]
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime, entry.mode = len(raw), int(time.time()), 0o640
                archive.addfile(entry, io.BytesIO(raw))
        target.flush()
        os.fsync(target.fileno())
    fresh.replace(path)
    return path.stat()


def journal(unit: str = "pisyncd") -> str:
    """The last lines of the daemon in the journal, or why there are none."""
    asked = ["journalctl", "--unit", unit, "--lines", str(JOURNAL_LINES), "--no-pager", "--output", "short-iso"]
    try:
        told = subprocess.run(asked, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the journal cannot be read: {error}\n"
    return (told.stdout or told.stderr).decode("utf-8", "replace")


def _text(part: object) -> str:
    if isinstance(part, str):
        return part
    return msgspec.json.format(msgspec.json.encode(part, enc_hook=str), indent=1).decode()


def _read(path: Path) -> str:
    try:
        return path.read_bytes()[:PART_BYTES_MAX].decode("utf-8", "replace")
    except OSError as error:
        return f"{error}\n"
